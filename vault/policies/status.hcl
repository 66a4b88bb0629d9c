# status: looks at everything, changes nothing.

# Where the broker is, and its own Kafka users.
path "kv/data/kafka/credentials" {
  capabilities = ["read"]
}
path "kv/data/kafka/status" {
  capabilities = ["read"]
}

# Where the database is, and a login of its own that may only read.
path "kv/data/database/credentials" {
  capabilities = ["read"]
}
path "database/creds/bdlab-reader" {
  capabilities = ["read"]
}

# Keeps the lease of its database login alive; a lease id cannot be guessed.
path "sys/leases/renew" {
  capabilities = ["update"]
}

# Whether there is an audit log, which is told where there is none; Vault wants `sudo` for it.
path "sys/audit" {
  capabilities = ["read", "sudo"]
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
