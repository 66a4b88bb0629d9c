# migrate: owns the schema, makes the topic and the broker's users, and stores the broker's address.

# Every Kafka user, as it creates them at the broker; `create` and `update`, as it stores the broker's address.
path "kv/data/kafka/*" {
  capabilities = ["create", "read", "update"]
}

# The database's address, and a login of its own that owns the tables.
path "kv/data/database/credentials" {
  capabilities = ["read"]
}
path "database/creds/bdlab-owner" {
  capabilities = ["read"]
}

# Lets Vault drop the users that ended and could not be dropped then; this makes no user.
path "database/creds/bdlab-sweep" {
  capabilities = ["read"]
}

# The certificates of the broker, before its first start, and of its administrator, who makes the users.
path "pki-kafka/issue/broker" {
  capabilities = ["update"]
}
path "pki-kafka/issue/admin" {
  capabilities = ["update"]
}

# The certificates of the other servers. The API may not, so that somebody who breaks into it gets none that lasts.
path "pki-servers/issue/vault" {
  capabilities = ["update"]
}
path "pki-servers/issue/postgres" {
  capabilities = ["update"]
}
path "pki-servers/issue/api" {
  capabilities = ["update"]
}

# Renews the lease of its database login; a lease id cannot be guessed.
path "sys/leases/renew" {
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
