"""The SQL by which Vault makes, renews and drops the database's users.

Vault runs the statements of one call in one transaction, and a hostile user can make DROP fail, by what it
owns (`ALTER DEFAULT PRIVILEGES`), or lock its own row. So its membership in the group is revoked first, and
committed: without it nobody may connect to the database, and no user can lock that row. Then its sessions are
ended, NOLOGIN is committed, sessions that connected meanwhile are ended too, and a DROP that fails undoes
nothing: a user that is left behind is found by its name and dropped later.
"""

from bdlab.services import DLQ, OWNER, READER

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
