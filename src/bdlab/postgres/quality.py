"""The figures of quality and of comparisons: sums over the view `quality` that the database makes, of any contract."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from psycopg2 import sql

from bdlab.contract import Contract, Field
from bdlab.contract.fields import CONFIDENCE, PREDICTION, PROBABILITIES
from bdlab.postgres.reader import Reader
from bdlab.postgres.session import queries, rows_of
from bdlab.profile import NULL, Distribution
from bdlab.quality import confident

Bins = Sequence[tuple[Field, Distribution]]
"""Fields, each with the bins that its values are counted in."""

_BLOCKS, _SLICE_BLOCKS = 2000, 500
_MOST_TEXT = 10_000
_FETCHED = 200
_NUMBERS = ("number", "integer")


def asked(since: datetime | None, until: datetime | None, source: str, **more: Any) -> dict[str, Any]:
    """Return what each query is asked with: inputs stored in [since, until), of a source as for `Reader.newest`."""
    return {"since": since or "-infinity", "until": until or "infinity", "source": source, **more}


class QualityReader(Reader):
    """Reads the view `quality`; each query has a snapshot of its own."""

    def select(self, query: str, values: Mapping[str, Any], **parts: sql.Composable) -> list[dict[str, Any]]:
        """Return the rows of a query of `quality.sql`, by the names of their columns."""
        with self._cursor() as cursor:
            literals = {name: sql.Literal(value) for name, value in values.items()}
            cursor.execute(sql.SQL(queries("quality")[query]).format(**parts, **literals))
            return rows_of(cursor)

    def sample(self, contract: Contract, values: Mapping[str, Any], limit: int) -> list[dict[str, Any]]:
        """Return inputs of a version, by their columns; the same ones if asked again."""
        return self.select("sample", {**values, "limit": limit}, columns=_inputs(contract, "{0.column}"))

    def labelled(self, contract: Contract, values: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        """Yield the inputs of any version whose right prediction is known, in one snapshot, the oldest first: how many
        they are, when each was stored, who knew, the right prediction, and the contract's columns."""
        columns = sql.SQL(", ").join(sql.Identifier("i", column) for column in contract.columns)
        literals = {name: sql.Literal(value) for name, value in values.items()}
        with self._cursor() as cursor, cursor.connection.cursor("labelled") as rows:  # at the server: memory of a page
            rows.itersize = _FETCHED
            rows.execute(sql.SQL(queries("quality")["labelled"]).format(columns=columns, **literals))
            yield from rows

    def figures(self, contract: Contract, values: Mapping[str, Any], bins: Bins) -> list[dict[str, Any]]:
        """Return the sums of a version: of all rows, of each bin of each field (bin0, bin1, ...) and of each tenth of
        confidence (c)."""
        shown: dict[str, sql.Composable] = dict.fromkeys(("c", "hit", "sure", "loss"), sql.SQL("NULL::int"))
        if doubted := confident(contract):
            said, true = sql.Identifier("s", doubted.column), sql.Identifier("s", f"true_{doubted.column}")
            words: dict[str, sql.Composable] = {"said": said, "true": true, "sure": sql.Identifier("s", CONFIDENCE)}
            words["others"] = sql.Literal(max(len(doubted.choices) - 1, 1))
            chance = "CASE {said} WHEN {true} THEN {sure} ELSE (1 - {sure}) / {others} END"
            if doubted.name == PREDICTION and any(field.name == PROBABILITIES for field in contract.outputs):
                chance = f"coalesce((s.probabilities ->> {{true}})::float8, {chance})"
            for name, what in {
                "c": "least(floor({sure} * 10), 9)::int",
                "hit": "({said} = {true})::int",
                "sure": "CASE WHEN {true} IS NOT NULL THEN {sure} END",
                "loss": f"CASE WHEN {{true}} IS NOT NULL THEN -ln(greatest({chance}, 1e-15)) END",
            }.items():
                shown[name] = sql.SQL(what).format(**words)
        sums = ["count(hit) AS known, avg(hit)::float8 AS hits, avg(sure) AS sure, avg(loss) AS log_loss"]
        for number, field in enumerate(contract.truths):
            error = "({} - {})::float8" if field.kind in _NUMBERS else "({} <> {})::int::float8"
            both = (sql.Identifier("s", field.column), sql.Identifier("s", f"true_{field.column}"))
            shown[f"e{number}"] = sql.SQL(error).format(*both)
            of_number = "avg(e{0} * e{0}) AS mse{0}, avg(abs(e{0})) AS mae{0}, avg(e{0}) AS bias{0}, NULL AS wrong{0}"
            of_other = "avg(e{0}) AS wrong{0}, NULL AS mse{0}, NULL AS mae{0}, NULL AS bias{0}"
            sums.append(f"count(e{number}) AS n{number}")
            sums.append((of_number if field.kind in _NUMBERS else of_other).format(number))
        binned = _binned(contract, bins)
        names = sql.SQL(", ".join((*binned, "c")))
        columns, totals = _named({**binned, **shown}), sql.SQL(", ".join(sums))
        return self.select("figures", values, columns=columns, names=names, sets=names, sums=totals)

    def pairs(self, contract: Contract, values: Mapping[str, Any], bins: Bins) -> list[dict[str, Any]]:
        """Return the sums of the pairs of two models: by block, and of each bin (bin0, bin1, ...) by fewer blocks; and
        of what both say of each output with classes (a0 and b0, a1 and b1, ...)."""
        sums, classes = [], []
        for number, field in enumerate(contract.truths):
            a, b, t = f"a{number}", f"b{number}", f"t{number}"
            classes += [(a, b)] if field.choices else []
            sums.append(f"sum(({a} IS NOT DISTINCT FROM {b})::int)::float8 AS same{number}")
            wrong = "({} <> {})::int"
            if field.kind in _NUMBERS:
                sums.append(f"sum(abs({b} - {a})) AS apart{number}, sum({b} - {a}) AS more{number}")
                wrong = "power({} - {}, 2)"
            known = f"FILTER (WHERE {a} IS NOT NULL AND {b} IS NOT NULL AND {t} IS NOT NULL)"
            sums.append(f"count(*) {known} AS n{number}")
            for name, one in (("wrong_a", a), ("wrong_b", b)):
                sums.append(f"coalesce(sum({wrong.format(one, t)}) {known}, 0)::float8 AS {name}{number}")
        binned = [*_binned(contract, bins)]
        sets = [("block",), *((name, "few") for name in binned), *classes]
        names = [*binned, "block", *(name for pair in classes for name in pair)]
        parts = {"names": names, "sums": sums, "sets": [f"({', '.join(each)})" for each in sets]}
        listed = {name: sql.SQL(", ".join(each)) for name, each in parts.items()}
        return self.select("pairs", values, **_pairs(contract, bins), **listed)

    def spread(self, contract: Contract, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return quantiles of how far each output that is a number differs: the median, 0.9, 0.99, and 1."""
        numbers = [number for number, field in enumerate(contract.truths) if field.kind in _NUMBERS]
        form = "percentile_cont(ARRAY[0.5, 0.9, 0.99, 1]) WITHIN GROUP (ORDER BY abs(b{0} - a{0})) AS far{0}"
        sums = ", ".join(map(form.format, numbers))
        return self.select("spread", values, **_pairs(contract, ()), sums=sql.SQL(sums))[0] if numbers else {}

    def worst(self, contract: Contract, values: Mapping[str, Any], limit: int) -> list[dict[str, Any]]:
        """Return the inputs by whose prediction the models differ most: by the difference, or of classes by how sure
        both were."""
        at = next(number for number, field in enumerate(contract.truths) if field.name == PREDICTION)
        apart = "sure_a + sure_b" if contract.classes else f"abs(b{at} - a{at})"
        parts = {"order": sql.SQL(apart), "differs": sql.SQL(f"a{at} <> b{at}"), "inputs": _inputs(contract, "i{1}")}
        return self.select("worst", {**values, "limit": limit}, **_pairs(contract, ()), **parts)


def _pairs(contract: Contract, bins: Bins) -> dict[str, sql.Composable]:
    """Return the parts of a query about pairs: what A says of an output (a0), what B says (b0), and the truth (t0)."""
    columns = _binned(contract, bins)
    for number, field in enumerate(contract.truths):
        kind = sql.SQL("::float8" if field.kind in _NUMBERS else "::text")
        for name, table, column in (("a", "s", ""), ("b", "o", ""), ("t", "s", "true_")):
            columns[f"{name}{number}"] = sql.Identifier(table, column + field.column) + kind
    if confident(contract):
        columns |= {"sure_a": sql.Identifier("s", CONFIDENCE), "sure_b": sql.Identifier("o", CONFIDENCE)}
    return {"columns": _named(columns), "blocks": sql.Literal(_BLOCKS), "few": sql.Literal(_SLICE_BLOCKS)}


def _binned(contract: Contract, bins: Bins) -> dict[str, sql.Composable]:
    """Return the columns bin0, bin1, ... with the bin of each field."""
    tables = ("s" if field in contract.outputs else "i" for field, _ in bins)
    return {f"bin{number}": _bin(table, *each) for number, (table, each) in enumerate(zip(tables, bins, strict=True))}


def _bin(table: str, field: Field, bins: Distribution) -> sql.Composed:
    """Return what `Distribution.bin_of` returns, as the database finds it."""
    column = sql.Identifier(table, field.column)
    if bins.values:
        form = "coalesce(array_position({}::text[], {}::text) - 1, {})"
        found = sql.SQL(form).format(sql.Literal([*bins.values]), column, sql.Literal(len(bins.values)))
    else:
        form = {"date-time": "extract(epoch FROM {})"}.get(field.kind, "char_length({})" if bins.length else "{}")
        edges = sql.Literal([*bins.edges])
        found = sql.SQL("width_bucket({}::float8, {}::float8[])").format(sql.SQL(form).format(column), edges)
    return sql.SQL("CASE WHEN {} IS NULL THEN {} ELSE {} END").format(column, sql.Literal(NULL), found)


def _inputs(contract: Contract, name: str) -> sql.Composed:
    """Return the inputs under such names, with no more of a text than is needed here: thousands of whole ones might
    take the memory."""
    columns: dict[str, sql.Composable] = {}
    for number, field in enumerate(contract.inputs):
        form = f"left({{}}, {_MOST_TEXT})" if field.is_text else "{}"
        columns[name.format(field, number)] = sql.SQL(form).format(sql.Identifier("i", field.column))
    return _named(columns)


def _named(columns: Mapping[str, sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("{} AS {}").format(what, sql.Identifier(name)) for name, what in columns.items())
