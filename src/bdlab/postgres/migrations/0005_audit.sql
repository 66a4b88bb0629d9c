-- compatible_from: 2
--
-- Who changed what in the console, and when. Runs as bdlab_owner.

CREATE TABLE audit (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    begun   bigint UNIQUE REFERENCES audit,
    at      timestamptz NOT NULL DEFAULT now(),
    actor   text NOT NULL CHECK (actor <> ''),
    action  text NOT NULL CHECK (action <> ''),
    subject text NOT NULL,
    detail  jsonb NOT NULL DEFAULT '{}',
    outcome text NOT NULL CHECK ((outcome = 'begun') = (begun IS NULL))
);
COMMENT ON TABLE audit IS 'Two rows a change: one before it, and one after it that refers to the first. Rows are only ever added.';
COMMENT ON COLUMN audit.begun IS 'The row from before the change; NULL in that one itself.';
COMMENT ON COLUMN audit.outcome IS 'begun before the change; after it what became of it.';

GRANT SELECT ON audit TO bdlab_writer, bdlab_reader;
-- For a backup: without it a dump would have 0 for the next number.
GRANT SELECT ON SEQUENCE audit_id_seq TO bdlab_reader;
-- Neither the number nor the moment is theirs to say.
GRANT INSERT (begun, actor, action, subject, detail, outcome) ON audit TO bdlab_dlq, bdlab_model;
