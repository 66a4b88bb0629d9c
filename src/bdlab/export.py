"""Stored positions as Parquet files, cut by position: what `export` writes, and `verify --export` checks.

A part is a range of offsets of a partition. It has a file for each table that has rows in it, and a list of them that
is written last. So a part is whole, or it is written again."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from bdlab.errors import BdlabError, InvalidInput, require
from bdlab.files import Replacement
from bdlab.inputs import remote

TABLES = ("predictions", "feedback", "duplicates", "dead_letters")
PART_OFFSETS = 50_000
PLAN, MANIFEST = "plan.json", "export.json"
T = TypeVar("T")


class Log(NamedTuple):
    log_id: int
    cluster_id: str
    topic_id: str
    topic: str


class Range(NamedTuple):
    """Offsets [first, after) of a partition of a log."""

    log_id: int
    partition: int
    first: int
    after: int


class File(NamedTuple):
    """A file of the export; `sha256` is of its bytes."""

    name: str
    rows: int
    sha256: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is exported, by which version of bdlab; `tables` has the type of each column."""

    since: datetime | None
    until: datetime | None
    contract: dict[str, Any]
    tables: dict[str, dict[str, str]]
    logs: tuple[Log, ...]
    ranges: tuple[Range, ...]
    part_offsets: int = PART_OFFSETS
    bdlab: str = ""


class Manifest(Plan, frozen=True, kw_only=True):
    """A finished export. `counts` are the rows of each table."""

    finished_at: datetime
    counts: dict[str, int]
    files: tuple[File, ...]


class ExportReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the files of an export hold; `problems` are cut to a limit, `problem_count` is not."""

    verified: bool
    positions: int
    counts: dict[str, int]
    files: int
    problems: tuple[str, ...]
    problem_count: int


class Source(Protocol):
    """The database. Both raise DatabaseError and VaultError."""

    def plan(self, since: datetime | None, until: datetime | None) -> Plan: ...
    def rows(self, part: Range, tables: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, list[Any]]]: ...


class Folder:
    """The files of an export: in a folder, or at an address."""

    def __init__(self, place: str) -> None:
        require("pyarrow", extra="parquet", what="an export is of Parquet files")
        self.place = place.rstrip("/")
        self.names = remote.names(place)

    def read(self, name: str, kind: type[T]) -> T:
        """Return the content of a file of JSON. Raises InvalidInput."""
        try:
            with remote.opened(f"{self.place}/{name}") as file:
                return msgspec.json.decode(file.read(), type=kind)
        except (OSError, msgspec.DecodeError) as error:
            raise InvalidInput(f"{name} of {self.place} cannot be read: {error}") from error

    def write(self, name: str, fill: Callable[[Any], int]) -> tuple[str, int]:
        """Write a file whole, and return its sha256 and what `fill` returns. Raises OSError."""
        path = f"{self.place}/{name}"
        if not remote.is_address(path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with remote.Upload(path) if remote.is_address(path) else Replacement(Path(path)) as new:
            count = fill(new.file)
            new.file.flush()
            with Path(new.partial or path).open("rb") as written:
                digest = hashlib.file_digest(written, "sha256").hexdigest()
            new.commit()
        self.names.add(name)
        return digest, count


def export(
    folder: Folder,
    source: Source,
    since: datetime | None,
    until: datetime | None,
    *,
    version: str,
    stop: Event,
    tell: Callable[[int, int], None],
) -> Manifest:
    """Write what was stored from `since` to before `until`; or go on with what a killed export had planned. `tell` gets
    how many positions are done, and of how many. Raises BdlabError."""
    plan = _planned(folder, source, since, until, version)
    total, done, files = sum(one.after - one.first for one in plan.ranges), 0, list[File]()
    for part in _parts(plan):
        if stop.is_set():
            raise BdlabError("interrupted", hint="The same command goes on where this one ended.")
        listed = f"parts/{_stem(part)}.json"
        known = folder.read(listed, list[File]) if listed in folder.names else []
        if _problems(folder, part, known):
            known = list(_write(folder, plan, part, source))
            _write_json(folder, listed, known)
        files += known
        done += part.after - part.first
        tell(done, total)
    counts = {table: sum(one.rows for one in files if one.name.startswith(f"{table}/")) for table in TABLES}
    planned, now = msgspec.structs.asdict(plan), datetime.now(UTC)
    manifest = Manifest(**planned, finished_at=now, counts=counts, files=tuple(files))
    _write_json(folder, MANIFEST, manifest)
    return manifest


def verify(folder: Folder, *, limit: int, tell: Callable[[int, int], None]) -> ExportReport:
    """Return whether the files hold each position once, and are what was written. Raises BdlabError if the export is
    not finished."""
    if MANIFEST not in folder.names:
        hint = "`bdlab export` with the same folder finishes it." if PLAN in folder.names else ""
        raise BdlabError(f"{folder.place} has no {MANIFEST}, so that no export is finished there", hint=hint)
    plan = folder.read(MANIFEST, Manifest)
    total, done, problems = sum(one.after - one.first for one in plan.ranges), 0, list[str]()
    for part in _parts(plan):
        end = f"/{_stem(part)}.parquet"
        problems += _problems(folder, part, [file for file in plan.files if file.name.endswith(end)])
        done += part.after - part.first
        tell(done, total)
    known = {file.name for file in plan.files}
    strange = sorted(name for name in folder.names if name.partition("/")[0] in TABLES and name not in known)
    problems += [f"{name} is no file of this export" for name in strange]
    counts = {table: sum(file.rows for file in plan.files if file.name.startswith(f"{table}/")) for table in TABLES}
    if counts != plan.counts or sum(counts.values()) != total:
        problems.append(f"{MANIFEST}: its counts are not those of its files and ranges")
    return ExportReport(
        verified=not problems,
        positions=total,
        counts=counts,
        files=len(known),
        problems=tuple(problems[:limit]),
        problem_count=len(problems),
    )


def _planned(folder: Folder, source: Source, since: datetime | None, until: datetime | None, version: str) -> Plan:
    """Return the plan that is in the folder, or write a new one."""
    if MANIFEST in folder.names:
        hint = f"`bdlab verify --export {folder.place}` checks it; another one needs another folder."
        raise InvalidInput(f"{folder.place} has a finished export", hint=hint)
    now = msgspec.structs.replace(source.plan(since, until), bdlab=version)
    if PLAN in folder.names:
        plan = folder.read(PLAN, Plan)
        if plan.logs != now.logs[: len(plan.logs)]:
            raise InvalidInput(f"{folder.place} has an export of another database", hint="Choose another folder.")
        for name in [name for name in folder.names if "/." in name]:  # what a killed one had begun
            Path(folder.place, name).unlink()
            folder.names.remove(name)
        return plan
    if folder.names:
        raise InvalidInput(f"{folder.place} is not empty", hint="An export begins in a folder of its own.")
    _write_json(folder, PLAN, now)
    return now


def _write_json(folder: Folder, name: str, value: Any) -> None:
    content = msgspec.json.format(msgspec.json.encode(value)) + b"\n"
    folder.write(name, lambda file: file.write(content))


def _parts(plan: Plan) -> Iterator[Range]:
    for log_id, partition, begin, end in plan.ranges:
        for first in range(begin, end, plan.part_offsets):
            yield Range(log_id, partition, first, min(first + plan.part_offsets, end))


def _stem(part: Range) -> str:
    return f"{part.log_id}-{part.partition}-{part.first:012}-{part.after:012}"


def _write(folder: Folder, plan: Plan, part: Range, source: Source) -> Iterator[File]:
    """Write the files of a part from one snapshot."""
    import pyarrow as pa  # noqa: PLC0415

    kinds = {"json": pa.string(), "timestamp": pa.timestamp("us", "UTC")}
    for table, found in groupby(source.rows(part, plan.tables), key=itemgetter(0)):
        columns = plan.tables[table]
        schema = pa.schema([(name, kinds.get(kind) or pa.type_for_alias(kind)) for name, kind in columns.items()])
        lists = (zip(schema.types, zip(*rows, strict=True), strict=True) for _, rows in found)
        batches = (pa.record_batch([pa.array(values, kind) for kind, values in each], schema) for each in lists)
        name = f"{table}/{_stem(part)}.parquet"
        digest, count = folder.write(name, partial(_fill, schema, batches))
        yield File(name, count, digest)


def _fill(schema: Any, batches: Iterable[Any], file: Any) -> int:
    """Write batches as row groups of a bounded size, and return how many rows they have."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow.parquet import ParquetWriter  # noqa: PLC0415

    count, held = 0, list[Any]()
    with ParquetWriter(file, schema) as writer:
        for batch in batches:
            held.append(batch)
            count += batch.num_rows
            if sum(each.nbytes for each in held) > 32 << 20:
                writer.write_table(pa.Table.from_batches(held))
                held.clear()
        if held:
            writer.write_table(pa.Table.from_batches(held))
    return count


