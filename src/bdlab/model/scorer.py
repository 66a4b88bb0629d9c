"""The model card (name, training data, quality, and the sha256 of the files), and the scorer of a model file."""

import codecs
import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from bdlab.contract import Contract, example_of, parse_contract, review_contract
from bdlab.errors import ContractInvalid, InvalidInput, ModelError, ModelNotFound, ModelTampered
from bdlab.events import EventCodec, Scorer, codec_of
from bdlab.files import Replacement
from bdlab.model import terms
from bdlab.model.compiled import CompiledScorer, no_review
from bdlab.plain_json import object_of
from bdlab.profile import Profile
from bdlab.resources import models_dir
from bdlab.settings import SHIPPED_MODEL

SUFFIX = ".card.json"
SHIPPED = "reviews" + SUFFIX
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_ROLES = ("terms", "onnx", "skops", "pipeline")
"""Of several files the first of these is taken: the last runs code."""


class File(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """`role` is `terms` (the run-time scorer's data), `pipeline` (scikit-learn's, written by joblib), `skops`
    or `onnx`. `trusted` are the types that a skops file may hold beside those that skops itself trusts;
    `classes` is the order of an ONNX model's probabilities, if these have no names."""

    role: str
    sha256: Sha256
    bytes: int
    trusted: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


class Title(msgspec.Struct, frozen=True, kw_only=True):
    """The name and version of a model; the names of its files begin with `name`."""

    name: Annotated[str, Meta(pattern=r"^\w[\w.-]{0,99}\Z")]
    version: Annotated[str, Meta(pattern=r"^\w[\w.+-]{0,49}\Z")]

    @property
    def title(self) -> str:
        """The name and version that every event has: `reviews@1.1.0`."""
        return f"{self.name}@{self.version}"


class Card(Title, frozen=True, kw_only=True, omit_defaults=True):
    """A model card. `contract` is the model's, as docs/contract.md has it; without one it is of reviews. `data` and
    `validation` are what `bdlab train` says of its data and its cross-validation. `profile` is how the fields were
    distributed, for `bdlab quality`."""

    files: Annotated[dict[str, File], Meta(min_length=1)]
    contract: dict[str, Any] | None = None
    created_at: str = ""
    data: dict[str, Any] | None = None
    validation: dict[str, Any] | None = None
    profile: Profile | None = None
    training: dict[str, Any] = {}
    unused_columns: dict[str, str] = {}
    libraries: dict[str, str] = {}


def read_card(path: Path) -> Card:
    """Return the card. Raises ModelNotFound if the file is missing, ModelError if it is not a card."""
    return parse_card(read_file(path), path)


def parse_card(content: bytes, path: Path | str) -> Card:
    """Return the card in the content of `path`. Raises ModelError."""
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        card = msgspec.json.decode(content, type=Card)
        _check_names(json.loads(content, object_pairs_hook=object_of))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        hint = "`bdlab model init` writes a card beside a model; docs/model.md shows one."
        raise ModelError(f"{path} is not a model card: {error}", hint=hint) from error
    for name in card.files:
        plain = name.isprintable() and "\\" not in name and len(name.encode()) <= 255  # as file systems take
        if not plain or name in {"", ".", ".."} or Path(name).name != name:
            raise ModelError(f"the model card {path} names the file {name!r}, which is not beside it")
    return card


def _check_names(card: dict[str, Any]) -> None:
    """Raise ValueError if a name is nearly one of a card's, which would be ignored like any other."""
    for name in card.keys() - {*(known := Card.__struct_fields__)}:
        if near := difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.8):
            raise ValueError(f"it has the name {name[:100]!r}; is {near[0]!r} meant?")


def contract_of(card: Card, path: Path | str) -> Contract:
    """Return the contract of the card at `path`. Raises ContractInvalid, which names the field."""
    if card.contract is None:
        return review_contract()
    try:
        return parse_contract(card.contract)
    except ContractInvalid as error:
        raise ContractInvalid(f"the model card {path}: {error.message}", hint=error.hint) from error


