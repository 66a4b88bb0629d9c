# console: shows everything in a browser, changes nothing.

# The broker's address, and its own Kafka users.
path "kv/data/kafka/credentials" {
  capabilities = ["read"]
}
path "kv/data/kafka/console" {
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
path "kv/data/clients/console/+" {
  capabilities = ["create", "read", "update"]
}
path "kv/metadata/clients/console/+" {
  capabilities = ["delete"]
}

# What the page about rotation shows: which credentials the running processes use, and when each version of a service's
# Kafka users was made. Metadata has no secret; of the users themselves it reads its own alone.
path "kv/metadata/clients/+" {
  capabilities = ["list"]
}
path "kv/metadata/clients/console" {
  capabilities = ["list"]
}
path "kv/data/clients/+/+" {
  capabilities = ["read"]
}
path "kv/metadata/kafka/+" {
  capabilities = ["read"]
}

# Who may sign in: which API keys there are, and of each the hash and what it may do.
path "kv/metadata/api-keys" {
  capabilities = ["list"]
}
path "kv/data/api-keys/+" {
  capabilities = ["read"]
}

# The secret of its client at the identity provider where people sign in (console.oidc_client_id), if it has one.
path "kv/data/oidc/console" {
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
