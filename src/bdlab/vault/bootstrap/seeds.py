"""The step that writes the first version of every secret in the key-value engine, and never another one."""

import secrets

from bdlab.errors import InvalidInput, VaultError
from bdlab.services import KAFKA_SERVICES, Deployment
from bdlab.vault import pki
from bdlab.vault.bootstrap.plan import Plan, Seeds, in_parallel
from bdlab.vault.client import VaultClient

_DATABASE = "database/credentials"
_BROKER = "kafka/credentials"
_PASSWORD_BYTES = 24


class KeyValues:
    """Writes strings only: Vault's audit log masks strings, but no numbers."""

    name = "key-value seed"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        paths = (_DATABASE, _BROKER, *(f"kafka/{service}" for service in KAFKA_SERVICES))
        mount = self._plan.vault.kv_mount
        found = {path: reader.read_if_present(f"{mount}/metadata/{path}") or {} for path in paths}
        return tuple(path for path in paths if not found[path].get("current_version"))

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        def write(path: str) -> None:
            try:
                values = self._values(path)
                if authority := self._authority(path):
                    values |= {"ca_pem": pki.authority_pem(writer, authority)}
                writer.write_kv(self._plan.vault.kv_mount, path, values, cas=0)
            except VaultError as error:
                # With cas=0 Vault refuses if somebody else wrote it meanwhile: theirs stays.
                if "check-and-set" not in error.message:
                    raise

        in_parallel(write, pending)

    def _authority(self, path: str) -> pki.CertificateAuthority | None:
        """Return Vault's authority for the server at `path`, if `.env` asks for one."""
        seeds = self._plan.seeds
        if seeds and path == _BROKER and seeds.kafka_authority:
            return pki.KAFKA
        if seeds and path == _DATABASE and seeds.postgres_authority:
            return pki.SERVERS
        return None

    def _values(self, path: str) -> dict[str, str]:
        seeds = self._plan.seeds
        if seeds is None:
            raise InvalidInput(
                f"{path} is not in Vault yet, and what belongs there comes from .env",
                hint="Fill in .env (see .env.example) and name it with --env-file.",
            )
        if path == _DATABASE:
            server = seeds.postgres
            values = {
                "host": server.host,
                "port": str(server.port),
                "dbname": server.dbname,
                "sslmode": server.sslmode,
            }
            return values | ({"ca_pem": seeds.postgres_ca_pem} if seeds.postgres_ca_pem else {})
        if path == _BROKER:
            return {
                "bootstrap_servers": seeds.kafka.bootstrap_servers,
                "security_protocol": seeds.kafka.security_protocol,
                "sasl_mechanism": seeds.kafka.sasl_mechanism,
                "ca_pem": seeds.kafka_ca_pem,
            }
        return kafka_users(path.rpartition("/")[2], seeds, self._plan.deployment)


def kafka_users(service: str, seeds: Seeds, deployment: Deployment) -> dict[str, str]:
    """Return the active user, and the idle one, which the next rotation makes the active one."""
    if seeds.kafka_username:
        return {"username": seeds.kafka_username, "password": seeds.kafka_password.reveal()}
    return {
        "username": deployment.own(f"bdlab-{service}-a"),
        "password": secrets.token_urlsafe(_PASSWORD_BYTES),
        "idle_username": deployment.own(f"bdlab-{service}-b"),
        "idle_password": secrets.token_urlsafe(_PASSWORD_BYTES),
    }
