-- name: newest
SELECT id, summary, text, helpfulness_numerator, helpfulness_denominator, prediction, sentiment, confidence,
       explanation, model, created_at, stored_at, cluster_id, topic, partition, "offset"
FROM predictions
ORDER BY stored_at DESC, id DESC
LIMIT %(limit)s

-- name: get
SELECT id, summary, text, helpfulness_numerator, helpfulness_denominator, prediction, sentiment, confidence,
       explanation, model, created_at, stored_at, cluster_id, topic, partition, "offset"
FROM predictions
WHERE id = %(id)s::uuid

-- name: count
SELECT count(*) FROM predictions

-- name: dead_letters
SELECT d.cluster_id, d.topic, d.partition, d."offset", d.key, d.value, d.headers, d.reason, d.sqlstate,
       d.recorded_at, d.replay_count + count(r.new_offset) AS replays
FROM dead_letters d
LEFT JOIN replays r
    ON r.cluster_id = d.cluster_id AND r.topic = d.topic AND r.partition = d.partition AND r."offset" = d."offset"
WHERE (%(cluster_id)s::text IS NULL OR d.cluster_id = %(cluster_id)s)
  AND (%(topic)s::text IS NULL OR d.topic = %(topic)s)
  AND (%(partition)s::int IS NULL OR d.partition = %(partition)s)
  AND (%(offset)s::bigint IS NULL OR d."offset" = %(offset)s)
  AND (%(reason)s::text IS NULL OR strpos(lower(d.reason), lower(%(reason)s)) > 0)
  AND (%(sqlstate)s::text IS NULL OR starts_with(d.sqlstate, %(sqlstate)s))
  AND (%(since)s::timestamptz IS NULL OR d.recorded_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR d.recorded_at < %(until)s)
GROUP BY d.cluster_id, d.topic, d.partition, d."offset"
HAVING NOT %(pending_only)s OR count(r.new_offset) = 0
ORDER BY d.recorded_at, d.cluster_id, d.topic, d.partition, d."offset"
LIMIT %(limit)s

-- name: record_replay
INSERT INTO replays (cluster_id, topic, partition, "offset", new_cluster_id, new_topic, new_partition, new_offset)
VALUES (%(cluster_id)s, %(topic)s, %(partition)s, %(offset)s,
        %(new_cluster_id)s, %(new_topic)s, %(new_partition)s, %(new_offset)s)
ON CONFLICT DO NOTHING
