# The template of OpenBao's configuration. Paths are relative to the data folder, in which the server runs: its
# name may contain anything.
storage "raft" {
  path                   = "openbao/raft"
  node_id                = "local"
  performance_multiplier = 1
}
seal "static" {
  current_key_id = "local-1"
  current_key    = "file://openbao/seal.key"
}
listener "tcp" {
  address = "127.0.0.1:$port"
  $tls
}
audit "file" "file" {
  options {
    file_path = "openbao/audit.log"
  }
}
api_addr     = "$scheme://127.0.0.1:$port"
cluster_addr = "https://127.0.0.1:$cluster_port"
ui           = false
