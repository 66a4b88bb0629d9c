-- name: find
SELECT d.cluster_id, d.topic, d.partition, d."offset", d.key, d.value, d.headers, d.reason, d.sqlstate,
       d.recorded_at, d.replay_count + (
           SELECT count(*) FROM replays r WHERE r.cluster_id = d.cluster_id AND r.topic = d.topic
              AND r.partition = d.partition AND r."offset" = d."offset"
       ) AS replays
FROM dead_letters d
WHERE (%(cluster_id)s::text IS NULL OR d.cluster_id = %(cluster_id)s)
  AND (%(topic)s::text IS NULL OR d.topic = %(topic)s)
  AND (%(partition)s::int IS NULL OR d.partition = %(partition)s)
  AND (%(offset)s::bigint IS NULL OR d."offset" = %(offset)s)
  AND (%(reason)s::text IS NULL OR strpos(lower(d.reason), lower(%(reason)s)) > 0)
  AND (%(sqlstate)s::text IS NULL OR starts_with(d.sqlstate, %(sqlstate)s))
  AND (%(since)s::timestamptz IS NULL OR d.recorded_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR d.recorded_at < %(until)s)
  AND NOT (%(pending_only)s AND EXISTS (
    SELECT FROM replays r WHERE r.cluster_id = d.cluster_id AND r.topic = d.topic
       AND r.partition = d.partition AND r."offset" = d."offset"
  ))
ORDER BY d.recorded_at, d.cluster_id, d.topic, d.partition, d."offset"
LIMIT %(limit)s

-- name: count
SELECT count(*)
FROM dead_letters d
WHERE (%(cluster_id)s::text IS NULL OR d.cluster_id = %(cluster_id)s)
  AND (%(topic)s::text IS NULL OR d.topic = %(topic)s)
  AND (%(partition)s::int IS NULL OR d.partition = %(partition)s)
  AND (%(offset)s::bigint IS NULL OR d."offset" = %(offset)s)
  AND (%(reason)s::text IS NULL OR strpos(lower(d.reason), lower(%(reason)s)) > 0)
  AND (%(sqlstate)s::text IS NULL OR starts_with(d.sqlstate, %(sqlstate)s))
  AND (%(since)s::timestamptz IS NULL OR d.recorded_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR d.recorded_at < %(until)s)
  AND NOT (%(pending_only)s AND EXISTS (
    SELECT FROM replays r WHERE r.cluster_id = d.cluster_id AND r.topic = d.topic
       AND r.partition = d.partition AND r."offset" = d."offset"
  ))

-- name: record_replay
INSERT INTO replays (cluster_id, topic, partition, "offset", new_cluster_id, new_topic, new_partition, new_offset)
VALUES (%(cluster_id)s, %(topic)s, %(partition)s, %(offset)s,
        %(new_cluster_id)s, %(new_topic)s, %(new_partition)s, %(new_offset)s)
ON CONFLICT DO NOTHING
