"""Former names of environment variables, which are understood for one more release."""

import os

from bdlab_cli.output import terminal


def _now_under(command: str, *names: str) -> dict[str, str]:
    return {name: f"{command}_{name}" for name in names}


_KEYS_FILE = {"KEYS_FILE": "VAULT_KEYS_FILE"}
_DATA_DIR = {"DATA_DIR": "STACK_DATA_DIR"}
_STACK = {"BROKER": "STACK_BROKER", "TLS": "STACK_TLS"}

#: command -> former name -> name, both without BDLAB_
FORMER = {
    "up": _DATA_DIR | _STACK | {"CONSUMERS": "UP_CONSUMERS", "CERT_TTL": "UP_CERTIFICATE_TTL"},
    "demo": _STACK,
    "env": _DATA_DIR,
    "backup": _DATA_DIR,
    "restore": _DATA_DIR | {"TRUST_BACKUP": "RESTORE_TRUST_BACKUP"},
    "fetch-kafka": {"FETCH_ZOOKEEPER": "FETCH_KAFKA_ZOOKEEPER"},
    "consume": {"UNTIL_IDLE": "CONSUME_UNTIL_IDLE", "METRICS_HOST": "CONSUME_METRICS_HOST"},
    "status": {"API_URL": "STATUS_API_URL"},
    "vault-init": _KEYS_FILE
    | {"KEY_SHARES": "VAULT_INIT_SHARES", "KEY_THRESHOLD": "VAULT_INIT_THRESHOLD"}
    | {"VAULT_TOKEN_FILE": "VAULT_INIT_TOKEN_FILE"}
    | _now_under("VAULT_INIT", "ENV_FILE", "WRAP_TTL", "AUTHORITY", "BROKER_FOLDER", "BROKER_TTL")
    | _now_under("VAULT_INIT", "RENEW", "SHARED_DATABASE", "DRY_RUN", "JSON"),
    "vault-token": _KEYS_FILE,
    "vault-rekey": _KEYS_FILE
    | {"KEY_SHARES": "VAULT_REKEY_SHARES", "KEY_THRESHOLD": "VAULT_REKEY_THRESHOLD"},
    "broker-certificate": {
        "BROKER_TLS_DIR": "BROKER_CERTIFICATE_FOLDER",
        "BROKER_HOSTS": "BROKER_CERTIFICATE_HOST",
        "BROKER_TTL": "BROKER_CERTIFICATE_TTL",
    },
    "server-certificate": {
        "SERVER_TLS_DIR": "SERVER_CERTIFICATE_FOLDER",
        "SERVER_HOSTS": "SERVER_CERTIFICATE_HOST",
        "SERVER_TTL": "SERVER_CERTIFICATE_TTL",
    },
    "migrate": _now_under("MIGRATE", "ANNOUNCE_BROKER", "ADOPT_LOG", "NEW_LOG"),
    "rotate": {"API_URL": "ROTATE_URL", "REQUESTS_PER_SECOND": "ROTATE_REQUESTS_PER_SECOND"},
}


def take_over(command: str) -> None:
    """Give the values of former names to the options of `command`, and warn; a new name that is set wins."""
    for former, name in FORMER.get(command, {}).items():
        if os.environ.get(f"BDLAB_{former}") and not os.environ.get(f"BDLAB_{name}"):
            os.environ[f"BDLAB_{name}"] = os.environ[f"BDLAB_{former}"]
            terminal.echo(
                f"warning: BDLAB_{former} is called BDLAB_{name} now; rename it before the next release",
                err=True,
            )
