# consume: reads the topic and stores it.

# The broker's address, and its own Kafka users.
path "kv/data/kafka/credentials" {
  capabilities = ["read"]
}
path "kv/data/kafka/consume" {
  capabilities = ["read"]
}

# The database's address, and a login of its own that may insert.
path "kv/data/database/credentials" {
  capabilities = ["read"]
}
path "database/creds/bdlab-writer" {
  capabilities = ["read"]
}

# Renews the lease of its database login; a lease id cannot be guessed.
path "sys/leases/renew" {
  capabilities = ["update"]
}

# Reports which credentials each of its processes uses, and deletes the report at the end: `rotate` waits for these.
path "kv/data/clients/consume/+" {
  capabilities = ["create", "update"]
}
path "kv/metadata/clients/consume/+" {
  capabilities = ["delete"]
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
