-- name: find
SELECT l.cluster_id, l.topic, d.partition, d."offset", l.topic_id, d.key, d.value, d.headers, d.reason, d.sqlstate,
       d.recorded_at, d.replay_count + (
           SELECT count(*) FROM replays r
           WHERE r.log_id = d.log_id AND r.partition = d.partition AND r."offset" = d."offset"
       ) AS replays
FROM dead_letters d JOIN logs l USING (log_id)
WHERE (%(cluster_id)s::text IS NULL OR l.cluster_id = %(cluster_id)s)
  AND (%(topic)s::text IS NULL OR l.topic = %(topic)s)
  AND (%(partition)s::int IS NULL OR d.partition = %(partition)s)
  AND (%(offset)s::bigint IS NULL OR d."offset" = %(offset)s)
  AND (%(reason)s::text IS NULL OR strpos(lower(d.reason), lower(%(reason)s)) > 0)
  AND (%(sqlstate)s::text IS NULL OR starts_with(d.sqlstate, %(sqlstate)s))
  AND (%(since)s::timestamptz IS NULL OR d.recorded_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR d.recorded_at < %(until)s)
  AND NOT (%(pending_only)s AND EXISTS (
    SELECT FROM replays r WHERE r.log_id = d.log_id AND r.partition = d.partition AND r."offset" = d."offset"
  ))
ORDER BY d.recorded_at, d.log_id, d.partition, d."offset"
LIMIT %(limit)s

-- name: count
SELECT count(*)
FROM dead_letters d JOIN logs l USING (log_id)
WHERE (%(cluster_id)s::text IS NULL OR l.cluster_id = %(cluster_id)s)
  AND (%(topic)s::text IS NULL OR l.topic = %(topic)s)
  AND (%(partition)s::int IS NULL OR d.partition = %(partition)s)
  AND (%(offset)s::bigint IS NULL OR d."offset" = %(offset)s)
  AND (%(reason)s::text IS NULL OR strpos(lower(d.reason), lower(%(reason)s)) > 0)
  AND (%(sqlstate)s::text IS NULL OR starts_with(d.sqlstate, %(sqlstate)s))
  AND (%(since)s::timestamptz IS NULL OR d.recorded_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR d.recorded_at < %(until)s)
  AND NOT (%(pending_only)s AND EXISTS (
    SELECT FROM replays r WHERE r.log_id = d.log_id AND r.partition = d.partition AND r."offset" = d."offset"
  ))

-- name: record_replay
-- A producer does not say its topic id: the new position is in the topic's newest log, if a consumer has met any yet.
INSERT INTO replays (log_id, partition, "offset", new_log_id, new_partition, new_offset)
SELECT max(d.log_id), %(partition)s, %(offset)s, (
    SELECT max(n.log_id) FROM logs n WHERE n.cluster_id = %(new_cluster_id)s AND n.topic = %(new_topic)s
), %(new_partition)s, %(new_offset)s
FROM dead_letters d JOIN logs l USING (log_id)
WHERE l.cluster_id = %(cluster_id)s AND l.topic = %(topic)s AND l.topic_id = %(topic_id)s
  AND d.partition = %(partition)s AND d."offset" = %(offset)s
HAVING count(*) > 0
ON CONFLICT DO NOTHING
