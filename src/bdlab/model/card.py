"""The model card: a model's name, training data, quality, and the sha256 of its files."""

import codecs
import difflib
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bdlab.contract import Contract, parse_contract, review_contract
from bdlab.errors import ContractInvalid, InvalidInput, ModelError, ModelNotFound, ModelTampered

SUFFIX = ".card.json"

_MOST_NAME = 255
"""The most bytes that a file system takes as the name of a file."""

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class File(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """`role` is `terms` (the run-time scorer's data), `pipeline` (scikit-learn's, written by joblib), `skops`
    or `onnx`. `trusted` are the types that a skops file may hold beside those that skops itself trusts;
    `classes` is the order of an ONNX model's probabilities, if these have no names.
    """

    role: str
    sha256: Sha256
    bytes: int
    trusted: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


class Title(msgspec.Struct, frozen=True, kw_only=True):
    """The name and version of a model; the names of its files begin with `name`."""

    name: Annotated[str, Meta(pattern=r"^\w[\w.-]{0,99}\Z")]
    version: Annotated[str, Meta(pattern=r"^\w[\w.+-]{0,49}\Z")]


class Card(Title, frozen=True, kw_only=True, omit_defaults=True):
    """A model card. `contract` is the model's, as docs/contract.md has it; without one it is of reviews.

    `data` and `validation` are what `bdlab train` says of its data and its cross-validation.
    """

    files: Annotated[dict[str, File], Meta(min_length=1)]
    contract: dict[str, Any] | None = None
    created_at: str = ""
    data: dict[str, Any] | None = None
    validation: dict[str, Any] | None = None
    training: dict[str, Any] = {}
    unused_columns: dict[str, str] = {}
    libraries: dict[str, str] = {}

    @property
    def title(self) -> str:
        """The name and version that every event has: `reviews@1.1.0`."""
        return f"{self.name}@{self.version}"


def read_card(path: Path) -> Card:
    """Return the card. Raises ModelNotFound if the file is missing, ModelError if it is not a card."""
    content = read_file(path).removeprefix(codecs.BOM_UTF8)
    try:
        card = msgspec.json.decode(content, type=Card)
        _check_names(json.loads(content, object_pairs_hook=_object))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{path} is not a model card: {error}",
            hint="`bdlab model init` writes a card beside a model; docs/model.md shows one.",
        ) from error
    for name in card.files:
        plain = name.isprintable() and "\\" not in name and len(name.encode()) <= _MOST_NAME
        if not plain or name in {"", ".", ".."} or Path(name).name != name:
            raise ModelError(f"the model card {path} names the file {name!r}, which is not beside it")
    return card


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {max(names, key=names.count)!r} stands twice in an object")
    return found


def _check_names(card: dict[str, Any]) -> None:
    """Raise ValueError if a name is nearly one of a card's, which would be ignored like any other."""
    known = Card.__struct_fields__
    for name in card.keys() - {*known}:
        if near := difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.8):
            raise ValueError(f"it has the name {name[:100]!r}; is {near[0]!r} meant?")


def contract_of(card: Card, path: Path) -> Contract:
    """Return the contract of the card at `path`. Raises ContractInvalid, which names the field."""
    if card.contract is None:
        return review_contract()
    try:
        return parse_contract(card.contract)
    except ContractInvalid as error:
        raise ContractInvalid(f"the model card {path}: {error.message}", hint=error.hint) from error


def check_title(name: str, version: str) -> None:
    """Raise InvalidInput if a model cannot have this name or version."""
    try:
        msgspec.convert({"name": name, "version": version}, Title)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"the name {name!r} or the version {version!r} of a model is not valid",
            hint="Each has letters, digits, '_', '.' and '-', and does not begin with the last two.",
        ) from error


@contextmanager
def writing_to(folder: Path, what: str = "written to") -> Iterator[None]:
    """Raise InvalidInput if the system refuses it: a folder that cannot be `what`."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"the folder {folder} cannot be {what}: {(error.strerror or str(error)).lower()}",
            hint="Name a folder, new or existing, with --output.",
        ) from error


def encode_card(card: Card) -> bytes:
    return msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n"


def read_file(path: Path) -> bytes:
    """Return the content of a model file. Raises ModelNotFound with the reason."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelNotFound(
            f"the model file {path} cannot be read: {error.strerror}",
            hint="Name a model card, its folder or a joblib file (--model, BDLAB_MODEL_PATH), "
            "or `shipped` for the model that ships with bdlab.",
        ) from error


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_verified(path: Path, sha256: str, *, source: str) -> bytes:
    """Return the content of `path` if it has this `sha256`, which `source` has.

    These are the bytes that were checked, so that nobody can change the file in between.
    Raises ModelTampered, ModelNotFound.
    """
    content = read_file(path)
    found = sha256_of(content)
    if found != sha256:
        raise ModelTampered(
            f"the model file {path} is not the one in {source}: its sha256 is {found[:12]}..., "
            f"and {sha256[:12]}... is expected",
            hint="Put the original file back. If this one is meant, write its sha256 there, "
            "as `bdlab model init --contract CARD` does.",
        )
    return content
