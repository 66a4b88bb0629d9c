"""The steps that set up the database engine: the connection that makes users, and their roles.

Vault makes, renews and drops the database's users by SQL. It runs the statements of one call in one transaction, and a
hostile user can make DROP fail, by what it owns (`ALTER DEFAULT PRIVILEGES`), or lock its own row. So its membership in
the group is revoked first, and committed: without it nobody may connect to the database, and no user can lock that row.
Then its sessions are ended, NOLOGIN is committed, sessions that connected meanwhile are ended too, and a DROP that
fails undoes nothing: a user that is left behind is found by its name and dropped later."""

import secrets
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import structlog

from bdlab.errors import DatabaseError, InvalidInput
from bdlab.services import BDLAB, CONNECTION, DATABASE_ROLES, OWNER, READERS_TOO, SWEEP
from bdlab.settings import PostgresSettings, Secret
from bdlab.vault.bootstrap.plan import Change, Entry, Plan, Step, entries
from bdlab.vault.client import VaultClient
from bdlab.vault.responses import refusal

_SQL: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
#: The way to a second transaction: Vault sends each statement as it is.
_NEXT_TRANSACTION = ("COMMIT", "BEGIN")
_PLUGIN = "postgresql-database-plugin"
_GROUPS = {role.name: role.group for role in DATABASE_ROLES}
_log = structlog.get_logger()


def creation(group: str) -> list[str]:
    """Return the statements that make a user who works as `group`."""
    before = [_SQL["later_group"] % {"group": one.group} for one in READERS_TOO if group in {OWNER.group, one.group}]
    after = [] if group == OWNER.group else [_SQL["limit_files"]]  # an owner's index over a large table sorts on disk
    return [*before, *(statement % {"group": group} for statement in _SQL["create"]), *after]


def revocation(group: str) -> list[str]:
    """Return the statements that end a user of `group`."""
    revoke, drop = _SQL["revoke_group"] % {"group": group}, _SQL["drop"] % {"which": "rolname = '{{name}}'"}
    return [revoke, *_NEXT_TRANSACTION, _SQL["end_sessions"], *_NEXT_TRANSACTION, drop]


def sweep() -> list[str]:
    """Return statements that drop what can be dropped, and fail with the names and reasons of the rest."""
    drop = _SQL["drop"] % {"which": _SQL["left_behind"]}
    return [drop, _SQL["orphans"], *_NEXT_TRANSACTION, _SQL["raise_left_behind"]]


def connection(plan: Plan) -> Step:
    """Return the step that sets up the connection by which Vault makes users. Its list of roles is written last, when
    only Vault knows the password."""
    name, mount = plan.deployment.own(CONNECTION), plan.vault.database_mount
    path = f"{mount}/config/{name}"
    allowed = [plan.deployment.own(role) for role in (*_GROUPS, SWEEP)]
    seeds, manager = plan.seeds, plan.manager

    def missing(reader: VaultClient) -> dict[str, Change]:
        found = reader.read_if_present(path)
        if not found or not found.get("allowed_roles"):
            return {name: set_up}
        as_wanted = sorted(found["allowed_roles"]) == sorted(allowed)
        changes: dict[str, Change] = {} if as_wanted else {"allowed roles": allow}
        if not manager:
            return changes
        try:  # with `.env`, and an administrator's password that may be outdated there
            if not manager.exists():
                return {name: set_up}
            return changes | dict.fromkeys(manager.missing(), lambda _: manager.prepare(None))
        except DatabaseError as error:
            _log.warning("cannot look at the database; leaving its set-up as it is", problem=error.message)
        return changes

    def allow(writer: VaultClient) -> None:
        writer.write(path, {"plugin_name": _PLUGIN, "allowed_roles": allowed})

    def set_up(writer: VaultClient) -> None:
        if seeds is None or manager is None:
            raise refusal(InvalidInput, "no_administrator")
        # From here to the end the manager's password may differ from Vault's: nothing half-done may stay.
        writer.request("delete", path)
        password = secrets.token_urlsafe(32)
        user = {"username": manager.prepare(Secret(password)), "password": password}
        config = {"plugin_name": _PLUGIN, **user, "password_authentication": "scram-sha-256", "allowed_roles": []}
        config["connection_url"] = connection_url(seeds.administrator.server)
        if plan.deployment != BDLAB:  # with the whole name of the role, which Vault's own way cuts short
            config["username_template"] = '{{.RoleName | replace "-" "_"}}_{{random 20}}_{{unix_time}}'
        if seeds.postgres_ca_pem:
            config["tls_ca"] = seeds.postgres_ca_pem
        writer.write(path, config)
        writer.write(f"{mount}/rotate-root/{name}")
        allow(writer)

    return Step(name="database connection", missing=missing)


def role_entries(plan: Plan) -> Step:
    """Return the step that sets up the roles, each of which makes users of one group."""
    own, in_sql, seeds = plan.deployment.own, plan.deployment.in_sql, plan.seeds
    times = {"default_ttl": seeds.lease_ttl_s, "max_ttl": seeds.lease_max_ttl_s} if seeds else {}
    given = {"renew_statements": [_SQL["renew"]]} | {name: each for name, each in times.items() if each is not None}
    roles: dict[str, dict[str, Any]] = {}
    for role, group in _GROUPS.items():
        make, end = ([*map(in_sql, statements(group))] for statements in (creation, revocation))
        roles[role] = {"creation_statements": make, "revocation_statements": end, **given}
    roles[SWEEP] = {"creation_statements": [*map(in_sql, sweep())], **_SQL["sweep_role"]}
    wanted = {
        own(role): Entry(
            path=f"{plan.vault.database_mount}/roles/{own(role)}",
            wanted={"db_name": own(CONNECTION), **values},
            defaults={} if role == SWEEP else _SQL["default_times"],
        )
        for role, values in roles.items()
    }
    return entries("database roles", wanted)


def connection_url(server: PostgresSettings) -> str:
    """Return the URL with Vault's placeholders for user and password, which Vault fills in and escapes."""
    host = f"[{server.host}]" if ":" in server.host else server.host
    address = f"{host}:{server.port}"
    options: dict[str, str] = {"sslmode": server.sslmode}
    if server.host.startswith("/"):
        address, options = "", {"host": server.host, "port": str(server.port), **options}
    return f"postgresql://{{{{username}}}}:{{{{password}}}}@{address}/{quote(server.dbname)}?{urlencode(options)}"
