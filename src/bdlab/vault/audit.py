"""Whether Vault keeps an audit log: HashiCorp Vault has none until somebody enables it."""

from bdlab.errors import VaultError
from bdlab.vault.client import VaultClient

_ENABLE = (
    "no audit device: nothing records who reads which secret. HashiCorp Vault: `bdlab vault-token -- vault "
    "audit enable file file_path=/var/log/vault/audit.log`; OpenBao: an `audit` stanza in its configuration, "
    "then SIGHUP"
)


def audit_missing(client: VaultClient) -> str:
    """Return how to enable an audit log; empty if there is one, or if this token may not see it."""
    try:
        return "" if client.read("sys/audit") else _ENABLE
    except VaultError:
        return ""  # an older policy, or a token of a namespace
