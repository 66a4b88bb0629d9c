"""The model card: what a model is, what it was made from, how good it is, and the sha256 of its files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bdlab.errors import ModelError, ModelNotFound, ModelTampered

SUFFIX = ".card.json"

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class File(msgspec.Struct, frozen=True, kw_only=True):
    """`role` is `terms` (the run-time scorer's data) or `pipeline` (scikit-learn's, written by joblib)."""

    role: str
    sha256: Sha256
    bytes: int


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """What the model was trained on. `sha256` is of the CSV file as it was read."""

    file: str
    sha256: Sha256
    rows: int
    products: int
    stars: dict[str, int]


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """Errors are in stars; the sentiment figures leave 3-star reviews out.

    None is a figure that these reviews do not have: there is no AUC where all are positive.
    """

    reviews: int
    star_mse: float
    star_mae: float
    sentiment_auc: float | None
    sentiment_accuracy: float | None
    negative_f1: float
    negative_precision: float
    negative_recall: float


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """`metrics` are over all reviews, each predicted by the fold that had not seen its product.

    `constant` predicts every review with the mean rating and the commoner sentiment of its training folds.
    """

    method: str
    folds: int
    metrics: Metrics
    constant: Metrics
    per_fold: tuple[Metrics, ...]


class Title(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is called; its files' names begin with `name`."""

    name: Annotated[str, Meta(pattern=r"^\w[\w.-]{0,99}\Z")]
    version: Annotated[str, Meta(pattern=r"^\w[\w.+-]{0,49}\Z")]


class Card(Title, frozen=True, kw_only=True, omit_defaults=True):
    """Of a card that describes a pipeline from elsewhere, `name`, `version` and `files` are enough."""

    files: Annotated[dict[str, File], Meta(min_length=1)]
    created_at: str = ""
    data: Data | None = None
    validation: Validation | None = None
    training: dict[str, Any] = {}
    unused_columns: dict[str, str] = {}
    libraries: dict[str, str] = {}

    @property
    def title(self) -> str:
        """Name and version, as they stand in every event: `reviews@1.1.0`."""
        return f"{self.name}@{self.version}"


def read_card(path: Path) -> Card:
    """Raises ModelNotFound for a missing file, ModelError for one that is no card."""
    try:
        card = msgspec.json.decode(read_file(path), type=Card)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path} is no model card: {error}",
            hint="`bdlab train` writes a card beside the model; docs/model.md shows one to write.",
        ) from error
    for name in card.files:
        if name in {"", ".", ".."} or Path(name).name != name or "\\" in name:
            raise ModelError(f"the model card {path} names the file {name!r}, which is not beside it")
    return card


def encode_card(card: Card) -> bytes:
    return msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n"


def read_file(path: Path) -> bytes:
    """Raises ModelNotFound with the reason."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelNotFound(
            f"the model file {path} cannot be read: {error.strerror}",
            hint="Name a model card, its folder or a joblib file with BDLAB_MODEL_PATH, "
            "or leave it out for the model that ships with bdlab.",
        ) from error


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_verified(path: Path, sha256: str, *, source: str) -> bytes:
    """The content of `path`, which has to have this `sha256`; `source` says where that is written.

    The very bytes that were checked are returned, so that nobody can change the file in between.
    Raises ModelTampered, ModelNotFound.
    """
    content = read_file(path)
    found = sha256_of(content)
    if found != sha256:
        raise ModelTampered(
            f"the model file {path} is not the one in {source}: its sha256 is {found[:12]}..., "
            f"and {sha256[:12]}... is expected",
            hint="Put the original file back, or train again with `bdlab train`.",
        )
    return content
