-- name: ends
-- Of all logs of the topic: a transaction that records positions moves next_offset past them.
SELECT log_id, s.partition, s.first_offset, s.next_offset, extract(epoch FROM clock_timestamp())::float8 AS now
FROM sink_offsets s JOIN logs l USING (log_id) WHERE l.topic = %(topic)s

-- name: $new
unnest(%(logs)s::int[], %(partitions)s::int[], %(since)s::bigint[], %(next)s::bigint[]) AS a (log_id, partition, since, next)
CROSS JOIN LATERAL

-- name: $there
WHERE t.log_id = a.log_id AND t.partition = a.partition AND t."offset" >= a.since AND t."offset" < a.next

-- name: rows
SELECT p.* FROM $new (
    SELECT id, log_id, partition, "offset", model, source, created_at, stored_at, {outcome} AS outcome,
           prediction, {confidence} AS confidence, left({words}, 2000) AS words,
           char_length({words}) AS length
    FROM predictions t $there ORDER BY "offset" DESC LIMIT %(limit)s) p
ORDER BY stored_at DESC, log_id, partition, "offset" DESC LIMIT %(limit)s

-- name: $figures
SELECT floor(extract(epoch FROM p.stored_at))::bigint AS second, {outcome} AS outcome,
       floor(ln(greatest(extract(epoch FROM p.stored_at - p.created_at)::float8 * 1000, 1)) / ln(1.05))::int AS step,
       count(*) AS rows

-- name: figures
-- Step n of the latencies begins at 1.05^n ms.
$figures FROM $new (SELECT * FROM predictions t $there OFFSET 0) p GROUP BY 1, 2, 3

-- name: past_figures
$figures FROM (
    SELECT * FROM predictions WHERE stored_at >= now() - interval '5 minutes' ORDER BY stored_at DESC LIMIT 200000) p
GROUP BY 1, 2, 3

-- name: others
SELECT (SELECT count(*) FROM $new (SELECT FROM duplicates t $there OFFSET 0) p) AS duplicates,
       (SELECT count(*) FROM $new (SELECT FROM dead_letters t $there OFFSET 0) p) AS dead_letters
