-- name: logs
-- With the base of each log: everything below it is pruned.
SELECT log_id, l.cluster_id, l.topic, s.partition, l.topic_id, coalesce(c.pruned_to, s.first_offset), s.next_offset
FROM sink_offsets s JOIN logs l USING (log_id) LEFT JOIN checkpoints c USING (log_id, partition)
ORDER BY log_id, s.partition

-- name: first_young
-- The first offset of [base, next) that was recorded at `cutoff` or later.
SELECT min("offset") FROM (
    SELECT "offset" FROM predictions
    WHERE log_id = %(log_id)s AND partition = %(partition)s
      AND "offset" >= %(base)s AND "offset" < %(next)s AND stored_at >= %(cutoff)s
    UNION ALL
    SELECT "offset" FROM duplicates
    WHERE log_id = %(log_id)s AND partition = %(partition)s
      AND "offset" >= %(base)s AND "offset" < %(next)s AND recorded_at >= %(cutoff)s
    UNION ALL
    SELECT "offset" FROM dead_letters
    WHERE log_id = %(log_id)s AND partition = %(partition)s
      AND "offset" >= %(base)s AND "offset" < %(next)s AND recorded_at >= %(cutoff)s
) young

-- name: delete
WITH p AS (
    DELETE FROM predictions WHERE log_id = %(log_id)s AND partition = %(partition)s
        AND "offset" >= %(base)s AND "offset" < %(next)s RETURNING 1
), u AS (
    DELETE FROM duplicates WHERE log_id = %(log_id)s AND partition = %(partition)s
        AND "offset" >= %(base)s AND "offset" < %(next)s RETURNING 1
), d AS (
    DELETE FROM dead_letters WHERE log_id = %(log_id)s AND partition = %(partition)s
        AND "offset" >= %(base)s AND "offset" < %(next)s RETURNING 1
), r AS (
    DELETE FROM replays WHERE log_id = %(log_id)s AND partition = %(partition)s
        AND "offset" >= %(base)s AND "offset" < %(next)s
)
SELECT (SELECT count(*) FROM p), (SELECT count(*) FROM u), (SELECT count(*) FROM d)

-- name: checkpoint
-- Only from the end of the last one on: two prunes at once cannot count the same rows.
INSERT INTO checkpoints AS c (log_id, partition, pruned_to, stored, duplicates, dead_letters)
VALUES (%(log_id)s, %(partition)s, %(next)s, %(stored)s, %(duplicates)s, %(dead_letters)s)
ON CONFLICT (log_id, partition) DO UPDATE
SET pruned_to = excluded.pruned_to,
    stored = c.stored + excluded.stored,
    duplicates = c.duplicates + excluded.duplicates,
    dead_letters = c.dead_letters + excluded.dead_letters,
    pruned_at = now()
WHERE c.pruned_to = %(base)s
