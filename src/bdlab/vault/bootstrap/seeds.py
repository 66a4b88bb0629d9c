"""The step that writes the first version of every secret in the key-value engine, and never another one."""

import secrets
from functools import partial

from bdlab.errors import InvalidInput, VaultError
from bdlab.services import KAFKA_SERVICES, Deployment
from bdlab.settings import KafkaSettings, PostgresSettings
from bdlab.vault import pki
from bdlab.vault.bootstrap.plan import Change, Plan, Seeds, Step
from bdlab.vault.client import VaultClient
from bdlab.vault.logins import ADDRESS_FIELDS

_DATABASE = "database/credentials"
_BROKER = "kafka/credentials"
_PASSWORD_BYTES = 24


def key_values(plan: Plan) -> Step:
    """Return the step. It writes strings only: Vault's audit log masks strings, but no numbers."""
    mount = plan.vault.kv_mount

    def missing(reader: VaultClient) -> dict[str, Change]:
        paths = (_DATABASE, _BROKER, *(f"kafka/{service}" for service in KAFKA_SERVICES))
        found = {path: reader.read_if_present(f"{mount}/metadata/{path}") or {} for path in paths}
        return {path: partial(write, path) for path in paths if not found[path].get("current_version")}

    def write(path: str, writer: VaultClient) -> None:
        try:
            writer.write_kv(mount, path, _values(plan, path, writer), cas=0)
        except VaultError as error:
            # With cas=0 Vault refuses if somebody else wrote it meanwhile: theirs stays.
            if "check-and-set" not in error.message:
                raise

    return Step(name="key-value seed", missing=missing, at_once=True)


def _values(plan: Plan, path: str, writer: VaultClient) -> dict[str, str]:
    seeds = plan.seeds
    if seeds is None:
        raise InvalidInput(
            f"{path} is not in Vault yet, and what belongs there comes from .env",
            hint="Fill in .env (see .env.example) and name it with --env-file.",
        )
    if path == _DATABASE:
        ca_pem = pki.authority_pem(writer, pki.SERVERS) if seeds.postgres_authority else seeds.postgres_ca_pem
        return _address("postgres", seeds.administrator.server) | ({"ca_pem": ca_pem} if ca_pem else {})
    if path == _BROKER:
        ca_pem = pki.authority_pem(writer) if seeds.kafka_authority else seeds.kafka.ca_pem
        return _address("kafka", seeds.kafka.server) | {"ca_pem": ca_pem}
    return kafka_users(path.rpartition("/")[2], seeds, plan.deployment)


def _address(section: str, server: PostgresSettings | KafkaSettings) -> dict[str, str]:
    return {field: str(getattr(server, field)) for field in ADDRESS_FIELDS[section]}


def kafka_users(service: str, seeds: Seeds, deployment: Deployment) -> dict[str, str]:
    """Return the active user, and the idle one, which the next rotation makes the active one."""
    if seeds.kafka.username:
        return {"username": seeds.kafka.username, "password": seeds.kafka.password.reveal()}
    return {
        "username": deployment.own(f"bdlab-{service}-a"),
        "password": secrets.token_urlsafe(_PASSWORD_BYTES),
        "idle_username": deployment.own(f"bdlab-{service}-b"),
        "idle_password": secrets.token_urlsafe(_PASSWORD_BYTES),
    }
