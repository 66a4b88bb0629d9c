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
DROP VIEW IF EXISTS quality;
ALTER TABLE feedback DROP COLUMN IF EXISTS prediction, DROP COLUMN IF EXISTS sentiment;
ALTER TABLE rescored DROP COLUMN IF EXISTS prediction, DROP COLUMN IF EXISTS sentiment, DROP COLUMN IF EXISTS confidence;
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

-- name: outputs_shown
SELECT attname FROM pg_attribute WHERE attrelid = 'rescored'::regclass AND attnum > 0 AND NOT attisdropped

-- name: quality
-- Made anew if the contract's outputs are others: a view cannot change its columns.
DROP VIEW IF EXISTS quality;
ALTER TABLE feedback {truths};
ALTER TABLE rescored {outputs};
CREATE VIEW quality AS
    SELECT s.*, {shown}, f.id AS feedback_id, f.source AS feedback_source, f.created_at AS feedback_at
    FROM (
        SELECT p.id, p.model, false AS rescored, p.source, p.created_at, p.stored_at, {predicted} FROM predictions p
        UNION ALL
        SELECT p.id, r.model, true, p.source, p.created_at, p.stored_at, {scored}
        FROM rescored r JOIN predictions p USING (id)
    ) s LEFT JOIN LATERAL (
        SELECT * FROM feedback f WHERE f.prediction_id = s.id AND f.pruned_at IS NULL
        ORDER BY f.created_at DESC, f.id DESC LIMIT 1
    ) f ON true;
COMMENT ON VIEW quality IS 'What each model said to each input, and the newest feedback; a column true_x is the truth of x.';
GRANT SELECT ON quality TO bdlab_writer, bdlab_reader
