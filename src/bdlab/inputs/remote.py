"""Files at addresses that fsspec knows, such as s3://, gs:// and https://. They are copied as a whole."""

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from bdlab.errors import InvalidInput, require
from bdlab.files import Replacement


def is_address(source: str) -> bool:
    return "://" in source


def copied(stream: IO[bytes]) -> IO[bytes]:
    """Return the rest of a stream in a temporary file, which the caller closes."""
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile(prefix="bdlab-inputs-"))
        shutil.copyfileobj(stream, file)
        stack.pop_all()
    return file


def fetch(address: str) -> IO[bytes]:
    """Return the content in a temporary file. Raises InvalidInput."""
    system, path = _system(address)
    with _refused(address, "read"), system.open(path, "rb") as content:
        return copied(content)


def read(address: str) -> bytes:
    """Return the content. Raises FileNotFoundError if there is none, InvalidInput if it cannot be read."""
    system, path = _system(address)
    with _refused(address, "read", but=FileNotFoundError):
        return bytes(system.cat_file(path))


def write(address: str, content: bytes) -> None:
    """Write the content, in the place of any before. Raises InvalidInput."""
    system, path = _system(address)
    with _refused(address, "written"):
        system.makedirs(PurePosixPath(path).parent.as_posix(), exist_ok=True)
        system.pipe_file(path, content)


@contextmanager
def _refused(address: str, what: str, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    try:
        yield
    except but:
        raise
    except Exception as error:  # each kind of storage has its own
        hint = "Install the package that it names beside bdlab[remote]." if isinstance(error, ImportError) else ""
        raise InvalidInput(f"{address} cannot be {what}: {_why(error)}", hint=hint) from error


def opened(place: str) -> IO[bytes]:
    """Open the file at a path or an address, to be read. Raises OSError, and InvalidInput."""
    file = fetch(place) if is_address(place) else Path(place).open("rb")  # noqa: SIM115 - the caller closes it
    file.seek(0)
    return file


def names(place: str) -> set[str]:
    """Return the names of all files below a folder or an address, relative to it. Raises InvalidInput."""
    if not is_address(place):
        root = Path(place)
        return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    system, path = _system(place)
    with _refused(place, "listed"):
        return {PurePosixPath(one).relative_to(path).as_posix() for one in system.find(path)}


class Upload(Replacement):
    """A local file that `commit` copies to an address. Raises InvalidInput at once if nothing can."""

    def __init__(self, address: str) -> None:
        self._system, self._address = _system(address)
        name = f"bdlab-results-{secrets.token_hex(8)}{PurePosixPath(address).suffix}"
        super().__init__(Path(tempfile.gettempdir(), name), mode=0o600, hidden=False)

    def commit(self) -> None:
        """Copy what was written. Raises OSError."""
        self.file.flush()
        try:
            self._system.makedirs(PurePosixPath(self._address).parent.as_posix(), exist_ok=True)
            self._system.put_file(str(self.partial), self._address)
        except Exception as error:  # each kind of storage has its own
            raise OSError(_why(error)) from error
        self.keep = False


def _system(address: str) -> tuple[Any, str]:
    require("fsspec", extra="remote", what=f"{address} is an address")
    import fsspec  # noqa: PLC0415

    with _refused(address, "reached"):
        system, path = fsspec.core.url_to_fs(address)
    return system, path


def _why(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
