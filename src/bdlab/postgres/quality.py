"""The figures of quality and of comparisons: sums over the view `quality` that the database makes, of any contract."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from bdlab.contract import Contract
from bdlab.contract.fields import PREDICTION, PROBABILITIES
from bdlab.postgres.reader import Reader
from bdlab.postgres.session import queries, rows_of
from bdlab.profile import NULL
from bdlab.quality import Bins, Cells, confident

_MOST_TEXT = 10_000
_FETCHED = 200
NUMBERS = ("number", "integer")


def asked(since: datetime | None, until: datetime | None, source: str, **more: Any) -> dict[str, Any]:
    """Return what each query is asked with: inputs stored in [since, until), of a source as for `Reader.newest`."""
    return {"since": since or "-infinity", "until": until or "infinity", "source": source, **more}


class QualityReader(Reader):
    """Reads the view `quality`; each query has a snapshot of its own."""

    def select(self, query: str, values: Mapping[str, Any], **parts: str) -> list[dict[str, Any]]:
        """Return the rows of a query of `quality.sql`, by the names of their columns."""
        with self._cursor() as cursor:
            cursor.execute(queries("quality")[query].format(**parts), values)
            return rows_of(cursor)

    def sample(self, contract: Contract, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return 2,000 inputs of a version, by their columns; the same ones if asked again."""
        return self.select("sample", values, columns=_inputs(contract, "{0.column}"))

    def labelled(self, contract: Contract, values: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        """Yield the inputs of any version whose right prediction is known, in one snapshot, the oldest first: how many
        they are, when each was stored, who knew, the right prediction, and the contract's columns."""
        columns = ", ".join(f'i."{column}"' for column in contract.columns)
        with self._cursor() as cursor, cursor.connection.cursor("labelled") as rows:  # at the server: memory of a page
            rows.itersize = _FETCHED
            rows.execute(queries("quality")["labelled"].format(columns=columns), values)
            yield from rows

    def cells(self, contract: Contract, values: Mapping[str, Any], bins: Bins) -> Cells:
        """Return the sums of a version, or of the pairs of two, in blocks. Of a version each tenth of confidence is
        under "c"; of pairs what A says of output 0, if that has classes, is under "a0", and what B says then in b0."""
        query, made = ("pairs", _pair_sums) if "other" in values else ("figures", _figure_sums)
        (columns, sums, sets), values = made(contract), {**values}
        names = [f"bin{number}" for number in range(len(bins))]
        for name, (field, each) in zip(names, bins, strict=True):
            column = f'{"s" if field in contract.outputs else "i"}."{field.column}"'
            form = {"date-time": "extract(epoch FROM {})"}.get(field.kind, "char_length({})" if each.length else "{}")
            place = f"width_bucket({form.format(column)}::float8, %({name})s::float8[])"
            if each.values:
                place = f"coalesce(array_position(%({name})s::text[], {column}::text) - 1, {len(each.values)})"
            columns.append(f"CASE WHEN {column} IS NULL THEN {NULL} ELSE {place} END AS {name}")
            values[name] = [*(each.values or each.edges)]
        groups = ["block", *(f"{name}, mod(block, 500)" for name in names), *map(", ".join, sets)]
        names += [name for each in sets for name in each]
        parts = {"sets": [f"({each})" for each in groups], "names": ["block", *names], "columns": columns}
        parts["shown"] = [*names, "count(*) AS rows", *sums]
        cells: dict[str, dict[Any, list[dict[str, Any]]]] = {}
        for row in self.select(query, values, **{part: ", ".join(each) for part, each in parts.items()}):
            axis = next((name for name in names if row[name] is not None), "")
            cells.setdefault(axis, {}).setdefault(row.get(axis), []).append(row)
        return cells

    def over_time(self, contract: Contract, values: Mapping[str, Any], width_s: int) -> list[dict[str, Any]]:
        """Return the sums of each version in each bucket of time (`at`) that has any, and the `mean` prediction."""
        columns, sums, _ = _figure_sums(contract)
        number = any(field.name == PREDICTION and field.kind in NUMBERS for field in contract.truths)
        columns.append(f"{'s.prediction' if number else 'NULL'}::float8 AS said")
        parts = {"columns": ", ".join(columns), "sums": ", ".join(sums), "width": str(width_s)}
        return self.select("over_time", values, **parts)

    def spread(self, contract: Contract, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return quantiles of how far each output that is a number differs: the median, 0.9, 0.99, and 1."""
        form = "percentile_cont(ARRAY[0.5, 0.9, 0.99, 1]) WITHIN GROUP (ORDER BY abs(b{0} - a{0})) AS far{0}"
        sums = [form.format(number) for number, field in enumerate(contract.truths) if field.kind in NUMBERS]
        columns = ", ".join(_pairs(contract))
        return self.select("spread", values, columns=columns, sums=", ".join(sums))[0] if sums else {}

    def worst(self, contract: Contract, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the `limit` inputs by whose prediction the models differ most: by the difference, or of classes by how
        sure both were."""
        at = next(number for number, field in enumerate(contract.truths) if field.name == PREDICTION)
        order = "sure" if contract.classes else f"abs(b{at} - a{at})"
        parts = {"columns": ", ".join(_pairs(contract)), "inputs": _inputs(contract, "i{1}")}
        return self.select("worst", values, order=order, differs=f"a{at} <> b{at}", **parts)


def _figure_sums(contract: Contract) -> tuple[list[str], list[str], list[tuple[str, ...]]]:
    """Return the columns, the sums of them, and what they are grouped by beside the bins."""
    columns, sums, doubted = list[str](), list[str](), confident(contract)
    for number, field in enumerate(contract.truths):
        said, true = f's."{field.column}"', f's."true_{field.column}"'
        error, measures = f"({said} <> {true})::int::float8", "avg(e{0}) AS error_rate{0}"
        if field.kind in NUMBERS:
            error = f"({said} - {true})::float8"
            measures = "avg(e{0} * e{0}) AS mse{0}, avg(abs(e{0})) AS mae{0}, avg(e{0}) AS bias{0}"
        columns.append(f"{error} AS e{number}")
        sums.append(f"count(e{number}) AS n{number}, {measures.format(number)}")
        if field == doubted:
            others = max(len(field.choices) - 1, 1)
            chance = f"CASE {said} WHEN {true} THEN s.confidence ELSE (1 - s.confidence) / {others} END"
            if field.name == PREDICTION and any(each.name == PROBABILITIES for each in contract.outputs):
                chance = f"coalesce((s.probabilities ->> {true})::float8, {chance})"
            for name, text in (("sure", "s.confidence"), ("loss", f"-ln(greatest({chance}, 1e-15))")):
                columns.append(f"CASE WHEN {true} IS NOT NULL THEN {text} END AS {name}")
            columns.append("least(floor(s.confidence * 10), 9)::int AS c")
            sums.append(f"avg(sure) AS sure, avg(loss) AS log_loss{number}")
    return columns, sums, [("c",)] if doubted else []


def _pair_sums(contract: Contract) -> tuple[list[str], list[str], list[tuple[str, ...]]]:
    sums, known = list[str](), "FILTER (WHERE num_nulls(a{0}, b{0}, t{0}) = 0)"
    for number, field in enumerate(contract.truths):
        form, wrong = "", "({1}{0} <> t{0})::int"
        if field.kind in NUMBERS:
            form, wrong = "sum(abs(b{0} - a{0})) AS apart{0}, sum(b{0} - a{0}) AS more{0}, ", "power({1}{0} - t{0}, 2)"
        form += f"sum((a{{0}} IS NOT DISTINCT FROM b{{0}})::int)::float8 AS same{{0}}, count(*) {known} AS n{{0}}"
        errors = (f"coalesce(sum({wrong}) {known}, 0)::float8 AS wrong_{{1}}{{0}}".format(number, one) for one in "ab")
        sums += [form.format(number), *errors]
    return _pairs(contract), sums, [(f"a{at}", f"b{at}") for at, field in enumerate(contract.truths) if field.choices]


def _pairs(contract: Contract) -> list[str]:
    """Return the columns of pairs: what A says of an output (a0), what B says (b0), and the truth (t0)."""
    form = 's."{1}"::{2} AS a{0}, o."{1}"::{2} AS b{0}, s."true_{1}"::{2} AS t{0}'
    doubt = ["s.confidence + o.confidence AS sure"] if confident(contract) else ["0 AS sure"]
    return doubt + [
        form.format(number, field.column, "float8" if field.kind in NUMBERS else "text")
        for number, field in enumerate(contract.truths)
    ]


def _inputs(contract: Contract, name: str) -> str:
    """Return the inputs under such names, with no more of a text than is needed here: thousands of whole ones might
    take the memory."""
    form = {True: f'left(i."{{0}}", {_MOST_TEXT}) AS "{{1}}"', False: 'i."{0}" AS "{1}"'}
    fields = enumerate(contract.inputs)
    return ", ".join(form[field.is_text].format(field.column, name.format(field, number)) for number, field in fields)
