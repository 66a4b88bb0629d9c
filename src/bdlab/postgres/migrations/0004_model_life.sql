-- compatible_from: 2
--
-- Feedback as events, re-scores, and the registry of models. Runs as bdlab_owner. The columns of the contract's outputs
-- follow in the same transaction, and with them the view `quality`: `migrate` makes them (contracts.sql).

CREATE TABLE feedback (
    id            uuid PRIMARY KEY,
    prediction_id uuid NOT NULL,
    source        text NOT NULL,
    created_at    timestamptz NOT NULL,
    stored_at     timestamptz NOT NULL DEFAULT now(),
    pruned_at     timestamptz,
    key_name      text,
    trace_id      text,
    received_at   timestamptz,
    appended_at   timestamptz,
    read_at       timestamptz,
    log_id        integer NOT NULL,
    partition     integer NOT NULL CHECK (partition >= 0),
    "offset"      bigint NOT NULL CHECK ("offset" >= 0),
    CONSTRAINT feedback_position UNIQUE (log_id, partition, "offset")
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05);
COMMENT ON TABLE feedback IS 'What the right answer was: all of it is kept, and the newest of a prediction counts.';
COMMENT ON COLUMN feedback.prediction_id IS 'No foreign key: feedback may come before its prediction is stored, or for one that nobody knows.';
COMMENT ON COLUMN feedback.pruned_at IS 'When its prediction was pruned, and with it what this says; the position stays until it is old itself.';
CREATE INDEX feedback_newest ON feedback (prediction_id, created_at DESC, id DESC);
CREATE INDEX feedback_stored_at ON feedback (stored_at);

CREATE TABLE rescored (
    id        uuid NOT NULL,
    model     text NOT NULL,
    run       uuid NOT NULL,
    scored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, model)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05);
COMMENT ON TABLE rescored IS 'What a model says to the stored input of a prediction, once a model.';

CREATE TABLE rescore_ranges (
    model       text NOT NULL,
    log_id      integer NOT NULL,
    partition   integer NOT NULL,
    first       bigint NOT NULL,
    after       bigint NOT NULL CHECK (after > first),
    run         uuid NOT NULL,
    rescored    bigint,
    done_at     timestamptz,
    done_by     text,
    PRIMARY KEY (model, log_id, partition, first)
);
COMMENT ON TABLE rescore_ranges IS 'Offsets [first, after) of predictions to score again. Who works on one holds its row lock.';
COMMENT ON COLUMN rescore_ranges.rescored IS 'How many predictions it had; NULL until it is done.';
-- What is left: the next range is found at once, however many are done.
CREATE INDEX rescore_ranges_open ON rescore_ranges (model, log_id, partition, first) WHERE done_at IS NULL;

CREATE TABLE model_versions (
    name     text NOT NULL,
    version  text NOT NULL,
    card     json NOT NULL, -- as it is in the registry, byte by byte
    sha256   text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    added_at timestamptz NOT NULL DEFAULT now(),
    added_by text NOT NULL DEFAULT session_user,
    PRIMARY KEY (name, version)
);
COMMENT ON COLUMN model_versions.sha256 IS 'Of the card''s bytes, which have that of each file.';

CREATE TABLE model_promotions (
    number      integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL,
    version     text NOT NULL,
    why         text NOT NULL DEFAULT '',
    promoted_at timestamptz NOT NULL DEFAULT now(),
    promoted_by text NOT NULL DEFAULT session_user,
    FOREIGN KEY (name, version) REFERENCES model_versions
);
COMMENT ON TABLE model_promotions IS 'What was promoted when, by whom, and why. The highest number is what serves.';

ALTER TABLE duplicates ADD COLUMN kind text NOT NULL DEFAULT 'prediction' CHECK (kind IN ('prediction', 'feedback'));
COMMENT ON COLUMN duplicates.kind IS 'Of what the id is.';
COMMENT ON TABLE duplicates IS 'Further positions of an id that is in predictions or feedback already.';

CREATE OR REPLACE VIEW recorded_positions AS
    SELECT r.log_id, l.cluster_id, l.topic_id, l.topic, r.partition, r."offset", r.recorded_in, r.id
    FROM (
        SELECT log_id, partition, "offset", 'predictions' AS recorded_in, id FROM predictions
        UNION ALL
        SELECT log_id, partition, "offset", 'feedback', id FROM feedback
        UNION ALL
        SELECT log_id, partition, "offset", 'duplicates', id FROM duplicates
        UNION ALL
        SELECT log_id, partition, "offset", 'dead_letters', NULL FROM dead_letters
    ) r LEFT JOIN logs l USING (log_id);

GRANT SELECT ON feedback, rescored, rescore_ranges, model_versions, model_promotions TO bdlab_writer, bdlab_reader;
-- For a backup: without it a dump would have 0 for the next number.
GRANT SELECT ON SEQUENCE model_promotions_number_seq TO bdlab_reader;
GRANT INSERT ON feedback TO bdlab_writer;
GRANT INSERT ON rescored, rescore_ranges TO bdlab_rescore;
GRANT UPDATE (rescored, done_at, done_by) ON rescore_ranges TO bdlab_rescore;
GRANT INSERT ON model_versions, model_promotions TO bdlab_model;
