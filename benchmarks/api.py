"""Measure acknowledged predictions over HTTP, beside peers in the same rounds.

    python -m benchmarks.api throughput   # the most that one process and two serve, and peers
    python -m benchmarks.api latency      # at half of that and a fixed rate, beside bare produce
    python -m benchmarks.api access       # a key and a token, beside neither, and a token's first sight
    python -m benchmarks.api stack        # over `bdlab up`: Apache Kafka with TLS and SCRAM, a consumer

`throughput` and `latency` run `bdlab serve` with a broker of its own that nobody consumes from, so that
nothing else uses the machine's cores: the broker and the load are there for all. wrk makes the load (Debian:
apt-get install wrk).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.server
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import jwt
import msgspec
from benchmarks import common
from benchmarks.common import BODY, PARTITIONS, REVIEW, ROOT, CannotRun, Daemon, Measured, Stack
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from bdlab.access import KEY_FORM, ApiKey, hash_of
from bdlab.serving.access import Gate, receive_credentials
from bdlab.serving.problems import Problem
from bdlab.serving.tokens import Tokens
from bdlab.settings import HttpSettings
from bdlab.stack import Tansu

MLSERVER_BODY = json.dumps({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [REVIEW]}]})


@dataclass
class Contender:
    """A server that takes part: what it is, and where and what to post to it."""

    name: str
    what: str
    daemon: Daemon
    url: str
    body: str = BODY
    key: str = ""
    found: Measured = field(default_factory=Measured)


def works(contender: Contender) -> bool:
    request = Request(contender.url, contender.body.encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=10) as answer:
            return bool(answer.status == 200)
    except HTTPError as error:
        if error.code in (400, 405, 422, 500):
            raise CannotRun(f"{contender.name} answers {error.code}: {error.read()[:500]!r}") from error
        return False
    except OSError:
        return False


class Field:
    """All contenders, running at the same time and idle until it is their turn."""

    def __init__(self, folder: Path, servers: contextlib.ExitStack) -> None:
        self.folder = folder
        self._servers = servers
        self.contenders: dict[str, Contender] = {}
        self.skipped: dict[str, str] = {}

    def add(self, name: str, what: str, make: Callable[[int], Contender]) -> None:
        """Start one; what cannot be installed or started is reported and left out."""
        try:
            contender = make(common.free_port())
            self._servers.enter_context(contender.daemon)
            contender.daemon.wait_until(lambda: works(contender))
        except CannotRun as error:
            if name.startswith("bdlab"):
                raise
            self.skipped[what] = str(error).strip().splitlines()[-1]
            common.say(f"left out: {what}: {error}")
            return
        self.contenders[name] = contender

    def serve(self, name: str, what: str, stack: Stack, broker: str, *, workers: int = 1, **more: str) -> None:
        """Add `bdlab serve` of the stack's Vault, with events to `broker`; `more` goes into its environment."""

        def make(port: int) -> Contender:
            env = stack.exports | {
                "BDLAB_KAFKA_BOOTSTRAP_SERVERS": broker,
                "BDLAB_KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
                "BDLAB_HTTP_MAX_IN_FLIGHT": "2000",
                **more,
            }
            arguments = ["serve", "--port", str(port), "--workers", str(workers)]
            daemon = Daemon(name, [*stack.bdlab, *arguments], self.folder / f"{name}.log", env=env)
            return Contender(name, what, daemon, f"http://127.0.0.1:{port}/predict")

        self.add(name, what, make)

    def collector(self) -> str:
        """Start a collector of traces, and return its address."""
        port = common.free_port()
        command = [sys.executable, "-m", "benchmarks.peers.collector", str(port)]
        self._servers.enter_context(Daemon("collector", command, self.folder / "collector.log", env=_quiet(), cwd=ROOT))
        return f"http://127.0.0.1:{port}"

    def peer(self, name: str, what: str, *arguments: str, group: str = "", bentoml: bool = False) -> None:
        """Add a program of `benchmarks/peers`; PORT among the arguments is its port."""

        def make(port: int) -> Contender:
            python = common.peer_python(group) if group else sys.executable
            words = [str(port) if word == "PORT" else word for word in arguments]
            log = self.folder / f"{name}.log"
            daemon = Daemon(name, [python, "-m", *words], log, env=_quiet(), cwd=ROOT)
            body = json.dumps({"texts": [REVIEW]}) if bentoml else BODY
            return Contender(name, what, daemon, f"http://127.0.0.1:{port}/predict", body)

        self.add(name, what, make)

    def mlserver(self) -> None:
        def make(port: int) -> Contender:
            folder = self.folder / "mlserver"
            folder.mkdir()
            settings = {
                "http_port": port,
                "grpc_port": common.free_port(),
                "metrics_port": common.free_port(),
                "host": "127.0.0.1",
                "parallel_workers": 0,
                "debug": False,
            }
            (folder / "settings.json").write_text(json.dumps(settings))
            model = {
                "name": "reviews",
                "implementation": "benchmarks.peers.mlserver_runtime.Reviews",
                "max_batch_size": 64,
                "max_batch_time": 0.005,
            }
            (folder / "model-settings.json").write_text(json.dumps(model))
            program = Path(common.peer_python("bench-mlserver")).with_name("mlserver")
            env = _quiet() | {"PYTHONPATH": str(ROOT)}
            daemon = Daemon("mlserver", [str(program), "start", str(folder)], self.folder / "m.log", env=env)
            url = f"http://127.0.0.1:{port}/v2/models/reviews/infer"
            return Contender("mlserver", "MLServer with batching, scikit-learn", daemon, url, MLSERVER_BODY)

        self.add("mlserver", "MLServer", make)


