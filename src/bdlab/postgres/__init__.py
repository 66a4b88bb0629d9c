"""PostgreSQL: roles, migrations, the sink's store and the readers. The only importer of psycopg2."""
