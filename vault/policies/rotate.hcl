# rotate: replaces credentials while everything runs.

# The database manager's password: Vault makes the new one and tells nobody.
path "database/rotate-root/bdlab" {
  capabilities = ["update"]
}

# Revokes all logins of one role, if a person asks for that; Vault wants `sudo` for this.
path "sys/leases/revoke-prefix/database/creds/bdlab-writer" {
  capabilities = ["update", "sudo"]
}
path "sys/leases/revoke-prefix/database/creds/bdlab-reader" {
  capabilities = ["update", "sudo"]
}
path "sys/leases/revoke-prefix/database/creds/bdlab-owner" {
  capabilities = ["update", "sudo"]
}
path "sys/leases/revoke-prefix/database/creds/bdlab-dlq" {
  capabilities = ["update", "sudo"]
}
path "sys/leases/revoke-prefix/database/creds/bdlab-model" {
  capabilities = ["update", "sudo"]
}
path "sys/leases/revoke-prefix/database/creds/bdlab-rescore" {
  capabilities = ["update", "sudo"]
}

# Lets Vault drop the users that ended and could not be dropped then; this makes no user.
path "database/creds/bdlab-sweep" {
  capabilities = ["read"]
}

# The broker's address, and a certificate of its administrator, for changing the users there.
path "kv/data/kafka/credentials" {
  capabilities = ["read"]
}
path "pki-kafka/issue/admin" {
  capabilities = ["update"]
}

# The services' Kafka users: prepares the idle one, then makes it the active one.
path "kv/data/kafka/serve" {
  capabilities = ["read", "update"]
}
path "kv/data/kafka/consume" {
  capabilities = ["read", "update"]
}
path "kv/data/kafka/predict" {
  capabilities = ["read", "update"]
}
path "kv/data/kafka/feedback" {
  capabilities = ["read", "update"]
}
path "kv/data/kafka/status" {
  capabilities = ["read", "update"]
}
path "kv/data/kafka/verify" {
  capabilities = ["read", "update"]
}
path "kv/data/kafka/console" {
  capabilities = ["read", "update"]
}
path "kv/data/kafka/dlq" {
  capabilities = ["read", "update"]
}
path "kv/data/kafka/migrate" {
  capabilities = ["read", "update"]
}

# Beside them, for who may not read them: since which version which user is in use.
path "kv/metadata/kafka/+" {
  capabilities       = ["update"]
  allowed_parameters = { "custom_metadata" = [] }
}

# Which credentials the running processes of the services use; deletes the reports of those that were killed.
path "kv/metadata/clients/serve" {
  capabilities = ["list"]
}
path "kv/data/clients/serve/+" {
  capabilities = ["read"]
}
path "kv/metadata/clients/serve/+" {
  capabilities = ["delete"]
}
path "kv/metadata/clients/consume" {
  capabilities = ["list"]
}
path "kv/data/clients/consume/+" {
  capabilities = ["read"]
}
path "kv/metadata/clients/consume/+" {
  capabilities = ["delete"]
}
path "kv/metadata/clients/console" {
  capabilities = ["list"]
}
path "kv/data/clients/console/+" {
  capabilities = ["read"]
}
path "kv/metadata/clients/console/+" {
  capabilities = ["delete"]
}

# The services' secret ids, one path each. A new one only ever leaves Vault response-wrapped; whoever delivers it can
# unwrap it, and so become that service. Therefore `migrate`, `backup`, `api-key`, `model`, `inspect` and `recovery` are not
# among them.
path "auth/approle/role/serve/secret-id" {
  capabilities     = ["update"]
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
  capabilities     = ["update"]
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
  capabilities     = ["update"]
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
path "auth/approle/role/feedback/secret-id" {
  capabilities     = ["update"]
  min_wrapping_ttl = "1s"
}
path "auth/approle/role/feedback/role-id" {
  capabilities = ["read"]
}
path "auth/approle/role/feedback/secret-id-accessor/lookup" {
  capabilities = ["update"]
}
path "auth/approle/role/feedback/secret-id-accessor/destroy" {
  capabilities = ["update"]
}
path "auth/approle/role/status/secret-id" {
  capabilities     = ["update"]
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
  capabilities     = ["update"]
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
path "auth/approle/role/console/secret-id" {
  capabilities     = ["update"]
  min_wrapping_ttl = "1s"
}
path "auth/approle/role/console/role-id" {
  capabilities = ["read"]
}
path "auth/approle/role/console/secret-id-accessor/lookup" {
  capabilities = ["update"]
}
path "auth/approle/role/console/secret-id-accessor/destroy" {
  capabilities = ["update"]
}
path "auth/approle/role/dlq/secret-id" {
  capabilities     = ["update"]
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
path "auth/approle/role/rescore/secret-id" {
  capabilities     = ["update"]
  min_wrapping_ttl = "1s"
}
path "auth/approle/role/rescore/role-id" {
  capabilities = ["read"]
}
path "auth/approle/role/rescore/secret-id-accessor/lookup" {
  capabilities = ["update"]
}
path "auth/approle/role/rescore/secret-id-accessor/destroy" {
  capabilities = ["update"]
}
path "auth/approle/role/rotate/secret-id" {
  capabilities     = ["update"]
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

# Its own token: look it up, renew it, revoke it.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
