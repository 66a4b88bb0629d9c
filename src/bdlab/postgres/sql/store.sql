-- name: temporary_table
-- Made once a connection. No constraints: what the row has to satisfy is checked where it is stored.
CREATE TEMPORARY TABLE IF NOT EXISTS incoming (
    id                      uuid,
    summary                 text,
    text                    text,
    helpfulness_numerator   integer,
    helpfulness_denominator integer,
    prediction              double precision,
    sentiment               text,
    confidence              double precision,
    explanation             jsonb,
    model                   text,
    created_at              timestamptz,
    cluster_id              text COLLATE "C",
    topic                   text COLLATE "C",
    partition               integer,
    "offset"                bigint
) ON COMMIT DELETE ROWS

-- name: copy
COPY incoming (id, summary, text, helpfulness_numerator, helpfulness_denominator, prediction, sentiment, confidence,
               explanation, model, created_at, cluster_id, topic, partition, "offset") FROM STDIN

-- name: start
INSERT INTO sink_offsets (cluster_id, topic, partition, first_offset, next_offset, end_seen)
SELECT cluster_id, topic, partition, log_start, log_start, log_start
FROM unnest(%(cluster_ids)s::text[], %(topics)s::text[], %(partitions)s::int[], %(log_starts)s::bigint[])
     AS assigned (cluster_id, topic, partition, log_start)
ORDER BY cluster_id COLLATE "C", topic COLLATE "C", partition
ON CONFLICT (cluster_id, topic, partition) DO NOTHING

-- name: next_offsets
SELECT cluster_id, topic, partition, next_offset FROM sink_offsets

-- name: fence
-- Locks the partitions in one order everywhere, so that two consumers cannot deadlock, and advances those that stand
-- where the batch begins. Fewer rows than partitions: somebody else was here.
WITH batch AS (
    SELECT *
    FROM unnest(%(cluster_ids)s::text[], %(topics)s::text[], %(partitions)s::int[], %(expected)s::bigint[],
                %(next)s::bigint[], %(ends)s::bigint[])
         AS b (cluster_id, topic, partition, expected, next, end_seen)
), locked AS (
    SELECT s.cluster_id, s.topic, s.partition, b.next, b.end_seen
    FROM sink_offsets s JOIN batch b
        ON s.cluster_id = b.cluster_id AND s.topic = b.topic AND s.partition = b.partition
    WHERE s.next_offset = b.expected
    ORDER BY s.cluster_id, s.topic, s.partition
    FOR UPDATE OF s
)
UPDATE sink_offsets s
SET next_offset = l.next, end_seen = greatest(s.end_seen, l.next, l.end_seen)
FROM locked l
WHERE s.cluster_id = l.cluster_id AND s.topic = l.topic AND s.partition = l.partition

-- name: insert_rows
-- `known` is empty but for a delivery of positions that are recorded already, as after sink_offsets was set back.
-- OFFSET 0 keeps it a range scan a partition, however large the tables are.
-- In the order of the ids: two consumers that hold the same ids cannot deadlock.
WITH batch AS (
    SELECT *
    FROM unnest(%(cluster_ids)s::text[], %(topics)s::text[], %(partitions)s::int[], %(expected)s::bigint[],
                %(next)s::bigint[])
         AS b (cluster_id, topic, partition, expected, next)
), known AS MATERIALIZED (
    SELECT k.* FROM batch b CROSS JOIN LATERAL (
        SELECT d.cluster_id, d.topic, d.partition, d."offset" FROM duplicates d
        WHERE d.cluster_id = b.cluster_id AND d.topic = b.topic AND d.partition = b.partition
          AND d."offset" >= b.expected AND d."offset" < b.next
        OFFSET 0) k
    UNION ALL
    SELECT k.* FROM batch b CROSS JOIN LATERAL (
        SELECT d.cluster_id, d.topic, d.partition, d."offset" FROM dead_letters d
        WHERE d.cluster_id = b.cluster_id AND d.topic = b.topic AND d.partition = b.partition
          AND d."offset" >= b.expected AND d."offset" < b.next
        OFFSET 0) k
)
INSERT INTO predictions (id, summary, text, helpfulness_numerator, helpfulness_denominator, prediction, sentiment,
                         confidence, explanation, model, created_at, cluster_id, topic, partition, "offset")
SELECT id, summary, text, helpfulness_numerator, helpfulness_denominator, prediction, sentiment,
       confidence, explanation, model, created_at, cluster_id, topic, partition, "offset"
FROM incoming i
WHERE NOT EXISTS (
    SELECT FROM known k
    WHERE k.cluster_id = i.cluster_id AND k.topic = i.topic AND k.partition = i.partition AND k."offset" = i."offset"
)
ORDER BY id, cluster_id, topic, partition, "offset"
ON CONFLICT (id) DO NOTHING

-- name: insert_duplicates
-- A known id at another position. The same position again is a redelivery and writes nothing.
-- Each OFFSET 0 keeps a look into the index a row, where a join would be planned as a walk of the whole table.
INSERT INTO duplicates (cluster_id, topic, partition, "offset", id)
SELECT i.cluster_id, i.topic, i.partition, i."offset", i.id
FROM incoming i CROSS JOIN LATERAL (
    SELECT s.cluster_id, s.topic, s.partition, s."offset" FROM predictions s WHERE s.id = i.id OFFSET 0
) p
WHERE (p.cluster_id, p.topic, p.partition, p."offset") <> (i.cluster_id, i.topic, i.partition, i."offset")
  AND NOT EXISTS (
    SELECT FROM dead_letters d
    WHERE d.cluster_id = i.cluster_id AND d.topic = i.topic AND d.partition = i.partition AND d."offset" = i."offset"
    OFFSET 0
)
ON CONFLICT (cluster_id, topic, partition, "offset") DO NOTHING

-- name: dead_letter
-- The template of one row.
(%(cluster_id)s, %(topic)s, %(partition)s::int, %(offset)s::bigint, %(key)s::bytea, %(value)s::bytea,
 %(headers)s::jsonb, %(reason)s, %(sqlstate)s, %(replay_count)s::int)

-- name: insert_dead_letters
-- A position that is recorded already writes nothing, also where it was a row before.
INSERT INTO dead_letters (cluster_id, topic, partition, "offset", key, value, headers, reason, sqlstate, replay_count)
SELECT d.*
FROM (VALUES %s)
     AS d (cluster_id, topic, partition, "offset", key, value, headers, reason, sqlstate, replay_count)
WHERE NOT EXISTS (
    SELECT FROM predictions p
    WHERE p.cluster_id = d.cluster_id AND p.topic = d.topic AND p.partition = d.partition AND p."offset" = d."offset"
    OFFSET 0
) AND NOT EXISTS (
    SELECT FROM duplicates u
    WHERE u.cluster_id = d.cluster_id AND u.topic = d.topic AND u.partition = d.partition AND u."offset" = d."offset"
    OFFSET 0
)
ON CONFLICT (cluster_id, topic, partition, "offset") DO NOTHING
