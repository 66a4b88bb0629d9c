-- What the pipeline stores. Runs as bdlab_owner.
--
-- predictions, duplicates and dead_letters carry the position of their event; a position is recorded in exactly one
-- of the three. The text columns of a position sort by bytes (COLLATE "C"): nobody reads them in a language's order,
-- and accounting walks these indexes from end to end.

CREATE TABLE predictions (
    id                      uuid PRIMARY KEY,
    summary                 text NOT NULL,
    text                    text NOT NULL CHECK (text <> ''),
    helpfulness_numerator   integer NOT NULL CHECK (helpfulness_numerator >= 0),
    helpfulness_denominator integer NOT NULL CHECK (helpfulness_denominator >= 0),
    prediction              double precision NOT NULL CHECK (prediction BETWEEN 1 AND 5),
    sentiment               text NOT NULL CHECK (sentiment IN ('negative', 'positive')),
    confidence              double precision NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    explanation             jsonb NOT NULL CHECK (jsonb_typeof(explanation) = 'array'),
    model                   text NOT NULL CHECK (model <> ''),
    created_at              timestamptz NOT NULL,
    stored_at               timestamptz NOT NULL DEFAULT now(),
    cluster_id              text COLLATE "C" NOT NULL,
    topic                   text COLLATE "C" NOT NULL,
    partition               integer NOT NULL CHECK (partition >= 0),
    "offset"                bigint NOT NULL CHECK ("offset" >= 0),
    CONSTRAINT predictions_position UNIQUE (cluster_id, topic, partition, "offset")
);
COMMENT ON TABLE predictions IS 'One row a prediction id: the first position at which it was seen.';

-- The newest rows first, and the age limit of `bdlab prune`.
CREATE INDEX predictions_stored_at ON predictions (stored_at);

CREATE TABLE duplicates (
    cluster_id  text COLLATE "C" NOT NULL,
    topic       text COLLATE "C" NOT NULL,
    partition   integer NOT NULL CHECK (partition >= 0),
    "offset"    bigint NOT NULL CHECK ("offset" >= 0),
    id          uuid NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT duplicates_position PRIMARY KEY (cluster_id, topic, partition, "offset")
);
COMMENT ON TABLE duplicates IS 'Further positions of an id that is in predictions already.';

CREATE TABLE dead_letters (
    cluster_id   text COLLATE "C" NOT NULL,
    topic        text COLLATE "C" NOT NULL,
    partition    integer NOT NULL CHECK (partition >= 0),
    "offset"     bigint NOT NULL CHECK ("offset" >= 0),
    key          bytea,
    value        bytea,
    headers      jsonb NOT NULL,
    reason       text NOT NULL,
    sqlstate     text NOT NULL,
    replay_count integer NOT NULL DEFAULT 0 CHECK (replay_count >= 0),
    recorded_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT dead_letters_position PRIMARY KEY (cluster_id, topic, partition, "offset")
);
COMMENT ON TABLE dead_letters IS 'Records that are no row and never will be, as they came. sqlstate is empty where the record did not decode.';
COMMENT ON COLUMN dead_letters.replay_count IS 'How often the event had been replayed when it ended here, from its header.';

CREATE INDEX dead_letters_recorded_at ON dead_letters (recorded_at);

CREATE TABLE replays (
    cluster_id     text COLLATE "C" NOT NULL,
    topic          text COLLATE "C" NOT NULL,
    partition      integer NOT NULL,
    "offset"       bigint NOT NULL,
    new_cluster_id text COLLATE "C" NOT NULL,
    new_topic      text COLLATE "C" NOT NULL,
    new_partition  integer NOT NULL,
    new_offset     bigint NOT NULL,
    replayed_at    timestamptz NOT NULL DEFAULT now(),
    replayed_by    text NOT NULL DEFAULT session_user,
    PRIMARY KEY (cluster_id, topic, partition, "offset", new_cluster_id, new_topic, new_partition, new_offset)
);
COMMENT ON TABLE replays IS 'Dead letters that were sent back: from which position, to which new one.';

