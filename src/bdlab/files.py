"""Replaces files in one step: wholly or not at all."""

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from typing import IO, Self


class Replacement:
    """A context manager for a file that is written beside `path` and renamed to it by `commit`. If `path` is a link,
    its target is replaced. The mode is `mode`, else that of the file before, else 0666 less the umask. A device, a
    pipe, and this process's own standard output are written to directly. Raises OSError."""

    def __init__(self, path: Path, *, mode: int | None = None, hidden: bool = True) -> None:
        self.path = path
        #: The file that is written, until `commit` renames it.
        self.partial: Path | None = None
        #: Whether it is kept if it was not committed.
        self.keep = False
        self._mode, self._hidden = mode, hidden

    def __enter__(self) -> Self:
        target = self.path.resolve()
        try:
            before = target.stat()
        except FileNotFoundError:
            before = None
        if own := before and next((each for each in (1, 2) if _is(each, before)), None):
            self.file: IO[bytes] = os.fdopen(os.dup(own), "wb")
        elif before and not stat.S_ISREG(before.st_mode):
            self.file = os.fdopen(os.open(target, os.O_WRONLY), "wb")
        else:
            self._begin(target, before)
        return self

    def _begin(self, target: Path, before: os.stat_result | None) -> None:
        mode = self._mode
        if mode is None and before:
            if not os.access(target, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.path))
            mode = stat.S_IMODE(before.st_mode)
        partial = target.with_name(f"{'.' * self._hidden}{target.stem}.partial-{secrets.token_hex(4)}{target.suffix}")
        try:
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
        except OSError as error:  # the partial's name would tell the user nothing
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self.partial, self._target = partial, target
        self.file = os.fdopen(handle, "wb")
        # No reason to fail: a file system may have no modes, and only root can give files away.
        with contextlib.suppress(OSError):
            if self._mode is None and before and before.st_uid != os.geteuid():
                os.fchown(handle, before.st_uid, before.st_gid)
        with contextlib.suppress(OSError):
            if mode is not None:
                os.fchmod(handle, mode)

    def commit(self) -> None:
        """Replace `path` by what was written, which is then on disk."""
        self.file.flush()
        if self.partial is None:
            return
        os.fsync(self.file.fileno())
        self.partial.replace(self._target)
        self.partial = None
        with contextlib.suppress(OSError):  # the file has its name already
            sync_folder(self._target.parent)

    def __exit__(self, *_: object) -> None:
        try:
            with contextlib.suppress(OSError):  # `commit` has reported what could not be written
                self.file.close()
        finally:
            if self.partial is not None and not self.keep:
                self.partial.unlink(missing_ok=True)


def _is(descriptor: int, file: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), file)
    return False


def replace_file(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write `content` to `path` atomically. Raises OSError."""
    with Replacement(path, mode=mode) as new:
        new.file.write(content)
        new.commit()


def write_private(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, with the mode 0600. Raises OSError."""
    replace_file(path, text.encode(), mode=0o600)


def sync_folder(folder: Path) -> None:
    """Sync `folder`, so that what was renamed, made or removed in it outlasts a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
