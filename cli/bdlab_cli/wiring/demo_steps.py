"""The steps of `bdlab demo`, each shown and checked."""

import json
import shutil
import ssl
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import msgspec
from rich.table import Column, Table
from rich.text import Text

from bdlab.contract import Contract
from bdlab.errors import StackError, StartInterrupted, Unhealthy
from bdlab.model import load_contract
from bdlab.model.scorer import find
from bdlab.retry import tries
from bdlab.selection import MAX_LIMIT
from bdlab.stack import DataFolder, Endpoints, Event, LocalStack
from bdlab.stack.brokers import described
from bdlab.stack.servers.process import tail
from bdlab_cli.options import BrokerName
from bdlab_cli.output import terminal
from bdlab_cli.output.columns import input_columns, output_columns
from bdlab_cli.output.stack_events import show
from bdlab_cli.wiring.local_stack import bdlab_command, choose_broker
from bdlab_cli.wiring.samples import samples_of, slang_reviews
from bdlab_cli.wiring.signals import stop_on_signal

_HTTP_TIMEOUT_S, _ROWS_TIMEOUT_S, _VERIFY_WAIT_S, _POLL_S = 20.0, 30.0, 30, 0.2
_LOG_LINES = 15
_LEARNT, _JUDGED = 300, 100


