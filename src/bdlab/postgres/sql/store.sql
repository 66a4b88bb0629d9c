-- name: temporary_table
-- Created once for each connection, with the columns' types and without constraints: the table's check the rows.
CREATE TEMPORARY TABLE IF NOT EXISTS incoming ON COMMIT DELETE ROWS AS SELECT {columns} FROM {table} WITH NO DATA

-- name: copy
COPY incoming FROM STDIN

-- name: start
INSERT INTO sink_offsets (log_id, partition, first_offset, next_offset, end_seen)
SELECT log_id, partition, log_start, log_start, log_start
FROM unnest(%(log_ids)s::int[], %(partitions)s::int[], %(log_starts)s::bigint[])
     AS assigned (log_id, partition, log_start)
ORDER BY log_id, partition
ON CONFLICT (log_id, partition) DO NOTHING

-- name: next_offsets
SELECT log_id, partition, next_offset FROM sink_offsets WHERE log_id = ANY (%(log_ids)s)

-- name: $batch
batch AS (
    SELECT * FROM unnest(%(log_ids)s::int[], %(partitions)s::int[], %(expected)s::bigint[], %(next)s::bigint[],
                         %(ends)s::bigint[]) AS b (log_id, partition, expected, next, end_seen)
)

-- name: fence
-- Locks the partitions, always in the same order, so that two consumers cannot deadlock, and advances those whose
-- offset is where the batch begins. If these are fewer than the batch's partitions, another consumer was here.
WITH $batch, locked AS (
    SELECT s.log_id, s.partition, b.next, b.end_seen
    FROM sink_offsets s JOIN batch b ON s.log_id = b.log_id AND s.partition = b.partition
    WHERE s.next_offset = b.expected
    ORDER BY s.log_id, s.partition FOR UPDATE OF s
)
UPDATE sink_offsets s
SET next_offset = l.next, end_seen = greatest(s.end_seen, l.next, l.end_seen)
FROM locked l
WHERE s.log_id = l.log_id AND s.partition = l.partition

-- name: $in_batch
d.log_id = b.log_id AND d.partition = b.partition AND d."offset" >= b.expected AND d."offset" < b.next

-- name: insert_rows
-- `known` is empty unless positions come that are recorded already, as after sink_offsets was set back. OFFSET 0
-- keeps it one range scan for each partition, however large the tables are.
-- The rows are inserted in the order of their ids, so that two consumers with the same ids cannot deadlock.
WITH $batch, known AS MATERIALIZED (
    SELECT k.* FROM batch b CROSS JOIN LATERAL (
        SELECT d.log_id, d.partition, d."offset" FROM duplicates d WHERE $in_batch OFFSET 0) k
    UNION ALL
    SELECT k.* FROM batch b CROSS JOIN LATERAL (
        SELECT d.log_id, d.partition, d."offset" FROM dead_letters d WHERE $in_batch OFFSET 0) k
)
INSERT INTO {table} ({columns})
SELECT {values} FROM incoming i
WHERE NOT EXISTS (
    SELECT FROM known k WHERE k.log_id = i.log_id AND k.partition = i.partition AND k."offset" = i."offset")
ORDER BY i.id, i.log_id, i.partition, i."offset"
ON CONFLICT (id) DO NOTHING

-- name: insert_duplicates
-- A known id at another position. The same position again is a redelivery and writes nothing.
-- Each OFFSET 0 keeps one index lookup for each row; a join would be planned as a scan of the whole table.
INSERT INTO duplicates (log_id, partition, "offset", id, kind)
SELECT i.log_id, i.partition, i."offset", i.id, {kind}
FROM incoming i CROSS JOIN LATERAL (
    SELECT s.log_id, s.partition, s."offset" FROM {table} s WHERE s.id = i.id OFFSET 0) p
WHERE (p.log_id, p.partition, p."offset") <> (i.log_id, i.partition, i."offset")
  AND NOT EXISTS (
    SELECT FROM dead_letters d
    WHERE d.log_id = i.log_id AND d.partition = i.partition AND d."offset" = i."offset"
    OFFSET 0)
ON CONFLICT (log_id, partition, "offset") DO NOTHING

-- name: dead_letter
-- The template of one row.
(%(log_id)s::int, %(partition)s::int, %(offset)s::bigint, %(key)s::bytea, %(value)s::bytea,
 %(headers)s::jsonb, %(reason)s, %(sqlstate)s, %(replay_count)s::int)

-- name: insert_dead_letters
-- A position that is recorded already writes nothing, also if it was a row.
INSERT INTO dead_letters (log_id, partition, "offset", key, value, headers, reason, sqlstate, replay_count)
SELECT d.*
FROM (VALUES %s) AS d (log_id, partition, "offset", key, value, headers, reason, sqlstate, replay_count)
WHERE NOT EXISTS (
    SELECT FROM recorded_positions r
    WHERE r.log_id = d.log_id AND r.partition = d.partition AND r."offset" = d."offset"
      AND r.recorded_in <> 'dead_letters'
    OFFSET 0)
ON CONFLICT (log_id, partition, "offset") DO NOTHING
RETURNING 1
