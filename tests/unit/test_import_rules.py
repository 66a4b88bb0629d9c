"""The import rules of `make check` hold for every room of the library."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIBRARY = Path("src/bdlab")

#: Each library's one room; any other that imports it is to be named.
ROOMS = {
    "confluent_kafka": "kafka",
    "psycopg2": "postgres",
    "hvac": "vault",
    "requests": "vault",
    "sklearn": "model",
    "joblib": "model",
    "litestar": "serving",
    "typer": "",
    "rich": "",
}


def _broken(tree: Path) -> str:
    """What lint-imports says of the tree, which has to break a rule."""
    outcome = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": f"{tree / 'src'}:{tree / 'cli'}", "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    return outcome.stdout


def _copy(tmp_path: Path) -> Path:
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    for folder in ("src", "cli", "console"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_an_adapter_s_library_is_refused_in_every_other_room(tmp_path: Path) -> None:
    tree = _copy(tmp_path)
    rooms = {}
    for path in sorted((tree / LIBRARY).iterdir()):
        if path.suffix == ".py" and path.stem != "__init__":
            rooms[path.stem] = path
        elif (path / "__init__.py").exists():
            rooms[path.name] = path / "__init__.py"
    assert {"inputs", "load", "deadletters", "errors", "kafka", "sink"} <= set(rooms)
    for room, path in rooms.items():
        with path.open("a", encoding="utf-8") as file:
            file.writelines(f"\nimport {library}\n" for library, home in ROOMS.items() if home != room)

    said = _broken(tree)

    named = set(re.findall(r"bdlab\.(\w+)\S* -> (\w+) \(", said))
    assert {(room, library) for room in rooms for library, home in ROOMS.items() if home != room} <= named


def test_the_commands_alone_import_an_adapter(tmp_path: Path) -> None:
    tree = _copy(tmp_path)
    with (tree / LIBRARY / "verification.py").open("a", encoding="utf-8") as file:
        file.write("\nfrom bdlab.kafka import admin\n")
    assert re.search(r"bdlab\.verification -> bdlab\.kafka\.admin", _broken(tree))


def test_a_room_that_is_new_has_to_be_given_its_place(tmp_path: Path) -> None:
    tree = _copy(tmp_path)
    (tree / LIBRARY / "attic").mkdir()
    (tree / LIBRARY / "attic" / "__init__.py").write_text("", "utf-8")
    assert "bdlab.attic" in _broken(tree)


def test_no_command_imports_another(tmp_path: Path) -> None:
    tree = _copy(tmp_path)
    planted = "from bdlab_cli.commands import status"
    with (tree / "cli/bdlab_cli/commands/verify.py").open("a", encoding="utf-8") as file:
        file.write(f"\n\ndef look() -> object:\n    {planted}\n\n    return status\n")
    said = _broken(tree)
    assert "no command imports another BROKEN" in said
    assert re.search(r"bdlab_cli\.commands\.verify -> bdlab_cli\.commands\.status", said)


def test_what_is_shown_knows_nothing_of_what_is_run(tmp_path: Path) -> None:
    tree = _copy(tmp_path)
    with (tree / "cli/bdlab_cli/output/health.py").open("a", encoding="utf-8") as file:
        file.write("\nfrom bdlab_cli.wiring import samples\n")
    assert re.search(r"bdlab_cli\.output\.health -> bdlab_cli\.wiring\.samples", _broken(tree))


def test_a_module_of_the_command_line_that_is_new_has_to_be_given_its_place(tmp_path: Path) -> None:
    tree = _copy(tmp_path)
    (tree / "cli/bdlab_cli/attic.py").write_text("", "utf-8")
    assert "bdlab_cli.attic" in _broken(tree)
