"""Parquet files, read as JSON lines and written row by row, by pyarrow of the extra `parquet`."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import IO, Any

import msgspec
from msgspec import UNSET

from bdlab.contract import Field
from bdlab.errors import InvalidInput, require
from bdlab.events import Term

MAGIC = b"PAR1"
_BATCH_ROWS = 4096


def to_json_lines(
    file: IO[bytes], name: str, fields: Sequence[Field], columns: Callable[[list[str]], Mapping[str, int]]
) -> IO[bytes]:
    """Return a temporary file with a line of JSON for each row of `file`, with `fields` alone.

    `columns` returns the place of each field's column. Null, and a number that is none, is the default of a
    field that may not be null, and as a text without one an empty text. Raises InvalidInput."""
    require("pyarrow", extra="parquet", what=f"{name} is a Parquet file")
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415

    with ExitStack() as kept:
        lines = kept.enter_context(tempfile.TemporaryFile(prefix="bdlab-inputs-"))
        try:
            parquet, encode, before = ParquetFile(file, buffer_size=1 << 20), msgspec.json.Encoder().encode, 0
            titles = parquet.schema_arrow.names
            places = columns(titles)
            chosen = [(field, titles[places[field.name]]) for field in fields if field.name in places]
            names = [field.name for field, _ in chosen]
            # A title is a prefix of paths to pyarrow, so that a batch may have other columns too.
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=[title for _, title in chosen], use_threads=False):
                values = [
                    _values(batch.column(title), field, f"{name}, line {{}}: the column {title!r}", before)
                    for field, title in chosen
                ]
                lines.writelines(
                    encode(dict(zip(names, row, strict=True))) + b"\n" for row in zip(*values, strict=True)
                )
                before += batch.num_rows
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            raise InvalidInput(f"{name} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
        kept.pop_all()
    return lines


def _values(column: Any, field: Field, named: str, before: int) -> list[Any]:
    """Return the values of a field from a column that `named` names, after `before` other rows. Raises InvalidInput."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
        if (infinite := pc.index(pc.is_inf(column), True).as_py()) >= 0:  # JSON has no such number
            raise InvalidInput(f"{named.format(before + infinite + 1)} holds an infinite number")
        column = pc.if_else(pc.is_nan(column), None, column)
    elif pa.types.is_timestamp(kind):  # nanoseconds would be of pandas, and a zone may not be known here
        column = column.cast(pa.timestamp("us", kind.tz and "UTC"), safe=False)
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):  # as some writers leave texts
        column = column.cast(pa.string())
    default = "" if field.required and field.is_text else field.default
    values: list[Any] = column.to_pylist()
    return values if field.nullable or default is UNSET else [default if each is None else each for each in values]


class Writer:
    """Writes rows as Parquet to `target`, which stays open. `types` has the type of each field: Term for a list of
    terms, and a tuple of names for an object of numbers. Both calls raise OSError."""

    def __init__(self, target: IO[bytes], types: Mapping[str, Any]) -> None:
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow.parquet import ParquetWriter  # noqa: PLC0415

        plain = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
        plain[datetime] = pa.timestamp("us", "UTC")
        plain[Term] = pa.list_(pa.struct([(each.name, plain[each.type]) for each in msgspec.structs.fields(Term)]))
        self._schema = pa.schema(
            (name, pa.struct([(one, pa.float64()) for one in kind]) if isinstance(kind, tuple) else plain[kind])
            for name, kind in types.items()
        )
        self._texts = {name for name, kind in types.items() if kind is str}
        self._writer = ParquetWriter(target, self._schema)
        self._rows: list[Any] = []

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a row; a field that is not there is null, and an object in a column of texts is its JSON."""
        self._rows.append(
            {
                name: msgspec.json.encode(value).decode() if isinstance(value, dict) and name in self._texts else value
                for name, value in msgspec.to_builtins(row, builtin_types=(datetime,)).items()
            }
        )
        if len(self._rows) == _BATCH_ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa  # noqa: PLC0415

        if self._rows:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, self._schema))
            self._rows = []
