"""What to choose of the stored predictions, as the parameters of GET /predictions and the options of `query` say it."""

import base64
import re
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, TypeVar
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta

from bdlab.contract import Contract
from bdlab.errors import InvalidInput
from bdlab.events import microseconds
from bdlab.values import moment

MAX_LIMIT = 1000
Source = Literal["real", "all", "serve", "predict", "drill", "demo"]
#: When it was stored and created, in µs since 1970; and its id.
_PLACE = struct.Struct(">qq16s")
_EPOCH = datetime.fromtimestamp(0, UTC)
_KINDS: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool, "date-time": datetime}
_ENDS = {">=": (".min",), "<=": (".max",), "=": ("", ".min", ".max")}
_WHERE = re.compile(r"\s*([^<>=]+?)\s*(>=|<=|=)\s*(.*)", re.DOTALL)
T = TypeVar("T", bound=msgspec.Struct)


class InvalidParameter(ValueError):
    """A parameter has a wrong value."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name} {why}")
        self.name, self.why = name, why


class Condition(NamedTuple):
    """What a column of an output has to be."""

    column: str
    operator: Literal["=", ">=", "<="]
    value: Any


class PageCursor(NamedTuple):
    """A row after which, going back in time, the next page begins."""

    stored_at: datetime
    created_at: datetime
    id: UUID

    def encode(self) -> str:
        """Return it as a text that stands in a URL as it is."""
        raw = _PLACE.pack(microseconds(self.stored_at), microseconds(self.created_at), self.id.bytes)
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "PageCursor":
        """Return what `encode` made a text of. Raises InvalidParameter."""
        try:
            stored, created, raw = _PLACE.unpack(base64.b64decode(f"{text}=", "-_", validate=True))
        except (ValueError, struct.error) as error:
            raise InvalidParameter("cursor", "is none that a page has given") from error
        # One that no page has given, and that looks like one, is a place as well.
        low, high = -62_135_596_800_000_000, 253_402_300_799_999_999  # the years 1 to 9999
        stored_at, created_at = (
            _EPOCH + timedelta(microseconds=min(max(low, each), high)) for each in (stored, created)
        )
        return cls(stored_at, created_at, UUID(bytes=raw))


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows. `since` is included, `until` is not, and both are of `stored_at`. `model` is NAME@VERSION, or NAME
    for all versions. The source `all` is any, and `real` any but drills and demonstrations."""

    since: datetime | None = None
    until: datetime | None = None
    model: str | None = None
    source: str = "real"
    where: tuple[Condition, ...] = ()
    after: PageCursor | None = None


class Page(NamedTuple):
    """Rows, the newest first, and where the next page begins if there are more."""

    rows: list[Any]
    after: PageCursor | None


