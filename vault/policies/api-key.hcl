# api-key: makes, lists and revokes the keys of the API. It holds no key, only hashes; but whoever has this identity can let
# anybody in, so `rotate` does not deliver its secret id.

path "kv/metadata/api-keys" {
  capabilities = ["list"]
}
path "kv/data/api-keys/+" {
  capabilities = ["create", "read", "update"]
}

# Revokes one, with all its versions.
path "kv/metadata/api-keys/+" {
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
