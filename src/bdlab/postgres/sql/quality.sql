-- name: $asked
s.stored_at >= %(since)s::timestamptz AND s.stored_at < %(until)s::timestamptz
  AND (%(source)s IN ('all', s.source) OR (%(source)s = 'real' AND coalesce(s.source, '') NOT IN ('drill', 'demo')))

-- name: $of_one
s.model = %(model)s AND (%(rescored)s::boolean IS NULL OR s.rescored = %(rescored)s) AND $asked

-- name: versions
SELECT s.model, count(*) AS rows, count(s.feedback_id) AS labelled, percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (
           ORDER BY extract(epoch FROM s.feedback_at - s.created_at)::float8
       ) AS delay_s
FROM quality s WHERE s.rescored = %(rescored)s AND (%(model)s::text IS NULL OR s.model = %(model)s) AND $asked
GROUP BY s.model ORDER BY count(*) DESC, s.model

-- name: sample
-- By a hash of the id, so that asking again gives the same; not from the view, which looks for each row's feedback.
SELECT {columns} FROM (
    SELECT id, model, false AS rescored, source, stored_at FROM predictions
    UNION ALL SELECT p.id, r.model, true, p.source, p.stored_at FROM rescored r JOIN predictions p USING (id)
) s JOIN predictions i USING (id) WHERE $of_one ORDER BY uuid_hash_extended(s.id, 0) LIMIT 2000

-- name: $sums
-- One scan for all fields: a row has the bin of one of them, or none, and all else null.
SELECT {shown} FROM found GROUP BY GROUPING SETS ({sets}) HAVING num_nonnulls({names}) > 0

-- name: labelled
SELECT count(*) OVER (), s.stored_at, s.feedback_source, s.true_prediction, {columns}
FROM quality s JOIN predictions i USING (id)
WHERE NOT s.rescored AND s.true_prediction IS NOT NULL AND $asked ORDER BY s.stored_at, s.id

-- name: figures
WITH found AS (
    SELECT {columns}, 0 AS block FROM quality s JOIN predictions i USING (id) WHERE $of_one
)
$sums

-- name: over_time
WITH found AS (
    SELECT s.model, date_bin('{width} s', s.stored_at, 'epoch') AS at, {columns} FROM quality s
    WHERE NOT s.rescored AND (%(model)s::text IS NULL OR s.model = %(model)s) AND $asked
)
SELECT model, at, count(*) AS rows, avg(said) AS mean, {sums} FROM found GROUP BY model, at ORDER BY model, at

-- name: $pairs
-- What a model said at once counts, and not what it said to the same input when it scored again. The bootstrap draws
-- blocks, which are fewer in a slice.
WITH found AS (
    SELECT s.id, {columns}, abs(mod(uuid_hash_extended(s.id, 0), 2000)) AS block
    FROM quality s JOIN quality o USING (id) JOIN predictions i USING (id)
    WHERE s.model = %(model)s AND o.model = %(other)s
      AND NOT (s.rescored AND i.model = s.model) AND NOT (o.rescored AND i.model = o.model) AND $asked
)

-- name: pairs
$pairs $sums

-- name: spread
$pairs SELECT {sums} FROM found

-- name: worst
$pairs SELECT w.*, {inputs} FROM (
    SELECT *, {order} AS apart FROM found WHERE {differs} ORDER BY apart DESC, id LIMIT %(limit)s
) w JOIN predictions i USING (id) ORDER BY w.apart DESC, w.id
