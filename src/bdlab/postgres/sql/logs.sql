-- name: $of_topic
cluster_id = %(cluster_id)s AND topic = %(topic)s AND closed_at IS NULL

-- name: $may_be_it
-- A log without a topic id is old, or of a broker that has no ids.
(topic_id = %(topic_id)s OR topic_id = '' OR %(topic_id)s = '')

-- name: find
-- The log that is, or may be, the broker's.
SELECT log_id, topic_id, adopted_at IS NOT NULL,
       EXISTS (SELECT FROM sink_offsets s WHERE s.log_id = l.log_id AND s.next_offset > s.first_offset)
FROM logs l WHERE $of_topic AND $may_be_it
ORDER BY topic_id = %(topic_id)s DESC, log_id DESC LIMIT 1

-- name: new
INSERT INTO logs (cluster_id, topic_id, topic)
SELECT %(cluster_id)s, %(topic_id)s, %(topic)s WHERE NOT EXISTS (SELECT FROM logs WHERE $of_topic AND $may_be_it)
ON CONFLICT DO NOTHING

-- name: confirm
UPDATE logs SET topic_id = %(topic_id)s WHERE $of_topic AND topic_id = ''

-- name: $newest
t.log_id = %(log_id)s AND t.partition = r.partition AND "offset" >= r.first AND "offset" < r.after
ORDER BY "offset" DESC LIMIT 1

-- name: known_records
-- For each partition the newest recorded position that the broker has, if it was recorded after an administrator
-- adopted the log.
SELECT r.partition, w."offset", w.id, w.key, w.value
FROM unnest(%(partitions)s::int[], %(starts)s::bigint[], %(ends)s::bigint[]) AS r (partition, first, after)
CROSS JOIN LATERAL (
    SELECT * FROM (
        (SELECT "offset", id::text, NULL::bytea AS key, NULL::bytea AS value, stored_at AS recorded_at
         FROM predictions t WHERE $newest)
        UNION ALL
        (SELECT "offset", prediction_id::text, NULL, NULL, stored_at FROM feedback t WHERE $newest)
        UNION ALL -- a duplicate of feedback does not know its record's key
        (SELECT "offset", id::text, NULL, NULL, recorded_at FROM duplicates t WHERE kind = 'prediction' AND $newest)
        UNION ALL
        (SELECT "offset", '', key, value, recorded_at FROM dead_letters t WHERE $newest)
    ) newest ORDER BY "offset" DESC LIMIT 1
) w
WHERE w.recorded_at > coalesce((SELECT adopted_at FROM logs WHERE log_id = %(log_id)s), '-infinity')

-- name: adopt
UPDATE logs SET topic_id = %(topic_id)s, adopted_at = now()
WHERE log_id = (
    SELECT log_id FROM logs WHERE $of_topic
    ORDER BY topic_id = %(topic_id)s DESC, log_id DESC LIMIT 1)
RETURNING log_id

-- name: close
UPDATE logs SET closed_at = now() WHERE $of_topic AND $may_be_it RETURNING log_id
