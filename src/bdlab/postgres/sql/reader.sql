-- name: page
-- No column of a contract begins with "_". One more row than wanted tells whether there is another page.
SELECT {columns}, l.cluster_id, l.topic, p.partition, p."offset", l.topic_id, _found
FROM (
    SELECT *, sum(_bytes) OVER (ORDER BY stored_at DESC, created_at DESC, id DESC) - _bytes AS _before,
           count(*) OVER () AS _found
    FROM (
        SELECT *, {bytes} AS _bytes FROM predictions WHERE {where}
        -- The rows of a batch have the same stored_at: the index finds the batches, and a sort orders each.
        ORDER BY stored_at DESC, created_at DESC, id DESC LIMIT %(limit)s + 1
    ) AS newest
) AS p LEFT JOIN logs l USING (log_id)
WHERE _before < %(bytes)s
ORDER BY p.stored_at DESC, p.created_at DESC, p.id DESC LIMIT %(limit)s

-- name: name
split_part(model, '@', 1) = %(model)s

-- name: real
source IS DISTINCT FROM 'drill' AND source IS DISTINCT FROM 'demo'

-- name: after
(stored_at, created_at, id) < (%(stored_at)s, %(created_at)s, %(id)s::uuid)

-- name: get
SELECT {columns}, p.cluster_id, p.topic, p.partition, p."offset", p.topic_id
FROM located_predictions p WHERE p.id = %(id)s::uuid

-- name: traced
-- Of an id, of a trace since a moment (`stored_at` has an index, `trace_id` none), or of a position in the newest log.
SELECT p.cluster_id, p.topic, p.partition, p."offset", p.topic_id, p.id, p.model, p.source, p.trace_id, p.key_name,
       p.created_at, p.received_at, p.appended_at, p.read_at, p.stored_at,
       ARRAY(SELECT d.partition || '/' || d."offset" FROM duplicates d
             WHERE d.id = p.id AND d.kind = 'prediction' ORDER BY d.recorded_at) AS duplicates
FROM located_predictions p
WHERE (%(id)s::uuid IS NULL OR p.id = %(id)s::uuid)
  AND (%(trace_id)s::text IS NULL OR (p.trace_id = %(trace_id)s AND p.stored_at >= %(since)s))
  AND (%(partition)s::int IS NULL OR p.id = (
      SELECT r.id FROM recorded_positions r WHERE r.partition = %(partition)s AND r."offset" = %(offset)s
         AND r.log_id = (SELECT max(log_id) FROM logs WHERE topic = %(topic)s AND closed_at IS NULL)))
ORDER BY p.stored_at, p.id LIMIT 100

-- name: way
-- The row of an id, how often its position is recorded in all tables, and up to where its partition is.
SELECT p.model, p.partition, p."offset", p.received_at, p.created_at, p.appended_at, p.read_at, p.stored_at,
       (SELECT count(*) FROM recorded_positions r
        WHERE (r.log_id, r.partition, r."offset") = (p.log_id, p.partition, p."offset")) AS recorded, s.next_offset
FROM predictions p LEFT JOIN sink_offsets s USING (log_id, partition) WHERE p.id = %(id)s::uuid

-- name: feedback_of
SELECT * FROM feedback WHERE prediction_id = %(id)s::uuid AND pruned_at IS NULL
ORDER BY created_at DESC, id DESC LIMIT 20

-- name: rescored_of
SELECT * FROM rescored WHERE id = %(id)s::uuid ORDER BY scored_at DESC LIMIT 50

-- name: kept
SELECT min(stored_at) AS oldest, (SELECT max(pruned_at) FROM checkpoints) AS pruned_at FROM predictions

-- name: count
SELECT (SELECT count(*) FROM predictions), (SELECT count(*) FROM feedback)

-- name: count_predictions
-- In a schema from before there was feedback.
SELECT count(*), NULL FROM predictions

-- name: unknown_feedback
SELECT count(*) FROM feedback f
WHERE f.pruned_at IS NULL AND NOT EXISTS (SELECT FROM predictions p WHERE p.id = f.prediction_id)

-- name: $of_open
FROM dead_letters
WHERE (log_id, partition, "offset") NOT IN (
    SELECT log_id, partition, "offset" FROM replays UNION ALL SELECT log_id, partition, "offset" FROM discards)

-- name: count_open
SELECT count(*) $of_open

-- name: server
-- Its clock in seconds since 1970, its connections, and how many it takes.
SELECT extract(epoch FROM clock_timestamp())::float8, count(datid),
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
FROM pg_stat_activity

-- name: newest_open
-- Position, moment, SQLSTATE and reason of the newest dead letters that nobody has dealt with.
SELECT partition || '/' || "offset", recorded_at, sqlstate, reason $of_open ORDER BY recorded_at DESC LIMIT 3

-- name: ended_logins
-- By Vault's naming, as in the role bdlab-sweep.
SELECT r.rolname, count(a.pid)
FROM pg_roles r LEFT JOIN pg_stat_activity a ON a.usesysid = r.oid
WHERE r.rolname ~ '^v-.+-bdlab-..-[0-9A-Za-z]{20}-[0-9]+$'
  AND (NOT r.rolcanlogin OR r.rolvaliduntil < now() - interval '1 minute')
GROUP BY r.rolname ORDER BY r.rolname

-- name: leased
-- The users that are members of `groups`, until when they may log in, and their sessions by the names these give.
SELECT r.rolname AS user, g.rolname AS group, r.rolvaliduntil AS until, count(a.pid) AS sessions,
       coalesce(array_agg(DISTINCT a.application_name ORDER BY a.application_name) FILTER (WHERE a.pid > 0), '{}')
           AS applications
FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles r ON r.oid = m.member
LEFT JOIN pg_stat_activity a ON a.usesysid = r.oid
WHERE g.rolname = ANY (%(groups)s) AND r.rolcanlogin AND isfinite(r.rolvaliduntil)
GROUP BY r.rolname, g.rolname, r.rolvaliduntil ORDER BY r.rolvaliduntil DESC, r.rolname
