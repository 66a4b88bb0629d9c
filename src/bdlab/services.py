"""The services, what each of them may use, and what that is called: one table, `services.toml`.

Made from it: the policies' names, AppRoles and identity folders of Vault, the roles of its database engine,
the group roles in PostgreSQL, and the users and ACLs at a secured broker. Tests hold `vault/policies/*.hcl`
and the table in docs/operations.md against it. All names are those of `bdlab`, also in policies and SQL."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Literal

import msgspec


class DatabaseRole(msgspec.Struct, frozen=True):
    """A role of Vault's database engine; the users that it makes work as `group`, a role in PostgreSQL."""

    name: str
    group: str


OWNER = DatabaseRole("bdlab-owner", "bdlab_owner")
WRITER = DatabaseRole("bdlab-writer", "bdlab_writer")
DLQ = DatabaseRole("bdlab-dlq", "bdlab_dlq")
MODEL = DatabaseRole("bdlab-model", "bdlab_model")
RESCORE = DatabaseRole("bdlab-rescore", "bdlab_rescore")
READER = DatabaseRole("bdlab-reader", "bdlab_reader")
#: The most powerful first.
DATABASE_ROLES = (OWNER, WRITER, DLQ, MODEL, RESCORE, READER)
#: Those that read as READER does, and insert some more.
READERS_TOO = (DLQ, MODEL, RESCORE)
#: The role whose "creation" makes no user, and drops users that ended and could not be dropped then.
SWEEP = "bdlab-sweep"
#: The name of the connection in Vault's database engine.
CONNECTION = "bdlab"
#: The role in PostgreSQL through which Vault makes users.
MANAGER = "bdlab_manager"


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One identity: a policy, an AppRole and an identity folder of its name. `kafka` lists the operations that its
    Kafka users may do on the topic, the consumer group and the cluster; None if it has no Kafka user. `daemon`: it runs
    until it is stopped, and each of its processes reports which credentials it uses. `rotated`: the service `rotate`
    may deliver its secret ids; those of the other services only `vault-init` renews, as whoever delivers a secret id
    could become that service. `api_keys`: whether it reads those of the API, or also makes and revokes them."""

    name: str
    database: DatabaseRole | None = None
    kafka: tuple[str, ...] | None = None
    daemon: bool = False
    rotated: bool = True
    api_keys: Literal["no", "reads", "writes"] = "no"


#: The two identities of `vault-init` itself: to see what is set up, and to begin making a root token.
INSPECT, RECOVERY = "inspect", "recovery"

_ROLES = {role.name: role for role in DATABASE_ROLES}
TABLE = tuple(
    msgspec.convert(values | {"name": name, "database": _ROLES.get(values.get("database", ""))}, Service)
    for name, values in tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8")).items()
)

IDENTITIES = tuple(service.name for service in TABLE)
SERVICES = tuple(name for name in IDENTITIES if name not in {INSPECT, RECOVERY})
KAFKA_SERVICES = tuple(service.name for service in TABLE if service.kafka is not None)
DAEMONS = tuple(service.name for service in TABLE if service.daemon)
KEY_READERS = tuple(service.name for service in TABLE if service.api_keys == "reads")
NOT_ROTATED = tuple(service.name for service in TABLE if not service.rotated)


def find(name: str) -> Service:
    """Return the service `name`. Raises KeyError if there is none."""
    return {service.name: service for service in TABLE}[name]


class Deployment(str):
    """The name of one pipeline among several on the same servers; all that could collide there follows. D puts `D-` in
    the place of `bdlab-`, or in front of a name without that; `D_` in PostgreSQL. D itself has neither `-` nor `_`, so
    no two deployments have a name in common. `bdlab` has the names as they stand."""

    __slots__ = ()

    def __new__(cls, name: str = "bdlab") -> Deployment:
        """Raise ValueError, which says what is allowed, for a name that no deployment may have."""
        if not re.fullmatch("[a-z][a-z0-9]{0,20}", name):
            raise ValueError(f"{name!r} is not a letter a-z and then at most 20 of a-z and 0-9")
        if name == "pg":
            raise ValueError("'pg' is taken: PostgreSQL keeps names of roles that begin with pg_ to itself")
        return super().__new__(cls, name)

    def own(self, name: str, mark: str = "-") -> str:
        """Return what this deployment has in the place of bdlab's `name` at the broker and in Vault."""
        return name if self == "bdlab" else f"{self}{mark}{name.removeprefix(f'bdlab{mark}')}"

    def in_sql(self, text: str) -> str:
        """Return a role's name, or SQL, of bdlab with the names that this deployment has in PostgreSQL."""
        if self != "bdlab":  # whose users have the names that Vault gives, with 8 letters of their role's
            text = text.replace("^v-.+-bdlab-..-[0-9A-Za-z]{20}-", f"^{self}_[a-z]+_[0-9A-Za-z]{{20}}_")
            text = text.replace("-bdlab-ow-", f"^{self}_owner_")
        return re.sub(r"\bbdlab_(?=owner|writer|dlq|model|rescore|reader|manager)", f"{self}_", text)

    @property
    def database(self) -> str:
        return self.own("bdlab", "_")

    def database_role(self, service: str) -> str | None:
        """Return the role of Vault's database engine that `service` has; None if it has none."""
        role = find(service).database
        return self.own(role.name) if role else None


BDLAB = Deployment()