CREATE TABLE sink_offsets (
    cluster_id   text COLLATE "C" NOT NULL,
    topic        text COLLATE "C" NOT NULL,
    partition    integer NOT NULL CHECK (partition >= 0),
    first_offset bigint NOT NULL CHECK (first_offset >= 0),
    next_offset  bigint NOT NULL CHECK (next_offset >= first_offset),
    end_seen     bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (cluster_id, topic, partition)
) WITH (fillfactor = 10); -- updated once a batch: keep the new versions on the page (HOT)
COMMENT ON TABLE sink_offsets IS 'How far each partition is recorded: all of [first_offset, next_offset), and nothing else.';
COMMENT ON COLUMN sink_offsets.end_seen IS 'The highest end of the log that the sink has seen: what a lost log held at least.';

CREATE TABLE checkpoints (
    cluster_id   text COLLATE "C" NOT NULL,
    topic        text COLLATE "C" NOT NULL,
    partition    integer NOT NULL,
    pruned_to    bigint NOT NULL,
    stored       bigint NOT NULL,
    duplicates   bigint NOT NULL,
    dead_letters bigint NOT NULL,
    pruned_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (cluster_id, topic, partition)
);
COMMENT ON TABLE checkpoints IS 'What row retention deleted: all positions below pruned_to, and how each of them had ended.';

-- Rows are only ever added: vacuum early and often, so that accounting finds its answers in the indexes alone.
ALTER TABLE predictions SET (autovacuum_vacuum_insert_scale_factor = 0.05);
ALTER TABLE duplicates SET (autovacuum_vacuum_insert_scale_factor = 0.05);
ALTER TABLE dead_letters SET (autovacuum_vacuum_insert_scale_factor = 0.05);

CREATE VIEW recorded_positions AS
    SELECT cluster_id, topic, partition, "offset", 'predictions' AS recorded_in, id FROM predictions
    UNION ALL
    SELECT cluster_id, topic, partition, "offset", 'duplicates', id FROM duplicates
    UNION ALL
    SELECT cluster_id, topic, partition, "offset", 'dead_letters', NULL FROM dead_letters;
COMMENT ON VIEW recorded_positions IS 'Each recorded position and the table it is in.';

CREATE VIEW missing_offsets AS
    WITH bounds AS (
        SELECT s.cluster_id, s.topic, s.partition, s.next_offset,
               coalesce(c.pruned_to, s.first_offset) AS base
        FROM sink_offsets s LEFT JOIN checkpoints c USING (cluster_id, topic, partition)
    ), walked AS (
        SELECT b.cluster_id, b.topic, b.partition, r."offset",
               lag(r."offset", 1, b.base - 1) OVER (PARTITION BY b.cluster_id, b.topic, b.partition ORDER BY r."offset")
                   AS previous
        FROM bounds b
        CROSS JOIN LATERAL (
            SELECT p."offset" FROM recorded_positions p
            WHERE p.cluster_id = b.cluster_id AND p.topic = b.topic AND p.partition = b.partition
              AND p."offset" >= b.base AND p."offset" < b.next_offset
            UNION ALL
            SELECT b.next_offset
        ) r
    )
    SELECT cluster_id, topic, partition, previous + 1 AS first_missing, "offset" - 1 AS last_missing
    FROM walked
    WHERE "offset" > previous + 1;
COMMENT ON VIEW missing_offsets IS 'Ranges of offsets that ought to be recorded and are nowhere; empty in good health.';

GRANT SELECT ON predictions, duplicates, dead_letters, replays, sink_offsets, checkpoints, schema_migrations,
                recorded_positions, missing_offsets TO bdlab_writer, bdlab_reader;
GRANT INSERT ON predictions, duplicates, dead_letters, replays, sink_offsets TO bdlab_writer;
GRANT UPDATE ON sink_offsets TO bdlab_writer;
