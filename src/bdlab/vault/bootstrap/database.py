"""The steps that set up the database engine: the connection that makes users, and their roles."""

import secrets
from typing import Any
from urllib.parse import quote, urlencode

import structlog

from bdlab.errors import DatabaseError, InvalidInput
from bdlab.services import BDLAB, CONNECTION, DATABASE_ROLES, SWEEP
from bdlab.settings import PostgresSettings, Secret
from bdlab.vault.bootstrap import database_users
from bdlab.vault.bootstrap.plan import Plan, differs, in_parallel
from bdlab.vault.client import VaultClient

_TTL_S = 3600
_MAX_TTL_S = 24 * 3600
_SWEEP_TTL_S = 60
_PASSWORD_BYTES = 32

_log = structlog.get_logger()

_PLUGIN = "postgresql-database-plugin"
_GROUPS = {role.name: role.group for role in DATABASE_ROLES}
#: With the whole name of the role, which Vault's own way cuts short.
_USERNAMES = '{{.RoleName | replace "-" "_"}}_{{random 20}}_{{unix_time}}'


class Connection:
    """Sets up the connection. Its list of roles is written last, when only Vault knows the password."""

    name = "database connection"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._connection = plan.deployment.own(CONNECTION)
        self._path = f"{plan.vault.database_mount}/config/{self._connection}"
        self._allowed = [plan.deployment.own(role) for role in (*_GROUPS, SWEEP)]

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        found = reader.read_if_present(self._path)
        if not found or not found.get("allowed_roles") or (missing := self._missing()) is None:
            return (self._connection,)
        return (*(("allowed roles",) if differs(found, {"allowed_roles": self._allowed}) else ()), *missing)

    def _missing(self) -> tuple[str, ...] | None:
        """Return what the database lacks; None if that is Vault's own user in it.

        This needs `.env`, and an administrator's password that may be outdated there.
        """
        try:
            manager = self._plan.manager
            if manager is None:
                return ()
            return manager.missing() if manager.exists() else None
        except DatabaseError as error:
            _log.warning("cannot look at the database; leaving its set-up as it is", problem=error.message)
            return ()

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        seeds, manager = self._plan.seeds, self._plan.manager
        allowed = {"plugin_name": _PLUGIN, "allowed_roles": self._allowed}
        if self._connection not in pending:
            if manager and pending != ("allowed roles",):
                manager.prepare(None)
            writer.write(self._path, allowed)
            return
        if seeds is None or manager is None:
            raise InvalidInput(
                "Vault's database engine is not set up, and that takes the database administrator's log-in",
                hint="Fill in .env (see .env.example) and name it with --env-file.",
            )
        # From here to the end the manager's password may differ from Vault's: nothing half-done may stay.
        writer.request("delete", self._path)
        password = Secret(secrets.token_urlsafe(_PASSWORD_BYTES))
        username = manager.prepare(password)
        config: dict[str, Any] = {
            "plugin_name": _PLUGIN,
            "connection_url": connection_url(seeds.postgres),
            "username": username,
            "password": password.reveal(),
            "password_authentication": "scram-sha-256",
            "allowed_roles": [],
        }
        if self._plan.deployment != BDLAB:
            config["username_template"] = _USERNAMES
        if seeds.postgres_ca_pem:
            config["tls_ca"] = seeds.postgres_ca_pem
        writer.write(self._path, config)
        writer.write(f"{self._plan.vault.database_mount}/rotate-root/{self._connection}")
        writer.write(self._path, allowed)


class Roles:
    name = "database roles"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._roles = {plan.deployment.own(role): role for role in (*_GROUPS, SWEEP)}
        self._found: dict[str, dict[str, Any] | None] = {}

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        self._found = {role: reader.read_if_present(self._path(role)) for role in self._roles}
        return tuple(
            role
            for role, found in self._found.items()
            if differs(found, self._fixed(role) | self._chosen(role))
        )

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        def write(role: str) -> None:
            times = {"default_ttl": _TTL_S, "max_ttl": _MAX_TTL_S}
            if found := self._found[role]:
                times = {name: found[name] for name in times}
            writer.write(self._path(role), times | self._chosen(role) | self._fixed(role))

        in_parallel(write, pending)

    def _path(self, role: str) -> str:
        return f"{self._plan.vault.database_mount}/roles/{role}"

    def _chosen(self, role: str) -> dict[str, Any]:
        """Return the values that `.env` sets."""
        seeds = self._plan.seeds if self._roles[role] != SWEEP else None
        times = {
            "default_ttl": seeds.lease_ttl_s if seeds else None,
            "max_ttl": seeds.lease_max_ttl_s if seeds else None,
        }
        return {name: value for name, value in times.items() if value is not None}

    def _fixed(self, role: str) -> dict[str, Any]:
        group, deployment = _GROUPS.get(self._roles[role]), self._plan.deployment
        if group is None:
            # It makes no user: there is nothing to renew or to revoke.
            return {
                "db_name": deployment.own(CONNECTION),
                "creation_statements": [*map(deployment.in_sql, database_users.sweep())],
                "revocation_statements": ["SELECT"],
                "default_ttl": _SWEEP_TTL_S,
                "max_ttl": _SWEEP_TTL_S,
            }
        return {
            "db_name": deployment.own(CONNECTION),
            "creation_statements": [*map(deployment.in_sql, database_users.creation(group))],
            "renew_statements": list(database_users.RENEWAL),
            "revocation_statements": [*map(deployment.in_sql, database_users.revocation(group))],
        }


def connection_url(server: PostgresSettings) -> str:
    """Return the URL with Vault's placeholders for user and password, which Vault fills in and escapes."""
    options: dict[str, str] = {"sslmode": server.sslmode}
    if server.host.startswith("/"):
        address, options = "", {"host": server.host, "port": str(server.port), **options}
    else:
        host = f"[{server.host}]" if ":" in server.host else server.host
        address = f"{host}:{server.port}"
    return f"postgresql://{{{{username}}}}:{{{{password}}}}@{address}/{quote(server.dbname)}?{urlencode(options)}"
