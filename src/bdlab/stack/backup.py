"""A backup of a local stack: a folder, written whole or not at all.

    backup.json       when, of which folder, by which version; no secret
    vault.snapshot    all that Vault holds, encrypted by its seal
    database.dump     all tables, readable
    registry/         the versions of models
    keys/             the seal key, the recovery key, the services' identities: they open the snapshot;
                      and the key that authenticates the backup
    manifest.json     the SHA-256 of each file, and an HMAC-SHA256 of all of them by that key

A restore uses only files that are as in the manifest: somebody who can write to the backup, but has not its keys, can
neither change nor add what a restore would run.

The broker's log is in no backup: the database has what was acknowledged and stored."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec

from bdlab.errors import InvalidInput, StackError
from bdlab.files import replace_file
from bdlab.services import BDLAB
from bdlab.stack.folder import DataFolder
from bdlab.stack.servers.openbao import OpenBao

_FORMAT = 1
_write = partial(replace_file, mode=0o600)


class About(msgspec.Struct, frozen=True, kw_only=True):
    """`made_at` is when the backup began; `data_dir` the folder that was backed up; `tls` whether its servers speak
    TLS; `deployment` whose names they have."""

    made_at: datetime
    data_dir: str
    bdlab: str
    tls: bool = False
    deployment: str = str(BDLAB)
    format: int = _FORMAT


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    files: dict[str, str]
    hmac: str


class Backup:
    """The files in a backup's folder. Construction does no I/O."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.snapshot = self.path / "vault.snapshot"
        self.dump = self.path / "database.dump"
        self.keys = self.path / "keys"
        #: Missing in a backup of a stack that had lost it.
        self.keys_file = self.keys / DataFolder(self.path).keys_file.name
        self._key = self.keys / "backup.key"
        self._manifest = self.path / "manifest.json"

    @contextmanager
    def write(self, folder: DataFolder, *, version: str) -> Iterator[Backup]:
        """Make the backup, with the keys of `folder`, under another name, and rename it at the end. Raises InvalidInput
        if its path exists already, StackError if it cannot be written."""
        if self.path.exists():
            raise InvalidInput(f"{self.path} exists already", hint="Name a new folder for each backup.")
        new = Backup(self.path.with_name(f".{self.path.name}.new"))
        try:
            if new.path.exists():  # of a run that was killed
                shutil.rmtree(new.path)
            new.path.mkdir(parents=True, mode=0o700)
            new.keys.mkdir(mode=0o700)
            place, names, tls = str(folder.path), str(folder.deployment), folder.has_tls(None)
            about = About(made_at=datetime.now(UTC), data_dir=place, bdlab=version, tls=tls, deployment=names)
            _write(new.path / "backup.json", msgspec.json.format(msgspec.json.encode(about)))
            _write(new.keys / "seal.key", OpenBao(folder.path).seal_key.read_bytes())
            if folder.keys_file.exists():  # a backup is still worth having without it
                _write(new.keys_file, folder.keys_file.read_bytes())
            _copy_identities(folder.identity_dir, new.keys / "identity")
            _copy_models(folder.registry, new.path / "registry")
            _write(new._key, secrets.token_bytes(32))
            yield new
            files = new._digests()
            manifest = _Manifest(files=files, hmac=_hmac(new._key.read_bytes(), files))
            _write(new._manifest, msgspec.json.format(msgspec.json.encode(manifest)))
            new.path.rename(self.path)
        except BaseException as error:  # also an interrupt: half a backup would look like a whole one
            shutil.rmtree(new.path, ignore_errors=True)
            if isinstance(error, OSError):
                raise StackError(f"the backup {self.path} cannot be written: {error}") from error
            raise

    def about(self, *, rows_only: bool = False) -> About:
        """Return what it says of itself. Raises InvalidInput unless it is whole; `rows_only` needs the dump alone."""
        try:
            about = msgspec.json.decode((self.path / "backup.json").read_bytes(), type=About)
        except (OSError, msgspec.MsgspecError) as error:
            raise InvalidInput(f"{self.path} is no backup that `bdlab backup` made: {error}") from error
        if about.format != _FORMAT:
            what = f"{self.path} was made by bdlab {about.bdlab}, in a format that this version does not know"
            raise InvalidInput(what, hint="Restore it with that version or a newer one.")
        wanted = (self.dump,) if rows_only else (self.snapshot, self.dump, self.keys_file)
        if missing := [self._name(place) for place in wanted if not place.exists()]:
            why = f"the backup {self.path} is not whole: {' and '.join(missing)} is missing from it"
            advice = "If you keep the keys apart, put them back beside the rest; if they are lost, --rows-only."
            raise InvalidInput(why, hint=advice)
        return about

    def authenticate(self, *, rows_only: bool = False, trusted: bool = False) -> None:
        """Raise InvalidInput, naming the file, unless everything is as `bdlab backup` wrote it. For `rows_only` the
        snapshot and all keys but the manifest's may be missing. `trusted` accepts a backup without a manifest or
        without its key, but none that does not match them."""
        if missing := [self._name(file) for file in (self._manifest, self._key) if not file.exists()]:
            if trusted:
                return
            what = f"the backup {self.path} cannot be authenticated: {missing[0]} is missing from it"
            apart = "If you keep the keys apart, put them back beside the rest. If the key is lost, or the version that"
            trust = "made it wrote no manifest: --trust-backup, if nobody else could write to where it was kept."
            raise InvalidInput(what, hint=f"{apart} {trust}")
        try:
            manifest = msgspec.json.decode(self._manifest.read_bytes(), type=_Manifest)
            found = self._digests()
        except (OSError, msgspec.MsgspecError) as error:
            raise InvalidInput(f"the backup {self.path} cannot be authenticated: {error}") from error
        wrong = []
        if not hmac.compare_digest(manifest.hmac, _hmac(self._key.read_bytes(), manifest.files)):
            wrong.append(f"{self._name(self._manifest)} was changed, or is not the one of these keys")
        wrong += [f"{name} was added to it" for name in found if name not in manifest.files]
        wrong += [f"{name} was changed" for name, digest in found.items() if manifest.files.get(name, digest) != digest]
        wanted = {self._name(self.dump), "backup.json"} if rows_only else set(manifest.files)
        wrong += [f"{name} is missing from it" for name in sorted(wanted.difference(found))]
        if wrong:
            hint = "Restore another backup, and find out who could write to this one."
            raise InvalidInput(f"the backup {self.path} is not as it was made: {wrong[0]}", hint=hint)

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()

    def _digests(self) -> dict[str, str]:
        """Return the SHA-256, in hex, of each file that the manifest covers; "no file" for anything else."""
        found = {}
        for file in sorted({*self.path.rglob("*")} - {self._manifest, self._key}):
            if file.is_file() and not file.is_symlink():
                with file.open("rb") as content:
                    found[self._name(file)] = hashlib.file_digest(content, "sha256").hexdigest()
            elif file.is_symlink() or not file.is_dir():
                found[self._name(file)] = "no file"
        return found

    def restore(self, folder: DataFolder, *, keys: bool) -> None:
        """Copy the registry of models, and the keys if asked to, into a new data folder. Raises StackError."""
        seal_key, what = OpenBao(folder.path).seal_key, "models"
        try:
            _copy_models(self.path / "registry", folder.registry)
            if keys:
                what = "keys"
                seal_key.parent.mkdir(mode=0o700)
                _write(seal_key, (self.keys / "seal.key").read_bytes())
                _write(folder.keys_file, self.keys_file.read_bytes())
                _copy_identities(self.keys / "identity", folder.identity_dir)
        except OSError as error:
            raise StackError(f"the {what} of the backup {self.path} cannot be copied: {error}") from error


