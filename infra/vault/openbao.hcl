# The Vault of docker-compose.yml. Its seal key is on a volume of its own; with it Vault unseals itself at each start.
storage "raft" {
  path                   = "/vault/data"
  node_id                = "vault"
  performance_multiplier = 1
}

seal "static" {
  current_key_id = "compose-1"
  current_key    = "file:///vault/seal/static.key"
}

listener "tcp" {
  address         = "0.0.0.0:8200"
  tls_cert_file   = "/vault/tls/server.pem"
  tls_key_file    = "/vault/tls/server.key"
  tls_min_version = "tls12"
}

# To `docker compose logs vault`, whose size the engine limits: a full disk would make Vault refuse every request.
audit "file" "stdout" {
  options {
    file_path = "stdout"
  }
}

api_addr     = "https://vault:8200"
cluster_addr = "https://vault:8201"
ui           = false
