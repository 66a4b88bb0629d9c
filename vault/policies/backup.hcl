# backup: takes snapshots of Vault and dumps of the database, and can restore neither.

# All data of Vault, encrypted by its seal.
path "sys/storage/raft/snapshot" {
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
