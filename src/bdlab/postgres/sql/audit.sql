-- name: begin
INSERT INTO audit (actor, action, subject, detail, outcome)
VALUES (%(actor)s, %(action)s, %(subject)s, %(detail)s::jsonb, 'begun') RETURNING id

-- name: end
INSERT INTO audit (begun, actor, action, subject, detail, outcome)
SELECT id, actor, action, subject, %(detail)s::jsonb, %(outcome)s FROM audit WHERE id = %(begun)s RETURNING id

-- name: page
-- One row a change, the newest first; those below `before`, of an actor, of an action, if that is given. The outcome is `begun` while it runs, and
-- for good if its process was killed, or the database was away, before the second row.
SELECT b.id, b.at, b.actor, b.action, b.subject, b.detail, coalesce(e.outcome, b.outcome) AS outcome,
       e.at AS ended_at, e.detail AS result
FROM audit b LEFT JOIN audit e ON e.begun = b.id
WHERE b.begun IS NULL AND (%(before)s::bigint IS NULL OR b.id < %(before)s)
  AND (%(actor)s::text IS NULL OR b.actor = %(actor)s) AND (%(action)s::text IS NULL OR b.action = %(action)s)
ORDER BY b.id DESC LIMIT %(limit)s
