SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.checkpoints (
    log_id integer CONSTRAINT checkpoints_cluster_id_not_null NOT NULL,
    partition integer NOT NULL,
    pruned_to bigint NOT NULL,
    stored bigint NOT NULL,
    duplicates bigint NOT NULL,
    dead_letters bigint NOT NULL,
    pruned_at timestamp with time zone DEFAULT now() NOT NULL
);
ALTER TABLE public.checkpoints OWNER TO bdlab_owner;
COMMENT ON TABLE public.checkpoints IS 'What row retention deleted: all positions below pruned_to, and how each of them had ended.';
CREATE TABLE public.dead_letters (
    log_id integer CONSTRAINT dead_letters_cluster_id_not_null NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    key bytea,
    value bytea,
    headers jsonb NOT NULL,
    reason text NOT NULL,
    sqlstate text NOT NULL,
    replay_count integer DEFAULT 0 NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT dead_letters_offset_check CHECK (("offset" >= 0)),
    CONSTRAINT dead_letters_partition_check CHECK ((partition >= 0)),
    CONSTRAINT dead_letters_replay_count_check CHECK ((replay_count >= 0))
)
WITH (autovacuum_vacuum_insert_scale_factor='0.05');
ALTER TABLE public.dead_letters OWNER TO bdlab_owner;
COMMENT ON TABLE public.dead_letters IS 'Records that are no row and never will be, as they came. sqlstate is empty where the record did not decode.';
COMMENT ON COLUMN public.dead_letters.replay_count IS 'How often the event had been replayed when it ended here, from its header.';
CREATE TABLE public.discards (
    log_id integer NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    reason text NOT NULL,
    discarded_at timestamp with time zone DEFAULT now() NOT NULL,
    discarded_by text DEFAULT SESSION_USER NOT NULL,
    CONSTRAINT discards_reason_check CHECK ((reason <> ''::text))
);
ALTER TABLE public.discards OWNER TO bdlab_owner;
COMMENT ON TABLE public.discards IS 'Dead letters that somebody has finished with, by their position, and why.';
CREATE TABLE public.duplicates (
    log_id integer CONSTRAINT duplicates_cluster_id_not_null NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    id uuid NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT duplicates_offset_check CHECK (("offset" >= 0)),
    CONSTRAINT duplicates_partition_check CHECK ((partition >= 0))
)
WITH (autovacuum_vacuum_insert_scale_factor='0.05');
ALTER TABLE public.duplicates OWNER TO bdlab_owner;
COMMENT ON TABLE public.duplicates IS 'Further positions of an id that is in predictions already.';
CREATE TABLE public.logs (
    log_id integer NOT NULL,
    cluster_id text NOT NULL COLLATE pg_catalog."C",
    topic_id text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    topic text NOT NULL COLLATE pg_catalog."C",
    first_seen timestamp with time zone DEFAULT now(),
    adopted_at timestamp with time zone,
    closed_at timestamp with time zone
);
ALTER TABLE public.logs OWNER TO bdlab_owner;
COMMENT ON TABLE public.logs IS 'What offsets count in: a topic of a cluster, from its creation to its deletion.';
COMMENT ON COLUMN public.logs.topic_id IS 'Empty where the broker has none, or it is not known yet: the log is from before 0002.';
COMMENT ON COLUMN public.logs.first_seen IS 'NULL where it was before 0002.';
COMMENT ON COLUMN public.logs.adopted_at IS 'When an administrator said that the broker''s log is this one.';
COMMENT ON COLUMN public.logs.closed_at IS 'When an administrator said that the broker''s log is this one no more.';
CREATE TABLE public.predictions (
    id uuid NOT NULL,
    summary text NOT NULL,
    text text NOT NULL,
    helpfulness_numerator integer NOT NULL,
    helpfulness_denominator integer NOT NULL,
    prediction double precision NOT NULL,
    sentiment text NOT NULL,
    confidence double precision NOT NULL,
    explanation jsonb NOT NULL,
    model text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    stored_at timestamp with time zone DEFAULT now() NOT NULL,
    log_id integer CONSTRAINT predictions_cluster_id_not_null NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    source text,
    key_name text,
    trace_id text,
    received_at timestamp with time zone,
    appended_at timestamp with time zone,
    read_at timestamp with time zone,
    CONSTRAINT predictions_confidence_check CHECK (((confidence >= (0)::double precision) AND (confidence <= (1)::double precision))),
    CONSTRAINT predictions_explanation_check CHECK ((jsonb_typeof(explanation) = 'array'::text)),
    CONSTRAINT predictions_helpfulness_denominator_check CHECK ((helpfulness_denominator >= 0)),
    CONSTRAINT predictions_helpfulness_numerator_check CHECK ((helpfulness_numerator >= 0)),
    CONSTRAINT predictions_model_check CHECK ((model <> ''::text)),
    CONSTRAINT predictions_offset_check CHECK (("offset" >= 0)),
    CONSTRAINT predictions_partition_check CHECK ((partition >= 0)),
    CONSTRAINT predictions_prediction_check CHECK (((prediction >= (1)::double precision) AND (prediction <= (5)::double precision))),
    CONSTRAINT predictions_sentiment_check CHECK ((sentiment = ANY (ARRAY['negative'::text, 'positive'::text]))),
    CONSTRAINT predictions_text_check CHECK ((text <> ''::text))
)
WITH (autovacuum_vacuum_insert_scale_factor='0.05');
ALTER TABLE public.predictions OWNER TO bdlab_owner;
COMMENT ON TABLE public.predictions IS 'One row a prediction id: the first position at which it was seen.';
COMMENT ON COLUMN public.predictions.source IS 'The command that the event came from; NULL where it is not known.';
COMMENT ON COLUMN public.predictions.key_name IS 'The name of the API key of its request.';
COMMENT ON COLUMN public.predictions.trace_id IS 'Of the W3C trace context.';
COMMENT ON COLUMN public.predictions.received_at IS 'When its request was received.';
COMMENT ON COLUMN public.predictions.appended_at IS 'When the broker appended its event, by the broker''s clock.';
COMMENT ON COLUMN public.predictions.read_at IS 'When the consumer read its event.';
CREATE VIEW public.located_predictions AS
 SELECT p.id,
    p.summary,
    p.text,
    p.helpfulness_numerator,
    p.helpfulness_denominator,
    p.prediction,
    p.sentiment,
    p.confidence,
    p.explanation,
    p.model,
    p.created_at,
    p.stored_at,
    p.log_id,
    p.partition,
    p."offset",
    p.source,
    p.key_name,
    p.trace_id,
    p.received_at,
    p.appended_at,
    p.read_at,
    l.cluster_id,
    l.topic_id,
    l.topic
   FROM (public.predictions p
     LEFT JOIN public.logs l USING (log_id));
