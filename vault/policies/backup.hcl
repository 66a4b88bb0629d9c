# backup: takes snapshots of Vault and dumps of the database, and can put neither back.

# Everything that Vault holds, as its seal has encrypted it.
path "sys/storage/raft/snapshot" {
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