def _quiet() -> dict[str, str]:
    return dict(os.environ) | {
        "BENTOML_DO_NOT_TRACK": "True",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
    }


def make_topic(bootstrap_servers: str, topic: str = "predictions") -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(30)


@contextlib.contextmanager
def served(given: argparse.Namespace):  # type: ignore[no-untyped-def]
    """A field without contenders yet, the address of an idle broker, and the stacks whose Vault is used."""
    with contextlib.ExitStack() as servers:
        folder = Path(servers.enter_context(tempfile.TemporaryDirectory(prefix="bdlab-bench-")))
        broker = servers.enter_context(Tansu(folder / "broker"))
        make_topic(broker.bootstrap_servers)
        stacks = [servers.enter_context(Stack("this", folder, broker="tansu"))]
        if given.baseline:
            command = common.bdlab_of(given.baseline)
            stacks.append(servers.enter_context(Stack("baseline", folder, bdlab=command, broker="tansu")))
        yield Field(folder, servers), broker.bootstrap_servers, stacks


def hit(contender: Contender, seconds: float) -> None:
    """Load one contender with wrk, and add what it and its processes did."""
    pid = contender.daemon.pid
    common.settle(pid, timeout_s=10)
    workers = {one: common.cpu_s(one) for one in common.family(pid) if one != pid}
    before = common.cpu_s(pid)
    load = common.wrk(contender.url, contender.body, seconds, key=contender.key)
    used = common.cpu_s(pid) - before
    if load.errors:
        common.say(f"{contender.name}: {load.errors} of {load.errors + load.requests} requests failed")
    contender.found.add(
        rate=load.rate, cpu_us=used / max(load.requests, 1) * 1e6, errors=load.errors, memory=common.memory_mb(pid)
    )
    shares = sorted(common.cpu_s(one) - workers.get(one, 0.0) for one in common.family(pid) if one != pid)
    if contender.name == "bdlab-2" and len(shares) >= 2 and shares[-1]:
        contender.found.add(spread=shares[-2] / shares[-1])