def check_title(name: str, version: str) -> Title:
    """Return the title. Raises InvalidInput if a model cannot have this name or version."""
    try:
        return msgspec.convert({"name": name, "version": version}, Title)
    except msgspec.ValidationError as error:
        hint = "Each has letters, digits, '_', '.' and '-', and does not begin with the last two."
        why = f"the name {name!r} or the version {version!r} of a model is not valid"
        raise InvalidInput(why, hint=hint) from error


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Make the folder, unless it is there, and replace files once all are on the disk, the card last, since it names
    the others. Raises InvalidInput."""
    try:
        with ExitStack() as stack:
            folder.mkdir(parents=True, exist_ok=True)
            files = [stack.enter_context(Replacement(folder / name)) for name in contents]
            for file, content in zip(files, contents.values(), strict=True):
                file.file.write(content)
                file.file.flush()
            for file in files:
                file.commit()
    except OSError as error:
        why = f"the folder {folder} cannot be written to: {(error.strerror or str(error)).lower()}"
        raise InvalidInput(why, hint="Name a folder, new or existing, that you may write.") from error


def file_of(role: str, content: bytes) -> File:
    """Return the entry of a file in a card."""
    return File(role=role, sha256=sha256_of(content), bytes=len(content))


def encode_card(card: Card) -> bytes:
    return msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n"


def read_file(path: Path) -> bytes:
    """Return the content of a model file. Raises ModelNotFound with the reason."""
    try:
        return path.read_bytes()
    except OSError as error:
        hint = "Name a model card, its folder or a joblib file (--model, BDLAB_MODEL_PATH), "
        hint += "or `shipped` for the model that ships with bdlab."
        raise ModelNotFound(f"the model file {path} cannot be read: {error.strerror}", hint=hint) from error


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_verified(path: Path, sha256: str, *, source: str) -> bytes:
    """Return the content of `path` if it has this `sha256`, which `source` has. These are the bytes that were checked,
    so that nobody can change the file in between. Raises ModelTampered, ModelNotFound."""
    content = read_file(path)
    if (found := sha256_of(content)) != sha256:
        why = f"its sha256 is {found[:12]}..., and {sha256[:12]}... is expected"
        hint = "Put the original file back. If this one is meant, write its sha256 there, as "
        hint += "`bdlab model init --contract CARD` does."
        raise ModelTampered(f"the model file {path} is not the one in {source}: {why}", hint=hint)
    return content


def load_scorer(path: str = "", *, many: bool = False) -> Scorer:
    """Return the scorer of `path`: a model card, its folder, or a joblib file; empty or `shipped` is bdlab's. With
    `many`, a term table's is the one that takes least time a review for thousands of reviews in a call. Every file is
    first checked against its sha256. A joblib file is unpickled, which runs code: it needs a card or a ``.sha256``
    beside it, or its hash in the path (``model.joblib#sha256=<64 hex digits>``). Raises ModelNotFound, ModelTampered,
    ContractInvalid, or ModelError if the file does not hold a model."""
    found = find(path)
    codec = codec_of(found.contract)
    contents = found.read()
    for role in _ROLES:
        for name, content in contents.items():
            if found.card.files[name].role == role:
                return build(found.card, codec, name, content, many=many)
    files = found.card.files.items()
    states = (f"{name} {f'has the role {file.role!r}' if name in contents else 'is not there'}" for name, file in files)
    hint = f"Put the file beside its card; its role has to be one of {', '.join(_ROLES)}."
    raise ModelNotFound(f"the model card {found.path} names no file that can be loaded: {', '.join(states)}", hint=hint)


def load_contract(path: str = "") -> Contract:
    """Return the contract of what `path` names, as for `load_scorer`, without reading the model itself. Raises
    ModelNotFound, ContractInvalid, or ModelError."""
    return find(path).contract


class _Found(NamedTuple):
    """The card at `path`, and which of its files is meant, empty for any; `source` has their hashes."""

    path: Path
    card: Card
    only: str
    source: str

    @property
    def contract(self) -> Contract:
        return contract_of(self.card, self.path)

    def read(self) -> dict[str, bytes]:
        """Return the checked contents of the files that are there; a term table has to be."""
        paths = {name: self.path.with_name(name) for name in self.card.files}
        return {
            name: read_verified(paths[name], file.sha256, source=self.source)
            for name, file in self.card.files.items()
            if name == self.only or (not self.only and (file.role == "terms" or paths[name].is_file()))
        }


def find(path: str) -> _Found:
    """Return the card that `path` names, as for `load_scorer`. Raises ModelError."""
    if path in ("", SHIPPED_MODEL):
        return _card(models_dir() / SHIPPED)
    if pinned := re.match(r"(.+)#sha256=([0-9a-fA-F]{64})$", path):
        return _file(Path(pinned[1]).expanduser(), pinned[2].lower(), "the path's #sha256=")
    file = Path(path).expanduser()
    if file.is_dir():
        cards = sorted(file.glob("*" + SUFFIX))
        if len(cards) != 1:
            hint = "Name the card itself, or a folder with exactly one."
            raise ModelNotFound(f"the folder {file} holds {len(cards) or 'no'} model cards (*{SUFFIX})", hint=hint)
        file = cards[0]
    if file.suffix == ".json":
        return _card(file)
    beside = file.with_name(file.stem + SUFFIX)
    if file.is_file() and beside.is_file():
        return _card(beside, file.name)
    if file.is_file() and file.suffix in (".skops", ".onnx"):
        hint = f"`bdlab model init {file} --sample rows.csv` writes one."
        raise ModelError(f"the model file {file} has no card beside it, which says what it takes and gives", hint=hint)
    return _file(file, _sha256_beside(file), f"{file.name}.sha256")


def _card(path: Path, only: str = "") -> _Found:
    card = read_card(path)
    if only and only not in card.files:
        hint = "Add the file with its sha256 to the card: docs/model.md shows how."
        raise ModelError(f"the model card {path} does not name the file {only}", hint=hint)
    return _Found(path, card, only, f"the model card {path.name}")


def _file(path: Path, sha256: str, source: str) -> _Found:
    """Return a joblib file of a review model as the card that it has not; its version is of its hash."""
    files = {path.name: File(role="pipeline", sha256=sha256, bytes=0)}
    return _Found(path, Card(name=file_title(path), version=sha256[:12], files=files), path.name, source)


def build(card: Card, codec: EventCodec, name: str, content: bytes, *, many: bool) -> Scorer:
    """Return the scorer of the checked content of the card's file `name`. Raises ModelError."""
    file = card.files[name]
    if file.role != "terms":
        return library_scorer(content, file, codec, source=name, name=card.title, libraries=card.libraries)
    if why := no_review(codec.contract):
        hint = "Leave the contract out of the card, or name another file in it."
        raise ModelError(f"{name} scores reviews, and the contract of the model card is another's: {why}", hint=hint)
    table = terms.decode(content, source=name)
    if many:
        from bdlab.model.columnar import ColumnarScorer  # noqa: PLC0415 - imports numpy

        return ColumnarScorer(table, codec, name=card.title, sha256=file.sha256)
    return CompiledScorer(table, codec, name=card.title, sha256=file.sha256)


def library_scorer(
    content: bytes, file: File, codec: EventCodec, *, source: str, name: str, libraries: Mapping[str, str] | None = None
) -> Scorer:
    """Return the scorer of the checked content of a file that is no term table, after a trial. Raises ModelError if the
    file does not hold a model, or one that does not fit the contract."""
    scorer: Scorer
    if file.role == "onnx":
        from bdlab.model.onnx import onnx_scorer  # noqa: PLC0415 - imports numpy

        scorer = onnx_scorer(content, file, codec, source=source, name=name)
    else:
        from bdlab.model import pipeline  # noqa: PLC0415 - imports scikit-learn

        found = pipeline.load(content, file, source=source, libraries=libraries)
        scorer = pipeline.pipeline_scorer(found, codec, source=source, name=name, sha256=file.sha256)
    scorer.score(msgspec.convert(example_of(codec.contract), codec.input))
    return scorer


def file_title(path: Path) -> str:
    """Return the name of a model that has no other than its file's."""
    return re.sub(r"[^\w.-]", "_", path.stem)[:100]


def _sha256_beside(file: Path) -> str:
    """Return the hash in `file`.sha256, as sha256sum writes it. Raises ModelNotFound, ModelError."""
    if not file.is_file():
        read_file(file)
    beside = file.with_name(file.name + ".sha256")
    if not beside.is_file():
        why = f"the model file {file} has no sha256 to check it against, and loading a joblib file runs code"
        raise ModelError(why, hint=f"If you trust the file: sha256sum {file} > {beside}")
    if not (found := re.match(r"[0-9a-f]{64}\b", read_file(beside).decode("ascii", "replace").lower())):
        raise ModelError(f"{beside} does not start with a sha256 of 64 hex digits")
    return found[0]
