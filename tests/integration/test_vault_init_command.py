"""`bdlab vault-init` as a process: what it prints, and kill -9 at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import msgspec
import pytest

from bdlab.services import IDENTITIES
from tests import forked
from tests.fix_vault import VaultWorld
from tests.rounds import rounds
from tests.vault_steps import STEPS, outcomes, root_tokens, unchanged_but

BDLAB = (sys.executable, "-m", "bdlab_cli")


def run(world: VaultWorld, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return forked.run(
        ["--debug", "vault-init", *arguments],
        os.environ | world.environment(**environment),
        folder=world.folder,
        timeout_s=60,
    )


#: A `vault-init` that gets signals when Vault has answered with its keys, and they are written nowhere yet.
INTERRUPTED = """
import os, signal, sys
from bdlab.vault.client import VaultClient
from bdlab_cli.app import main
send = VaultClient._send
def send_and_signal(client, method, path, *arguments, **named):
    answer = send(client, method, path, *arguments, **named)
    if path.endswith("sys/init") and method == "put":
        for name in ("SIGTERM", "SIGINT", "SIGTERM", "SIGHUP"):
            os.kill(os.getpid(), signal.Signals[name])
    return answer
VaultClient._send = send_and_signal
main(["vault-init"])
"""


def test_signals_wait_until_the_keys_are_written_down(new_world: Callable[..., VaultWorld]) -> None:
    world = new_world()
    env_file = world.env_file()
    cut_off = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        env=os.environ | world.environment(BDLAB_VAULT_INIT_ENV_FILE=str(env_file)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert cut_off.returncode == -signal.SIGTERM, cut_off.stderr
    assert "writing Vault's keys down" in cut_off.stderr
    assert json.loads(world.keys_file.read_text())["root_token"]
    again = run(world, "--env-file", str(env_file))
    assert again.returncode == 0, again.stderr


def test_kill_after_each_step_then_run_again(new_world: Callable[..., VaultWorld]) -> None:
    world = new_world()
    env_file = world.env_file()
    command = [*BDLAB, "vault-init", "--env-file", str(env_file)]
    environment = os.environ | world.environment(PYTHONUNBUFFERED="1")
    killed = []
    for step in STEPS:
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout
            for line in process.stdout:
                if line.startswith(step):
                    process.kill()
                    killed.append(step)
                    break
    assert killed == STEPS
    last = run(world, "--env-file", str(env_file), "--json")
    assert last.returncode == 0, last.stderr
    assert outcomes(world.init()) == unchanged_but()
    assert root_tokens(world) == []
    with world.session("consume", "bdlab-writer", daemon=False) as session:
        world.connect(session.database()).close()


@pytest.mark.storm
@pytest.mark.parametrize("seed", range(1, rounds(4, 12)))
def test_kill_after_any_change_then_run_again(new_world: Callable[..., VaultWorld], seed: int) -> None:
    """On the server or on disk: whatever the run had just done when it died, a later one finishes."""
    world = new_world()
    given = {
        "seed": seed,
        "env_file": str(world.env_file()),
        "server": msgspec.to_builtins(world.server),
        "address": world.vault.address,
        "ca_file": world.vault.ca_file,
        "identity_dir": world.vault.identity_dir,
        "keys_file": str(world.keys_file),
    }
    crashes = subprocess.run(
        [sys.executable, "-m", "tests.crash_vault_init"],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert crashes.returncode == 0, crashes.stderr
    died_after = crashes.stdout.splitlines()
    assert len(died_after) > 8, died_after
    assert outcomes(world.init()) == unchanged_but()
    assert root_tokens(world) == []
    for service in IDENTITIES:
        with world.logged_in(service):
            pass
    with world.session("consume", "bdlab-writer", daemon=False) as session:
        world.connect(session.database()).close()


def test_the_command_prints_steps_and_no_secret(vault_world: VaultWorld) -> None:
    env_file = vault_world.env_file()
    vault_world.init()
    done = run(vault_world)
    assert done.returncode == 0, done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == STEPS
    assert done.stdout.count("unchanged") == len(STEPS)
    assert f"{env_file.name} is not needed any more: delete it" in done.stderr
    as_json = run(vault_world, "--json")
    assert [step["outcome"] for step in json.loads(as_json.stdout)] == ["unchanged"] * len(STEPS)
    env_file.unlink()
    without = run(vault_world)
    assert "not needed any more" not in without.stderr

    keys = json.loads(vault_world.keys_file.read_text())
    secrets = [vault_world.postgres.admin_password.reveal(), *keys["recovery_keys"]]
    said = "".join(found.stdout + found.stderr for found in (done, as_json, without))
    assert not [secret for secret in secrets if secret in said]


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "said"),
    [
        (["--threshold", "2"], {}, 2, "--threshold 2 is more than --shares 1"),
        (["--env-file", "absent.env"], {}, 2, "there is no file absent.env"),
        (["--token-file", "absent"], {}, 2, "the file absent cannot be read"),
        ([], {"BDLAB_VAULT_TOKEN": "s.wrong"}, 1, "does not accept the token that was given"),
        (["--startup-timeout", "0.1"], {"VAULT_ADDR": "http://127.0.0.1:1"}, 1, "is unreachable"),
        ([], {"VAULT_ADDR": "vault:8200"}, 2, "setting vault.address: 'vault:8200' is no http(s) URL"),
    ],
)
def test_the_command_says_what_is_wrong(
    vault_world: VaultWorld, arguments: list[str], environment: dict[str, str], code: int, said: str
) -> None:
    found = run(vault_world, *arguments, **environment)
    assert found.returncode == code
    assert "done" not in found.stdout
    assert said in found.stderr.partition("\nerror: ")[2]
    assert "s.wrong" not in found.stderr
