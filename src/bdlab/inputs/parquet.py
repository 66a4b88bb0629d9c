"""Parquet files, converted from and to JSON lines in a stream, by Polars of the extra `parquet`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import IO, Any

import msgspec

from bdlab.errors import InvalidInput, require
from bdlab.events import Review, Term

MAGIC = b"PAR1"


def check_installed(name: str) -> None:
    """Raise InvalidInput if the Parquet file `name` cannot be read or written here."""
    require("polars", extra="parquet", what=f"{name} is a Parquet file")


_DEFAULTS = {
    field.encode_name: "" if field.default is msgspec.NODEFAULT else field.default
    for field in msgspec.structs.fields(Review)
}


def to_json_lines(file: IO[bytes], name: str, columns: Callable[[list[str]], Mapping[str, int]]) -> IO[bytes]:
    """Return a temporary file with a line of JSON for each row of `file`, with the fields of a review alone.

    `columns` returns the place of each field's column. Null is a field's default, and as a text an empty one.
    Raises InvalidInput.
    """
    check_installed(name)
    import polars as pl  # noqa: PLC0415

    try:
        schema = pl.read_parquet_schema(file)
        titles, types = list(schema), list(schema.values())
        chosen = []
        for field, place in columns(titles).items():
            column, default = pl.col(titles[place]), _DEFAULTS[field]
            if isinstance(default, str) and types[place] in (pl.Categorical, pl.Enum):
                column = column.cast(pl.String)
            elif types[place].is_float():
                column = column.fill_nan(None)
            if isinstance(default, str) != types[place].is_numeric() and not types[place].is_nested():
                column = column.fill_null(default)
            chosen.append(column.alias(field))
        lines = tempfile.TemporaryFile(prefix="bdlab-reviews-")  # noqa: SIM115 - the caller closes it
        # By its path, since Polars reads a file object as a whole.
        pl.scan_parquet(f"/proc/self/fd/{file.fileno()}", glob=False).select(chosen).sink_ndjson(lines)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InvalidInput(f"{name} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    return lines


def from_json_lines(lines: IO[bytes], target: IO[bytes], types: Mapping[str, Any]) -> None:
    """Write the objects in `lines` as Parquet to `target`. Raises OSError.

    `types` has the type of each field, Term for a list of terms.
    """
    import polars as pl  # noqa: PLC0415

    terms = pl.List(pl.Struct({field.name: field.type for field in msgspec.structs.fields(Term)}))
    schema = pl.Schema({name: terms if kind is Term else kind for name, kind in types.items()})
    lines.flush()
    with tempfile.TemporaryFile(prefix="bdlab-results-") as written:
        try:
            pl.scan_ndjson(f"/proc/self/fd/{lines.fileno()}", schema=schema).sink_parquet(written)
        except pl.exceptions.PolarsError as error:
            raise OSError(str(error).splitlines()[0]) from error
        written.seek(0)
        shutil.copyfileobj(written, target)
