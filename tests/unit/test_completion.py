"""What the shell completes of a command line: at once, with nothing on standard error, by the real scripts."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bdlab.health import CHECKS
from bdlab.services import NOT_ROTATED, SERVICES
from bdlab_cli.app import COMMANDS
from tests.terminal import BDLAB

NOWHERE = {"VAULT_ADDR": "http://127.0.0.1:1"}
#: CPU, also on a machine that is busy.
AT_ONCE_S = 0.3


def completed(typed: str, **more: str) -> list[str]:
    """What bash is given for the last word of `typed`."""
    words = typed.split(" ")
    done = subprocess.run(
        [sys.executable, "-m", "bdlab_cli"],
        env=os.environ
        | NOWHERE
        | {"_BDLAB_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
        | more,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("bdlab ro", {"rotate"}),
        ("bdlab ", set(COMMANDS)),
        ("bdlab dlq ", {"list", "show", "replay", "discard"}),
        ("bdlab rotate --gr", {"--grace"}),
        ("bdlab rotate ", {"database", "kafka", "approle", "all"}),
        ("bdlab rotate --service ", set(SERVICES)),
        ("bdlab rotate all --service v", {"verify"}),
        ("bdlab status --check kafka", {"kafka", "kafka.certificate", *CHECKS["kafka"]}),
        ("bdlab vault-init --renew ", set(NOT_ROTATED)),
        ("bdlab vault-init --authority k", {"kafka"}),
        ("bdlab vault-token --policy se", {"serve"}),
        ("bdlab up --broker t", {"tansu"}),
        ("bdlab server-certificate p", {"postgres"}),
        ("bdlab predict --format ", {"csv", "jsonl", "parquet"}),
        ("bdlab up --model sh", {"shipped"}),
        ("bdlab backup --to ", set()),  # the shell's own names of files
        ("bdlab dlq show 3/", set()),  # no server can be asked, and nothing is said of it
    ],
)
def test_words_and_values_are_completed(typed: str, wanted: set[str]) -> None:
    assert set(completed(typed)) == wanted


def test_models_are_completed_with_their_versions(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    card = Path(__file__).parents[2] / "models" / "reviews.card.json"
    (tmp_path / "models" / "reviews.card.json").write_bytes(card.read_bytes())
    done = subprocess.run(
        BDLAB,
        cwd=tmp_path,
        env=os.environ | {"_BDLAB_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "bdlab model check "},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert '"models/reviews.card.json":"reviews@' in done.stdout
    assert '"shipped":' in done.stdout


def test_versions_are_completed_from_the_registrys_folder(tmp_path: Path) -> None:
    for version in ("1.0.0", "2.0.0"):
        (tmp_path / "reviews" / version).mkdir(parents=True)
    registry = {"BDLAB_MODEL_REGISTRY": str(tmp_path)}
    assert completed("bdlab model promote reviews@", **registry) == ["reviews@1.0.0", "reviews@2.0.0"]


def test_a_fish_gets_values_with_their_help() -> None:
    asked = {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TYPER_COMPLETE_ARGS": "bdlab rot"}
    done = subprocess.run(
        BDLAB,
        env=os.environ | {"_BDLAB_COMPLETE": "complete_fish"} | asked,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == f"rotate\t{COMMANDS['rotate'][0]}\n"


@pytest.mark.parametrize("typed", ["bdlab ", "bdlab rotate --service ", "bdlab status --check ", "bdlab dlq list --"])
def test_names_are_completed_at_once(typed: str) -> None:
    def cpu_s() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    taken = []
    for _ in range(3):
        began = cpu_s()
        assert completed(typed)
        taken.append(cpu_s() - began)
    assert min(taken) < AT_ONCE_S


def in_bash(home: Path, script: str) -> str:
    """What an interactive bash prints that has `bdlab` on its PATH."""
    done = subprocess.run(
        ["bash", "--noprofile", "-ic", script],
        env=os.environ | {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_completion_is_installed_for_the_shell_in_use(tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text("# mine\n")
    assert "bash completion installed" in in_bash(tmp_path, "bdlab --install-completion; true")
    found = in_bash(
        tmp_path,
        "complete -p bdlab; COMP_WORDS=(bdlab rotate --service ver); COMP_CWORD=3; _bdlab_completion bdlab; "
        'echo "[${COMPREPLY[*]}]"',
    )
    assert "-F _bdlab_completion bdlab" in found
    assert "[verify]" in found
    assert (tmp_path / ".bashrc").read_text().startswith("# mine\n")


def test_the_script_is_shown(tmp_path: Path) -> None:
    assert "complete -o default -F _bdlab_completion bdlab" in in_bash(tmp_path, "bdlab --show-completion; true")
