-- name: newest
SELECT document FROM contracts ORDER BY number DESC LIMIT 1

-- name: is_unused
-- A consumer that is given its partitions meanwhile waits for the lock, and reads the contract afterwards.
LOCK TABLE sink_offsets IN SHARE ROW EXCLUSIVE MODE;
SELECT NOT EXISTS (SELECT FROM sink_offsets) AND NOT EXISTS (SELECT FROM checkpoints)
   AND NOT EXISTS (SELECT FROM predictions) AND NOT EXISTS (SELECT FROM dead_letters)

-- name: forget_reviews
-- A release that knows no contracts would take every event for a dead letter.
UPDATE schema_migrations SET compatible_from = 3 WHERE version >= 3 AND compatible_from < 3;
DELETE FROM contracts;
DROP VIEW located_predictions

-- name: lock_view
-- Changes nothing. Its readers lock the view before the table, and must not wait for one that has the table already.
ALTER VIEW located_predictions RESET (security_barrier)

-- name: view
CREATE OR REPLACE VIEW located_predictions AS
    SELECT {columns} FROM predictions p LEFT JOIN logs l USING (log_id);
COMMENT ON VIEW located_predictions IS 'predictions, with the words for their log.';
GRANT SELECT ON located_predictions TO bdlab_writer, bdlab_reader

-- name: record
INSERT INTO contracts (number, document) VALUES (%s, %s)