def throughput(given: argparse.Namespace) -> None:
    seconds = given.seconds or (3 if given.quick else 5)
    with served(given) as (field_, broker, stacks):
        field_.serve("bdlab", "bdlab serve", stacks[0], broker)
        field_.serve("bdlab-2", "bdlab serve --workers 2", stacks[0], broker, workers=2)
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": field_.collector()}
        field_.serve("bdlab-traced", "bdlab serve with traces", stacks[0], broker, **traced)
        field_.serve("bdlab-sampled", "bdlab serve with traces, 1 % sampled", stacks[0], broker, **traced, **SAMPLED)
        if given.baseline:
            field_.serve("bdlab-baseline", f"bdlab serve of {given.baseline}", stacks[1], broker)
        wanted = PEERS if given.peers == "all" else [name for name in given.peers.split(",") if name]
        for name in wanted:
            add_peer(field_, name, broker)
        contenders = field_.contenders
        for contender in contenders.values():
            common.wrk(contender.url, contender.body, 1, connections=16)
        for _ in common.rounds(given, 3):
            for contender in contenders.values():
                hit(contender, seconds)
    ours = contenders["bdlab"].found
    common.table(
        ["", "requests/s", "bdlab is", "CPU µs a request", "errors", "MB"],
        [
            [
                each.what,
                f"{each.found['rate']:,.0f}",
                f"{ours['rate'] / max(each.found['rate'], 0.1):.2f} x",
                f"{each.found['cpu_us']:,.0f}",
                f"{each.found['errors']:.0f}",
                f"{each.found['memory']:.0f}",
            ]
            for each in contenders.values()
        ],
    )
    for what, why in field_.skipped.items():
        print(f"left out: {what}: {why}")
    print()
    for name, least in (("naive", 10.0), ("mlserver", 4.5), ("echo", 0.75)):
        if name in contenders:
            what = contenders[name].what
            common.target(f"bdlab / {what}", ours["rate"] / contenders[name].found["rate"], ">=", least)
    common.target("CPU a request", ours["cpu_us"], "<=", 300, " µs")
    two = contenders["bdlab-2"].found
    common.target("CPU a request, 2 workers / 1", two["cpu_us"] / ours["cpu_us"], "<=", 1.1)
    for name, what in (("bdlab-traced", "all"), ("bdlab-sampled", "1 %")):
        ratio = contenders[name].found["cpu_us"] / ours["cpu_us"]
        print(f"        CPU a request with traces of {what} / without: {ratio:.2f}")
    if "spread" in two:
        print(f"        CPU time of the less busy of the 2 workers / of the other: {two['spread']:.2f}")
    if given.baseline:
        before = contenders["bdlab-baseline"].found
        print(f"        requests a second, this / {given.baseline}: {ours['rate'] / before['rate']:.2f}")


def access(given: argparse.Namespace) -> None:
    """One server, asked in turn without a key, with one, with one that has a limit, and with a token."""
    seconds = given.seconds or (3 if given.quick else 5)
    with served(given) as (field_, broker, stacks), Provider() as provider:
        settings = {"BDLAB_HTTP_JWT_ISSUER": provider.url, "BDLAB_HTTP_JWT_AUDIENCE": "bench"}
        stacks[0].exports |= settings
        field_.serve("bdlab", "no key", stacks[0], broker)
        server = field_.contenders["bdlab"]
        limited = made_key(stacks[0], "limited", "100000/s")
        keys = {"an API key": made_key(stacks[0], "free"), "one with a limit": limited}
        ways = {"no key": server}
        for what, key in {**keys, "a token seen before": provider.token("ES256", "one")}.items():
            ways[what] = Contender(server.name, what, server.daemon, server.url, key=key)
        time.sleep(5)  # within which the server knows of a new key
        for way in ways.values():
            common.wrk(way.url, way.body, 1, connections=16, key=way.key)
        turn = list(ways.values())
        for _ in common.rounds(given, 6):
            for way in turn:
                hit(way, seconds)
            turn.reverse()  # the topic grows, which the last would pay for
        first = {kind: provider.first_sight_us(kind) for kind in ("ES256", "RS256", "EdDSA")}
        token = provider.token("ES256", "one")
        checks = {what: asyncio.run(check_us(provider.url, key)) for what, key in {**keys, "a token": token}.items()}
    bare = ways["no key"].found["cpu_us"]
    rows = [[what, way.found["cpu_us"], way.found["cpu_us"] - bare, way.found["errors"]] for what, way in ways.items()]
    head = ["", "CPU µs a request", "more than without", "errors"]
    common.table(head, [[what, *(f"{value:.0f}" for value in figures)] for what, *figures in rows])
    print()
    for what in (*keys, "a token seen before"):
        common.target(f"CPU of {what}", ways[what].found["cpu_us"] - bare, "<=", 15, " µs")
    for what, micros in checks.items():
        common.target(f"the check of {what} alone", micros, "<=", 15, " µs")
    for kind, micros in first.items():
        print(f"        first sight of a token, {kind}: {micros:.0f} µs")


