"""The registry: versions of models in a folder or at an address that fsspec knows, NAME/VERSION/ with the card and the
file that scores.

A version never changes. Whoever may write there, or promote, must not thereby run code where it is loaded: only the
formats of FORMATS are taken, and of skops only the types that skops trusts or `registry.toml` names, whatever the card
says. All that is read is checked: the card by its sha256 in the database, the file by its sha256 in the card."""

import codecs
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

from bdlab.contract import Contract, check_fits, example_of
from bdlab.errors import ContractMismatch, InvalidInput, ModelError, ModelNotFound, ModelTampered, SettingsInvalid
from bdlab.events import EventCodec, Scorer, codec_of
from bdlab.files import replace_file
from bdlab.inputs import remote
from bdlab.model.scorer import (
    SUFFIX,
    Card,
    Sha256,
    Title,
    build,
    check_title,
    contract_of,
    find,
    parse_card,
    read_file,
    read_verified,
    sha256_of,
    write_files,
)
from bdlab.services import BDLAB
from bdlab.settings import Settings

FORMATS = ("terms", "onnx", "skops")  # the roles of files that it takes; of several in a card the first
_TYPES: tuple[str, ...] = tuple(tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))["types"])


class Version(Title, frozen=True, kw_only=True):
    """A version as the database has it; `sha256` is that of its card's bytes."""

    sha256: Sha256


class Packed(NamedTuple):
    """A version to be added: its contract, its card, and the name and content of the file that scores."""

    version: Version
    contract: Contract
    content: bytes
    file: str
    model: bytes


def parse_title(text: str) -> Title:
    """Return the name and version in NAME@VERSION. Raises InvalidInput."""
    name, _, version = text.rpartition("@")
    return check_title(name, version)


def pack(path: str) -> Packed:
    """Read the card that `path` names, and its file, and try the model. Raises ModelError."""
    found = find(path)
    file = _file_of(found.card, str(found.path))
    content = read_file(found.path).removeprefix(codecs.BOM_UTF8)
    model = read_verified(found.path.with_name(file), found.card.files[file].sha256, source=found.source)
    contract = _scorer(found.card, file, model).codec.contract
    version = Version(name=found.card.name, version=found.card.version, sha256=sha256_of(content))
    return Packed(version, contract, content, file, model)


def _file_of(card: Card, source: str) -> str:
    """Return the name of the file that scores. Raises ModelError if the registry takes none."""
    for role in FORMATS:
        for name, file in card.files.items():
            if file.role == role:
                return name
    raise ModelError(
        f"{source} has no file for the registry, which takes {', '.join(FORMATS)}: loading another runs its code",
        hint="Save the model as skops or ONNX; or pin this one where it runs: model.path (--model, BDLAB_MODEL_PATH).",
    )


def _scorer(card: Card, file: str, content: bytes, running: EventCodec | None = None, *, many: bool = False) -> Scorer:
    """Return the scorer of a checked file, after a prediction of the contract's example; see `Registry.load`."""
    contract = contract_of(card, card.title)
    if running and contract.number != running.contract.number:
        raise ContractMismatch(
            f"its contract is number {contract.number}, and number {running.contract.number} is served",
            hint="Restart `serve`: then it takes the contract of what is promoted.",
        )
    if running:
        check_fits(contract, running.contract)
    codec = running or codec_of(contract)
    entry = card.files[file]
    if entry.role == "skops":
        from bdlab.model.pipeline import untrusted_types  # noqa: PLC0415 - imports scikit-learn

        if odd := [kind for kind in untrusted_types(content, source=file) if kind not in _TYPES]:
            raise ModelError(
                f"{file} of {card.title} holds types that the registry does not take: {', '.join(odd)}",
                hint="No card widens that. Pin the model where it runs: model.path (--model, BDLAB_MODEL_PATH).",
            )
        entry = msgspec.structs.replace(entry, trusted=_TYPES)
    scorer = build(msgspec.structs.replace(card, files={file: entry}), codec, file, content, many=many)
    scorer.score(msgspec.convert(example_of(codec.contract), codec.input))
    return scorer


