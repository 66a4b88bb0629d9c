-- name: $in_range
log_id = %(log_id)s AND partition = %(partition)s AND "offset" >= %(base)s AND "offset" < %(next)s

-- name: index_scans_only
-- The tables are wide and their indexes narrow: never scan a table to count its positions.
SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off

-- name: offsets
SELECT log_id, partition, s.first_offset, s.next_offset, s.end_seen, c.pruned_to, c.stored, c.duplicates, c.dead_letters
FROM sink_offsets s LEFT JOIN checkpoints c USING (log_id, partition)

-- name: next_offsets
SELECT l.cluster_id, l.topic, s.partition, l.topic_id, s.next_offset
FROM sink_offsets s JOIN logs l USING (log_id) WHERE l.closed_at IS NULL

-- name: partitions
-- The distinct partitions of the tables, by index lookups instead of a scan; the first row only begins it.
WITH RECURSIVE p AS (
    SELECT '-2147483648'::integer AS log_id, 0 AS partition
    UNION ALL
    SELECT n.* FROM p CROSS JOIN LATERAL (
        SELECT t.log_id, t.partition FROM recorded_positions t WHERE (t.log_id, t.partition) > (p.log_id, p.partition)
        ORDER BY t.log_id, t.partition LIMIT 1) n
)
SELECT * FROM p WHERE log_id > '-2147483648'::integer

-- name: logs
SELECT log_id, cluster_id, topic, topic_id, closed_at IS NOT NULL FROM logs

-- name: counts
-- Of [base, next): one scan of each position index. The log is of one topic, so one of the first two has none.
SELECT
    (SELECT count(*) FROM predictions WHERE $in_range) + (SELECT count(*) FROM feedback WHERE $in_range),
    (SELECT count(*) FROM duplicates WHERE $in_range),
    (SELECT count(*) FROM dead_letters WHERE $in_range)

-- name: twice
-- An index lookup for each dead letter and duplicate; OFFSET 0 keeps the planner from joining the tables.
WITH pairs AS (
    SELECT a."offset", b.recorded_in AS one, a.recorded_in AS other
    FROM recorded_positions a CROSS JOIN LATERAL (
        SELECT c.recorded_in FROM recorded_positions c
        WHERE c.log_id = a.log_id AND c.partition = a.partition AND c."offset" = a."offset"
          AND c.recorded_in <> 'dead_letters' AND c.recorded_in <> a.recorded_in
        OFFSET 0) b
    WHERE $in_range AND a.recorded_in IN ('duplicates', 'dead_letters')
)
SELECT "offset", one, other, count(*) OVER () FROM pairs ORDER BY "offset", one, other LIMIT %(limit)s

-- name: outside
WITH found AS (
    SELECT "offset", recorded_in FROM recorded_positions
    WHERE log_id = %(log_id)s AND partition = %(partition)s AND "offset" < %(base)s
    UNION ALL
    SELECT "offset", recorded_in FROM recorded_positions
    WHERE log_id = %(log_id)s AND partition = %(partition)s AND "offset" >= %(next)s
)
SELECT "offset", recorded_in, count(*) OVER () FROM found ORDER BY "offset" LIMIT %(limit)s

-- name: gaps
-- An ordered scan, which is slow: only for a partition whose counts do not add up.
WITH walked AS (
    SELECT "offset", lag("offset", 1, %(base)s::bigint - 1) OVER (ORDER BY "offset") AS previous
    FROM (
        SELECT "offset" FROM recorded_positions WHERE $in_range
        UNION ALL SELECT %(next)s::bigint
    ) present
)
SELECT previous + 1, "offset" - 1 FROM walked WHERE "offset" > previous + 1 ORDER BY 1 LIMIT %(limit)s

-- name: ids
SELECT "offset", array_agg(DISTINCT id::text ORDER BY id::text) FROM recorded_positions
WHERE log_id = %(log_id)s AND partition = %(partition)s AND "offset" = ANY (%(offsets)s::bigint[]) AND id IS NOT NULL
GROUP BY "offset"

-- name: $pruning
7203684412970016

-- name: lock_rescored
-- Shared by those who score again. `prune` takes it alone: no row of a prediction that goes may come meanwhile.
SELECT pg_advisory_xact_lock_shared($pruning)

-- name: lock_pruning
SELECT pg_advisory_xact_lock($pruning)

-- name: prunable
-- With the base of each log: everything below it is pruned.
SELECT log_id, l.cluster_id, l.topic, s.partition, l.topic_id, coalesce(c.pruned_to, s.first_offset), s.next_offset
FROM sink_offsets s JOIN logs l USING (log_id) LEFT JOIN checkpoints c USING (log_id, partition)
ORDER BY log_id, s.partition

-- name: first_young
-- The first offset of [base, next) that was recorded at `cutoff` or later.
SELECT min("offset") FROM (
    SELECT "offset" FROM predictions WHERE $in_range AND stored_at >= %(cutoff)s
    UNION ALL
    SELECT "offset" FROM feedback WHERE $in_range AND stored_at >= %(cutoff)s
    UNION ALL
    SELECT "offset" FROM duplicates WHERE $in_range AND recorded_at >= %(cutoff)s
    UNION ALL
    SELECT "offset" FROM dead_letters WHERE $in_range AND recorded_at >= %(cutoff)s
) young

-- name: delete
-- With a prediction go its re-scores, and what its feedback says; that keeps its position until it is old itself.
WITH
p AS (DELETE FROM predictions WHERE $in_range RETURNING id),
s AS (DELETE FROM rescored r USING p WHERE r.id = p.id),
t AS (UPDATE feedback f SET {forgotten} FROM p WHERE f.prediction_id = p.id AND f.pruned_at IS NULL),
f AS (DELETE FROM feedback WHERE $in_range RETURNING 1),
u AS (DELETE FROM duplicates WHERE $in_range RETURNING 1),
d AS (DELETE FROM dead_letters WHERE $in_range RETURNING 1),
r AS (DELETE FROM replays WHERE $in_range)
SELECT (SELECT count(*) FROM p) + (SELECT count(*) FROM f), (SELECT count(*) FROM u), (SELECT count(*) FROM d)

-- name: checkpoint
-- Only from the end of the last one on: two prunes at once cannot count the same rows.
INSERT INTO checkpoints AS c (log_id, partition, pruned_to, stored, duplicates, dead_letters)
VALUES (%(log_id)s, %(partition)s, %(next)s, %(stored)s, %(duplicates)s, %(dead_letters)s)
ON CONFLICT (log_id, partition) DO UPDATE
SET pruned_to = excluded.pruned_to, stored = c.stored + excluded.stored, pruned_at = now(),
    duplicates = c.duplicates + excluded.duplicates, dead_letters = c.dead_letters + excluded.dead_letters
WHERE c.pruned_to = %(base)s
