"""A run of the whole local stack, failures included, shows no secret: each is only where it belongs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bdlab.settings import VaultSettings
from bdlab.stack import DataFolder
from bdlab.vault.bootstrap import Plan
from bdlab.vault.bootstrap.admin_access import AdminAccess
from bdlab.vault.client import VaultClient
from tests.chaos.vault_faults import VaultProxy
from tests.fix_pipeline import Daemon
from tests.fix_registry import version_card
from tests.fix_up import BDLAB, ENVIRONMENT, Up
from tests.leaks import TOKEN, Leak, Secrets, Watch
from tests.waiting import until

#: No secret, and planted in every place that is searched: the search has to find it there.
CANARY = "canary-7f3a91c2d4"
MARK = f"BDLAB_TEST_MARK={CANARY}"
#: In the data folder, where a secret lives: read by its owner alone.
HOMES = ("vault-keys.json", "openbao/seal.key", "identity/")
REVIEW = {"text": f"Terrible, the {CANARY} broke at once.", "summary": "no"}


class Run:
    """A stack, what is asked of it, and what it shows. Services and commands reach Vault through `proxy`."""

    def __init__(self, folder: DataFolder, proxy: VaultProxy) -> None:
        self.folder = folder
        self.proxy = proxy
        self.shown: list[tuple[str, bytes]] = []
        self.environment = ENVIRONMENT | {
            "BDLAB_CONFIG": str(folder.config_file),
            "VAULT_ADDR": proxy.address,
            "BDLAB_DEBUG": "1",
            "BDLAB_TEST_MARK": CANARY,
        }

    def command(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Its standard error, after it ended with `code`."""
        printed, said = self.ran(*arguments, code=code, **environment)
        self.shown.append((f"output of {' '.join(arguments)}", printed + said))
        return said.decode()

    def new_key(self, secrets: Secrets) -> str:
        """A key of the API, which the command prints: all else that it says is shown."""
        printed, said = self.ran("api-key", "create", "shop", "--scope", "predict,feedback,read,promote")
        self.shown.append(("messages of api-key create", said))
        key = printed.decode().strip()
        secrets.add("API key", key.removeprefix("bdlab_shop_"))
        return key

    def ran(self, *arguments: str, code: int = 0, **environment: str) -> tuple[bytes, bytes]:
        """Standard output and standard error."""
        done = subprocess.run(
            [*BDLAB, *arguments],
            env=self.environment | environment,
            cwd=self.folder.path.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return done.stdout, done.stderr

    def ask(self, client: httpx.Client, method: str, path: str, status: int, **body: Any) -> None:
        answer = client.request(method, path, **body)
        headers = b"".join(name + value for name, value in answer.headers.raw)
        self.shown.append((f"answer to {method} {path}", answer.content + headers))
        assert answer.status_code == status, answer.text

    @contextlib.contextmanager
    def daemon(self, *arguments: str, **environment: str) -> Iterator[Daemon]:
        daemon = Daemon(arguments, self.environment | environment)
        try:
            yield daemon
            daemon.stop()
        finally:
            daemon.close()
            self.shown.append((f"log of {arguments[0]}", "\n".join(daemon.lines).encode()))

    @contextlib.contextmanager
    def root(self) -> Iterator[VaultClient]:
        vault = VaultSettings(
            address=self.folder.running().vault_address, identity_dir=str(self.folder.identity_dir), timeout_s=10
        )
        client = VaultClient(vault)
        access = AdminAccess(client, Plan(vault=vault, keys_file=self.folder.keys_file))
        try:
            yield access.writer()
        finally:
            with contextlib.suppress(Exception):
                access.close()
            client.close()

    def kill(self, name: str) -> None:
        os.kill(json.loads((self.folder.records / f"{name}.json").read_text())["pid"], signal.SIGKILL)


def refuse(run: Run, client: httpx.Client, key: str, secrets: Secrets) -> None:
    """Keys that are not taken, of which one is right, and only in the wrong place."""
    wrong = f"{key[:-8]}{key[-1:-9:-1]}"
    secrets.add("wrong API key", wrong.removeprefix("bdlab_shop_"))
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJib2IifQ.c2lnbmVkLWJ5LW5vYm9keQ"
    secrets.add("token of nobody", token)
    for given in (wrong, token, f"{wrong} {wrong}", f"{wrong}\xe4"):
        for name, value in (("Authorization", f"Bearer {given}"), ("X-API-Key", given)):
            headers = {"Authorization": "Basic YTpi", name: value.encode("latin-1")}
            run.ask(client, "GET", "/predictions", 401, headers=headers)
            run.ask(client, "POST", "/feedback", 401, headers=headers, json={})
    run.ask(client, "GET", "/predictions", 400, headers={"X-API-Key": key})  # beside the client's own
    run.ask(client, "GET", f"/predictions?api_key={key}", 422)


def work(run: Run, client: httpx.Client) -> None:
    """What is usual, and wrong requests."""
    run.ask(client, "POST", "/predict", 200, json=REVIEW)
    run.ask(client, "POST", "/predict", 422, json={"text": 5})
    run.ask(client, "POST", "/predict", 422, content=b"{", headers={"Content-Type": "application/json"})
    run.ask(client, "POST", "/predict/batch", 422, json=[{"text": "good"}, {"text": ""}])
    run.ask(client, "GET", "/predictions/no-uuid", 422)
    run.ask(client, "GET", "/nowhere", 404)
    until(lambda: client.get("/health").json()["status"] == "healthy")
    for path in ("/health", "/vault-status", "/kafka-status", "/predictions?limit=5", "/metrics"):
        run.ask(client, "GET", path, 200)
    run.command("predict", "Great taste.")
    run.command("verify", "--wait", "60")
    run.command("status", "--json")
    run.command("doctor", BDLAB_STACK_DATA_DIR=str(run.folder.path))
    run.command("config", "show")
    run.command("dlq", "list", "--json")
    run.command("api-key", "list", "--json")
    run.command("migrate")
    run.command("vault-init", "--keys-file", str(run.folder.keys_file), "--dry-run")
    run.command("rotate")


def change_the_model(run: Run, client: httpx.Client) -> None:
    """Feedback, and the way of another version from its card to all who serve; some of it is wrong."""
    predicted = client.post("/predict", json=REVIEW).json()["id"]
    told = {"prediction_id": predicted, "sentiment": "negative"}
    run.ask(client, "POST", "/feedback", 200, json=told)
    run.ask(client, "POST", "/feedback/batch", 200, json=[told, told | {"prediction": 1.0}])
    run.ask(client, "POST", "/feedback", 422, json={"prediction_id": CANARY, "text": CANARY})
    run.command("feedback", predicted, "prediction=2.0", "--source", "tests")
    run.command("feedback", predicted, f"prediction={CANARY}", code=2)
    model, card = "reviews@9.0.0", version_card(run.folder.path.parent / "card", "9.0.0")
    run.command("model", "add", str(card))
    run.command("model", "promote", model, "--why", CANARY)
    until(lambda: client.get("/health").json()["model"] == model)
    run.command("model", "show", model)
    run.command("rescore", "--model", model, "--jobs", "1")
    run.command("verify", "--rescored", model)


def look(run: Run, url: str, key: str) -> None:
    """The console's pages, a sign-in that is refused and one that is not, and a change of the model from there."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as browser:
        run.ask(browser, "GET", "/models", 303)
        run.ask(browser, "GET", "/sign-in", 200)
        form = {"_csrf_token": browser.cookies["bdlab-csrf"]}
        run.ask(browser, "POST", "/sign-in", 401, data=form | {"credential": f"{key[:-8]}{key[-1:-9:-1]}"})
        run.ask(browser, "POST", "/sign-in", 403, data={"credential": key})
        run.ask(browser, "POST", "/sign-in", 303, data=form | {"credential": key})
        for page in (
            "try",
            "live",
            "pipeline",
            "proof",
            "models",
            "quality",
            "rotation",
            "models/reviews/9.0.0",
            "nothing",
        ):
            run.ask(browser, "GET", f"/{page}", 404 if page == "nothing" else 200)
        why = form | {"why": CANARY, "serving": "reviews@9.0.0"}
        run.ask(browser, "POST", "/models/reviews/9.0.0/promote", 303, data=why)
        run.ask(browser, "GET", "/models", 401, headers={"Authorization": f"Bearer {key[:-8]}{key[-1:-9:-1]}"})
        run.ask(browser, "POST", "/sign-out", 303, data=form)


def fail(run: Run, up: Up, client: httpx.Client, secrets: Secrets) -> None:
    """Everything away or refused, one after the other."""
    run.proxy.answer(503)
    model = ("--model", "reviews@9.0.0")
    for command in (["predict", "x"], ["verify"], ["migrate"], ["model", "rollback"], ["rescore", *model]):
        assert "Traceback" in run.command(*command, "--startup-timeout", "0.5", code=1)
    run.command("status", "--json", code=10)
    run.ask(client, "GET", "/vault-status", 503)
    run.proxy.heal()

    with run.root() as root:
        secrets.add("a root token", root.token.reveal())
        root.write("sys/leases/revoke-prefix/database/creds")
        root.write("sys/leases/revoke-prefix/auth/approle")
        root.request("put", "sys/seal", {})
        run.ask(client, "POST", "/predict", 200, json=REVIEW)
    run.kill("openbao")  # it opens its seal at its start
    up.wait_for("restarted openbao")

    places = run.folder.path.parent
    stranger = places / "stranger"
    shutil.copytree(run.folder.identity_dir / "predict", stranger / "verify")
    denied = run.command("verify", code=1, BDLAB_VAULT_IDENTITY_DIR=str(stranger))
    assert "forbids this identity" in denied
    wrong = "11111111-2222-3333-4444-555555555555"
    secrets.add("a wrong secret id", wrong)
    (stranger / "verify" / "secret_id").write_text(wrong)
    assert "refuses the log-in" in run.command("verify", code=1, BDLAB_VAULT_IDENTITY_DIR=str(stranger))
    token_file = places / "token"
    token_file.write_text("s.notATokenOfThisVault123")
    secrets.add("a wrong token", token_file.read_text())
    run.command("vault-init", "--token-file", str(token_file), code=1)
    env_file = places / "broken.env"
    env_file.touch(0o600)
    env_file.write_text("POSTGRES_USER=postgres\nPOSTGRES_PASSWORD=seeded-in-env-4711\nBDLAB_LEASE_TTL=often\n")
    secrets.add("a password in .env", "seeded-in-env-4711")
    run.command("vault-init", "--env-file", str(env_file), code=2)

    run.kill("postgres")
    run.ask(client, "POST", "/predict", 200, json=REVIEW)
    up.wait_for("restarted postgres")
    run.kill("tansu")
    answer = client.post("/predict", json=REVIEW)
    run.shown.append(("answer without a broker", answer.content))
    up.wait_for("restarted tansu")
    until(lambda: client.post("/predict", json=REVIEW).status_code == 200, timeout_s=60)


def learn(run: Run, secrets: Secrets) -> None:
    """What Vault gave out through the proxy, and every Kafka user."""
    with run.root() as root:
        secrets.add("a root token", root.token.reveal())
        for service in root.request("list", "kv/metadata/kafka")["data"]["keys"]:
            secrets.add_fields(f"Kafka user of {service}", root.read_kv(f"kafka/{service}")[0])
    for content in run.proxy.answers:
        with contextlib.suppress(ValueError):
            secrets.add_fields("answer of Vault", json.loads(content))


def plant(run: Run, watch: Watch) -> None:
    """The canary, where a secret would be found; the reviews have it too."""
    (run.folder.logs / "canary.log").write_text(CANARY)
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", CANARY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=run.environment):
        until(lambda: any(content.endswith(f"{CANARY}\0".encode()) for content in list(watch.shown)))


def homes_are_private(folder: Path) -> bool:
    files = [file for home in HOMES for file in folder.glob(f"{home}**/*" if home.endswith("/") else home)]
    assert len(files) > 20
    return all(file.stat().st_mode & 0o077 == 0 for file in files)


def search(run: Run, watch: Watch, secrets: Secrets) -> Iterator[Leak]:
    """Every place in which a secret, or something in the form of a token, is found."""
    shown = [*run.shown, *((where, content) for content, where in watch.shown.items())]
    for file in sorted(run.folder.path.rglob("*")):
        where = str(file.relative_to(run.folder.path))
        if file.is_file() and not where.startswith(HOMES):
            content = file.read_bytes()
            if where.startswith(("postgres/data", "openbao/raft")):
                yield from secrets.leaks(where, content)
            else:
                shown.append((f"file {where}", content))
    for where, content in shown:
        yield from secrets.leaks(where, content)
        if found := TOKEN.search(content):
            yield Leak(f"something like a token: {found[0][:6]!r}...", where)


@pytest.mark.plaintext("what goes to Vault passes a proxy that reads it")
@pytest.mark.long
def test_a_whole_run_shows_no_secret(tmp_path: Path, start_up: Callable[..., Up]) -> None:
    secrets = Secrets()
    data_dir = tmp_path / "stack"
    with Watch(data_dir, secrets, mark=MARK) as watch:
        up = start_up(data_dir, "--broker", "tansu", BDLAB_DEBUG="1", BDLAB_TEST_MARK=CANARY)
        up.wait_for("eval")
        with VaultProxy(up.folder.running().vault_address) as proxy:
            run = Run(up.folder, proxy)
            with (
                run.daemon("serve", "--port", "0", BDLAB_LOG_FORMAT="console", BDLAB_LOG_LEVEL="debug") as serve,
                run.daemon("consume"),
                run.daemon(
                    "console", "--port", "0", BDLAB_CONSOLE_REQUIRE_KEY="all", BDLAB_LOG_LEVEL="debug"
                ) as console,
                httpx.Client(base_url=serve.url(), timeout=30, trust_env=False) as client,
            ):
                key = run.new_key(secrets)
                client.headers["Authorization"] = f"Bearer {key}"
                until(lambda: client.get("/predictions").status_code == 200)
                refuse(run, client, key, secrets)
                work(run, client)
                change_the_model(run, client)
                look(run, console.url(), key)
                fail(run, up, client, secrets)
                until(lambda: client.get("/health").status_code == 200, timeout_s=60)
                run.ask(client, "GET", "/health", 200)
                run.command("verify", "--wait", "60")
                run.ask(client, "GET", "/predictions?limit=20", 200)
                run.command("predict", "--file", CANARY, code=2)
            learn(run, secrets)
            plant(run, watch)
        assert up.signal_and_wait(signal.SIGINT) == 0
        up.rest()
    run.shown.append(("output of up", "\n".join(up.lines).encode()))

    for kind in (
        "root token",
        "recovery key",
        "seal key",
        "administrator's password",
        "wrapped_secret_id of",
        "secret_id of serve",
        "secret_id of model",
        "secret_id of rescore",
        "Kafka user of feedback",
        "Kafka user of consume",
        "answer of Vault: client_token",
        "answer of Vault: password",
        "API key",
        "wrong API key",
        "token of nobody",
    ):
        assert secrets.named(kind), f"no {kind} was seen, and so none looked for"
    leaks = set(search(run, watch, secrets))
    assert not leaks
    assert homes_are_private(data_dir)

    canary = Secrets()
    canary.add("canary", CANARY)
    places = {leak.where.split()[0].split("/")[0] for leak in search(run, watch, canary)}
    assert places >= {"file", "command", "environment", "answer", "output", "postgres"}
