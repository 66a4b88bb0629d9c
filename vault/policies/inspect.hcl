# inspect: lets a later `bdlab vault-init` see whether there is anything to do. It reads how Vault is set up, and no
# secret: of the key-value store only the versions, of the database engine everything but its password.

path "sys/mounts" {
  capabilities = ["read"]
}
path "sys/auth" {
  capabilities = ["read"]
}
path "sys/policies/acl/*" {
  capabilities = ["read"]
}
path "auth/approle/role/+" {
  capabilities = ["read"]
}
path "auth/approle/role/+/role-id" {
  capabilities = ["read"]
}

# Whether a secret id that it knows is still valid; it cannot make one.
path "auth/approle/role/+/secret-id/lookup" {
  capabilities = ["update"]
}
path "database/config/*" {
  capabilities = ["read"]
}
path "database/roles/*" {
  capabilities = ["read"]
}
path "pki-kafka/roles/+" {
  capabilities = ["read"]
}
path "pki-kafka/issuers" {
  capabilities = ["list"]
}
path "pki-servers/roles/+" {
  capabilities = ["read"]
}
path "pki-servers/issuers" {
  capabilities = ["list"]
}
path "kv/metadata/*" {
  capabilities = ["read"]
}

# Whether there is an audit log; Vault wants `sudo` for this.
path "sys/audit" {
  capabilities = ["read", "sudo"]
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
