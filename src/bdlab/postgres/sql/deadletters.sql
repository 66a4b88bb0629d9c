-- name: $letters
-- The state of a replayed letter is that of its newest replay. LIMIT 1 and OFFSET 0 keep
-- each of these an index lookup, however large the tables are.
WITH letters AS (
    SELECT d.*, l.cluster_id, l.topic, l.topic_id, x.reason AS discarded_because, r.new_partition, r.new_offset,
           d.replay_count + coalesce(r.times, 0) AS replays,
           CASE
               WHEN x.log_id IS NOT NULL THEN 'discarded'
               WHEN r.times IS NULL AND d.replay_count = 0 THEN 'open'
               WHEN r.times IS NULL THEN 'returned'
               ELSE coalesce(f.state, 'sent')
           END AS state
    FROM dead_letters d JOIN logs l USING (log_id)
    LEFT JOIN discards x USING (log_id, partition, "offset")
    LEFT JOIN LATERAL (
        SELECT r.new_log_id, r.new_partition, r.new_offset, count(*) OVER () AS times FROM replays r
        WHERE r.log_id = d.log_id AND r.partition = d.partition AND r."offset" = d."offset"
        ORDER BY r.replayed_at DESC LIMIT 1) r ON true
    LEFT JOIN LATERAL (
        SELECT CASE p.recorded_in WHEN 'dead_letters' THEN 'superseded' ELSE 'stored' END AS state
        FROM recorded_positions p
        WHERE p.log_id = r.new_log_id AND p.partition = r.new_partition AND p."offset" = r.new_offset
        OFFSET 0) f ON true
    WHERE (%(cluster_id)s::text IS NULL OR l.cluster_id = %(cluster_id)s)
      AND (%(topic)s::text IS NULL OR l.topic = %(topic)s)
      AND (%(partition)s::int IS NULL OR d.partition = %(partition)s)
      AND (%(offset)s::bigint IS NULL OR d."offset" = %(offset)s)
      AND (%(key)s::bytea IS NULL OR d.key = %(key)s)
      AND (%(reason)s::text IS NULL OR strpos(lower(d.reason), lower(%(reason)s)) > 0)
      AND (%(sqlstate)s::text IS NULL OR starts_with(d.sqlstate, %(sqlstate)s))
      AND (%(since)s::timestamptz IS NULL OR d.recorded_at >= %(since)s)
      AND (%(until)s::timestamptz IS NULL OR d.recorded_at < %(until)s)
)

-- name: find
-- Open letters come first, and the oldest of them; or the newest of all.
$letters
SELECT cluster_id, topic, partition, "offset", topic_id, key, value, headers, reason, sqlstate, recorded_at, replays,
       state, new_partition, new_offset, discarded_because, count(*) OVER ()
FROM letters
WHERE %(states)s::text[] IS NULL OR state = ANY (%(states)s)
ORDER BY CASE WHEN %(newest)s THEN recorded_at END DESC, CASE WHEN %(newest)s THEN "offset" END DESC,
         state NOT IN ('open', 'returned'), recorded_at, log_id, partition, "offset"
LIMIT %(limit)s OFFSET %(skip)s

-- name: reasons
-- The most frequent reasons, and how many letters there are in all.
$letters
SELECT reason, sqlstate, count(*), count(*) FILTER (WHERE state IN ('open', 'returned')) AS open,
       max(recorded_at) AS newest, sum(count(*)) OVER () AS total,
       sum(count(*) FILTER (WHERE state IN ('open', 'returned'))) OVER () AS total_open, count(*) OVER () AS reasons
FROM letters
WHERE %(states)s::text[] IS NULL OR state = ANY (%(states)s)
GROUP BY reason, sqlstate ORDER BY 3 DESC, 5 DESC
LIMIT %(limit)s

-- name: $at_place
r.log_id = l.log_id AND r.partition = w.partition AND r."offset" = w."offset"

-- name: replay_outcomes
-- Of these positions in the newest log of a topic, those that a consumer has recorded.
SELECT w.partition, w."offset", f.became, f.reason
FROM unnest(%(partitions)s::int[], %(offsets)s::bigint[]) AS w (partition, "offset")
CROSS JOIN (SELECT max(log_id) AS log_id FROM logs WHERE cluster_id = %(cluster_id)s AND topic = %(topic)s) l
CROSS JOIN LATERAL (
    SELECT 'stored' AS became, '' AS reason FROM predictions r WHERE $at_place
    UNION ALL
    SELECT 'stored', '' FROM feedback r WHERE $at_place
    UNION ALL
    SELECT 'duplicate', '' FROM duplicates r WHERE $at_place
    UNION ALL
    SELECT 'dead', r.reason FROM dead_letters r WHERE $at_place
    OFFSET 0) f

-- name: $of_letter
FROM dead_letters d JOIN logs l USING (log_id)
WHERE l.cluster_id = %(cluster_id)s AND l.topic = %(topic)s AND l.topic_id = %(topic_id)s
  AND d.partition = %(partition)s AND d."offset" = %(offset)s

-- name: record_replay
-- A producer does not know the topic id: the new position is in the topic's newest log, if a consumer has seen one.
INSERT INTO replays (log_id, partition, "offset", new_log_id, new_partition, new_offset)
SELECT max(d.log_id), %(partition)s, %(offset)s,
       (SELECT max(n.log_id) FROM logs n WHERE n.cluster_id = %(new_cluster_id)s AND n.topic = %(new_topic)s),
       %(new_partition)s, %(new_offset)s
$of_letter HAVING count(*) > 0
ON CONFLICT DO NOTHING

-- name: discard
INSERT INTO discards (log_id, partition, "offset", reason)
SELECT d.log_id, d.partition, d."offset", %(because)s
$of_letter ON CONFLICT DO NOTHING
