"""The database of a new local stack from a backup: what `bdlab restore` does with it."""

from datetime import timedelta

import msgspec

from bdlab.credentials import DatabaseLogin, KafkaLogin
from bdlab.postgres import dumps
from bdlab.postgres.roles import Administrator
from bdlab.settings import KafkaSettings, VaultSettings
from bdlab.stack import DataFolder, Postgres
from bdlab.stack.backup import Backup
from bdlab.stack.servers import binaries
from bdlab.vault.bootstrap import Plan, bootstrap
from bdlab.vault.bootstrap.admin_access import temporary_token
from bdlab.vault.bootstrap.plan import Seeds
from bdlab_cli.wiring.session import load_settings, open_session


def restore_database(backup: Backup, folder: DataFolder, vault: VaultSettings, postgres: Postgres) -> None:
    """Complete Vault and its users in this new server as at a first set-up, then restore the dump."""
    admin = DatabaseLogin(server=postgres.lasting_server, user=postgres.admin_user, password=postgres.admin_password)
    # Kafka's is in Vault already, and `bdlab up` writes the new broker's address.
    kafka = KafkaLogin(server=KafkaSettings())
    seeds = Seeds(administrator=admin, postgres_authority=bool(admin.server.ca_file), kafka=kafka)
    deployment, keys = folder.deployment, folder.keys_file
    manager = Administrator(admin, deployment)
    plan = Plan(vault=vault, deployment=deployment, keys_file=keys, seeds=seeds, manager=manager)
    bootstrap(plan, lambda _step: None)
    with temporary_token(plan, ttl=timedelta(minutes=5)) as client:
        # Tell the services where the database is now: `vault-init` never overwrites what they read.
        values, version = client.read_kv("database/credentials")
        server = {"host": admin.server.host, "port": str(admin.server.port), "sslmode": admin.server.sslmode}
        if values | server != values:
            client.write_kv("database/credentials", values | server, cas=version)
        # Users of the old server: they do not exist here.
        client.write(f"sys/leases/revoke-prefix/{vault.database_mount}/creds")
    here = {"address": vault.address, "ca_file": vault.ca_file, "identity_dir": vault.identity_dir}
    layers = load_settings({"deployment": deployment, "vault": {**here, "namespace": ""}}, quiet=True)
    with open_session(layers, service="migrate", database=True, kafka=False, renewed=True) as session:
        # The new server shows a certificate of its own for now, by another authority than Vault names.
        owner = msgspec.structs.replace(session.database(), server=admin.server)
        dumps.restore(owner, backup.dump, programs=binaries.postgres() / "bin")
