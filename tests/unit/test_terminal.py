"""Standard streams that are full, closed or narrow, and foreign text that would steer a terminal."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from bdlab.deadletters import StoredDeadLetter
from bdlab.events import Position, Record
from bdlab_cli.output import dead_letters, terminal
from bdlab_cli.output.console import Console
from bdlab_cli.output.predictions import inert
from tests.terminal import BDLAB, Terminal

SCORE = ("predict", "--no-publish", "Fine ☕, “really”")
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
HOSTILE = "\x1b]52;c;aGk=\x07\x1b[2J\x9b2J\x7f\u202egnp\r[red]x[/red] :boom:"

anything = st.one_of(st.text(st.characters(codec="utf-8")), st.text(st.sampled_from(HOSTILE + "\u2066\u200f\n\t[/]\\")))


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of `command`, in which ``bdlab`` is this one."""
    return subprocess.run(
        ["/bin/bash", "-c", f'bdlab() {{ "{sys.executable}" -m bdlab_cli "$@"; }}; {command}'],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# Streams that take nothing.


@pytest.mark.parametrize(
    "command",
    [
        "predict --no-publish good",
        "predict --no-publish --json good",
        "status --check model",
        "env --unset",
        "--version",
    ],
)
@pytest.mark.parametrize(("where", "why"), [(">/dev/full", "no space left on device"), (">&-", "it is closed")])
def test_a_standard_output_that_cannot_be_written_is_named(command: str, where: str, why: str) -> None:
    done = shell(f"bdlab {command} {where}")
    assert done.returncode == 1
    assert f"error: standard output cannot be written: {why}" in done.stderr
    assert "ended with exit code 0" in done.stderr
    assert "defect" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough_is_no_failure(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("Text\n" + "good\n" * 20_000)
    done = shell(f'bdlab predict --no-publish --json --file "{rows}" | head -1; echo ${{PIPESTATUS[0]}}')
    first, code = done.stdout.splitlines()
    assert json.loads(first)["state"] == "scored"
    assert (code, done.stderr) == ("0", "")


@pytest.mark.parametrize("closed", ["2>&-", "<&-", "<&- 2>&-"])
def test_closed_streams_that_it_does_not_need_are_no_matter(closed: str) -> None:
    done = shell(f"bdlab predict --no-publish --json good {closed}")
    assert done.returncode == 0
    assert json.loads(done.stdout)["state"] == "scored"
    assert done.stderr == ""


@pytest.mark.parametrize("how", ["--file -", "-"])
def test_a_closed_standard_input_is_named(how: str) -> None:
    done = shell(f"bdlab predict --no-publish {how} <&-")
    assert done.returncode == 2
    assert "error: standard input cannot be read: bad file descriptor" in done.stderr


def test_a_descriptor_that_was_closed_is_never_a_servers() -> None:
    program = (
        "import os, socket, sys; from bdlab_cli.output import terminal; terminal.prepare(); "
        "print(socket.socket().fileno(), [os.get_inheritable(each) for each in range(3)])"
    )
    done = shell(f"{sys.executable} -c '{program}' <&- 2>&-")
    assert done.stdout == "3 [True, True, True]\n"


# Terminals that cannot show everything.


@pytest.mark.parametrize(
    ("encoding", "stars", "cup"),
    [("ascii", r"****.", r"\u2615"), ("latin-1", r"****.", r"\u2615"), ("utf-8", "★★★★☆", "☕")],
)
def test_what_an_encoding_lacks_is_shown_in_other_words(encoding: str, stars: str, cup: str) -> None:
    done = subprocess.run(
        [*BDLAB, *SCORE],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    shown = done.stdout.decode(encoding)
    assert stars in shown
    assert cup in shown


def test_json_is_utf_8_whatever_the_terminal_is() -> None:
    text = "ï ☕ 😀"
    program = f"from bdlab_cli.output import terminal; terminal.prepare(); terminal.echo_json({text!r})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout.decode("utf-8")) == text


# The shell's own questions.


def test_ctrl_c_while_the_shell_completes_prints_nothing() -> None:
    program = "import bdlab_cli, os, signal; os.kill(os.getpid(), signal.SIGINT); print('goes on')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"_BDLAB_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize(
    ("typed", "nearest"), [("verfy", "verify"), ("dlq lst", "list"), ("predict --outptu x", "--output")]
)
def test_what_is_mistyped_is_told_the_nearest(typed: str, nearest: str) -> None:
    done = shell(f"bdlab {typed}")
    assert done.returncode == 2
    assert nearest in done.stderr.partition("No such")[2]


# Foreign text.


class _Screen(io.StringIO):
    encoding = "utf-8"


def shown_in_a_table(text: str) -> str:
    screen = _Screen()
    console = Console(screen)
    console.width = 200
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    console.print(table)
    console.print(text, soft_wrap=True)
    return screen.getvalue()


@given(anything)
def test_no_text_steers_a_terminal(text: str) -> None:
    assert not STEERING.search(terminal.visible(text))
    assert not STEERING.search(shown_in_a_table(text))


@given(anything)
def test_json_that_is_shown_is_the_same_json(text: str) -> None:
    shown = terminal.visible(msgspec.json.encode({text: text}).decode())
    assert not STEERING.search(shown)
    assert json.loads(shown) == {text: text}


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Zl", "Zp"])))
def test_other_text_is_shown_as_it_is(text: str) -> None:
    assert terminal.visible(text) == text


def test_a_dead_letter_of_hostile_words_is_shown_as_words(capsys: pytest.CaptureFixture[str]) -> None:
    """Its own lines, too: a line feed in it begins none that looks like bdlab's."""
    raw = f"{HOSTILE}\nreason    fine".encode()
    letter = StoredDeadLetter(
        record=Record(Position("cluster", "topic", 1, 2), raw, raw, [(raw.decode(), raw)]),
        reason=raw.decode(),
        sqlstate="",
        recorded_at=datetime.now(UTC),
        replays=0,
    )
    dead_letters.show(letter)
    screen = _Screen()
    Console(screen).print(dead_letters.table([letter], "1 dead letter"))
    shown = capsys.readouterr().out
    assert not STEERING.search(shown + screen.getvalue())
    assert shown.count("\nreason ") == 1
    assert shown.count("boom") == 5


def test_markup_and_emoji_names_in_foreign_text_are_text() -> None:
    assert "[red]x[/red] :boom:" in shown_in_a_table(HOSTILE)


def test_hostile_words_on_a_real_terminal(tmp_path: Path) -> None:
    """A review, a file's name and its columns, as table, as JSON and in messages."""
    named = tmp_path / f"{HOSTILE.replace('/', '')}.csv"
    named.write_text(f"Text,Summary\n{json.dumps(HOSTILE)[1:-1]},\x1b[2Jboom\x9b\n\u202eother,x\n")
    bad = tmp_path / "bad.csv"
    bad.write_text("\x1b[2JTitle\x9b\n\u202eother\n")
    env = os.environ | {"TERM": "dumb", "NO_COLOR": "1"}
    for arguments in (
        ["predict", "--no-publish", HOSTILE],
        ["predict", "--no-publish", "--file", str(named)],
        ["predict", "--no-publish", "--json", "--file", str(named)],
        ["predict", "--no-publish", "--file", str(bad)],
        ["predict", HOSTILE, HOSTILE],
        [HOSTILE],
    ):
        opened = Terminal(arguments, env)
        try:
            opened.ended()
            assert opened.screen.strip()
            assert not STEERING.search(opened.screen), arguments
        finally:
            opened.close()


def test_hostile_words_in_the_log() -> None:
    program = (
        "import sys, structlog, logging; from bdlab.settings import LogSettings\n"
        "from bdlab_cli.output import logs\n"
        f"logs.configure(LogSettings(format='console')); words = {HOSTILE!r}\n"
        "structlog.get_logger().error(words, problem=words, other=[words])\n"
        "logging.getLogger('x').error(words)\n"
        "try:\n    raise RuntimeError(words)\n"
        "except RuntimeError as error: structlog.get_logger().error('x', exc_info=error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.count("gnp") == 5
    assert not STEERING.search(done.stderr)


# Spreadsheets.


@given(st.text(max_size=20), st.sampled_from("=+-@\t\r\n＝＋－＠"), st.sampled_from(["", " ", "\xa0 "]))
def test_no_cell_is_a_formula(rest: str, first: str, before: str) -> None:
    text = first + rest if first.isspace() else before + first + rest
    assert inert(text) == f"'{text}"


@given(st.text(max_size=20))
def test_other_cells_stay_what_they_are(text: str) -> None:
    kept = inert(f"a{text}")
    assert kept == f"a{text}"
    assert inert(-1.5) == -1.5
    assert inert(None) is None


@pytest.mark.parametrize("narrow", [{"COLUMNS": "40"}, {"COLUMNS": "40", "LC_ALL": "C", "TERM": "dumb"}])
@pytest.mark.parametrize(
    ("command", "whole"),
    [
        ("model check models/reviews.card.json", "helpfulness_numerator"),
        ("status --check model", "sha256"),
        ("predict --no-publish 'A rather long text, which does not fit'", "sentiment"),
    ],
)
def test_a_narrow_terminal_cuts_no_cell_and_gets_no_colour(command: str, whole: str, narrow: dict[str, str]) -> None:
    done = shell(f"cd '{Path(__file__).parents[2]}'; bdlab {command}", **narrow)
    assert done.returncode == 0, done.stderr
    assert "…" not in done.stdout
    assert "\x1b" not in done.stdout
    tables = [line for line in done.stdout.splitlines() if line[:1] in "┏┃┡│└┌|+"]
    assert tables
    assert {len(line) for line in tables} <= set(range(41))
    cells = "".join(line.split("│" if "│" in line else "|")[1].strip() for line in tables if line[0] in "│|")
    assert whole in cells.replace(" ", "") + done.stdout


@pytest.mark.parametrize(
    ("environment", "coloured"), [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False)]
)
def test_colours_are_left_out_if_they_are_not_wanted(environment: dict[str, str], *, coloured: bool) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    with closing(Terminal(["status", "--check", "model"], kept | {"TERM": "xterm"} | environment)) as opened:
        assert opened.ended() == 0
    assert ("\x1b[32m" in opened.screen) == coloured
    assert "reviews@" in opened.screen


# A line that renews itself.

_TALKING = """
import sys, time
from bdlab_cli.output import terminal
from bdlab_cli.output.progress import line, no_line, tell_of_wait
terminal.prepare()
tell_of_wait("bdlab something")
for number in range(4):
    time.sleep(0.9)
    terminal.echo(f"message {number}", err=True)
    print(f"result {number}")
with line(lambda: "1.0/s  stored 7"):
    time.sleep(1.5)
    with no_line():
        sys.stderr.write("password: ")
        sys.stderr.flush()
        time.sleep(1.5)
        print("typed")
terminal.finish(0)
"""


def talking(**environment: str) -> Terminal:
    opened = Terminal([], os.environ | {"TERM": "xterm"} | environment, [sys.executable, "-c", _TALKING])
    with closing(opened):
        assert opened.ended() == 0
    return opened


def test_a_line_that_renews_itself_stands_below_all_that_is_written_and_goes() -> None:
    seen = talking()
    written = [f"{kind} {number}" for number in range(4) for kind in ("message", "result")]
    assert seen.lines == [*written, "password: typed", ""]
    shown = re.findall(r"\r\x1b\[K([^\r\n]+)", seen.screen)
    assert re.search("^bdlab something ... [23] s$", "\n".join(shown), re.MULTILINE)
    assert "1.0/s  stored 7" in shown


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_dumb_terminal_shows_no_such_line(term: str) -> None:
    seen = talking(TERM=term)
    assert "\x1b" not in seen.screen
    assert "something" not in seen.screen


def test_a_command_that_waits_tells_so_at_a_terminal_alone() -> None:
    """Vault takes the connection, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = os.environ | {"VAULT_ADDR": f"http://127.0.0.1:{silent.getsockname()[1]}", "TERM": "xterm"}
        with closing(Terminal(["vault-init", "--startup-timeout", "1"], env)) as opened:
            assert opened.shows("bdlab vault-init ... 3 s", within_s=60), opened.screen
            opened.interrupt()
        done = shell("bdlab vault-init --startup-timeout 1", VAULT_ADDR=env["VAULT_ADDR"], BDLAB_VAULT_TIMEOUT_S="3")
    assert done.returncode == 1
    assert "..." not in done.stderr


@pytest.mark.parametrize("command", ["verify", "status --check vault", "vault-init", "consume"])
def test_where_no_vault_listens_at_the_default_address_it_says_what_to_type(command: str, tmp_path: Path) -> None:
    with suppress(OSError), socket.create_connection(("127.0.0.1", 8200), 1):
        pytest.skip("something listens at Vault's default address")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("VAULT_", "BDLAB_"))}
    with closing(Terminal(command.split(), env | {"HOME": str(tmp_path)})) as opened:
        assert opened.shows("No Vault listens at http://127.0.0.1:8200, the default address.", within_s=60)
        assert re.search(r"Start a local stack: \S*bdlab up$|local stack that is up:$", opened.screen, re.MULTILINE)
        assert "waited" not in opened.screen  # it says so before it waits for one to come
        opened.interrupt()


def test_of_a_vault_elsewhere_no_local_stack_is_offered() -> None:
    done = shell("bdlab verify --startup-timeout 0", VAULT_ADDR="http://127.0.0.1:1")
    assert done.returncode == 1
    assert "Check that it runs, and the setting vault.address" in done.stderr
    assert "default address" not in done.stderr
