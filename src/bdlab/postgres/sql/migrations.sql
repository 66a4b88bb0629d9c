-- name: lacking_roles
SELECT name FROM unnest(%(names)s::text[]) AS r (name) WHERE name NOT IN (SELECT rolname FROM pg_roles)

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
);
ALTER TABLE schema_migrations ADD COLUMN IF NOT EXISTS compatible_from integer

-- name: applied
SELECT version, name, checksum, compatible_from FROM schema_migrations ORDER BY version

-- name: record
INSERT INTO schema_migrations (version, name, checksum, compatible_from)
VALUES (%(version)s, %(name)s, %(checksum)s, %(compatible_from)s)

-- name: version
-- Also if the column does not exist yet.
SELECT version, coalesce((to_jsonb(m) ->> 'compatible_from')::integer, version)
FROM schema_migrations m ORDER BY version DESC LIMIT 1
