# status: looks at everything, changes nothing.

# The broker's address, and its own Kafka users.
path "kv/data/kafka/credentials" {
  capabilities = ["read"]
}
path "kv/data/kafka/status" {
  capabilities = ["read"]
}

# The database's address, and a login of its own that may only read.
path "kv/data/database/credentials" {
  capabilities = ["read"]
}
path "database/creds/bdlab-reader" {
  capabilities = ["read"]
}

# Renews the lease of its database login; a lease id cannot be guessed.
path "sys/leases/renew" {
  capabilities = ["update"]
}

# Whether there is an audit log; Vault wants `sudo` for this.
path "sys/audit" {
  capabilities = ["read", "sudo"]
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
