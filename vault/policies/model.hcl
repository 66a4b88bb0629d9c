# model: adds versions of models to the registry's tables, and promotes them.

# The database's address, and a login of its own that reads, and notes a version or a promotion.
path "kv/data/database/credentials" {
  capabilities = ["read"]
}
path "database/creds/bdlab-model" {
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
