"""Files at addresses that fsspec knows, such as s3://, gs:// and https://. They are copied as a whole."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO, Any

from bdlab.errors import InvalidInput, require


def is_address(source: str) -> bool:
    return "://" in source


def fetch(address: str) -> IO[bytes]:
    """Return the content in a temporary file. Raises InvalidInput."""
    system, path = _system(address)
    kept = tempfile.TemporaryFile(prefix="bdlab-reviews-")  # noqa: SIM115 - the caller closes it
    try:
        with system.open(path, "rb") as content:
            shutil.copyfileobj(content, kept)
    except Exception as error:  # each kind of storage has its own
        kept.close()
        raise InvalidInput(f"{address} cannot be read: {_why(error)}") from error
    return kept


class Upload:
    """A `Replacement` for an address: a local file that `commit` copies there. `commit` raises OSError.

    Raises InvalidInput at once if nothing can write to such an address.
    """

    def __init__(self, address: str) -> None:
        self.partial: Path | None = None
        self.keep = False
        self._address = address
        self._system, self._path = _system(address)

    def __enter__(self) -> Upload:
        suffix = PurePosixPath(self._address).suffix
        self.file: IO[bytes] = tempfile.NamedTemporaryFile(
            prefix="bdlab-results-", suffix=suffix, delete=False
        )
        self.partial = Path(self.file.name)
        return self

    def commit(self) -> None:
        assert self.partial is not None, "not entered"  # noqa: S101
        self.file.flush()
        try:
            self._system.put_file(str(self.partial), self._path)
        except Exception as error:  # each kind of storage has its own
            raise OSError(_why(error)) from error
        self.partial.unlink()
        self.partial = None

    def __exit__(self, *_: object) -> None:
        self.file.close()
        if self.partial is not None and not self.keep:
            self.partial.unlink(missing_ok=True)


def _system(address: str) -> tuple[Any, str]:
    require("fsspec", extra="remote", what=f"{address} is an address")
    import fsspec  # noqa: PLC0415

    try:
        system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise InvalidInput(
            f"{address} cannot be reached: {_why(error)}",
            hint="Install the package that it names beside bdlab[remote].",
        ) from error
    except Exception as error:  # each kind of storage has its own
        raise InvalidInput(f"{address} cannot be reached: {_why(error)}") from error
    return system, path


def _why(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
