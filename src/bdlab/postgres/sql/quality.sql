-- Values are literals here, and no parameters: a value of an enum may hold the % of these.

-- name: $asked
s.stored_at >= {since}::timestamptz AND s.stored_at < {until}::timestamptz
  AND ({source} IN ('all', s.source)
       OR ({source} = 'real' AND s.source IS DISTINCT FROM 'drill' AND s.source IS DISTINCT FROM 'demo'))

-- name: $of_one
s.model = {model} AND ({rescored}::boolean IS NULL OR s.rescored = {rescored}) AND $asked

-- name: versions
SELECT s.model, count(*) AS rows, count(s.feedback_id) AS labelled,
       percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (
           ORDER BY extract(epoch FROM s.feedback_at - s.created_at)::float8
       ) FILTER (WHERE s.feedback_id IS NOT NULL) AS delay_s
FROM quality s
WHERE s.rescored = {rescored} AND ({model}::text IS NULL OR s.model = {model}) AND $asked
GROUP BY s.model ORDER BY count(*) DESC, s.model

-- name: sample
-- By a hash of the id, so that asking again gives the same.
SELECT {columns} FROM quality s JOIN predictions i USING (id)
WHERE $of_one ORDER BY uuid_hash_extended(s.id, 0) LIMIT {limit}

-- name: labelled
SELECT count(*) OVER (), s.stored_at, s.feedback_source, s.true_prediction, {columns}
FROM quality s JOIN predictions i USING (id)
WHERE NOT s.rescored AND s.true_prediction IS NOT NULL AND $asked ORDER BY s.stored_at, s.id

-- name: figures
-- One scan for all fields: a row has the bin of one of them, or none, and all else null.
WITH found AS (
    SELECT {columns} FROM quality s JOIN predictions i USING (id) WHERE $of_one
)
SELECT {names}, count(*) AS rows, {sums} FROM found GROUP BY GROUPING SETS ((), {sets})

-- name: $pairs
-- What a model said at once counts, and not what it said to the same input when it scored again.
WITH pairs AS (
    SELECT s.id, {columns}, abs(mod(uuid_hash_extended(s.id, 0), {blocks})) AS block, abs(mod(uuid_hash_extended(s.id, 0), {few})) AS few
    FROM quality s JOIN quality o USING (id) JOIN predictions i USING (id)
    WHERE s.model = {model} AND o.model = {other}
      AND NOT (s.rescored AND i.model = s.model) AND NOT (o.rescored AND i.model = o.model) AND $asked
)

-- name: pairs
-- Sums for the bootstrap: of all pairs by their block, and of each slice by fewer blocks.
$pairs
SELECT {names}, count(*) AS rows, {sums} FROM pairs GROUP BY GROUPING SETS ({sets})

-- name: spread
$pairs
SELECT {sums} FROM pairs

-- name: worst
$pairs
SELECT w.*, {inputs} FROM (
    SELECT *, {order} AS apart FROM pairs WHERE {differs} ORDER BY apart DESC, id LIMIT {limit}
) w JOIN predictions i USING (id) ORDER BY w.apart DESC, w.id
