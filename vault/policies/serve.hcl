# serve: publishes predictions, and shows stored ones through a reading login.

# The broker's address, and its own Kafka users.
path "kv/data/kafka/credentials" {
  capabilities = ["read"]
}
path "kv/data/kafka/serve" {
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

# Reports which credentials each of its processes uses, and deletes the report at the end: `rotate` waits for these.
path "kv/data/clients/serve/+" {
  capabilities = ["create", "update"]
}
path "kv/metadata/clients/serve/+" {
  capabilities = ["delete"]
}

# Who may ask: which API keys there are, and of each the hash and what it may do.
path "kv/metadata/api-keys" {
  capabilities = ["list"]
}
path "kv/data/api-keys/+" {
  capabilities = ["read"]
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
