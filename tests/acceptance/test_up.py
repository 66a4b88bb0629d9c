"""`bdlab up` and `bdlab env`, as a person uses them: two terminals, Ctrl-C, and kill -9."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from bdlab.settings import VaultSettings
from bdlab.stack import DataFolder, OpenBao
from bdlab.stack.servers.server import PortRegistry
from bdlab.vault.client import VaultClient
from tests.fix_database import HOSTILE_LIBPQ
from tests.fix_up import (
    DEFAULT_BROKER,
    ENVIRONMENT,
    STOP_WITHIN_S,
    UP_WITHIN_S,
    Up,
    all_gone,
    get,
    no_secret_is_shown,
    post,
    post_until_acknowledged,
    shell,
    wait_until_stored,
)
from tests.rounds import rounds
from tests.terminal import Terminal
from tests.waiting import until

SEED = 20251126
INTEGRATION_TEST = Path(__file__).parents[2] / "infra" / "test_kafka_integration.sh"


@pytest.mark.long
def test_two_terminals_kill_and_recovery(tmp_path: Path, start_up: Callable[..., Up]) -> None:
    data_dir = tmp_path / "a stack"
    up = start_up(data_dir, **HOSTILE_LIBPQ)
    console = up.wait_for(r"^  Console +(http\S+)$")[1]
    if DEFAULT_BROKER == "kafka":
        up.wait_for(r"Broker +127.0.0.1:\d+ +\(Apache Kafka 4[\d.]+, secured, its log on disk\)")
    curl = up.wait_for(r"^ +(curl .*-X POST .*)$")[1]
    evaluate = up.wait_for(r'^ +(eval "\$\(bdlab env .*\)")$')[1]

    # The second terminal.
    done = shell(f"{curl.replace('curl ', 'curl -sS --fail ', 1)}")
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)
    assert first["sentiment"] == "negative"
    done = shell(
        f'{evaluate}\nbdlab predict "Great taste, will buy again."\nbdlab status\nbdlab verify --wait 60\n'
        f"bdlab backup --to {shlex.quote(str(tmp_path / 'backup'))}"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "backup" / "database.dump").stat().st_size > 0
    # What programs of others take: libpq's own variables, and where the broker is.
    bare = shell(
        f"{evaluate}\nexec 3<>/dev/tcp/${{KAFKA_BOOTSTRAP_SERVERS/:/\\/}}\n"
        "curl -sS --fail ${BDLAB_HTTP_CA_FILE:+--cacert $BDLAB_HTTP_CA_FILE} $CONSOLE_URL/health/live > /dev/null\n"
        'echo "$BDLAB_STACK_DATA_DIR|$CONSOLE_URL|$PGHOST|$PGPORT|$PGDATABASE"'
    )
    assert bare.returncode == 0, bare.stderr
    place = [str(data_dir), console, up.endpoint.postgres_host, str(up.endpoint.postgres_port), "bdlab"]
    assert bare.stdout.strip().split("|") == place
    steps = shell(f"{shlex.quote(str(INTEGRATION_TEST))} --local {shlex.quote(str(data_dir))}")
    assert steps.returncode == 0, steps.stdout + steps.stderr
    assert "8 of 8 ok" in steps.stdout
    rows = get(up.endpoint, "/predictions?limit=100")
    assert {first["id"]} < {row["id"] for row in rows}
    assert len(rows) == 3
    assert re.search(r"consumer +│ +healthy +│ +alive at http://127.0.0.1:\d+", done.stdout)

    # Secrets: only their owner can get at them, and the set-up file is gone.
    assert not up.folder.env_file.exists()
    assert not (data_dir / "postgres" / "admin_password").exists()
    assert data_dir.stat().st_mode & 0o077 == 0
    no_secret_is_shown(up.folder)
    refused = shell(f"bdlab up --data-dir {shlex.quote(str(data_dir))}")
    assert refused.returncode == 1
    assert f"process {up.process.pid}" in refused.stderr

    # kill -9: nothing survives, and the next `up` finds the rows.
    up.process.kill()
    assert all_gone(up.folder)
    assert shell(evaluate).returncode == 0  # the eval of nothing
    assert shell(f"bdlab env --data-dir {shlex.quote(str(data_dir))}").returncode == 1
    again = start_up(data_dir)
    again.wait_for("eval")
    kept = {row["id"] for row in get(again.endpoint, "/predictions?limit=100")}
    assert kept == {row["id"] for row in rows}
    status, _ = post(again.endpoint, {"text": "And once more, very good."})
    assert status == 200

    # Ctrl-C: in reverse order of the start; what is on a broker in memory is stored first.
    assert again.signal_and_wait(signal.SIGINT) == 0
    stopped = [line.split()[2] for line in again.rest() if line.startswith("✓ stopped")]
    assert stopped == ["console", "serve", "consume-1", DEFAULT_BROKER, "postgres", "openbao"]
    stored_first = any("stored what was on the broker" in line for line in again.lines)
    assert stored_first == (DEFAULT_BROKER == "tansu")
    assert again.folder.processes() == []


@pytest.mark.long
def test_everything_dies_once_and_the_pipeline_goes_on(tmp_path: Path, start_up: Callable[..., Up]) -> None:
    """On the broker in memory. And another program has taken its port meanwhile."""
    folder = tmp_path / "one"
    folder.mkdir(mode=0o700)
    port = PortRegistry(folder / "ports.json").choose("http")
    with socket.create_server(("127.0.0.1", port)):
        up = start_up(folder, "--broker", "tansu")
        up.wait_for("broker: in memory only: .* `--broker kafka` runs Apache Kafka")
        up.wait_for(f"port {port} is in use; serving on port")
        up.wait_for(r"Broker +127.0.0.1:\d+ +\(in memory only: what is not stored yet is lost when it ends\)")
        up.wait_for("eval")
    status, answer = post(up.endpoint, {"text": "Good."})
    assert status == 200
    wait_until_stored(up.endpoint, answer["id"])
    record = json.loads((up.folder.records / "tansu.json").read_text())
    before = up.folder.running().bootstrap_servers
    os.kill(record["pid"], signal.SIGKILL)
    up.wait_for("tansu: ended .killed by SIGKILL.; starting it again")
    up.wait_for("is gone; no event is known to be lost")
    up.wait_for("restarted tansu")
    assert up.folder.running().bootstrap_servers != before
    answer = post_until_acknowledged(up.endpoint, {"text": "Good again."})
    terminal = f'eval "$(bdlab env --data-dir {shlex.quote(str(up.folder.path))})"\n'
    done = shell(f"{terminal}bdlab verify --wait 60\nbdlab status --check kafka --json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "closed log" in done.stdout
    assert "in memory only" in done.stdout
    assert answer["id"] in {row["id"] for row in get(up.endpoint, "/predictions?limit=100")}
    for name in ("openbao", "postgres", "consume-1", "serve", "console"):
        os.kill(json.loads((up.folder.records / f"{name}.json").read_text())["pid"], signal.SIGKILL)
        up.wait_for(f"{name}: ended .killed by SIGKILL.")
        up.wait_for(f"restarted {name}")
    status, answer = post(up.endpoint, {"text": "Still good."})
    assert status == 200
    wait_until_stored(up.endpoint, answer["id"])
    assert up.signal_and_wait(signal.SIGTERM) == 0
    assert any("stored what was on the broker" in line for line in up.rest())
    assert up.folder.processes() == []


@pytest.mark.long
def test_a_second_ctrl_c_ends_everything_at_once(tmp_path: Path, start_up: Callable[..., Up]) -> None:
    up = start_up(tmp_path / "stack", "--broker", "tansu")
    for _ in range(2):  # one whose start is interrupted is stopped before the others
        up.wait_for("started (openbao|tansu)")
    frozen = json.loads((up.folder.records / "openbao.json").read_text())
    os.kill(frozen["pid"], signal.SIGSTOP)  # it will not stop when asked
    up.process.send_signal(signal.SIGINT)
    up.wait_for("stopped postgres")
    assert up.signal_and_wait(signal.SIGINT) == 130
    assert all_gone(up.folder)


def test_a_start_is_interrupted(tmp_path: Path, start_up: Callable[..., Up]) -> None:
    up = start_up(tmp_path / "stack")
    up.wait_for("started postgres")
    assert up.signal_and_wait(signal.SIGINT) == 1
    assert "error: asked to stop" in "\n".join(up.rest())
    assert up.folder.processes() == []


@pytest.mark.long
def test_a_vault_whose_keys_never_reached_the_disk_begins_anew(short_path: Path, start_up: Callable[..., Up]) -> None:
    """As after kill -9 between the answer of Vault and the writing of its keys."""
    folder = short_path / "stack"
    with OpenBao(folder) as openbao:
        client = VaultClient(VaultSettings(address=openbao.address))
        client.request("put", "sys/init", {"recovery_shares": 1, "recovery_threshold": 1}, timeout_s=60)
        client.close()
    keys_file = folder / "vault-keys.json"
    keys_file.touch(0o600)
    up = start_up(folder, "--broker", "tansu", BDLAB_CONSOLE_REQUIRE_KEY="no scope")
    up.wait_for("openbao: the first start was cut off .* begins anew")
    up.wait_for("console: the pipeline runs without it")
    up.wait_for("Console +did not start: .*console.log says why")
    up.wait_for("eval")
    assert post(up.endpoint, {"text": "Good."})[0] == 200
    assert up.signal_and_wait(signal.SIGTERM) == 0
    # From here on there is something to lose.
    keys_file.write_text("")
    refused = start_up(folder)
    refused.wait_for("its keys never reached")
    assert refused.process.wait(STOP_WITHIN_S) == 1
    assert any((folder / "openbao" / "raft").iterdir())


@pytest.mark.storm
def test_a_first_start_may_be_cut_off_at_any_moment(tmp_path: Path, start_up: Callable[..., Up]) -> None:
    chance = random.Random(SEED)
    folder = tmp_path / "stack"
    for number in range(rounds(4, 40)):
        if number % 4 == 0:  # each is cut off some times before it comes up, or begins anew
            folder = tmp_path / f"stack {number}"
        up = start_up(folder)
        up.wait_for(chance.choice(["started openbao", *2 * [f"started {DEFAULT_BROKER}"]]))
        if chance.random() < 0.7:  # Vault is asked for its keys, or has been
            until(up.folder.keys_file.exists, UP_WITHIN_S)
        up.process.send_signal(chance.choice([signal.SIGINT, signal.SIGKILL, signal.SIGHUP]))
        if chance.random() < 0.5:
            up.process.send_signal(signal.SIGINT)
        up.process.wait(STOP_WITHIN_S)
        assert all_gone(up.folder)
        if number % 4 == 3:
            last = start_up(folder)
            last.wait_for("eval")
            assert post(last.endpoint, {"text": "Good."})[0] == 200
            assert last.signal_and_wait(signal.SIGTERM) == 0


@pytest.mark.long
def test_a_terminal_that_closes_is_a_ctrl_c(tmp_path: Path) -> None:
    """What is on the broker in memory is stored first, though nobody can be told. The folder keeps to it."""
    folder = DataFolder(tmp_path / "stack")
    frozen = {}
    command = ["up", "--broker", "tansu", "--data-dir", str(folder.path)]
    with closing(Terminal(command, ENVIRONMENT)) as terminal:
        assert terminal.shows('eval "$(', UP_WITHIN_S), terminal.screen
        consumer = json.loads((folder.records / "consume-1.json").read_text())["pid"]
        os.kill(consumer, signal.SIGSTOP)
        frozen["id"] = post(folder.running(), {"text": "Good, and not stored yet."})[1]["id"]
        terminal.hang_up()
        os.kill(consumer, signal.SIGCONT)
        assert terminal.process.wait(STOP_WITHIN_S) == 0
    assert all_gone(folder)
    again = Up(folder.path)
    with closing(again):
        again.wait_for("broker: in memory only")
        again.wait_for("eval")
        assert frozen["id"] in {row["id"] for row in get(again.endpoint, "/predictions?limit=100")}
        assert not any("is gone" in line for line in again.lines)


@pytest.mark.long
def test_a_folder_keeps_its_model_and_its_deployment(
    tmp_path: Path, start_up: Callable[..., Up], small_model: Path
) -> None:
    card, sales = small_model / "small.card.json", {"BDLAB_DEPLOYMENT": "sales"}
    up = start_up(tmp_path / "stack", "--model", str(card), "--broker", "tansu", **sales)
    up.wait_for("which the folder keeps once it is up")
    up.wait_for(r"Model +small@0\.0\.1")
    up.wait_for("eval")
    assert get(up.endpoint, "/health")["model"] == "small@0.0.1"
    assert up.endpoint.console_url
    terminal = f'eval "$(bdlab env --data-dir {shlex.quote(str(up.folder.path))})"\n'
    elsewhere = "export BDLAB_MODEL_PATH=elsewhere BDLAB_DEPLOYMENT=another\n"
    done = shell(f"{elsewhere}{terminal}bdlab predict Good --json\nbdlab status\nenv\nbdlab verify --wait 60")
    assert done.returncode == 0, done.stdout + done.stderr
    for said in ("sales-predictions, 6 partitions", "BDLAB_DEPLOYMENT=sales", "PGDATABASE=sales_bdlab"):
        assert said in done.stdout
    assert json.loads(done.stdout.splitlines()[0])["model"] == "small@0.0.1"
    differs = shell(f"{terminal}BDLAB_MODEL_PATH=shipped bdlab status --check model --check api --json")
    assert differs.returncode == 10, differs.stdout
    assert "and the API predicts with small@0.0.1" in differs.stdout
    assert up.signal_and_wait(signal.SIGTERM) == 0
    another = start_up(up.folder.path, BDLAB_DEPLOYMENT="another")
    another.wait_for("keeps to the deployment sales")
    assert another.process.wait(STOP_WITHIN_S) == 1
    again = start_up(up.folder.path)
    again.wait_for("as this folder keeps it; --model shipped goes back")
    again.wait_for(r"Model +small@0\.0\.1")
    again.wait_for("eval")
    assert "sales-predictions" in shell(f"{terminal}bdlab status --check kafka").stdout
    assert again.signal_and_wait(signal.SIGTERM) == 0


def test_an_http_port_that_is_taken_is_an_error_where_it_was_asked_for(
    tmp_path: Path, start_up: Callable[..., Up]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        up = start_up(tmp_path / "stack", "--http-port", str(port))
        assert up.process.wait(STOP_WITHIN_S) == 1
        assert f"port {port} for http is in use" in "\n".join(up.rest())


def test_env_says_what_to_do_where_no_stack_runs(tmp_path: Path) -> None:
    folder = tmp_path / "it's not there"
    done = shell(f"bdlab env --data-dir {shlex.quote(str(folder))}")
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"no local stack is up on {folder}" in done.stderr
    assert "bdlab up --data-dir" in done.stderr
    done = shell('export VAULT_ADDR=x BDLAB_CONFIG=y\neval "$(bdlab env --unset)"\nenv')
    assert done.returncode == 0
    assert "VAULT_ADDR" not in done.stdout
    assert "BDLAB_CONFIG" not in done.stdout
