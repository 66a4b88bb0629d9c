"""The steps that set up the database engine: the connection that makes users, and their roles.

Vault makes, renews and drops the database's users by SQL. It runs the statements of one call in one transaction, and a
hostile user can make DROP fail, by what it owns (`ALTER DEFAULT PRIVILEGES`), or lock its own row. So its membership in
the group is revoked first, and committed: without it nobody may connect to the database, and no user can lock that row.
Then its sessions are ended, NOLOGIN is committed, sessions that connected meanwhile are ended too, and a DROP that
fails undoes nothing: a user that is left behind is found by its name and dropped later."""

import secrets
from typing import Any
from urllib.parse import quote, urlencode

import structlog

from bdlab.errors import DatabaseError, InvalidInput
from bdlab.services import BDLAB, CONNECTION, DATABASE_ROLES, DLQ, OWNER, READER, SWEEP
from bdlab.settings import PostgresSettings, Secret
from bdlab.vault.bootstrap.plan import Change, DatabaseManager, Entry, Plan, Step, entries
from bdlab.vault.client import VaultClient

#: So that one leaked user cannot take all connections of the server, or fill its disk by sorting.
_CONNECTIONS = 20
_TEMPORARY_FILES = "4GB"

#: For a database that an older version set up: this needs no administrator.
_DLQ_GROUP = f"""DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{DLQ.group}') THEN
    CREATE ROLE {DLQ.group} NOLOGIN IN ROLE {READER.group};
  END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;"""

#: What a user creates belongs to its group (`SET ROLE` at log-in).
_CREATE = (
    f"""CREATE ROLE "{{{{name}}}}" LOGIN PASSWORD '{{{{password}}}}' VALID UNTIL '{{{{expiration}}}}'
CONNECTION LIMIT {_CONNECTIONS} IN ROLE %(group)s""",
    'ALTER ROLE "{{name}}" SET ROLE %(group)s',
)
#: Before PostgreSQL 15 only a superuser may set it.
_LIMIT_FILES = f"""DO $$ BEGIN
  ALTER ROLE "{{{{name}}}}" SET temp_file_limit = '{_TEMPORARY_FILES}';
EXCEPTION WHEN insufficient_privilege THEN NULL;
END $$;"""

RENEWAL = ("""ALTER ROLE "{{name}}" VALID UNTIL '{{expiration}}'""",)

_REVOKE_GROUP = """DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{{name}}') THEN
    REVOKE %(group)s FROM "{{name}}";
  END IF;
END $$;"""
#: A session may have locked the role's own row: end the session, and try again.
_END_SESSIONS = """DO $$ BEGIN
  PERFORM set_config('lock_timeout', '1s', true);
  FOR turn IN 1..20 LOOP
    PERFORM pg_stat_clear_snapshot();
    PERFORM pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{{name}}';
    BEGIN
      ALTER ROLE "{{name}}" NOLOGIN;
      EXIT;
    EXCEPTION
      WHEN undefined_object THEN EXIT;
      WHEN OTHERS THEN IF turn = 20 THEN RAISE; END IF;
    END;
  END LOOP;
END $$;"""
#: What a user with the owner's rights created outside of the group is given to the group, not dropped.
_DROP = """DO $$ DECLARE one record; detail text; reasons text := ''; BEGIN
  PERFORM set_config('lock_timeout', '10s', true);
  FOR one IN SELECT oid, rolname FROM pg_roles WHERE %(which)s LOOP
    PERFORM pg_stat_clear_snapshot();
    PERFORM pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usesysid = one.oid;
    BEGIN
      EXECUTE format('GRANT %%I TO CURRENT_USER', one.rolname);
      IF one.rolname ~ '-bdlab-ow-' THEN
        EXECUTE format('REASSIGN OWNED BY %%I TO bdlab_owner', one.rolname);
      END IF;
      EXECUTE format('DROP OWNED BY %%I', one.rolname);
      EXECUTE format('DROP ROLE %%I', one.rolname);
    EXCEPTION
      WHEN undefined_object THEN NULL;
      WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
        reasons := reasons || format(' %%s: %%s (%%s);', one.rolname, SQLERRM, detail);
    END;
    PERFORM pg_stat_clear_snapshot();
    PERFORM pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usesysid = one.oid;
  END LOOP;
  PERFORM set_config('bdlab.left_behind', reasons, false);
END $$;"""

#: Users, by Vault's naming, that cannot log in any more: a lease in use is renewed long before its end.
_LEFT_BEHIND = """rolname ~ '^v-.+-bdlab-..-[0-9A-Za-z]{20}-[0-9]+$'
    AND (NOT rolcanlogin OR rolvaliduntil < now() - interval '1 minute')"""
#: Sessions that logged in just before their role was dropped.
_ORPHANS = """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity a
WHERE datname = current_database() AND usesysid IS NOT NULL
  AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = a.usesysid)"""
_RAISE_LEFT_BEHIND = """DO $$ BEGIN
  IF current_setting('bdlab.left_behind') <> '' THEN
    RAISE EXCEPTION 'left behind:%', current_setting('bdlab.left_behind');
  END IF;
END $$;"""

#: The way to a second transaction: Vault sends each statement as it is.
_NEXT_TRANSACTION = ("COMMIT", "BEGIN")
_TTL_S = 3600
_MAX_TTL_S = 24 * 3600
_SWEEP_TTL_S = 60
_PASSWORD_BYTES = 32

_log = structlog.get_logger()

_PLUGIN = "postgresql-database-plugin"
_GROUPS = {role.name: role.group for role in DATABASE_ROLES}
#: With the whole name of the role, which Vault's own way cuts short.
_USERNAMES = '{{.RoleName | replace "-" "_"}}_{{random 20}}_{{unix_time}}'


def creation(group: str) -> list[str]:
    """Return the statements that make a user who works as `group`."""
    before = [_DLQ_GROUP] if group in {OWNER.group, DLQ.group} else []
    after = [] if group == OWNER.group else [_LIMIT_FILES]  # an owner's index over a large table sorts on disk
    return [*before, *(statement % {"group": group} for statement in _CREATE), *after]


def revocation(group: str) -> list[str]:
    """Return the statements that end a user of `group`."""
    revoke, drop = _REVOKE_GROUP % {"group": group}, _DROP % {"which": "rolname = '{{name}}'"}
    return [revoke, *_NEXT_TRANSACTION, _END_SESSIONS, *_NEXT_TRANSACTION, drop]


def sweep() -> list[str]:
    """Return statements that drop what can be dropped, and fail with the names and reasons of the rest."""
    return [_DROP % {"which": _LEFT_BEHIND}, _ORPHANS, *_NEXT_TRANSACTION, _RAISE_LEFT_BEHIND]


def connection(plan: Plan) -> Step:
    """Return the step that sets up the connection by which Vault makes users. Its list of roles is written last, when
    only Vault knows the password."""
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
    """Return what the database lacks; None if that is Vault's own user in it. This needs `.env`, and an administrator's
    password that may be outdated there."""
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
            "creation_statements": [*map(deployment.in_sql, sweep())],
            "revocation_statements": ["SELECT"],
            "default_ttl": _SWEEP_TTL_S,
            "max_ttl": _SWEEP_TTL_S,
        }
        return Entry(path=path, wanted=wanted)
    group = _GROUPS[role]
    wanted |= {
        "creation_statements": [*map(deployment.in_sql, creation(group))],
        "renew_statements": list(RENEWAL),
        "revocation_statements": [*map(deployment.in_sql, revocation(group))],
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
