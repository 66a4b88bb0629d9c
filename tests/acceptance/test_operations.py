"""The runbook and the tutorial do what they say: their blocks are run on real stacks, in two terminals."""

from __future__ import annotations

import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess

import psycopg2
import pytest
from confluent_kafka import Producer

from bdlab.errors import IdentityRefused, TokenRefused
from bdlab.settings import Secret, VaultSettings
from bdlab.stack import DataFolder
from bdlab.stack.servers.binaries import cache_dir
from bdlab.vault.client import VaultClient
from tests import runbook
from tests.brokers import KIND
from tests.fix_up import ENVIRONMENT, Up
from tests.fix_vault import ShamirOpenBao, VaultWorld
from tests.rounds import ALL
from tests.runbook import Block

BOOK = Path(__file__).parents[2] / "docs" / "operations.md"
BLOCKS = runbook.read(BOOK)
TUTORIAL = runbook.read(BOOK.with_name("tutorial.md"))
OWN_MODEL = runbook.read(BOOK.with_name("own-model.md"))
#: A stack of its own for these, since they wipe it; all others share one.
DRILL = ("Start, look, stop", "Back up", "Restore", "Take it down for good")


@pytest.mark.parametrize("block", BLOCKS + TUTORIAL + OWN_MODEL, ids=str)
def test_each_block_says_how_it_is_tried_and_is_valid_shell(block: Block) -> None:
    assert block.where in {"run": {"local", "up", "ctrl-c", "shamir", "compose"}, "read": {"compose", "own"}}[block.how]
    done = subprocess.run(["bash", "-n"], input=block.script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


class Person:
    """With a home of their own, a first terminal for `bdlab up`, and others."""

    def __init__(self, home: Path, **environment: str) -> None:
        home.mkdir()
        self.home = home
        self.folder = DataFolder(home / ".local/share/bdlab")
        self.environment = ENVIRONMENT | {
            "HOME": str(home),
            "XDG_CACHE_HOME": str(cache_dir().parent),
            "COLUMNS": "200",
            **environment,
        }
        self.up: Up | None = None

    def follow(self, block: Block) -> None:
        if block.where == "up":
            bdlab, up, *options = shlex.split(block.script.replace("~", str(self.home)))
            assert (bdlab, up) == ("bdlab", "up")
            self.up = Up(self.folder.path, *options, **self.environment)
            self.up.wait_for("eval")
        elif block.where == "ctrl-c":
            assert self.up
            assert self.up.signal_and_wait(signal.SIGINT) == 0
            assert self.folder.processes() == []
            self.up.close()
        else:
            self.shell(block)

    def run(self, script: str, *, stderr: int = subprocess.PIPE, **more: str) -> CompletedProcess[str]:
        """In a new terminal that points at the stack."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f'eval "$(bdlab env 2>/dev/null)"\n{script}'],
            env=self.environment | more,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            timeout=180,
            check=False,
        )

    def shell(self, block: Block, **more: str) -> None:
        """Raises AssertionError where it fails, or does not print what the book shows."""
        done = self.run(block.script, stderr=subprocess.STDOUT, **more)
        assert done.returncode == 0, f"{block}:\n{done.stdout}"
        missing = runbook.not_shown(done.stdout, block.shown)
        assert not missing, f"{block}: no {missing!r} in:\n{done.stdout}"

    def close(self) -> None:
        if self.up:
            self.up.close()


@pytest.fixture
def person(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Person]:
    person = Person(tmp_path / "home", **getattr(request, "param", {}))
    try:
        yield person
    finally:
        person.close()


@pytest.mark.long
@pytest.mark.parametrize(
    "person",
    [
        # The same without TLS, and of a broker without users: once more in `make test-matrix` only.
        *([pytest.param({"BDLAB_STACK_BROKER": "tansu"}, id="in memory")] if ALL or KIND == "tansu" else []),
        pytest.param({"BDLAB_STACK_TLS": "true", "BDLAB_DEPLOYMENT": "sales"}, id="secured", marks=pytest.mark.kafka),
    ],
    indirect=True,
)
def test_the_drill(person: Person) -> None:
    """Up, stopped, up again, backed up, wiped, restored, taken down."""
    for block in BLOCKS:
        if block.section in DRILL and block.where in {"up", "local", "ctrl-c"}:
            person.follow(block)
    assert not person.folder.path.exists()


@pytest.mark.long
@pytest.mark.parametrize("person", [{"BDLAB_STACK_BROKER": "tansu"}], indirect=True, ids=["in memory"])
def test_a_model_of_somebody_s_own(person: Person) -> None:
    for block in OWN_MODEL:
        if block.how == "run":
            person.follow(block)


@pytest.mark.long
@pytest.mark.parametrize("person", [{"BDLAB_STACK_BROKER": "tansu"}], indirect=True, ids=["in memory"])
def test_the_tutorial_and_then_the_rest_of_the_book(person: Person) -> None:
    for block in TUTORIAL:
        if block.how == "run":
            person.follow(block)
    before: dict[str, Callable[[Person], Callable[[], None]]] = {
        "A leaked credential": leak,
        "Dead letters": poison,
        "Lost keys": lose,
    }
    sections = dict.fromkeys(block.section for block in BLOCKS if block.section not in DRILL)
    for section in sections:
        after = before[section](person) if section in before else lambda: None
        for block in BLOCKS:
            if block.section == section and block.where == "local":
                person.follow(block)
        after()


def leak(person: Person) -> Callable[[], None]:
    """Take what a thief would have; afterwards none of it works."""
    person.shell(Block("A leaked credential", 0, "run", "local", 'bdlab predict "It unwraps its secret id."'))
    endpoints, identity = person.folder.running(), person.folder.identity_dir / "predict"
    vault = VaultSettings(address=endpoints.vault_address, ca_file=endpoints.ca_file)
    secret_id = Secret((identity / "secret_id").read_text().strip())

    def log_in() -> Secret:
        return client.log_in((identity / "role_id").read_text().strip(), secret_id).token

    with closing(VaultClient(vault)) as client:
        token = log_in()
        administrator = person.run("bdlab vault-token --ttl 1h")
        user = client.with_token(Secret(administrator.stdout.strip())).read("database/creds/bdlab-writer")

    def connect() -> None:
        psycopg2.connect(
            host=endpoints.postgres_host,
            port=endpoints.postgres_port,
            dbname="bdlab",
            user=user["username"],
            password=user["password"],
        ).close()

    connect()

    def none_of_it_works() -> None:
        with closing(VaultClient(vault)) as client:
            with pytest.raises(IdentityRefused, match="invalid"):
                log_in()
            with closing(client.with_token(token)) as stolen, pytest.raises(TokenRefused):
                stolen.read("auth/token/lookup-self")
        with pytest.raises(psycopg2.OperationalError, match="authentication failed"):
            connect()

    return none_of_it_works


def lose(person: Person) -> Callable[[], None]:
    """Nothing to do before; afterwards the new stack has the rows, and other keys."""

    def rows_and_other_keys() -> None:
        stored = person.run("bdlab status --check postgres | grep -oE '[0-9]+ predictions'").stdout
        assert int(stored.split()[0]) > 0
        folder = person.home / "new-stack"
        up = Up(folder, **person.environment)
        try:
            up.wait_for("eval")
            found = person.run(f'eval "$(bdlab env --data-dir {folder})"\nbdlab verify\nbdlab status')
            assert found.returncode == 0, found.stdout + found.stderr
            assert stored.strip() in found.stdout
        finally:
            up.close()
        for file in ("openbao/seal.key", "vault-keys.json", "identity/serve/secret_id"):
            assert (folder / file).read_bytes() != (person.folder.path / file).read_bytes()

    return rows_and_other_keys


def poison(person: Person) -> Callable[[], None]:
    """A record that is no event."""
    producer = Producer({"bootstrap.servers": person.folder.running().bootstrap_servers})
    producer.produce("predictions", b"no event")
    assert producer.flush(20) == 0
    return lambda: None


@pytest.mark.long
def test_key_shares(new_world: Callable[..., VaultWorld], tmp_path: Path) -> None:
    world = new_world(ShamirOpenBao)
    world.init(world.plan(shares=5, threshold=3))
    world.openbao.stop()
    world.openbao.start()
    person = Person(tmp_path / "home")
    for block in BLOCKS:
        if block.where == "shamir":
            person.shell(block, **world.environment())
