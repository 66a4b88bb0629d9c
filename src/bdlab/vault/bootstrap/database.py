"""The database engine: the connection that makes users, and the roles that they are made from."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import quote, urlencode

import structlog

from bdlab.errors import DatabaseError, InvalidInput
from bdlab.settings import PostgresSettings, Secret
from bdlab.vault.bootstrap.plan import DATABASE, Plan
from bdlab.vault.bootstrap.units import differs
from bdlab.vault.client import VaultClient

#: role of the engine -> group role in the database that its users work as
ROLES = {"bdlab-writer": "bdlab_writer", "bdlab-reader": "bdlab_reader", "bdlab-owner": "bdlab_owner"}

_TTL_S = 3600
_MAX_TTL_S = 24 * 3600
_PASSWORD_BYTES = 32

_log = structlog.get_logger()

#: What a user makes belongs to its group (`SET ROLE` at log-in), so that nothing stands in the way of its
#: DROP.
_CREATION = (
    """CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE %(group)s""",
    'ALTER ROLE "{{name}}" SET ROLE %(group)s',
)
_RENEWAL = ("""ALTER ROLE "{{name}}" VALID UNTIL '{{expiration}}'""",)
#: Open sessions are ended, and waited for: without that the DROP fails over a session's temporary table. A
#: user that is gone already is no reason to fail.
_REVOCATION = (
    """DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{{name}}') THEN
    ALTER ROLE "{{name}}" NOLOGIN;
    PERFORM pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{{name}}';
  END IF;
END $$;""",
    'DROP ROLE IF EXISTS "{{name}}"',
)


class Connection:
    """Finished once its list of roles is there: that is written last, when the password is Vault's own."""

    name = "database connection"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._path = f"{plan.vault.database_mount}/config/{DATABASE}"

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        found = reader.read_if_present(self._path)
        if differs(found, {"allowed_roles": list(ROLES)}):
            return (DATABASE,)
        if self._manager_is_missing():
            return (f"{DATABASE}: the database has no manager role",)
        return ()

    def _manager_is_missing(self) -> bool:
        """Looked for only where `.env` is there; an old one may have an administrator's password of old."""
        try:
            return self._plan.manager is not None and not self._plan.manager.exists()
        except DatabaseError as error:
            _log.warning("cannot look at the database; leaving its set-up as it is", problem=error.message)
            return False

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        del pending
        seeds, manager = self._plan.seeds, self._plan.manager
        if seeds is None or manager is None:
            raise InvalidInput(
                "Vault's database engine is not set up, and that takes the database administrator's log-in",
                hint="Fill in .env (see .env.example) and name it with --env-file.",
            )
        # From here to the end the manager's password may be another one than Vault's: no half of it may stay.
        writer.request("delete", self._path)
        password = Secret(secrets.token_urlsafe(_PASSWORD_BYTES))
        username = manager.prepare(password)
        config: dict[str, Any] = {
            "plugin_name": "postgresql-database-plugin",
            "connection_url": connection_url(seeds.postgres),
            "username": username,
            "password": password.reveal(),
            "password_authentication": "scram-sha-256",
            "allowed_roles": [],
        }
        if seeds.postgres_ca_pem:
            config["tls_ca"] = seeds.postgres_ca_pem
        writer.write(self._path, config)
        writer.write(f"{self._plan.vault.database_mount}/rotate-root/{DATABASE}")
        writer.write(self._path, {"plugin_name": config["plugin_name"], "allowed_roles": list(ROLES)})


class Roles:
    name = "database roles"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        return tuple(
            role
            for role, group in ROLES.items()
            if differs(reader.read_if_present(self._path(role)), self._fixed(group) | self._chosen())
        )

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        for role in pending:
            found = writer.read_if_present(self._path(role))
            times = {"default_ttl": _TTL_S, "max_ttl": _MAX_TTL_S}
            if found:
                times = {name: found[name] for name in times}
            writer.write(self._path(role), self._fixed(ROLES[role]) | times | self._chosen())

    def _path(self, role: str) -> str:
        return f"{self._plan.vault.database_mount}/roles/{role}"

    def _fixed(self, group: str) -> dict[str, Any]:
        return {
            "db_name": DATABASE,
            "creation_statements": [statement % {"group": group} for statement in _CREATION],
            "renew_statements": list(_RENEWAL),
            "revocation_statements": list(_REVOCATION),
        }

    def _chosen(self) -> dict[str, Any]:
        seeds = self._plan.seeds
        times = {
            "default_ttl": seeds.lease_ttl_s if seeds else None,
            "max_ttl": seeds.lease_max_ttl_s if seeds else None,
        }
        return {name: value for name, value in times.items() if value is not None}


def connection_url(server: PostgresSettings) -> str:
    """With Vault's place-holders for user and password, which it fills in and escapes."""
    options: dict[str, str] = {"sslmode": server.sslmode}
    if server.host.startswith("/"):
        address, options = "", {"host": server.host, "port": str(server.port), **options}
    else:
        host = f"[{server.host}]" if ":" in server.host else server.host
        address = f"{host}:{server.port}"
    return f"postgresql://{{{{username}}}}:{{{{password}}}}@{address}/{quote(server.dbname)}?{urlencode(options)}"
