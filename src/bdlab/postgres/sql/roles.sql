-- name: database_exists
SELECT EXISTS (SELECT FROM pg_database WHERE datname = %(name)s)

-- name: create_database
-- template0, so that text is UTF-8 and sorts the same whatever the server's locale is.
CREATE DATABASE {database} ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0

-- name: role
SELECT rolcanlogin, rolsuper, rolcreaterole FROM pg_roles WHERE rolname = %(name)s

-- name: create_group
CREATE ROLE {role} NOLOGIN

-- name: create_manager
CREATE ROLE {role} LOGIN CREATEROLE NOSUPERUSER NOCREATEDB PASSWORD {verifier}

-- name: restore_manager
ALTER ROLE {role} LOGIN CREATEROLE NOSUPERUSER NOCREATEDB

-- name: set_password
ALTER ROLE {role} PASSWORD {verifier}

-- name: has_admin
SELECT EXISTS (
    SELECT FROM pg_auth_members m
    WHERE m.roleid = %(group)s::regrole AND m.member = %(member)s::regrole AND m.admin_option
)

-- name: grant_admin
GRANT {group} TO {role} WITH ADMIN OPTION

-- name: is_member
SELECT EXISTS (
    SELECT FROM pg_auth_members m WHERE m.roleid = %(group)s::regrole AND m.member = %(member)s::regrole
)

-- name: grant_membership
GRANT {group} TO {role}

-- name: privileges
SELECT has_schema_privilege(%(owner)s, 'public', 'CREATE')
   AND has_schema_privilege(%(writer)s, 'public', 'USAGE')
   AND has_schema_privilege(%(reader)s, 'public', 'USAGE')
   AND NOT has_schema_privilege(%(reader)s, 'public', 'CREATE')
   AND has_database_privilege(%(owner)s, current_database(), 'CONNECT')
   AND has_database_privilege(%(writer)s, current_database(), 'CONNECT')
   AND has_database_privilege(%(reader)s, current_database(), 'CONNECT')
   AND has_database_privilege(%(manager)s, current_database(), 'CONNECT')
   AND has_database_privilege(%(writer)s, current_database(), 'TEMPORARY')
   AND NOT has_database_privilege(%(reader)s, current_database(), 'TEMPORARY')
   AND NOT has_function_privilege('public', 'lo_creat(integer)', 'EXECUTE')
   AND NOT has_function_privilege('public', 'lo_create(oid)', 'EXECUTE')
   AND NOT has_function_privilege('public', 'lo_from_bytea(oid, bytea)', 'EXECUTE')

-- name: grant_privileges
-- Anybody may make large objects by default, a reader too; and one made outside the group would keep its maker
-- from being dropped.
REVOKE ALL ON DATABASE {database} FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC;
GRANT CONNECT ON DATABASE {database} TO {owner}, {writer}, {reader}, {manager};
GRANT TEMPORARY ON DATABASE {database} TO {writer};
GRANT USAGE, CREATE ON SCHEMA public TO {owner};
GRANT USAGE ON SCHEMA public TO {writer}, {reader}