ALTER VIEW public.located_predictions OWNER TO bdlab_owner;
COMMENT ON VIEW public.located_predictions IS 'predictions, with the words for their log.';
ALTER TABLE public.logs ALTER COLUMN log_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.logs_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE VIEW public.recorded_positions AS
 SELECT r.log_id,
    l.cluster_id,
    l.topic_id,
    l.topic,
    r.partition,
    r."offset",
    r.recorded_in,
    r.id
   FROM (( SELECT predictions.log_id,
            predictions.partition,
            predictions."offset",
            'predictions'::text AS recorded_in,
            predictions.id
           FROM public.predictions
        UNION ALL
         SELECT duplicates.log_id,
            duplicates.partition,
            duplicates."offset",
            'duplicates'::text,
            duplicates.id
           FROM public.duplicates
        UNION ALL
         SELECT dead_letters.log_id,
            dead_letters.partition,
            dead_letters."offset",
            'dead_letters'::text,
            NULL::uuid
           FROM public.dead_letters) r
     LEFT JOIN public.logs l USING (log_id));
ALTER VIEW public.recorded_positions OWNER TO bdlab_owner;
COMMENT ON VIEW public.recorded_positions IS 'Each recorded position and the table it is in.';
CREATE TABLE public.sink_offsets (
    log_id integer CONSTRAINT sink_offsets_cluster_id_not_null NOT NULL,
    partition integer NOT NULL,
    first_offset bigint NOT NULL,
    next_offset bigint NOT NULL,
    end_seen bigint DEFAULT 0 NOT NULL,
    CONSTRAINT sink_offsets_check CHECK ((next_offset >= first_offset)),
    CONSTRAINT sink_offsets_first_offset_check CHECK ((first_offset >= 0)),
    CONSTRAINT sink_offsets_partition_check CHECK ((partition >= 0))
)
WITH (fillfactor='10');
ALTER TABLE public.sink_offsets OWNER TO bdlab_owner;
COMMENT ON TABLE public.sink_offsets IS 'How far each partition is recorded: all of [first_offset, next_offset), and nothing else.';
COMMENT ON COLUMN public.sink_offsets.end_seen IS 'The highest end of the log that the sink has seen: what a lost log held at least.';
CREATE VIEW public.missing_offsets AS
 WITH bounds AS (
         SELECT s.log_id,
            s.partition,
            s.next_offset,
            COALESCE(c.pruned_to, s.first_offset) AS base
           FROM (public.sink_offsets s
             LEFT JOIN public.checkpoints c USING (log_id, partition))
        ), walked AS (
         SELECT b.log_id,
            b.partition,
            r."offset",
            lag(r."offset", 1, (b.base - 1)) OVER (PARTITION BY b.log_id, b.partition ORDER BY r."offset") AS previous
           FROM (bounds b
             CROSS JOIN LATERAL ( SELECT p."offset"
                   FROM public.recorded_positions p
                  WHERE ((p.log_id = b.log_id) AND (p.partition = b.partition) AND (p."offset" >= b.base) AND (p."offset" < b.next_offset))
                UNION ALL
                 SELECT b.next_offset) r)
        )
 SELECT w.log_id,
    l.cluster_id,
    l.topic_id,
    l.topic,
    w.partition,
    (w.previous + 1) AS first_missing,
    (w."offset" - 1) AS last_missing
   FROM (walked w
     LEFT JOIN public.logs l USING (log_id))
  WHERE (w."offset" > (w.previous + 1));
