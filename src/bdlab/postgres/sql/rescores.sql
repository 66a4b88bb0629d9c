-- name: lock_model
-- One process plans for a model at a time.
SELECT pg_advisory_xact_lock(hashtextextended('rescore ' || %(model)s, 0))

-- name: $window
unnest(%(log_ids)s::int[], %(partitions)s::int[], %(firsts)s::bigint[], %(afters)s::bigint[])
    AS w (log_id, partition, first, after)

-- name: plan
-- What is in no range of the model yet, in pieces.
WITH unplanned AS (
    SELECT w.log_id, w.partition, unnest(int8multirange(int8range(w.first, w.after)) - coalesce((
        SELECT range_agg(int8range(r.first, r.after)) FROM rescore_ranges r
        WHERE r.model = %(model)s AND r.log_id = w.log_id AND r.partition = w.partition), '{}')) AS gap
    FROM $window WHERE w.first < w.after
)
INSERT INTO rescore_ranges (model, log_id, partition, first, after, run)
SELECT %(model)s, log_id, partition, at, least(at + %(size)s, upper(gap)), %(run)s
FROM unplanned CROSS JOIN LATERAL generate_series(lower(gap), upper(gap) - 1, %(size)s) at

-- name: $open
-- The subquery keeps the order of the index, so that the first one is found at once.
FROM rescore_ranges r
WHERE r.model = %(model)s AND r.done_at IS NULL AND (
    SELECT true FROM $window
    WHERE w.log_id = r.log_id AND w.partition = r.partition AND r.first < w.after AND r.after > w.first LIMIT 1)

-- name: take
-- One that nobody else has. Who is killed, or cut off, loses the row's lock and with it the range.
SELECT r.log_id, r.partition, r.first, r.after $open
ORDER BY r.log_id, r.partition, r.first LIMIT 1 FOR UPDATE SKIP LOCKED

-- name: open
SELECT count(*), coalesce(sum(r.after - r.first), 0)::bigint $open

-- name: inputs
SELECT id, {columns} FROM predictions
WHERE log_id = %(log_id)s AND partition = %(partition)s AND "offset" >= %(first)s AND "offset" < %(after)s
ORDER BY "offset"

-- name: insert
-- In the order of the ids, so that two with the same ids cannot deadlock.
INSERT INTO rescored (id, model, run, {columns})
SELECT id, %(model)s, %(run)s, {columns} FROM json_populate_recordset(NULL::rescored, %(rows)s) ORDER BY id
ON CONFLICT (id, model) DO NOTHING

-- name: strangers
SELECT r.id FROM json_to_recordset(%(rows)s) AS r (id uuid, log_id integer, partition integer, "offset" bigint)
WHERE NOT EXISTS (
    SELECT FROM predictions p WHERE p.id = r.id
       AND p.log_id = r.log_id AND p.partition = r.partition AND p."offset" = r."offset")
LIMIT 1

-- name: $of_range
FROM predictions p
WHERE p.log_id = g.log_id AND p.partition = g.partition AND p."offset" >= g.first AND p."offset" < g.after

-- name: finish
-- Of ranges that overlap the window those of which every prediction has its score.
UPDATE rescore_ranges g SET rescored = (SELECT count(*) $of_range), done_at = now(), done_by = %(by)s
WHERE g.model = %(model)s AND g.done_at IS NULL AND EXISTS (
    SELECT FROM $window WHERE w.log_id = g.log_id AND w.partition = g.partition AND g.first < w.after AND g.after > w.first)
AND NOT EXISTS (
    SELECT $of_range AND NOT EXISTS (SELECT FROM rescored r WHERE r.id = p.id AND r.model = g.model))

-- name: done
UPDATE rescore_ranges SET rescored = %(predictions)s, done_at = now(), done_by = %(by)s
WHERE model = %(model)s AND log_id = %(log_id)s AND partition = %(partition)s AND first = %(first)s

-- name: done_by
SELECT count(*), coalesce(sum(rescored), 0)::bigint FROM rescore_ranges WHERE model = %(model)s AND done_by = %(by)s

-- name: $in_ranges
-- Each OFFSET 0 keeps one index scan for each range, and one lookup for each prediction.
FROM rescore_ranges g CROSS JOIN LATERAL (
    SELECT p.id, p."offset" FROM predictions p
    WHERE p.log_id = g.log_id AND p.partition = g.partition AND p."offset" >= g.first AND p."offset" < g.after
    OFFSET 0) p
LEFT JOIN rescored r ON r.id = p.id AND r.model = g.model
WHERE g.model = %(model)s

-- name: account
-- A range is open if it is not done, and has predictions: they may have been pruned before.
SELECT coalesce(l.cluster_id, 'log_id ' || s.log_id), coalesce(l.topic, ''), s.partition, coalesce(l.topic_id, ''),
       s.stored, coalesce(f.done, 0), coalesce(f.rescored, 0), coalesce(f.open_ranges, 0), coalesce(f.open, 0)
FROM (SELECT log_id, partition, count(*) AS stored FROM predictions GROUP BY 1, 2) s
LEFT JOIN logs l USING (log_id)
LEFT JOIN (
    SELECT log_id, partition, sum(stored) FILTER (WHERE done)::bigint AS done,
           sum(rescored) FILTER (WHERE done)::bigint AS rescored,
           count(*) FILTER (WHERE NOT done) AS open_ranges, sum(stored) FILTER (WHERE NOT done)::bigint AS open
    FROM (
        SELECT g.log_id, g.partition, g.done_at IS NOT NULL AS done, count(*) AS stored, count(r.id) AS rescored
        $in_ranges GROUP BY g.log_id, g.partition, g.first, g.done_at
    ) g GROUP BY 1, 2
) f USING (log_id, partition)
ORDER BY s.log_id, s.partition

-- name: missing
SELECT g.partition || '/' || p."offset", p.id $in_ranges AND g.done_at IS NOT NULL AND r.id IS NULL
ORDER BY g.log_id, g.partition, p."offset" LIMIT %(limit)s

-- name: orphans
SELECT r.id, count(*) OVER () FROM rescored r
WHERE r.model = %(model)s AND NOT EXISTS (SELECT FROM predictions p WHERE p.id = r.id)
ORDER BY r.id LIMIT %(limit)s

-- name: models
SELECT DISTINCT model FROM rescore_ranges ORDER BY model LIMIT 20