class Parameters:
    """The parameters that select from predictions of a contract: a struct, `kind`, which has one for each output, or
    two for a number or a moment (`prediction.min`, `prediction.max`, both included)."""

    def __init__(self, contract: Contract) -> None:
        many = Meta(ge=1, le=MAX_LIMIT, description="How many; fewer if their texts have more than 4 MiB in all.")
        whence = Meta(description="Where they came from: `real` is any but drills and demonstrations, `all` is any.")
        since = Meta(tz=True, description="Stored at this moment or later, by `stored_at`; UTC if it names no zone.")
        until = Meta(tz=True, description="Stored before this moment.")
        model, storable = "Predicted by NAME@VERSION, or any version of NAME.", {"pattern": r"^[^\u0000]*$"}
        whither, place = "Where the page begins: `Link` of a page has it.", {"pattern": "^[A-Za-z0-9_-]{43}$"}
        fields: list[Any] = [
            ("limit", Annotated[int, many], 10),
            ("source", Annotated[Source, whence], "real"),
            ("since", Annotated[datetime, since], UNSET),
            ("until", Annotated[datetime, until], UNSET),
            ("model", Annotated[str, Meta(description=model, extra_json_schema=storable)], UNSET),
            ("cursor", Annotated[str, Meta(description=whither, extra_json_schema=place)], UNSET),
        ]
        taken = {name for name, *_ in fields}
        self._conditions: dict[str, tuple[str, Any]] = {}
        for field in contract.outputs:
            name = f"{field.column}{'_' * (field.column in taken)}"  # an output may be named as one of the others
            kind = Literal[field.choices] if field.choices else _KINDS.get(field.kind)
            bounds: dict[str, Any] = {"ge": field.minimum, "le": field.maximum, "tz": kind is datetime or None}
            bounds["extra_json_schema"] = storable if kind is str else None
            limits = {key: bound for key, bound in bounds.items() if bound is not None}
            ends = {">=": ".min", "<=": ".max"} if kind in (int, float, datetime) else {"=": ""} if kind else {}
            for operator, end in ends.items():
                self._conditions[f"{name}{end}"] = (field.column, operator)
                fields.append((f"{name}{end.replace('.', '_')}", Annotated[kind, Meta(**limits)], UNSET))
        names = {name.replace(".", "_"): name for name in self._conditions}
        self.kind: Any = msgspec.defstruct("PredictionsQuery", fields, rename=names, frozen=True, kw_only=True)

    def selection(self, query: Any) -> Selection:
        """Return what parameters, a struct of `kind`, select. Raises InvalidParameter."""
        given = {name: value for name, value in msgspec.structs.asdict(query).items() if value is not UNSET}
        values = {name: given.pop(name.replace(".", "_"), UNSET) for name in self._conditions}
        where = [Condition(*self._conditions[name], value) for name, value in values.items() if value is not UNSET]
        del given["limit"]
        cursor = given.pop("cursor", None)
        return Selection(**given, where=tuple(where), after=None if cursor is None else PageCursor.decode(cursor))

    def where(self, conditions: Sequence[str]) -> tuple[Condition, ...]:
        """Return conditions written as FIELD=VALUE, FIELD>=VALUE or FIELD<=VALUE. Raises InvalidInput."""
        values: dict[str, str] = {}
        for text in conditions:
            name, operator, value = found.groups() if (found := _WHERE.fullmatch(text)) else ("", "=", "")
            meant = [f"{name}{end}" for end in _ENDS[operator] if f"{name}{end}" in self._conditions]
            if not meant:
                names = dict.fromkeys(name.removesuffix(".min").removesuffix(".max") for name in self._conditions)
                how = f"FIELD=VALUE, or FIELD>=VALUE and FIELD<=VALUE of a number; fields: {', '.join(names)}"
                raise InvalidInput(f"--where {text!r} is no condition of an output", hint=f"Write {how}.")
            values |= dict.fromkeys(meant, value)
        try:
            return self.selection(decode(values, self.kind)).where
        except InvalidParameter as error:
            raise InvalidInput(f"--where: {error}") from error


def decode(values: Mapping[str, str], kind: type[T]) -> T:
    """Return parameters as a struct of `kind`. Raises InvalidParameter."""
    given: dict[str, Any] = dict(values)
    types = schemas(kind)
    for name, text in values.items():
        if "\0" in text or text.encode("utf-8", "replace").decode() != text:
            raise InvalidParameter(name, "holds a character that cannot be stored")
        if types[name].get("format") == "date-time":
            try:  # a plus sign that was not escaped is a space in a query
                given[name] = moment(text.strip().replace(" ", "+"))
            except ValueError:
                raise InvalidParameter(name, f"has to be an ISO 8601 date or time, and is {text[:40]!r}") from None
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        wanted = _wanted(types[name := path.rstrip("`")]) or reason
        raise InvalidParameter(name, f"has to be {wanted}, and is {values[name][:40]!r}") from None


@cache
def schemas(kind: type[msgspec.Struct]) -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each parameter."""
    found: dict[str, dict[str, Any]] = msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"]
    return found


def _wanted(schema: Mapping[str, Any]) -> str:
    """Return in words what a value has to be; empty if there are no short ones."""
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    known = {"integer": "an integer", "number": "a number", "boolean": "true or false"}
    words = known.get(schema.get("type", ""), "")
    bounds = [f"{word} {schema[end]}" for word, end in (("from", "minimum"), ("to", "maximum")) if end in schema]
    return " ".join([words, *bounds])
