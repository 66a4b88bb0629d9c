"""Reading `sql/*.sql`, files of queries that each begin with ``-- name: <name>``."""

from functools import cache
from importlib.resources import files

_MARK = "-- name: "


@cache
def queries(file: str) -> dict[str, str]:
    """Return the queries of ``sql/<file>.sql`` by their names."""
    text = files(__package__).joinpath("sql", f"{file}.sql").read_text("utf-8")
    sections = {}
    for section in text.split(_MARK)[1:]:
        name, _, body = section.partition("\n")
        sections[name.strip()] = body.strip()
    return sections