class Known(dict[str, ApiKey]):
    """The keys of a process, as its session knows them."""

    def api_keys(self) -> Known:
        return self


async def check_us(issuer: str, key: str, count: int = 5000) -> float:
    """Return the CPU time of all that is done about a key or token that was seen before, measured in this process."""
    found = KEY_FORM.fullmatch(key)
    known = Known()
    if found:
        values = {"name": found["name"], "hash": hash_of(found["secret"]), "scopes": ["predict"], "expires_at": None}
        values |= {"created_at": "2026-11-26T12:00:00Z", "rate": 1e9 if found["name"] == "limited" else None}
        known[found["name"]] = msgspec.convert(values, ApiKey)
    gate = Gate(known, HttpSettings(jwt_issuer=issuer, jwt_audience="bench"), lambda _: None)
    head: Any = {"type": "http.response.start", "headers": []}

    async def send(_: object) -> None: ...

    async def ask() -> None:
        scope = {"headers": [(b"host", b"localhost"), (b"authorization", b"Bearer " + key.encode())]}
        telling = receive_credentials(scope, send)
        await gate.admit(scope, gate.need("predict"))
        gate.spend(scope, 1)
        await telling(head)

    await ask()
    began = time.process_time()
    for _ in range(count):
        await ask()
    return (time.process_time() - began) / count * 1e6


def made_key(stack: Stack, name: str, rate: str = "") -> str:
    command = ["api-key", "create", name, "--scope", "predict", *(["--rate", rate] if rate else ())]
    return common.finish([*stack.bdlab, *command], env=stack.exports).output.strip()


class Provider:
    """An identity provider on this machine, with a key of each kind."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {
            "ES256": ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate(),
            "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        }
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(provider.published(self.path)).encode())

            def log_message(self, *_: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Provider:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def published(self, path: str) -> dict[str, object]:
        if path.endswith("openid-configuration"):
            return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        made = {kind: jwt.get_algorithm_by_name(kind).to_jwk(key.public_key()) for kind, key in self.keys.items()}
        return {"keys": [json.loads(key) | {"kid": kind, "alg": kind} for kind, key in made.items()]}

    def token(self, kind: str, subject: str) -> str:
        claims = {"iss": self.url, "aud": "bench", "sub": subject, "exp": time.time() + 3600, "scope": "predict"}
        return jwt.encode(claims, self.keys[kind], kind, {"kid": kind})

    def first_sight_us(self, kind: str, count: int = 500) -> float:
        """Return the CPU time that a token takes which was not seen before, its issuer's keys being known."""
        settings = HttpSettings(jwt_issuer=self.url, jwt_audience="bench")
        found = [self.token(kind, f"somebody-{number}") for number in range(count)]

        async def measure() -> float:
            tokens = Tokens(settings, lambda reason, why: Problem(reason, why, 401, reason))
            await tokens.caller(self.token(kind, "the first"))
            began = time.process_time()
            for token in found:
                await tokens.caller(token)
            return (time.process_time() - began) / count * 1e6

        return asyncio.run(measure())


SAMPLED = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
PEERS = ["echo", "bare", "naive", "mlserver", "bentoml", "litserve", "faststream"]


