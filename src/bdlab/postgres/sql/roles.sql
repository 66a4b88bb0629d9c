-- name: database_exists
SELECT EXISTS (SELECT FROM pg_database WHERE datname = %(name)s)

-- name: create_database
-- From template0, so that text is UTF-8 and sorts the same with any locale of the server.
CREATE DATABASE {database} ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0

-- name: role
SELECT rolcanlogin, rolsuper, rolcreaterole FROM pg_roles WHERE rolname = %(name)s

-- name: enterable
-- Databases that PUBLIC may enter: all, or those of each server that the administrator may change.
SELECT datname FROM pg_database
WHERE datallowconn AND datname <> %(database)s AND has_database_privilege('public', oid, 'CONNECT')
  AND (NOT %(maintenance)s OR datname IN ('postgres', 'template1') AND pg_has_role(datdba, 'USAGE'))
ORDER BY datname

-- name: close_database
REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC

-- name: may_bound
SELECT has_parameter_privilege(%(role)s, 'temp_file_limit', 'SET')

-- name: grant_bound
GRANT SET ON PARAMETER temp_file_limit TO {role}

-- name: create_group
CREATE ROLE {role} NOLOGIN

-- name: create_manager
CREATE ROLE {role} LOGIN CREATEROLE NOSUPERUSER NOCREATEDB PASSWORD {verifier}

-- name: restore_manager
ALTER ROLE {role} LOGIN CREATEROLE NOSUPERUSER NOCREATEDB

-- name: set_password
ALTER ROLE {role} PASSWORD {verifier}

-- name: grant_admin
GRANT {group} TO {role} WITH ADMIN OPTION

-- name: is_member
SELECT EXISTS (
    SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles r ON r.oid = m.member
    WHERE g.rolname = %(group)s AND r.rolname = %(member)s AND (m.admin_option OR NOT %(admin)s))

-- name: grant_membership
GRANT {group} TO {role}

-- name: privileges
SELECT has_schema_privilege(%(owner)s, 'public', 'CREATE') AND has_schema_privilege(%(writer)s, 'public', 'USAGE')
   AND has_schema_privilege(%(reader)s, 'public', 'USAGE') AND NOT has_schema_privilege(%(reader)s, 'public', 'CREATE')
   AND (SELECT bool_and(has_database_privilege(role, current_database(), 'CONNECT'))
        FROM unnest(ARRAY[%(owner)s, %(writer)s, %(reader)s, %(manager)s]::name[]) role)
   AND has_database_privilege(%(writer)s, current_database(), 'TEMPORARY')
   AND NOT has_database_privilege(%(reader)s, current_database(), 'TEMPORARY')
   AND NOT EXISTS (SELECT FROM unnest('{lo_creat(integer),lo_create(oid),"lo_from_bytea(oid,bytea)"}'::text[]) f
                   WHERE has_function_privilege('public', f, 'EXECUTE'))

-- name: grant_privileges
-- By default everybody may create large objects, a reader too; and a user who owns one outside of the group could
-- not be dropped.
REVOKE ALL ON DATABASE {database} FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC;
GRANT CONNECT ON DATABASE {database} TO {owner}, {writer}, {reader}, {manager};
GRANT TEMPORARY ON DATABASE {database} TO {writer};
GRANT USAGE, CREATE ON SCHEMA public TO {owner};
GRANT USAGE ON SCHEMA public TO {writer}, {reader}
