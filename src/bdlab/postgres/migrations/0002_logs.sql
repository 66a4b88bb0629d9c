-- compatible_from: 2
--
-- A log gets a number: positions are (log_id, partition, "offset"), integers in every index. Runs as bdlab_owner.
--
-- Each table is written anew once, by its own ALTER TABLE: the column of the cluster id becomes the number, looked up
-- in a constant. `topic` is emptied in the same pass, so that dropping it afterwards leaves no bytes behind.

COMMENT ON COLUMN schema_migrations.compatible_from
    IS 'The lowest schema version whose release of bdlab may run on this one; NULL: this one alone.';

CREATE TABLE logs (
    log_id     integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cluster_id text COLLATE "C" NOT NULL,
    topic_id   text COLLATE "C" NOT NULL DEFAULT '',
    topic      text COLLATE "C" NOT NULL,
    first_seen timestamptz DEFAULT now(),
    adopted_at timestamptz,
    closed_at  timestamptz
);
CREATE UNIQUE INDEX logs_open ON logs (cluster_id, topic, topic_id) WHERE closed_at IS NULL;
COMMENT ON TABLE logs IS 'What offsets count in: a topic of a cluster, from its creation to its deletion.';
COMMENT ON COLUMN logs.topic_id IS 'Empty where the broker has none, or it is not known yet: the log is from before 0002.';
COMMENT ON COLUMN logs.first_seen IS 'NULL where it was before 0002.';
COMMENT ON COLUMN logs.adopted_at IS 'When an administrator said that the broker''s log is this one.';
COMMENT ON COLUMN logs.closed_at IS 'When an administrator said that the broker''s log is this one no more.';

-- predictions is large: its logs are found by hopping through the index.
INSERT INTO logs (cluster_id, topic, first_seen)
WITH RECURSIVE p AS (
    (SELECT cluster_id, topic FROM predictions ORDER BY cluster_id, topic LIMIT 1)
    UNION ALL
    SELECT n.* FROM p CROSS JOIN LATERAL (
        SELECT t.cluster_id, t.topic FROM predictions t WHERE (t.cluster_id, t.topic) > (p.cluster_id, p.topic)
        ORDER BY t.cluster_id, t.topic LIMIT 1) n
)
SELECT cluster_id, topic, NULL::timestamptz FROM (
    SELECT cluster_id, topic FROM p
    UNION SELECT cluster_id, topic FROM sink_offsets
    UNION SELECT cluster_id, topic FROM checkpoints
    UNION SELECT cluster_id, topic FROM duplicates
    UNION SELECT cluster_id, topic FROM dead_letters
    UNION SELECT cluster_id, topic FROM replays
    UNION SELECT new_cluster_id, new_topic FROM replays
) known
ORDER BY cluster_id, topic;

DROP VIEW missing_offsets, recorded_positions;
ALTER TABLE predictions DROP CONSTRAINT predictions_position;
ALTER TABLE duplicates DROP CONSTRAINT duplicates_position;
ALTER TABLE dead_letters DROP CONSTRAINT dead_letters_position;
ALTER TABLE replays DROP CONSTRAINT replays_pkey;
ALTER TABLE sink_offsets DROP CONSTRAINT sink_offsets_pkey;
ALTER TABLE checkpoints DROP CONSTRAINT checkpoints_pkey;

DO $$
DECLARE
    numbers text := coalesce((SELECT jsonb_object_agg(cluster_id || chr(10) || topic, log_id) FROM logs), '{}');
    number  text := '(%2$L::jsonb ->> (%3$scluster_id || chr(10) || %3$stopic))::integer';
    place   record;
