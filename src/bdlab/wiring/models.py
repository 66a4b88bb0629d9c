"""The registry of models over the real servers: its folder or storage, and its tables."""

import os
import pwd
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from bdlab.contract import Contract, check_fits
from bdlab.errors import BdlabError, ModelNotFound
from bdlab.events import Scorer
from bdlab.model.registry import Packed, Registry, Version, other_bytes, parse_title
from bdlab.postgres.contracts import read_contract
from bdlab.postgres.reader import Reader
from bdlab.postgres.session import Session
from bdlab.settings import Settings

Ask = Callable[..., list[dict[str, Any]]]


def version_row(ask: Ask, model: str) -> dict[str, Any]:
    """Return the row of NAME@VERSION by the query `version`. Raises InvalidInput, ModelNotFound."""
    title = parse_title(model)
    for row in ask("version", "models", name=title.name, version=title.version):
        return row
    hint = "`bdlab model list` shows what is there, and `bdlab model add CARD` adds a version."
    raise ModelNotFound(f"{model} is not in the registry", hint=hint)


def _version(ask: Ask, model: str) -> Version:
    return msgspec.convert(version_row(ask, model), Version)


def load_version(settings: Settings, reader: Reader, model: str) -> Scorer:
    """Return the scorer of NAME@VERSION for many rows, from the cache or the registry. Raises InvalidInput, ModelError,
    DatabaseError."""
    return Registry.of(settings).load(_version(reader.ask, model), many=True)


def add_version(tables: Session, settings: Settings, packed: Packed) -> str:
    """Add a version, first its files and then its row; return what changed, empty if it was there. Raises
    ContractMismatch if the database has another contract, InvalidInput if it has another of this version."""
    version, registry = packed.version, Registry(settings.model.registry)
    place = {"name": version.name, "version": version.version}
    _check_fits(packed.contract, tables)

    def is_there() -> bool:
        rows = tables.ask("version", "models", **place)
        if any(row["sha256"] != version.sha256 for row in rows):
            raise other_bytes(version)
        return bool(rows)

    before = is_there()
    written = registry.put(packed, known=before)
    if before:
        return "files written again" if written else ""
    tables.ask("add", "models", **place, card=packed.content.decode(), sha256=version.sha256, by=who())
    is_there()  # somebody may have been quicker, with other bytes
    return f"added to {registry.address}"


def promote_version(tables: Session, settings: Settings, model: str, why: str, by: str = "") -> str:
    """Promote NAME@VERSION, as it is read from the registry now: checked, fit for the database, and tried; `by` is this
    process unless it is given. Return what changed, empty if it is promoted. Raises InvalidInput, ModelError,
    ContractMismatch, DatabaseError."""
    version = _version(tables.ask, model)
    _check_fits(Registry(settings.model.registry).load(version).codec.contract, tables)
    if [Version(**row) for row in tables.ask("promoted", "models")] == [version]:
        return ""
    tables.ask("promote", "models", name=version.name, version=version.version, why=why, by=by or who())
    return "promoted"


def _check_fits(contract: Contract, tables: Session) -> None:
    with tables.transaction() as cursor:
        check_fits(contract, read_contract(cursor))


def former(promotions: Sequence[str]) -> str:
    """Return what served before the last of the promotions, the oldest first; one that went back counts as such. Raises
    BdlabError if nothing did."""
    served: list[str] = []
    for model in promotions:
        if served[-2:-1] == [model]:
            served.pop()
        elif served[-1:] != [model]:
            served.append(model)
    if len(served) < 2:
        hint = "Name a version: `bdlab model promote NAME@VERSION`; `bdlab model list` shows them."
        raise BdlabError("no other version was promoted before", hint=hint)
    return served[-2]


def who() -> str:
    """Return the user of this process and its host, for what a table says."""
    name = str(os.getuid())
    with suppress(KeyError):  # a container's user may have no name
        name = pwd.getpwuid(os.getuid()).pw_name
    return f"{name}@{socket.gethostname()}"
