# dlq: lists dead letters, and sends them back to the topic.

# The broker's address, and its own Kafka users.
path "kv/data/kafka/credentials" {
  capabilities = ["read"]
}
path "kv/data/kafka/dlq" {
  capabilities = ["read"]
}

# The database's address, and a login of its own that reads, and notes a replay or a discard.
path "kv/data/database/credentials" {
  capabilities = ["read"]
}
path "database/creds/bdlab-dlq" {
  capabilities = ["read"]
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