BEGIN
    FOR place IN SELECT * FROM (VALUES
        ('predictions', '', ', ADD COLUMN source text, ADD COLUMN key_name text, ADD COLUMN trace_id text,
          ADD COLUMN received_at timestamptz, ADD COLUMN appended_at timestamptz, ADD COLUMN read_at timestamptz'),
        ('duplicates', '', ''), ('dead_letters', '', ''), ('sink_offsets', '', ''), ('checkpoints', '', ''),
        ('replays', '', ''), ('replays', 'new_', '')) AS places (name, prefix, more)
    LOOP
        EXECUTE format('ALTER TABLE %1$I ALTER COLUMN %3$scluster_id TYPE integer USING ' || number
                       || ', ALTER COLUMN %3$stopic DROP NOT NULL, ALTER COLUMN %3$stopic TYPE text USING NULL%4$s',
                       place.name, numbers, place.prefix, place.more);
        EXECUTE format('ALTER TABLE %1$I RENAME COLUMN %2$scluster_id TO %2$slog_id', place.name, place.prefix);
        EXECUTE format('ALTER TABLE %1$I DROP COLUMN %2$stopic', place.name, place.prefix);
    END LOOP;
END $$;

ALTER TABLE predictions ADD CONSTRAINT predictions_position UNIQUE (log_id, partition, "offset");
ALTER TABLE duplicates ADD CONSTRAINT duplicates_position PRIMARY KEY (log_id, partition, "offset");
ALTER TABLE dead_letters ADD CONSTRAINT dead_letters_position PRIMARY KEY (log_id, partition, "offset");
ALTER TABLE sink_offsets ADD PRIMARY KEY (log_id, partition), ADD FOREIGN KEY (log_id) REFERENCES logs;
ALTER TABLE checkpoints ADD PRIMARY KEY (log_id, partition), ADD FOREIGN KEY (log_id) REFERENCES logs;
ALTER TABLE replays ALTER COLUMN new_log_id DROP NOT NULL;
CREATE UNIQUE INDEX replays_positions
    ON replays (log_id, partition, "offset", new_partition, new_offset, coalesce(new_log_id, 0));
COMMENT ON COLUMN replays.new_log_id IS 'NULL where no consumer had met that log yet.';

COMMENT ON COLUMN predictions.source IS 'The command that the event came from; NULL where it is not known.';
COMMENT ON COLUMN predictions.key_name IS 'The name of the API key of its request.';
COMMENT ON COLUMN predictions.trace_id IS 'Of the W3C trace context.';
COMMENT ON COLUMN predictions.received_at IS 'When its request was received.';
COMMENT ON COLUMN predictions.appended_at IS 'When the broker appended its event, by the broker''s clock.';
COMMENT ON COLUMN predictions.read_at IS 'When the consumer read its event.';

CREATE TABLE discards (
    log_id       integer NOT NULL,
    partition    integer NOT NULL,
    "offset"     bigint NOT NULL,
    reason       text NOT NULL CHECK (reason <> ''),
    discarded_at timestamptz NOT NULL DEFAULT now(),
    discarded_by text NOT NULL DEFAULT session_user,
    PRIMARY KEY (log_id, partition, "offset")
);
COMMENT ON TABLE discards IS 'Dead letters that somebody has finished with, by their position, and why.';

CREATE VIEW recorded_positions AS
    SELECT r.log_id, l.cluster_id, l.topic_id, l.topic, r.partition, r."offset", r.recorded_in, r.id
    FROM (
        SELECT log_id, partition, "offset", 'predictions' AS recorded_in, id FROM predictions
        UNION ALL
        SELECT log_id, partition, "offset", 'duplicates', id FROM duplicates
        UNION ALL
        SELECT log_id, partition, "offset", 'dead_letters', NULL FROM dead_letters
    ) r LEFT JOIN logs l USING (log_id);
COMMENT ON VIEW recorded_positions IS 'Each recorded position and the table it is in.';

CREATE VIEW missing_offsets AS
    WITH bounds AS (
        SELECT s.log_id, s.partition, s.next_offset, coalesce(c.pruned_to, s.first_offset) AS base
        FROM sink_offsets s LEFT JOIN checkpoints c USING (log_id, partition)
    ), walked AS (
        SELECT b.log_id, b.partition, r."offset",
               lag(r."offset", 1, b.base - 1) OVER (PARTITION BY b.log_id, b.partition ORDER BY r."offset") AS previous
        FROM bounds b
        CROSS JOIN LATERAL (
            SELECT p."offset" FROM recorded_positions p
            WHERE p.log_id = b.log_id AND p.partition = b.partition
              AND p."offset" >= b.base AND p."offset" < b.next_offset
            UNION ALL
            SELECT b.next_offset
        ) r
    )
    SELECT w.log_id, l.cluster_id, l.topic_id, l.topic, w.partition,
           w.previous + 1 AS first_missing, w."offset" - 1 AS last_missing
    FROM walked w LEFT JOIN logs l USING (log_id)
    WHERE w."offset" > w.previous + 1;
COMMENT ON VIEW missing_offsets IS 'Ranges of offsets that ought to be recorded and are nowhere; empty in good health.';

CREATE VIEW located_predictions AS
    SELECT p.*, l.cluster_id, l.topic_id, l.topic FROM predictions p LEFT JOIN logs l USING (log_id);
COMMENT ON VIEW located_predictions IS 'predictions, with the words for their log.';

-- The planner must not go by what it knew of the words.
ANALYZE predictions, duplicates, dead_letters, sink_offsets, logs;

GRANT SELECT ON logs, discards, recorded_positions, missing_offsets, located_predictions TO bdlab_writer, bdlab_reader;
-- For a backup: without it a dump would have 0 for the next number.
GRANT SELECT ON SEQUENCE logs_log_id_seq TO bdlab_reader;
GRANT INSERT (cluster_id, topic_id, topic) ON logs TO bdlab_writer;
-- A log that is known from before gets its topic id once it is proved to be the broker's.
GRANT UPDATE (topic_id) ON logs TO bdlab_writer;
-- What becomes of dead letters is noted by a role of its own, which reads as bdlab_reader does.
REVOKE INSERT ON replays FROM bdlab_writer;
GRANT INSERT ON replays, discards TO bdlab_dlq;