class Registry:
    """The versions at `address`. Construction reads nothing. What is read is kept in the folder `cache`, if there is
    one, and is checked again when it is read from there."""

    def __init__(self, address: str, cache: Path | None = None, deployment: str = BDLAB) -> None:
        """Raise SettingsInvalid if there is no address."""
        if not address:
            hint = "Name a folder, or an address such as s3://bucket/models: --registry or BDLAB_MODEL_REGISTRY."
            raise SettingsInvalid("setting model.registry is empty", hint=hint)
        self.address = address if remote.is_address(address) else str(Path(address).expanduser())
        self._cache, self._deployment = cache, deployment

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return that of the settings, with their cache. Raises SettingsInvalid if there is none."""
        return cls(settings.model.registry, Path(settings.model.cache_dir).expanduser(), settings.deployment)

    def put(self, packed: Packed, *, known: bool = False) -> bool:
        """Write a version, the card last: without it a version is not whole. Returns false if it is there already.

        If it is not `known` to the database, raise InvalidInput if there is another one of its name and version; also
        if it cannot be written."""
        name, place = packed.version.name + SUFFIX, self._place(packed.version)
        contents = {packed.file: packed.model, name: packed.content}
        before = {file: self._read(f"{place}/{file}") for file in contents}
        if before == contents:
            return False
        if not known and before[name] not in (None, packed.content):
            raise other_bytes(packed.version)
        if remote.is_address(place):
            for file, content in contents.items():
                remote.write(f"{place}/{file}", content)
        else:
            write_files(Path(place), contents)
        return True

    def load(self, version: Version, *, running: EventCodec | None = None, many: bool = False) -> Scorer:
        """Return the scorer of a version, which has predicted its contract's example.

        With `running` it has that codec; its contract has to have the same number and fields. `many` is as for
        `load_scorer`. Raises ModelError: ModelNotFound if it cannot be read, ModelTampered if it was changed."""
        check_title(version.name, version.version)
        name = version.name + SUFFIX
        card = parse_card(self._checked(version, name, version.sha256), f"{self._place(version)}/{name}")
        if card.title != version.title:
            raise ModelTampered(f"the card of {version.title} in the registry is that of {card.title}")
        file = _file_of(card, f"the card of {card.title}")
        return _scorer(card, file, self._checked(version, file, card.files[file].sha256), running, many=many)

    def remember(self, version: Version | None) -> None:
        """Note in the cache what was promoted last; None if nothing was. Raises ModelError."""
        self._keep(self._note, msgspec.json.encode({self.address: version}))

    def remembered(self) -> Version | None:
        """Return what was promoted last, as far as this machine knows. Raises ModelNotFound if it knows nothing."""
        with suppress(OSError, msgspec.DecodeError, KeyError):
            return msgspec.json.decode(self._note.read_bytes(), type=dict[str, Version | None])[self.address]
        raise ModelNotFound(f"what was promoted last in {self.address} is not known here, without the database")

    @property
    def _note(self) -> Path:
        return (self._cache or Path()) / f".promoted-{self._deployment}.json"

    def _place(self, title: Title) -> str:
        return f"{self.address.rstrip('/')}/{title.name}/{title.version}"

    def _read(self, place: str) -> bytes | None:
        """Return a file's content; None if it is not there. Raises ModelError."""
        try:
            return remote.read(place) if remote.is_address(place) else Path(place).read_bytes()
        except FileNotFoundError:
            return None
        except (OSError, InvalidInput) as error:
            why = error.message if isinstance(error, InvalidInput) else f"{place} cannot be read: {error.strerror}"
            raise ModelError(f"the registry: {why}", hint="See whether its folder or storage is there.") from error

    def _checked(self, title: Title, file: str, sha256: str) -> bytes:
        kept = self._cache and self._cache / title.name / title.version / file
        with suppress(OSError):
            if kept and sha256_of(content := kept.read_bytes()) == sha256:
                return content
        read = self._read(f"{self._place(title)}/{file}")
        hint = f"Put it back at {self._place(title)}: `bdlab model add` with the card that was added does."
        if read is None:
            raise ModelNotFound(f"{file} of {title.title} is not in the registry {self.address}", hint=hint)
        if (found := sha256_of(read)) != sha256:
            why = f"its sha256 is {found[:12]}..., and {sha256[:12]}... is expected"
            raise ModelTampered(f"{file} of {title.title} was changed in the registry: {why}", hint=hint)
        if kept:
            self._keep(kept, read)
        return read

    def _keep(self, file: Path, content: bytes) -> None:
        """Write a file of the cache, which belongs to this user alone. Raises ModelError."""
        assert self._cache is not None  # noqa: S101 - without one nothing is kept
        try:
            self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._cache.chmod(0o700)
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, content, mode=0o600)
        except OSError as error:
            why = f"the models' cache {self._cache} cannot be written: {error.strerror}"
            hint = "Name a folder of this user alone: model.cache_dir (BDLAB_MODEL_CACHE_DIR)."
            raise ModelError(why, hint=hint) from error


def other_bytes(title: Title) -> InvalidInput:
    """Return the refusal of a version that is there already with other bytes."""
    hint = "A version never changes: give the card another version, such as `bdlab train --model-version`."
    return InvalidInput(f"{title.title} is in the registry already, and is another model", hint=hint)


def path_of(settings: Settings) -> str:
    """Return the path of the model for a command without a database login: `model.path`; with a registry the cached
    card of what was promoted last, as far as a `serve` of this user has noted it; "" is the shipped one."""
    model = settings.model
    with suppress(ModelNotFound):
        if not model.path and model.registry and (found := Registry.of(settings).remembered()):
            return str(Path(model.cache_dir).expanduser() / found.name / found.version / (found.name + SUFFIX))
    return model.path
