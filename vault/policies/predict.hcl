# predict: publishes predictions from a terminal; it never sees the database.

# Where the broker is, and its own Kafka users.
path "kv/data/kafka/credentials" {
  capabilities = ["read"]
}
path "kv/data/kafka/predict" {
  capabilities = ["read"]
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
