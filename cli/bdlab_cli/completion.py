"""Values that the shell completes, beside what Typer knows; if there are none, it completes names of files."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bdlab.services import NOT_ROTATED, SERVICES


def _beginning(names: Sequence[str]) -> Callable[[str], list[str]]:
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


services, renewable = _beginning(SERVICES), _beginning(NOT_ROTATED)


def checks(incomplete: str) -> list[str]:
    """Return the checks of `bdlab status` and their groups."""
    from bdlab.health import CHECKS

    return _beginning(sorted({*CHECKS, *(name for group in CHECKS.values() for name in group)}))(incomplete)


def cards(incomplete: str) -> list[tuple[str, str]]:
    """Return the shipped model and the cards in this folder and its `models`, with each one's NAME@VERSION."""
    import json

    from bdlab.settings import SHIPPED_MODEL

    found = [(SHIPPED_MODEL, "bdlab's own")]
    for file in sorted([*Path().glob("*.card.json"), *Path().glob("models/*.card.json")]):
        card = json.loads(file.read_bytes())
        found.append((str(file), f"{card['name']}@{card['version']}"))
    return [(path, remark) for path, remark in found if path.startswith(incomplete)]


def versions(incomplete: str) -> list[str]:
    """Return NAME@VERSION of the versions in the registry's folder."""
    from bdlab.settings import load

    folder = Path(load(checked=False).settings().model.registry or "/dev/null").expanduser()
    return _beginning(sorted(f"{each.parent.name}@{each.name}" for each in folder.glob("*/*/")))(incomplete)
