-- compatible_from: 2
--
-- The contracts of the models whose predictions are stored here. Runs as bdlab_owner.

CREATE TABLE contracts (
    number     integer PRIMARY KEY CHECK (number > 0),
    document   json NOT NULL CHECK (json_typeof(document) = 'object'), -- jsonb would forget the order of the fields
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE contracts IS 'The highest number is in force. Without a row it is the review contract, whose columns 0001 made.';

GRANT SELECT ON contracts TO bdlab_writer, bdlab_reader;
