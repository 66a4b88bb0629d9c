# dlq: lists dead letters, and sends them back to the topic.

# Where the broker is, and its own Kafka users.
path "kv/data/kafka/credentials" {
  capabilities = ["read"]
}
path "kv/data/kafka/dlq" {
  capabilities = ["read"]
}

# Where the database is, and a login of its own that reads, and notes a replay or a discard.
path "kv/data/database/credentials" {
  capabilities = ["read"]
}
path "database/creds/bdlab-dlq" {
  capabilities = ["read"]
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
