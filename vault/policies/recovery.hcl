# recovery: may begin and end the making of a root token, for a `bdlab vault-init` that has something to change.
# That also takes the recovery key, which Vault does not hold.

path "sys/generate-root-token/*" {
  capabilities = ["create", "read", "update", "delete"]
}

# The same in HashiCorp Vault, which asks for a token there from 2.0 on.
path "sys/generate-root/*" {
  capabilities = ["create", "read", "update", "delete"]
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