@contextmanager
def new_folder(path: Path) -> Iterator[DataFolder]:
    """Lock a new data folder, and empty it again if the block fails. Raises InvalidInput if something is in it."""
    folder = DataFolder(path)
    if folder.path.exists() and any(folder.path.iterdir()):
        hint = "A backup is restored into a new folder: move the old one aside, or name another."
        raise InvalidInput(f"{folder.path} is not empty", hint=hint)
    with folder:
        try:
            folder.unfinished.touch(mode=0o600)
            yield folder
            folder.unfinished.unlink()
        except BaseException:  # also an interrupt: `bdlab up` would take half a folder for a whole one
            for entry in folder.path.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink()
            raise


def _hmac(key: bytes, files: dict[str, str]) -> str:
    return hmac.digest(key, msgspec.json.encode(files, order="sorted"), "sha256").hex()


def _copy_models(source: Path, target: Path) -> None:
    if source.exists():  # not before the first was added
        shutil.copytree(source, target)


def _copy_identities(source: Path, target: Path) -> None:
    target.mkdir(mode=0o700)
    for file in sorted(source.glob("*/*")):
        # The names of locks and of files that are being written begin with a dot.
        if file.is_file() and not file.name.startswith("."):
            (target / file.parent.name).mkdir(mode=0o700, exist_ok=True)
            _write(target / file.parent.name / file.name, file.read_bytes())