def add_peer(field_: Field, name: str, broker: str) -> None:
    here = "benchmarks.peers"
    match name:
        case "echo":
            field_.peer(name, "Litestar echo", f"{here}.echo", "PORT")
        case "bare":
            field_.peer(name, "bare ASGI, produce, acknowledged", f"{here}.bare", "PORT", broker, "2")
        case "bare-0":
            field_.peer(name, "the same with linger 0", f"{here}.bare", "PORT", broker, "0")
        case "naive":
            what = "FastAPI, scikit-learn, produce without waiting"
            field_.peer(name, what, f"{here}.naive", "PORT", broker, group="bench-naive")
        case "mlserver":
            field_.mlserver()
        case "bentoml":
            words = ("bentoml", "serve", f"{here}.bento:Reviews", "--host", "127.0.0.1", "--port", "PORT")
            what = "BentoML with batching, scikit-learn"
            field_.peer(name, what, *words, group="bench-bentoml", bentoml=True)
        case "litserve":
            what = "LitServe with batching, scikit-learn"
            field_.peer(name, what, f"{here}.lit", "PORT", group="bench-litserve")
        case "faststream":
            what = "FastStream HTTP, publish, confirmed; no model"
            field_.peer(name, what, f"{here}.faststream_app", "PORT", broker, group="bench-faststream")
        case _:
            raise CannotRun(f"{name!r} is no peer: {', '.join(PEERS)}")


def latency(given: argparse.Namespace) -> None:
    seconds = given.seconds or (5 if given.quick else 10)
    with served(given) as (field_, broker, stacks):
        field_.serve("bdlab", "bdlab serve", stacks[0], broker)
        if given.baseline:
            field_.serve("bdlab-baseline", f"bdlab serve of {given.baseline}", stacks[1], broker)
        for name in ("bare", "bare-0"):
            add_peer(field_, name, broker)
        contenders = field_.contenders
        hit(contenders["bdlab"], 1)
        hit(contenders["bdlab"], 4)
        rate = given.rate or max(contenders["bdlab"].found.rounds["rate"]) / 2
        for _ in common.rounds(given, 3):
            for contender in contenders.values():
                before = common.cpu_s(contender.daemon.pid)
                load = common.open_loop(contender.url, contender.body, rate, seconds)
                contender.found.add(
                    p50=load.p50_ms,
                    p99=load.p99_ms,
                    errors_open=load.errors,
                    rate_open=load.rate,
                    cpu_open=(common.cpu_s(contender.daemon.pid) - before) / max(load.requests, 1) * 1e6,
                )
    print(f"{rate:,.0f} requests/s, each due at a fixed time; half of what bdlab serves at most\n")
    show_latencies([(each.what, each.found) for each in contenders.values()])
    print()
    ours = contenders["bdlab"].found
    bare = [contenders[name].found["p99"] for name in ("bare", "bare-0") if name in contenders]
    common.target("p50", ours["p50"], "<=", 2, " ms")
    if bare:
        common.target("p99 / the better bare one's", ours["p99"] / min(bare), "<=", 2)


def show_latencies(rows: list[tuple[str, Measured]]) -> None:
    common.table(
        ["", "p50 ms", "p99 ms", "answers/s", "CPU µs a request", "errors"],
        [
            [
                what,
                f"{found['p50']:.2f}",
                f"{found['p99']:.2f}",
                f"{found['rate_open']:,.0f}",
                f"{found['cpu_open']:,.0f}",
                f"{found['errors_open']:.0f}",
            ]
            for what, found in rows
        ],
    )


RATE_WITH_CONSUMER = 450


