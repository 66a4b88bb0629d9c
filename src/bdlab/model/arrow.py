"""Scores from Arrow table to Arrow table, for engines of many machines; and what they have written, read back."""

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import IO, Any

from bdlab.contract import Contract
from bdlab.errors import InvalidInput, require
from bdlab.model.scorer import load_scorer
from bdlab.rescoring import scored

#: Columns of an export's `predictions` that say which row a score is of.
PLACE = {"id": "string", "log_id": "int32", "partition": "int32", "offset": "int64"}

_scorer = cache(lambda card: load_scorer(card, many=True))  # once in each process


class Rescorer:
    """Scores the rows of an export with the model of a card: returned by `bdlab.rescorer`, and can be pickled.

    Takes a table, a record batch or a pandas frame with at least `columns`, and returns a table, or a frame, of
    `schema`. Of an iterator of record batches it makes another one. Raises ModelError and InvalidInput."""

    def __init__(self, card: str | os.PathLike[str]) -> None:
        require("pyarrow", extra="parquet", what="a rescorer works on Arrow tables")
        self._card = os.path.abspath(card) if os.fspath(card) else ""  # noqa: PTH100 - a worker may have another folder
        scorer = _scorer(self._card)
        self.model = scorer.name
        self.columns = [*PLACE, *scorer.codec.contract.columns]
        self.schema = schema_of(scorer.codec.contract)

    def __call__(self, data: Any) -> Any:
        import pyarrow as pa  # noqa: PLC0415

        if isinstance(data, pa.Table | pa.RecordBatch):
            return pa.Table.from_pylist(list(self._rows(data)), self.schema)
        if hasattr(data, "iloc"):
            given = [name for name in self.columns if name in data]
            return self(pa.Table.from_pandas(data, columns=given, preserve_index=False)).to_pandas()
        return (batch for each in data for batch in self(each).to_batches())

    def _rows(self, data: Any) -> Iterator[Mapping[str, Any]]:
        if missing := [name for name in self.columns if name not in data.schema.names]:
            raise InvalidInput(
                f"the column {missing[0]!r} is missing", hint="Read the folder predictions of an export."
            )
        scorer = _scorer(self._card)
        inputs = [data.column(name).to_pylist() for name in self.columns]
        rows = list(zip(*inputs, strict=True))
        for row, score in zip(rows, scored(scorer, [(row[0], *row[len(PLACE) :]) for row in rows]), strict=True):
            yield {**dict(zip(PLACE, row, strict=False)), **score, "model": self.model}


def schema_of(contract: Contract) -> Any:
    """Return the Arrow schema of scores; objects, as of probabilities, are structs of their classes."""
    import pyarrow as pa  # noqa: PLC0415

    kinds = {"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
    kinds |= {"date-time": pa.timestamp("us", "UTC"), "object": pa.map_(pa.string(), pa.float64())}
    fields = {name: pa.type_for_alias(kind) for name, kind in PLACE.items()} | {"model": pa.string()}
    return pa.schema(
        [*fields.items(), *((each.column, kinds.get(each.kind, pa.string())) for each in contract.outputs)]
    )


def read_scores(file: IO[bytes], name: str, model: str, contract: Contract) -> Iterable[list[dict[str, Any]]]:
    """Yield the rows of a Parquet file of scores, some at once. Raises InvalidInput, which names file and column."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415

    wanted = schema_of(contract)
    try:
        parquet = ParquetFile(file)
        found = parquet.schema_arrow
        for field in wanted:
            if field.name not in found.names:
                raise InvalidInput(f"{name}: the column {field.name!r} is missing")
            kind = found.field(field.name).type
            if _family(kind) != _family(field.type):
                raise InvalidInput(f"{name}: the column {field.name!r} is of {kind}, and has to be of {field.type}")
        for batch in parquet.iter_batches(1000, columns=wanted.names, use_threads=False):
            table = pa.Table.from_batches([batch]).select(wanted.names).cast(wanted)
            for column in (*PLACE, "model"):
                if table[column].null_count:
                    raise InvalidInput(f"{name}: the column {column!r} has nulls")
            for other in set(table["model"].to_pylist()) - {model}:
                raise InvalidInput(f"{name}: the column 'model' has {other!r}, and what is brought in is of {model}")
            yield table.to_pylist(maps_as_pydicts="strict")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidInput(f"{name} cannot be read as scores: {str(error).splitlines()[0]}") from error


def _family(kind: Any) -> str:
    """Return what may be cast into another without a change of meaning."""
    import pyarrow as pa  # noqa: PLC0415

    families = {"text": ("string", "large_string", "string_view"), "whole": ("integer",), "number": ("floating",)}
    for family, members in families.items():
        if any(getattr(pa.types, f"is_{member}")(kind) for member in members):
            return family
    return str(kind).partition("<")[0].partition("[")[0]
