"""Parquet files, converted from and to JSON lines in a stream, by Polars of the extra `parquet`."""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import IO, Any

import msgspec
from msgspec import UNSET

from bdlab.contract import Field
from bdlab.errors import InvalidInput, require
from bdlab.events import Term

MAGIC = b"PAR1"


def check_installed(name: str) -> None:
    """Raise InvalidInput if the Parquet file `name` cannot be read or written here."""
    require("polars", extra="parquet", what=f"{name} is a Parquet file")


def to_json_lines(
    file: IO[bytes], name: str, fields: Sequence[Field], columns: Callable[[list[str]], Mapping[str, int]]
) -> IO[bytes]:
    """Return a temporary file with a line of JSON for each row of `file`, with `fields` alone.

    `columns` returns the place of each field's column. Null, and a number that is none, is the default of a
    field that may not be null, and as a text without one an empty text. Raises InvalidInput."""
    check_installed(name)
    import polars as pl  # noqa: PLC0415

    try:
        schema = pl.read_parquet_schema(file)
        titles, types = list(schema), list(schema.values())
        places = columns(titles)
        chosen = [
            _values(pl.col(titles[place]), types[place], field).alias(field.name)
            for field in fields
            if (place := places.get(field.name)) is not None
        ]
        # By its path, since Polars reads a file object as a whole.
        rows = pl.scan_parquet(f"/proc/self/fd/{file.fileno()}", glob=False)
        floats = [pl.col(titles[place]) for place in places.values() if types[place].is_float()]
        infinite = [column.is_infinite().arg_true().first() for column in floats]
        for title, row in rows.select(infinite).collect().row(0, named=True).items() if infinite else ():
            if row is not None:  # JSON has no such number
                raise InvalidInput(f"{name}, line {row + 1}: the column {title!r} holds an infinite number")
        lines = tempfile.TemporaryFile(prefix="bdlab-inputs-")  # noqa: SIM115 - the caller closes it
        rows.select(chosen).sink_ndjson(lines)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InvalidInput(f"{name} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    return lines


def _values(column: Any, kind: Any, field: Field) -> Any:
    """Return the expression of a field's values in a column of the Polars type `kind`."""
    import polars as pl  # noqa: PLC0415

    if kind in (pl.Categorical, pl.Enum):
        column, kind = column.cast(pl.String), pl.String()
    elif kind.is_float() or kind.is_decimal():
        column = column.cast(pl.Float64).fill_nan(None)
    default = "" if field.required and field.is_text else field.default
    if isinstance(default, datetime) and kind == pl.String:
        default = default.isoformat()
    moments = getattr(kind, "time_zone", None) is not None
    fitting = {str: kind == pl.String, bool: kind == pl.Boolean, datetime: moments}
    fits = kind == pl.Null or fitting.get(type(default), kind.is_numeric())
    return column if field.nullable or default is UNSET or not fits else column.fill_null(default)


def from_json_lines(lines: IO[bytes], target: IO[bytes], types: Mapping[str, Any]) -> None:
    """Write the objects in `lines` as Parquet to `target`. Raises OSError.

    `types` has the type of each field: Term for a list of terms, and a tuple of names for an object of numbers."""
    import polars as pl  # noqa: PLC0415

    def of(kind: Any) -> Any:
        if kind is Term:
            return pl.List(pl.Struct({field.name: field.type for field in msgspec.structs.fields(Term)}))
        if isinstance(kind, tuple):
            return pl.Struct(dict.fromkeys(kind, pl.Float64))
        return pl.String if kind is datetime else kind

    schema = pl.Schema({name: of(kind) for name, kind in types.items()})
    moments = [name for name, kind in types.items() if kind is datetime]
    lines.flush()
    with tempfile.TemporaryFile(prefix="bdlab-results-") as written:
        try:
            rows = pl.scan_ndjson(f"/proc/self/fd/{lines.fileno()}", schema=schema)
            rows.with_columns(pl.col(moments).str.to_datetime(time_unit="us", time_zone="UTC")).sink_parquet(written)
        except pl.exceptions.PolarsError as error:
            raise OSError(str(error).splitlines()[0]) from error
        written.seek(0)
        shutil.copyfileobj(written, target)
