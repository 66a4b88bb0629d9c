-- name: index_scans_only
-- The tables are wide and their indexes narrow: never walk a table to count its positions.
SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off

-- name: offsets
SELECT s.cluster_id, s.topic, s.partition, s.first_offset, s.next_offset, s.end_seen,
       c.pruned_to, c.stored, c.duplicates, c.dead_letters
FROM sink_offsets s LEFT JOIN checkpoints c USING (cluster_id, topic, partition)

-- name: next_offsets
SELECT cluster_id, topic, partition, next_offset FROM sink_offsets

-- name: logs
-- The distinct logs of the three tables by hopping through their indexes: a probe each, not a walk.
WITH RECURSIVE p AS (
    (SELECT cluster_id, topic, partition FROM predictions ORDER BY cluster_id, topic, partition LIMIT 1)
    UNION ALL
    SELECT n.* FROM p CROSS JOIN LATERAL (
        SELECT t.cluster_id, t.topic, t.partition FROM predictions t
        WHERE (t.cluster_id, t.topic, t.partition) > (p.cluster_id, p.topic, p.partition)
        ORDER BY t.cluster_id, t.topic, t.partition LIMIT 1) n
), u AS (
    (SELECT cluster_id, topic, partition FROM duplicates ORDER BY cluster_id, topic, partition LIMIT 1)
    UNION ALL
    SELECT n.* FROM u CROSS JOIN LATERAL (
        SELECT t.cluster_id, t.topic, t.partition FROM duplicates t
        WHERE (t.cluster_id, t.topic, t.partition) > (u.cluster_id, u.topic, u.partition)
        ORDER BY t.cluster_id, t.topic, t.partition LIMIT 1) n
), d AS (
    (SELECT cluster_id, topic, partition FROM dead_letters ORDER BY cluster_id, topic, partition LIMIT 1)
    UNION ALL
    SELECT n.* FROM d CROSS JOIN LATERAL (
        SELECT t.cluster_id, t.topic, t.partition FROM dead_letters t
        WHERE (t.cluster_id, t.topic, t.partition) > (d.cluster_id, d.topic, d.partition)
        ORDER BY t.cluster_id, t.topic, t.partition LIMIT 1) n
)
SELECT * FROM p UNION SELECT * FROM u UNION SELECT * FROM d

-- name: counts
-- Of [base, next): one walk of each position index.
SELECT
    (SELECT count(*) FROM predictions t WHERE t.cluster_id = %(cluster_id)s AND t.topic = %(topic)s
        AND t.partition = %(partition)s AND t."offset" >= %(base)s AND t."offset" < %(next)s),
    (SELECT count(*) FROM duplicates t WHERE t.cluster_id = %(cluster_id)s AND t.topic = %(topic)s
        AND t.partition = %(partition)s AND t."offset" >= %(base)s AND t."offset" < %(next)s),
    (SELECT count(*) FROM dead_letters t WHERE t.cluster_id = %(cluster_id)s AND t.topic = %(topic)s
        AND t.partition = %(partition)s AND t."offset" >= %(base)s AND t."offset" < %(next)s)

-- name: twice
-- A look into the index for each dead letter and duplicate (OFFSET 0 keeps the planner from other ideas).
WITH pairs AS (
    SELECT "offset", 'predictions' AS one, 'dead_letters' AS other FROM dead_letters a
    WHERE cluster_id = %(cluster_id)s AND topic = %(topic)s AND partition = %(partition)s
      AND "offset" >= %(base)s AND "offset" < %(next)s
      AND EXISTS (
        SELECT FROM predictions b
        WHERE b.cluster_id = a.cluster_id AND b.topic = a.topic AND b.partition = a.partition
          AND b."offset" = a."offset"
        OFFSET 0
    )
    UNION ALL
    SELECT "offset", 'predictions' AS one, 'duplicates' AS other FROM duplicates a
    WHERE cluster_id = %(cluster_id)s AND topic = %(topic)s AND partition = %(partition)s
      AND "offset" >= %(base)s AND "offset" < %(next)s
      AND EXISTS (
        SELECT FROM predictions b
        WHERE b.cluster_id = a.cluster_id AND b.topic = a.topic AND b.partition = a.partition
          AND b."offset" = a."offset"
        OFFSET 0
    )
    UNION ALL
    SELECT "offset", 'duplicates' AS one, 'dead_letters' AS other FROM dead_letters a
    WHERE cluster_id = %(cluster_id)s AND topic = %(topic)s AND partition = %(partition)s
      AND "offset" >= %(base)s AND "offset" < %(next)s
      AND EXISTS (
        SELECT FROM duplicates b
        WHERE b.cluster_id = a.cluster_id AND b.topic = a.topic AND b.partition = a.partition
          AND b."offset" = a."offset"
        OFFSET 0
    )
)
SELECT "offset", one, other, count(*) OVER () FROM pairs ORDER BY "offset", one, other LIMIT %(limit)s

-- name: outside
WITH found AS (
    SELECT "offset", recorded_in FROM recorded_positions
    WHERE cluster_id = %(cluster_id)s AND topic = %(topic)s AND partition = %(partition)s AND "offset" < %(base)s
    UNION ALL
    SELECT "offset", recorded_in FROM recorded_positions
    WHERE cluster_id = %(cluster_id)s AND topic = %(topic)s AND partition = %(partition)s AND "offset" >= %(next)s
)
SELECT "offset", recorded_in, count(*) OVER () FROM found ORDER BY "offset" LIMIT %(limit)s

-- name: gaps
-- The walk that costs: only for a partition whose counts do not add up.
WITH walked AS (
    SELECT "offset", lag("offset", 1, %(base)s::bigint - 1) OVER (ORDER BY "offset") AS previous
    FROM (
        SELECT "offset" FROM recorded_positions
        WHERE cluster_id = %(cluster_id)s AND topic = %(topic)s AND partition = %(partition)s
          AND "offset" >= %(base)s AND "offset" < %(next)s
        UNION ALL
        SELECT %(next)s::bigint
    ) present
)
SELECT previous + 1, "offset" - 1 FROM walked WHERE "offset" > previous + 1 ORDER BY 1 LIMIT %(limit)s

-- name: ids
SELECT "offset", array_agg(DISTINCT id::text ORDER BY id::text) FROM recorded_positions
WHERE cluster_id = %(cluster_id)s AND topic = %(topic)s AND partition = %(partition)s
  AND "offset" = ANY (%(offsets)s::bigint[]) AND id IS NOT NULL
GROUP BY "offset"
