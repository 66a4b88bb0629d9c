"""Vault (HashiCorp Vault or OpenBao): sessions, leases and the first set-up. The only importer of hvac."""