def stack(given: argparse.Namespace) -> None:
    seconds = given.seconds or (4 if given.quick else 8)
    with contextlib.ExitStack() as servers:
        folder = Path(servers.enter_context(tempfile.TemporaryDirectory(prefix="bdlab-bench-")))
        this = servers.enter_context(Stack("kafka", folder, broker="kafka"))
        memory = servers.enter_context(Stack("tansu", folder, broker="tansu"))
        stacks = {"bdlab up --broker kafka": this, "bdlab up --broker tansu": memory}
        if given.baseline:
            command = common.bdlab_of(given.baseline)
            what = f"bdlab up --broker kafka of {given.baseline}"
            stacks[what] = servers.enter_context(Stack("baseline", folder, bdlab=command, broker="kafka"))
        found = {what: Measured() for what in stacks}
        for one in stacks.values():
            common.wrk(f"{one.url}/predict", BODY, 2)
        for _ in common.rounds(given, 3):
            for what, one in stacks.items():
                common.settle(one.pid)
                load_stack(one, found[what], seconds)
        # Large logs, which made a broker slow, are there by now.
        for _ in common.rounds(given, 2):
            for what, one in stacks.items():
                common.settle(one.pid)
                began, before = time.monotonic(), common.cpu_s(one.pid_of(one.broker))
                pid, used = one.pid_of("serve"), common.cpu_s(one.pid_of("serve"))
                load = common.open_loop(f"{one.url}/predict", BODY, RATE_WITH_CONSUMER, seconds + 2)
                share = (common.cpu_s(one.pid_of(one.broker)) - before) / (time.monotonic() - began)
                found[what].add(
                    p50=load.p50_ms,
                    p99=load.p99_ms,
                    errors_open=load.errors,
                    rate_open=load.rate,
                    cpu_open=(common.cpu_s(pid) - used) / max(load.requests, 1) * 1e6,
                    broker_share=share * 100,
                )
    ours = found["bdlab up --broker kafka"]
    common.table(
        ["64 connections, consumer running", "requests/s", "CPU µs: serve", "broker", "consume", "serve MB", "errors"],
        [
            [
                what,
                f"{each['rate']:,.0f}",
                f"{each['serve_us']:,.0f}",
                f"{each['broker_us']:,.0f}",
                f"{each['consume_us']:,.0f}",
                f"{each['memory']:.0f}",
                f"{each['errors']:.0f}",
            ]
            for what, each in found.items()
        ],
    )
    print(f"\n{RATE_WITH_CONSUMER} requests/s, each due at a fixed time, consumer running\n")
    show_latencies(list(found.items()))
    for what, each in found.items():
        print(f"        {what}: the broker used {each['broker_share']:.0f} % of a core")
    print()
    if given.baseline:
        before_rate = next(each for what, each in found.items() if what.endswith(given.baseline))["rate"]
        common.target(f"throughput, this / {given.baseline}", ours["rate"] / before_rate, ">=", 2.5)
    common.target(f"p99 at {RATE_WITH_CONSUMER}/s on Kafka", ours["p99"], "<=", 20, " ms")


def load_stack(one: Stack, found: Measured, seconds: float) -> None:
    """Load a stack's API with wrk, and add processor time by part; the consumer's until it has caught up."""
    parts = {"serve": "serve", "broker": one.broker, "consume": "consume-1"}
    pids = {name: one.pid_of(part) for name, part in parts.items()}
    before = {name: common.cpu_s(pid) for name, pid in pids.items()}
    load = common.wrk(f"{one.url}/predict", BODY, seconds)
    common.settle(one.pid)
    requests = max(load.requests, 1)
    used = {f"{name}_us": (common.cpu_s(pid) - before[name]) / requests * 1e6 for name, pid in pids.items()}
    found.add(rate=load.rate, errors=load.errors, memory=common.memory_mb(pids["serve"]), **used)


def main() -> None:
    parser = common.options(__doc__, baseline=True)
    parser.add_argument("what", choices=("throughput", "latency", "access", "stack"), nargs="?", default="throughput")
    parser.add_argument("--seconds", type=float, default=0, help="of each measurement")
    parser.add_argument("--rate", type=float, default=0, help="requests a second for `latency`")
    parser.add_argument("--peers", default="all", help=f"some of {','.join(PEERS)}, or none with ''")
    given = parser.parse_args()
    print(f"{common.machine()}\n")
    {"throughput": throughput, "latency": latency, "access": access, "stack": stack}[given.what](given)


if __name__ == "__main__":
    common.run(main)
