# migrate: owns the schema, makes the topic and the broker's users, and keeps where the broker is.

# Every Kafka user, since it creates them at the broker; `create` and `update` since it writes down what it made.
path "kv/data/kafka/*" {
  capabilities = ["create", "read", "update"]
}

# Where the database is, and a login of its own that owns the tables.
path "kv/data/database/credentials" {
  capabilities = ["read"]
}
path "database/creds/bdlab-owner" {
  capabilities = ["read"]
}

# Drops the logins that ended and could not be dropped; it gets none by it.
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

# The certificates of the other servers. The API itself may not: who breaks into it gets none that lasts.
path "pki-servers/issue/vault" {
  capabilities = ["update"]
}
path "pki-servers/issue/postgres" {
  capabilities = ["update"]
}
path "pki-servers/issue/api" {
  capabilities = ["update"]
}

# Keeps the lease of its database login alive; a lease id cannot be guessed.
path "sys/leases/renew" {
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
