"""The steps that set up the database engine: the connection that makes users, and their roles."""

import secrets
from typing import Any
from urllib.parse import quote, urlencode

import structlog

from bdlab.errors import DatabaseError, InvalidInput
from bdlab.services import BDLAB, CONNECTION, DATABASE_ROLES, SWEEP
from bdlab.settings import PostgresSettings, Secret
from bdlab.vault.bootstrap import database_users
from bdlab.vault.bootstrap.plan import Change, DatabaseManager, Entry, Plan, Step, entries
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


def connection(plan: Plan) -> Step:
    """Return the step that sets up the connection by which Vault makes users.

    Its list of roles is written last, when only Vault knows the password.
    """
    name = plan.deployment.own(CONNECTION)
    mount = plan.vault.database_mount
    path = f"{mount}/config/{name}"
    allowed = [plan.deployment.own(role) for role in (*_GROUPS, SWEEP)]

    def missing(reader: VaultClient) -> dict[str, Change]:
        found = reader.read_if_present(path)
        if not found or not found.get("allowed_roles") or (lacking := _lacking(plan.manager)) is None:
            return {name: set_up}
        as_wanted = sorted(found["allowed_roles"]) == sorted(allowed)
        changes: dict[str, Change] = {} if as_wanted else {"allowed roles": allow}
        return changes | dict.fromkeys(lacking, prepare)

    def allow(writer: VaultClient) -> None:
        writer.write(path, {"plugin_name": _PLUGIN, "allowed_roles": allowed})

    def prepare(_writer: VaultClient) -> None:
        if plan.manager:
            plan.manager.prepare(None)

    def set_up(writer: VaultClient) -> None:
        seeds, manager = plan.seeds, plan.manager
        if seeds is None or manager is None:
            raise InvalidInput(
                "Vault's database engine is not set up, and that takes the database administrator's log-in",
                hint="Fill in .env (see .env.example) and name it with --env-file.",
            )
        # From here to the end the manager's password may differ from Vault's: nothing half-done may stay.
        writer.request("delete", path)
        password = Secret(secrets.token_urlsafe(_PASSWORD_BYTES))
        username = manager.prepare(password)
        config: dict[str, Any] = {
            "plugin_name": _PLUGIN,
            "connection_url": connection_url(seeds.administrator.server),
            "username": username,
            "password": password.reveal(),
            "password_authentication": "scram-sha-256",
            "allowed_roles": [],
        }
        if plan.deployment != BDLAB:
            config["username_template"] = _USERNAMES
        if seeds.postgres_ca_pem:
            config["tls_ca"] = seeds.postgres_ca_pem
        writer.write(path, config)
        writer.write(f"{mount}/rotate-root/{name}")
        allow(writer)

    return Step(name="database connection", missing=missing)


def _lacking(manager: DatabaseManager | None) -> tuple[str, ...] | None:
    """Return what the database lacks; None if that is Vault's own user in it.

    This needs `.env`, and an administrator's password that may be outdated there.
    """
    try:
        if manager is None:
            return ()
        return manager.missing() if manager.exists() else None
    except DatabaseError as error:
        _log.warning("cannot look at the database; leaving its set-up as it is", problem=error.message)
        return ()


def role_entries(plan: Plan) -> Step:
    """Return the step that sets up the roles, each of which makes users of one group."""
    own = plan.deployment.own
    return entries("database roles", {own(role): _role(plan, role) for role in (*_GROUPS, SWEEP)})


def _role(plan: Plan, role: str) -> Entry:
    deployment, seeds = plan.deployment, plan.seeds
    path = f"{plan.vault.database_mount}/roles/{deployment.own(role)}"
    wanted: dict[str, Any] = {"db_name": deployment.own(CONNECTION)}
    if role == SWEEP:
        # It makes no user: there is nothing to renew or to revoke.
        wanted |= {
            "creation_statements": [*map(deployment.in_sql, database_users.sweep())],
            "revocation_statements": ["SELECT"],
            "default_ttl": _SWEEP_TTL_S,
            "max_ttl": _SWEEP_TTL_S,
        }
        return Entry(path=path, wanted=wanted)
    group = _GROUPS[role]
    wanted |= {
        "creation_statements": [*map(deployment.in_sql, database_users.creation(group))],
        "renew_statements": list(database_users.RENEWAL),
        "revocation_statements": [*map(deployment.in_sql, database_users.revocation(group))],
    }
    times = {"default_ttl": seeds.lease_ttl_s, "max_ttl": seeds.lease_max_ttl_s} if seeds else {}
    wanted |= {name: seconds for name, seconds in times.items() if seconds is not None}
    # Vault forgets the times that a write leaves out.
    return Entry(path=path, wanted=wanted, defaults={"default_ttl": _TTL_S, "max_ttl": _MAX_TTL_S})


def connection_url(server: PostgresSettings) -> str:
    """Return the URL with Vault's placeholders for user and password, which Vault fills in and escapes."""
    options: dict[str, str] = {"sslmode": server.sslmode}
    if server.host.startswith("/"):
        address, options = "", {"host": server.host, "port": str(server.port), **options}
    else:
        host = f"[{server.host}]" if ":" in server.host else server.host
        address = f"{host}:{server.port}"
    return f"postgresql://{{{{username}}}}:{{{{password}}}}@{address}/{quote(server.dbname)}?{urlencode(options)}"
