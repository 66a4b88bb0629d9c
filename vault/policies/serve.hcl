# serve: publishes predictions, and shows stored ones through a reading login.

# Where the broker is, and its own Kafka users.
path "kv/data/kafka/credentials" {
  capabilities = ["read"]
}
path "kv/data/kafka/serve" {
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

# Says which credentials each of its processes uses, and takes that back at the end: `rotate` waits for it.
path "kv/data/clients/serve/+" {
  capabilities = ["create", "update"]
}
path "kv/metadata/clients/serve/+" {
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
