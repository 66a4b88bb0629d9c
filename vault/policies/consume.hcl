# consume: reads the topic and stores it.

# Where the broker is, and its own Kafka users.
path "kv/data/kafka/credentials" {
  capabilities = ["read"]
}
path "kv/data/kafka/consume" {
  capabilities = ["read"]
}

# Where the database is, and a login of its own that may insert.
path "kv/data/database/credentials" {
  capabilities = ["read"]
}
path "database/creds/bdlab-writer" {
  capabilities = ["read"]
}

# Keeps the lease of its database login alive; a lease id cannot be guessed.
path "sys/leases/renew" {
  capabilities = ["update"]
}

# Says which credentials each of its processes uses, and takes that back at the end: `rotate` waits for it.
path "kv/data/clients/consume/+" {
  capabilities = ["create", "update"]
}
path "kv/metadata/clients/consume/+" {
  capabilities = ["delete"]
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
