-- name: lock
-- One migration at a time in this database; the key is arbitrary and only has to stay the same.
SELECT pg_advisory_xact_lock(7203684412970011)

-- name: become_owner
SET LOCAL ROLE bdlab_owner

-- name: create_table
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)

-- name: applied
SELECT version, name, checksum FROM schema_migrations ORDER BY version

-- name: record
INSERT INTO schema_migrations (version, name, checksum) VALUES (%(version)s, %(name)s, %(checksum)s)

-- name: version
SELECT coalesce(max(version), 0) FROM schema_migrations
