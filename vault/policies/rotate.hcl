# rotate: replaces credentials while everything runs.

# The database manager's password: Vault makes the new one and tells nobody.
path "database/rotate-root/*" {
  capabilities = ["update"]
}

# The Kafka users: prepares the idle one, then makes it the active one.
path "kv/data/kafka/*" {
  capabilities = ["create", "read", "update"]
}

# The services' secret ids, one path each: `inspect` and `recovery` are not among them. A new one only ever
# leaves Vault response-wrapped, for its receiver to unwrap.
path "auth/approle/role/serve/secret-id" {
  capabilities     = ["update", "list"]
  min_wrapping_ttl = "1s"
}
path "auth/approle/role/serve/role-id" {
  capabilities = ["read"]
}
path "auth/approle/role/serve/secret-id-accessor/lookup" {
  capabilities = ["update"]
}
path "auth/approle/role/serve/secret-id-accessor/destroy" {
  capabilities = ["update"]
}
path "auth/approle/role/consume/secret-id" {
  capabilities     = ["update", "list"]
  min_wrapping_ttl = "1s"
}
path "auth/approle/role/consume/role-id" {
  capabilities = ["read"]
}
path "auth/approle/role/consume/secret-id-accessor/lookup" {
  capabilities = ["update"]
}
path "auth/approle/role/consume/secret-id-accessor/destroy" {
  capabilities = ["update"]
}
path "auth/approle/role/predict/secret-id" {
  capabilities     = ["update", "list"]
  min_wrapping_ttl = "1s"
}
path "auth/approle/role/predict/role-id" {
  capabilities = ["read"]
}
path "auth/approle/role/predict/secret-id-accessor/lookup" {
  capabilities = ["update"]
}
path "auth/approle/role/predict/secret-id-accessor/destroy" {
  capabilities = ["update"]
}
path "auth/approle/role/status/secret-id" {
  capabilities     = ["update", "list"]
  min_wrapping_ttl = "1s"
}
path "auth/approle/role/status/role-id" {
  capabilities = ["read"]
}
path "auth/approle/role/status/secret-id-accessor/lookup" {
  capabilities = ["update"]
}
path "auth/approle/role/status/secret-id-accessor/destroy" {
  capabilities = ["update"]
}
path "auth/approle/role/verify/secret-id" {
  capabilities     = ["update", "list"]
  min_wrapping_ttl = "1s"
}
path "auth/approle/role/verify/role-id" {
  capabilities = ["read"]
}
path "auth/approle/role/verify/secret-id-accessor/lookup" {
  capabilities = ["update"]
}
path "auth/approle/role/verify/secret-id-accessor/destroy" {
  capabilities = ["update"]
}
path "auth/approle/role/dlq/secret-id" {
  capabilities     = ["update", "list"]
  min_wrapping_ttl = "1s"
}
path "auth/approle/role/dlq/role-id" {
  capabilities = ["read"]
}
path "auth/approle/role/dlq/secret-id-accessor/lookup" {
  capabilities = ["update"]
}
path "auth/approle/role/dlq/secret-id-accessor/destroy" {
  capabilities = ["update"]
}
path "auth/approle/role/migrate/secret-id" {
  capabilities     = ["update", "list"]
  min_wrapping_ttl = "1s"
}
path "auth/approle/role/migrate/role-id" {
  capabilities = ["read"]
}
path "auth/approle/role/migrate/secret-id-accessor/lookup" {
  capabilities = ["update"]
}
path "auth/approle/role/migrate/secret-id-accessor/destroy" {
  capabilities = ["update"]
}
path "auth/approle/role/rotate/secret-id" {
  capabilities     = ["update", "list"]
  min_wrapping_ttl = "1s"
}
path "auth/approle/role/rotate/role-id" {
  capabilities = ["read"]
}
path "auth/approle/role/rotate/secret-id-accessor/lookup" {
  capabilities = ["update"]
}
path "auth/approle/role/rotate/secret-id-accessor/destroy" {
  capabilities = ["update"]
}
path "auth/approle/role/backup/secret-id" {
  capabilities     = ["update", "list"]
  min_wrapping_ttl = "1s"
}
path "auth/approle/role/backup/role-id" {
  capabilities = ["read"]
}
path "auth/approle/role/backup/secret-id-accessor/lookup" {
  capabilities = ["update"]
}
path "auth/approle/role/backup/secret-id-accessor/destroy" {
  capabilities = ["update"]
}

# Its own token: look at it, keep it alive, give it back.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
