"""The registry of models over the real servers: its folder or storage, and its tables."""

import os
import pwd
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from bdlab.contract import check_fits
from bdlab.errors import BdlabError, ModelNotFound
from bdlab.events import Scorer
from bdlab.model.registry import Packed, Registry, Version, other_bytes, parse_title
from bdlab.postgres.models import Models
from bdlab.postgres.reader import Reader
from bdlab.settings import Settings
from bdlab_cli.wiring.session import load_settings, open_session

Ask = Callable[..., list[dict[str, Any]]]


@contextmanager
def open_models(command_line: Mapping[str, Any]) -> Iterator[tuple[Models, Settings]]:
    """Open the tables as the service `model`. Raises BdlabError."""
    layers = load_settings(command_line, quiet=True)
    with open_session(layers, service="model", database=True, kafka=False) as session, Models(session) as models:
        yield models, session.settings()


def version_row(ask: Ask, model: str) -> dict[str, Any]:
    """Return the row of NAME@VERSION by the query `version`. Raises InvalidInput, ModelNotFound."""
    title = parse_title(model)
    for row in ask("version", name=title.name, version=title.version):
        return row
    hint = "`bdlab model list` shows what is there, and `bdlab model add CARD` adds a version."
    raise ModelNotFound(f"{model} is not in the registry", hint=hint)


def _version(ask: Ask, model: str) -> Version:
    row = version_row(ask, model)
    return Version(name=row["name"], version=row["version"], sha256=row["sha256"])


def load_version(settings: Settings, reader: Reader, model: str, *, many: bool = False) -> Scorer:
    """Return the scorer of NAME@VERSION, from the cache or the registry. `many` is as for `load_scorer`.

    Raises InvalidInput, ModelError, DatabaseError."""
    version = _version(lambda query, **values: reader.ask(query, "models", **values), model)
    return Registry.of(settings).load(version, many=many)


def add_version(models: Models, settings: Settings, packed: Packed) -> str:
    """Add a version, first its files and then its row; return what changed, empty if it was there.

    Raises ContractMismatch if the database has another contract, InvalidInput if it has another of this version."""
    check_fits(packed.contract, models.contract())
    version, registry = packed.version, Registry(settings.model.registry)
    place = {"name": version.name, "version": version.version}
    before = models.ask("version", **place)
    if before and before[0]["sha256"] != version.sha256:
        raise other_bytes(version)
    written = registry.put(packed, known=bool(before))
    values = {**place, "card": packed.content.decode(), "sha256": version.sha256, "by": who()}
    added = before or models.ask("add", **values)
    if not added and _version(models.ask, version.title).sha256 != version.sha256:
        raise other_bytes(version)  # somebody was quicker
    return "" if before and not written else "files written again" if before else f"added to {registry.address}"


def trial(models: Models, settings: Settings, model: str) -> tuple[Version, Scorer]:
    """Return NAME@VERSION as it was read from the registry just now: checked, fit for the database, and tried.

    Raises InvalidInput, ModelError, ContractMismatch, DatabaseError."""
    version = _version(models.ask, model)
    scorer = Registry(settings.model.registry).load(version)
    check_fits(scorer.codec.contract, models.contract())
    return version, scorer


def promote_version(models: Models, version: Version, why: str) -> str:
    """Promote a version that was tried; return what changed, empty if it is promoted."""
    if [Version(**row) for row in models.ask("promoted")] == [version]:
        return ""
    models.ask("promote", name=version.name, version=version.version, why=why, by=who())
    return "promoted"


def former(promotions: Sequence[str]) -> str:
    """Return what served before the last of the promotions, the oldest first; one that went back counts as such.

    Raises BdlabError if nothing did."""
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