def _problems(folder: Folder, part: Range, files: Sequence[File]) -> list[str]:
    """Return what is wrong with the files of a part: together they have each of its positions once."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415

    problems, seen = [f"{file.name} is missing" for file in files if file.name not in folder.names], Counter[int]()
    for file in [file for file in files if file.name in folder.names]:
        content: Any
        with remote.opened(f"{folder.place}/{file.name}") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != file.sha256:
                problems.append(f"{file.name} is not what was written: its SHA-256 is another one")
            content.seek(0)
            try:
                found = ParquetFile(content).read(columns=["log_id", "partition", "offset"]).to_pydict()
            except (pa.ArrowException, OSError, ValueError) as error:
                problems.append(f"{file.name} cannot be read as Parquet: {str(error).splitlines()[0]}")
                continue
        seen.update(found["offset"])
        strange = {*found["log_id"]} - {part.log_id} or {*found["partition"]} - {part.partition}
        if not all(part.first <= one < part.after for one in found["offset"]) or strange:
            problems.append(f"{file.name} has positions of other parts")
        if len(found["offset"]) != file.rows:
            problems.append(f"{file.name} has {len(found['offset']):,} rows, and {file.rows:,} were written")
    missing = [one for one in range(part.first, part.after) if one not in seen]
    for what, offsets in (("missing", missing), ("twice", sorted(one for one in seen if seen[one] > 1))):
        if offsets:
            where = f"log {part.log_id}, partition {part.partition}"
            problems.append(f"{where}: {len(offsets):,} positions {what}, the first {offsets[0]}")
    return problems