def run_demo(broker: BrokerName, *, keep: bool, tls: bool, model: str | None, with_life: bool, as_json: bool) -> None:
    """Run the pipeline of `model`, a path as the stack takes it, once and check each step; `with_life` goes on with a
    second version of the shipped model. Raises BdlabError for the first that does not hold."""
    talk, out = terminal.stderr(), terminal.stdout()
    began = time.monotonic()
    with stop_on_signal() as stop, _throw_away_folder(keep=keep) as folder:
        kind = choose_broker(DataFolder(folder), broker, stop)
        options: dict[str, Any] = {"tls": tls, "model_path": model, "with_console": keep}
        stack = LocalStack(folder, command=bdlab_command(), report=show, broker=kind, **options)
        demo = _Demo(stack, stack.open(stop), folder, stop)
        try:
            if demo.endpoints.console_url:
                talk.print(f"Watch it in the console until it ends: {demo.endpoints.console_url}")
            serve_log, consume_log = stack.log_file("serve"), stack.log_file("consume-1")
            contract = load_contract(demo.endpoints.model_path)
            samples = samples_of(contract)
            over_http, from_file = samples[: len(samples) // 2], samples[len(samples) // 2 :]
            with _step(f"predicted {len(over_http)} {contract.plural} over HTTP", log_file=serve_log):
                ids = [str(demo.post("/predict", sample, "demo")["id"]) for sample in over_http]
            with _step(f"predicted {len(from_file)} {contract.plural} with `bdlab predict --file`"):
                file = folder / "samples.jsonl"
                file.write_bytes(msgspec.json.Encoder().encode_lines(from_file))
                output = demo.bdlab("predict", "--file", str(file), "--json", "--source", "demo")
                ids += [str(json.loads(line)["id"]) for line in output.splitlines()]
            with _step(f"read {len(ids)} rows back from Postgres", log_file=consume_log):
                rows = demo.wait_for_rows(ids)
            if not as_json:
                out.print(_table(contract, rows), markup=True)
            life = None
            if with_life and demo.endpoints.model_path:
                talk.print("A model of your own serves, so no second version is trained: that is of the shipped one.")
            elif with_life:
                life = demo.lead_model()
            with _step("verified that every offset is stored exactly once"):
                accounts = demo.verify(*["--json"] * as_json)
            result = {"rows": rows, "accounts": msgspec.Raw(accounts.encode()), "model_life": life}
            terminal.echo_json(result) if as_json else out.print(accounts, end="")
        finally:
            stack.close(drain=False)
    held = f"all of it held, in {time.monotonic() - began:.1f} s; the broker: {described(kind)}"
    talk.print(f"[green]ok[/] {held}", markup=True, soft_wrap=True)


@contextmanager
def _step(name: str, *, log_file: Path | None = None) -> Iterator[None]:
    """Show how a step ended and its seconds; if it failed, also the end of the log of the part in it."""
    began = time.monotonic()
    try:
        yield
    except Exception:
        show(Event("failed", name, "FAILED", time.monotonic() - began))
        if log_file:
            terminal.stderr().print(f"The end of {log_file.name}:\n{tail(log_file, _LOG_LINES)}")
        raise
    show(Event("done", name, seconds=time.monotonic() - began))


@contextmanager
def _throw_away_folder(*, keep: bool) -> Iterator[Path]:
    """Give a folder that is removed at the end, after a look that no process works in it any more."""
    folder = Path(tempfile.mkdtemp(prefix="bdlab-demo-"))
    try:
        yield folder
    finally:
        with _step("left nothing behind" if not keep else f"left nothing behind but {folder}"):
            left = DataFolder(folder).processes()
            if not keep:
                shutil.rmtree(folder)
            if left:
                raise StackError(f"processes of the demo still run: {', '.join(map(str, left))}")


@dataclass
class _Demo:
    """What is done with a stack that is up, in its `folder`. All raise BdlabError."""

    stack: LocalStack
    endpoints: Endpoints
    folder: Path
    stop: threading.Event

    def bdlab(self, *arguments: str) -> str:
        return self.stack.commands.run(arguments[0], arguments, self.stop).output

    def verify(self, *options: str) -> str:
        """Return what `bdlab verify` printed. Raises Unhealthy if it does not add up."""
        verify = ["verify", "--wait", str(_VERIFY_WAIT_S), *options]
        outcome = self.stack.commands.run("verify", verify, self.stop, check=False)
        if outcome.code != 0:
            raise Unhealthy(f"bdlab verify ended with exit code {outcome.code}:\n{outcome.output}{outcome.tail}")
        return outcome.output

    def call(self, method: str, path: str, body: object = None, source: str | None = None) -> tuple[int, Any]:
        """Return status and decoded JSON. Raises StackError if the API does not answer."""
        ca_file = self.endpoints.ca_file
        context = ssl.create_default_context(cafile=ca_file) if ca_file else False
        try:
            with httpx.Client(verify=context, trust_env=False, timeout=_HTTP_TIMEOUT_S) as client:
                headers = {"Bdlab-Source": source} if source else {}
                response = client.request(method, self.endpoints.http_url + path, json=body, headers=headers)
                return response.status_code, response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise StackError(f"{method} {self.endpoints.http_url}{path} was not answered: {error}") from error

    def post(self, path: str, body: object, source: str | None = None) -> Any:
        status, answer = self.call("POST", path, body, source)
        if status != 200:
            raise Unhealthy(f"POST {path} answered {status} instead of 200: {answer}")
        return answer

    def wait_for_rows(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return the stored rows of `ids`, in that order, once all are there. Raises Unhealthy if some are missing
        after 30 s, and StartInterrupted if `stop` is set."""
        status, missing = 0, len(ids)
        for _ in tries(_ROWS_TIMEOUT_S, stop=self.stop, longest_s=_POLL_S):
            status, answer = self.call("GET", f"/predictions?limit={min(10 * len(ids), MAX_LIMIT)}&source=all")
            stored = {row["id"]: row for row in answer} if status == 200 else {}
            missing = sum(wanted not in stored for wanted in ids)
            if not missing:
                return [stored[wanted] for wanted in ids]
        if self.stop.is_set():
            raise StartInterrupted("asked to stop while waiting for the rows")
        late = f"are not in Postgres after {_ROWS_TIMEOUT_S:.0f} s (GET /predictions answered {status})"
        raise Unhealthy(f"{missing} of {len(ids)} predictions {late}")

    def lead_model(self) -> dict[str, Any]:
        """Lead a second version of the shipped model from feedback to its promotion, and return the figures. Its
        reviews have no source that is left out by default, since the folder is thrown away."""
        reviews, old = slang_reviews(), find("").card.title
        new = f"{old}+demo"
        terminal.stderr().print(
            "Next, a model's life, on reviews in a slang that the shipped model misreads, made up for this demo."
        )
        with _step(f"predicted {_LEARNT} such reviews over HTTP"):
            learnt = self._predict(islice(reviews, _LEARNT))
            self.wait_for_rows([*learnt])
            between = datetime.now(UTC).isoformat()
        with _step(f"predicted {_JUDGED} others, which the second version will not learn from"):
            judged = self._predict(islice(reviews, _JUDGED))
        with _step("said with `bdlab feedback` how many stars each is worth, and stored that"):
            self._tell(learnt | judged)
        with _step(f"trained {new} with `bdlab train --from-store`, on the first {_LEARNT}"):
            output = str(self.folder / "second")
            named = ("--output", output, "--model-version", new.partition("@")[2])
            self.bdlab("train", "--from-store", "--until", between, *named)
        with _step("added it to the registry with `bdlab model add`"):
            self.bdlab("model", "add", output)
        with _step("scored the others again with `bdlab rescore`, and verified that each was once"):
            self.bdlab("rescore", "--model", new, "--since", between)
            rescored = self.bdlab("verify", "--rescored", new, "--json")
        with _step("compared both versions on the others with `bdlab compare`"):
            compared = self.bdlab("compare", old, new, "--json")
        with _step("promoted it with `bdlab model promote --if-better`"):
            self.bdlab("model", "promote", new, "--if-better", "--why", "bdlab demo")
        with _step("`serve` took it, without a restart"):
            self._wait_for_model(new)
        with _step(f"predicted {_JUDGED} more with it, said how many stars each is worth, and stored that"):
            self._tell(self._predict(islice(reviews, _JUDGED)))
        with _step("asked for the live error with `bdlab quality`"):
            quality = self.bdlab("quality", "--json")
        errors = {each["model"]: each["errors"]["prediction"] for each in json.loads(quality)["versions"]}
        for model in (old, new):
            text = f"MSE {errors[model]['mse']:.2f} stars², {errors[model]['rows']} right answers"
            terminal.stderr().print(f"  live error of {model}: {text}")
        raw = {"rescored": rescored, "comparison": compared, "quality": quality}
        return {"model": new, **{name: msgspec.Raw(text.encode()) for name, text in raw.items()}}

    def _predict(self, reviews: Iterable[tuple[dict[str, Any], int]]) -> dict[str, int]:
        """Return the ids of the predictions, with the stars that are right."""
        given, stars = zip(*reviews, strict=True)
        return dict(zip((each["id"] for each in self.post("/predict/batch", given)), stars, strict=True))

    def _tell(self, known: Mapping[str, int]) -> None:
        file = self.folder / "feedback.csv"
        lines = "".join(f"{prediction},{stars}\n" for prediction, stars in known.items())
        file.write_text("prediction_id,prediction\n" + lines, encoding="utf-8")
        self.bdlab("feedback", "--file", str(file))
        self.verify()

    def _wait_for_model(self, model: str) -> None:
        health: Any = {}
        for _ in tries(_ROWS_TIMEOUT_S, stop=self.stop, longest_s=_POLL_S):
            _, health = self.call("GET", "/health")
            if health["model"] == model:
                return
        why = health.get("model_problem") or "it was not loaded in time"
        raise Unhealthy(f"`serve` still answers with {health.get('model')}: {why}")


def _table(contract: Contract, rows: Sequence[dict[str, Any]]) -> Table:
    """Return a table of the stored rows."""
    words = any(row["explanation"] for row in rows)
    columns = input_columns(contract) + output_columns(contract, words=words)
    titles = [title for title, _ in columns]
    where = Column("partition/offset", no_wrap=True)
    table = Table(*titles, where, title="Stored in Postgres", title_justify="left")
    for row in rows:
        place = f"{row['position']['partition']}/{row['position']['offset']}"
        table.add_row(*(cell(row) for _, cell in columns), Text(place))
    return table
