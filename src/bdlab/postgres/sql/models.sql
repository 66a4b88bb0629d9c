-- name: promoted
-- What serves: the last promotion.
SELECT name, version, sha256 FROM model_promotions JOIN model_versions USING (name, version) ORDER BY number DESC LIMIT 1

-- name: version
SELECT name, version, sha256, card, added_at, added_by FROM model_versions
WHERE name = %(name)s AND version = %(version)s

-- name: versions
-- Each version, and each other model that made predictions of the last minute, with its share of them. The format is of
-- the file that scores: the first of these that the card has.
WITH served AS (
    SELECT model, count(*)::float8 / sum(count(*)) OVER () AS share FROM predictions
    WHERE stored_at > now() - interval '1 minute' GROUP BY model
), promoted AS (SELECT name, version FROM model_promotions ORDER BY number DESC LIMIT 1)
SELECT coalesce(v.name || '@' || v.version, s.model) AS model,
       (SELECT file.value ->> 'role' FROM json_each(v.card -> 'files') AS file
        ORDER BY array_position(ARRAY['terms', 'onnx', 'skops'], file.value ->> 'role') LIMIT 1) AS format,
       v.sha256, v.added_at, v.added_by, p.name IS NOT NULL AS promoted, coalesce(s.share, 0) AS share
FROM model_versions v
LEFT JOIN promoted p USING (name, version)
FULL JOIN served s ON s.model = v.name || '@' || v.version
ORDER BY v.added_at NULLS FIRST, model

-- name: promotions
-- In their order.
SELECT name || '@' || version AS model, why, promoted_at, promoted_by FROM model_promotions ORDER BY number

-- name: add
INSERT INTO model_versions (name, version, card, sha256, added_by)
VALUES (%(name)s, %(version)s, %(card)s, %(sha256)s, %(by)s) ON CONFLICT DO NOTHING RETURNING name

-- name: promote
INSERT INTO model_promotions (name, version, why, promoted_by) VALUES (%(name)s, %(version)s, %(why)s, %(by)s)
RETURNING number, promoted_at