ALTER VIEW public.missing_offsets OWNER TO bdlab_owner;
COMMENT ON VIEW public.missing_offsets IS 'Ranges of offsets that ought to be recorded and are nowhere; empty in good health.';
CREATE TABLE public.replays (
    log_id integer CONSTRAINT replays_cluster_id_not_null NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    new_log_id integer,
    new_partition integer NOT NULL,
    new_offset bigint NOT NULL,
    replayed_at timestamp with time zone DEFAULT now() NOT NULL,
    replayed_by text DEFAULT SESSION_USER NOT NULL
);
ALTER TABLE public.replays OWNER TO bdlab_owner;
COMMENT ON TABLE public.replays IS 'Dead letters that were sent back: from which position, to which new one.';
COMMENT ON COLUMN public.replays.new_log_id IS 'NULL where no consumer had met that log yet.';
CREATE TABLE public.schema_migrations (
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL,
    compatible_from integer
);
ALTER TABLE public.schema_migrations OWNER TO bdlab_owner;
COMMENT ON COLUMN public.schema_migrations.compatible_from IS 'The lowest schema version whose release of bdlab may run on this one; NULL: this one alone.';
INSERT INTO public.dead_letters VALUES (1, 0, 6, '\x6b', '\xff206e6f74204a534f4e', '[{"name": "none", "value": null}, {"name": "bytes", "value_base64": "/wA="}]', 'not UTF-8 JSON: JSON is malformed: invalid character (byte 0)', '', 0, '2026-11-26 16:00:16.802729+00');
INSERT INTO public.duplicates VALUES (1, 0, 5, '01a21896-02ec-76f8-b762-be75af086aaf', '2026-11-26 16:00:16.802729+00');
INSERT INTO public.logs OVERRIDING SYSTEM VALUE VALUES (1, '<cluster id>', '<topic id>', '<topic>', '2026-11-26 16:00:16.568622+00', NULL, NULL);
INSERT INTO public.predictions VALUES ('01a21896-02e7-7120-9f8e-3973ffdb20d5', 's', 'Awful', 1, 1, 2.39662283424758, 'negative', 0.8905290114996061, '[{"term": "awful", "weight": -2.1312}, {"term": "s", "weight": 0.5123}]', 'reviews@1.1.0', '2026-11-26 16:00:14.055342+00', '2026-11-26 16:00:16.802729+00', 1, 2, 0, 'serve', NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.predictions VALUES ('01a21896-02ec-76f8-b762-be75af086aaf', '', 'Fine', 3, 4, 3.772144584089823, 'positive', 0.8284597265965681, '[{"term": "fine", "weight": -0.3302}]', 'reviews@1.1.0', '2026-11-26 16:00:14.060265+00', '2026-11-26 16:00:16.802729+00', 1, 0, 0, 'serve', NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.predictions VALUES ('01a21896-02ec-76f8-b762-be764e3cb484', '', 'Bad', 1, 1, 1.13560565947096, 'negative', 0.997379221893639, '[{"term": "bad", "weight": -2.9667}]', 'reviews@1.1.0', '2026-11-26 16:00:14.060278+00', '2026-11-26 16:00:16.802729+00', 1, 0, 1, 'serve', NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.predictions VALUES ('2c4d2c20-afce-81a2-91ce-d67c19705966', 's', 'Café 	 \ "b" ☕', 1, 1, 4.316721976168898, 'positive', 0.6262124306222563, '[{"term": "s", "weight": 0.3453}, {"term": "b", "weight": -0.0726}]', 'reviews@1.1.0', '2026-11-26 16:00:14.049829+00', '2026-11-26 16:00:16.802729+00', 1, 5, 0, 'demo', NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.predictions VALUES ('68846360-3b18-8914-ac0c-595f0483baa8', 's', 'Great taste', 1, 1, 4.682544247822898, 'positive', 0.8414692634591202, '[{"term": "great", "weight": 0.6361}, {"term": "s", "weight": 0.2423}, {"term": "taste", "weight": -0.2336}]', 'reviews@1.1.0', '2026-11-26 16:00:14.044145+00', '2026-11-26 16:00:16.802729+00', 1, 3, 0, 'serve', NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.predictions VALUES ('cb3ef177-01a4-8287-b4a2-094ae554ce27', '', 'Good coffee', 2, 1, 4.603144451590923, 'positive', 0.991731822589837, '[{"term": "good", "weight": 0.2644}, {"term": "coffee", "weight": 0.2204}]', 'reviews@1.1.0', '2026-11-26 16:00:14.600813+00', '2026-11-26 16:00:16.802729+00', 1, 0, 3, 'predict', NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.predictions VALUES ('d06112a5-86f5-8447-8f89-d843362a648e', '', 'qwrt zxcv', 1, 1, 4.102309316271453, 'positive', 0.6047117410424545, '[]', 'reviews@1.1.0', '2026-11-26 16:00:14.600955+00', '2026-11-26 16:00:16.802729+00', 1, 0, 4, 'predict', NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.predictions VALUES ('d1097ee2-7446-8480-9ebb-048575fb4a78', 'Awful', 'Terrible waste', 1, 1, 1.012281401348539, 'negative', 0.9992985137629129, '[{"term": "awful", "weight": -1.6976}, {"term": "terrible", "weight": -0.7813}, {"term": "waste", "weight": -0.5803}]', 'reviews@1.1.0', '2026-11-26 16:00:14.247209+00', '2026-11-26 16:00:16.802729+00', 1, 0, 2, 'predict', NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.schema_migrations VALUES (1, 'tables', 'eab44cbfc1e73200d6bd0dc2cd91d4ad32aeed3dd4451b896842efa595ca5b5a', '2026-11-26 16:00:13.327712+00', 1);
INSERT INTO public.schema_migrations VALUES (2, 'logs', '7c12ad0f90c27804b3c1d99432e92db056badaa93c600ea1b9b7aaed0c046442', '2026-11-26 16:00:13.327712+00', 2);
INSERT INTO public.sink_offsets VALUES (1, 1, 0, 0, 0);
INSERT INTO public.sink_offsets VALUES (1, 4, 0, 0, 0);
INSERT INTO public.sink_offsets VALUES (1, 0, 0, 7, 7);
INSERT INTO public.sink_offsets VALUES (1, 2, 0, 1, 1);
INSERT INTO public.sink_offsets VALUES (1, 3, 0, 1, 1);
INSERT INTO public.sink_offsets VALUES (1, 5, 0, 1, 1);
SELECT pg_catalog.setval('public.logs_log_id_seq', 1, true);
ALTER TABLE ONLY public.checkpoints
    ADD CONSTRAINT checkpoints_pkey PRIMARY KEY (log_id, partition);
ALTER TABLE ONLY public.dead_letters
    ADD CONSTRAINT dead_letters_position PRIMARY KEY (log_id, partition, "offset");
ALTER TABLE ONLY public.discards
    ADD CONSTRAINT discards_pkey PRIMARY KEY (log_id, partition, "offset");
ALTER TABLE ONLY public.duplicates
    ADD CONSTRAINT duplicates_position PRIMARY KEY (log_id, partition, "offset");
ALTER TABLE ONLY public.logs
    ADD CONSTRAINT logs_pkey PRIMARY KEY (log_id);
ALTER TABLE ONLY public.predictions
    ADD CONSTRAINT predictions_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.predictions
    ADD CONSTRAINT predictions_position UNIQUE (log_id, partition, "offset");
ALTER TABLE ONLY public.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (version);
ALTER TABLE ONLY public.sink_offsets
    ADD CONSTRAINT sink_offsets_pkey PRIMARY KEY (log_id, partition);
CREATE INDEX dead_letters_recorded_at ON public.dead_letters USING btree (recorded_at);
CREATE UNIQUE INDEX logs_open ON public.logs USING btree (cluster_id, topic, topic_id) WHERE (closed_at IS NULL);
CREATE INDEX predictions_stored_at ON public.predictions USING btree (stored_at);
CREATE UNIQUE INDEX replays_positions ON public.replays USING btree (log_id, partition, "offset", new_partition, new_offset, COALESCE(new_log_id, 0));
ALTER TABLE ONLY public.checkpoints
    ADD CONSTRAINT checkpoints_log_id_fkey FOREIGN KEY (log_id) REFERENCES public.logs(log_id);
ALTER TABLE ONLY public.sink_offsets
    ADD CONSTRAINT sink_offsets_log_id_fkey FOREIGN KEY (log_id) REFERENCES public.logs(log_id);
REVOKE USAGE ON SCHEMA public FROM PUBLIC;
GRANT ALL ON SCHEMA public TO bdlab_owner;
GRANT USAGE ON SCHEMA public TO bdlab_writer;
GRANT USAGE ON SCHEMA public TO bdlab_reader;
REVOKE ALL ON FUNCTION pg_catalog.lo_creat(integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION pg_catalog.lo_create(oid) FROM PUBLIC;
REVOKE ALL ON FUNCTION pg_catalog.lo_from_bytea(oid, bytea) FROM PUBLIC;
GRANT SELECT ON TABLE public.checkpoints TO bdlab_writer;
GRANT SELECT ON TABLE public.checkpoints TO bdlab_reader;
GRANT SELECT,INSERT ON TABLE public.dead_letters TO bdlab_writer;
GRANT SELECT ON TABLE public.dead_letters TO bdlab_reader;
GRANT SELECT ON TABLE public.discards TO bdlab_writer;
GRANT SELECT ON TABLE public.discards TO bdlab_reader;
GRANT INSERT ON TABLE public.discards TO bdlab_dlq;
GRANT SELECT,INSERT ON TABLE public.duplicates TO bdlab_writer;
GRANT SELECT ON TABLE public.duplicates TO bdlab_reader;
GRANT SELECT ON TABLE public.logs TO bdlab_writer;
GRANT SELECT ON TABLE public.logs TO bdlab_reader;
GRANT INSERT(cluster_id) ON TABLE public.logs TO bdlab_writer;
GRANT INSERT(topic_id),UPDATE(topic_id) ON TABLE public.logs TO bdlab_writer;
GRANT INSERT(topic) ON TABLE public.logs TO bdlab_writer;
GRANT SELECT,INSERT ON TABLE public.predictions TO bdlab_writer;
GRANT SELECT ON TABLE public.predictions TO bdlab_reader;
GRANT SELECT ON TABLE public.located_predictions TO bdlab_writer;
GRANT SELECT ON TABLE public.located_predictions TO bdlab_reader;
GRANT SELECT ON SEQUENCE public.logs_log_id_seq TO bdlab_reader;
GRANT SELECT ON TABLE public.recorded_positions TO bdlab_writer;
GRANT SELECT ON TABLE public.recorded_positions TO bdlab_reader;
GRANT SELECT,INSERT,UPDATE ON TABLE public.sink_offsets TO bdlab_writer;
GRANT SELECT ON TABLE public.sink_offsets TO bdlab_reader;
GRANT SELECT ON TABLE public.missing_offsets TO bdlab_writer;
GRANT SELECT ON TABLE public.missing_offsets TO bdlab_reader;
GRANT SELECT ON TABLE public.replays TO bdlab_writer;
GRANT SELECT ON TABLE public.replays TO bdlab_reader;
GRANT INSERT ON TABLE public.replays TO bdlab_dlq;
GRANT SELECT ON TABLE public.schema_migrations TO bdlab_writer;
GRANT SELECT ON TABLE public.schema_migrations TO bdlab_reader;
