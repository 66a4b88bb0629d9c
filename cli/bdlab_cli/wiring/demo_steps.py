"""The steps of `bdlab demo`, each shown and checked."""

import json
import shutil
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
from rich.table import Column, Table
from rich.text import Text

from bdlab.contract import Contract
from bdlab.errors import StackError, StartInterrupted, Unhealthy
from bdlab.model import load_contract
from bdlab.retry import tries
from bdlab.stack import DataFolder, Endpoints, Event, LocalStack
from bdlab.stack.brokers import described
from bdlab.stack.servers.process import tail
from bdlab_cli.options import BrokerName
from bdlab_cli.output import terminal
from bdlab_cli.output.columns import input_columns, output_columns
from bdlab_cli.output.stack_events import show
from bdlab_cli.wiring.local_stack import bdlab_command, choose_broker
from bdlab_cli.wiring.samples import samples_of
from bdlab_cli.wiring.signals import stop_on_signal

_HTTP_TIMEOUT_S, _ROWS_TIMEOUT_S, _VERIFY_WAIT_S, _POLL_S = 20.0, 30.0, 30, 0.2
_LOG_LINES = 15


def run_demo(broker: BrokerName, *, keep: bool, tls: bool, model: str | None, as_json: bool) -> None:
    """Run the pipeline of `model`, a path as the stack takes it, once and check each step.

    Raises BdlabError for the first that does not hold."""
    talk, out = terminal.stderr(), terminal.stdout()
    began = time.monotonic()
    with stop_on_signal() as stop, _throw_away_folder(keep=keep) as folder:
        kind = choose_broker(DataFolder(folder), broker, stop)
        stack = LocalStack(folder, command=bdlab_command(), report=show, broker=kind, tls=tls, model_path=model)
        endpoints = stack.open(stop)
        try:
            serve_log, consume_log = stack.log_file("serve"), stack.log_file("consume-1")
            contract = load_contract(endpoints.model_path)
            samples = samples_of(contract)
            over_http, from_file = samples[: len(samples) // 2], samples[len(samples) // 2 :]
            with _step(f"predicted {len(over_http)} {contract.plural} over HTTP", log_file=serve_log):
                ids = _post(endpoints, over_http)
            with _step(f"predicted {len(from_file)} {contract.plural} with `bdlab predict --file`"):
                ids += _predict(stack, from_file, folder, stop)
            with _step(f"read {len(ids)} rows back from Postgres", log_file=consume_log):
                rows = _wait_for_rows(endpoints, ids, stop)
            if not as_json:
                out.print(_table(contract, rows), markup=True)
            with _step("verified that every offset is stored exactly once"):
                accounts = _verify(stack, stop, *["--json"] * as_json)
            result = {"rows": rows, "accounts": msgspec.Raw(accounts.encode())}
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


def _post(endpoints: Endpoints, samples: Sequence[dict[str, Any]]) -> list[str]:
    """Predict over HTTP, and return the ids of the answers. Raises Unhealthy for any answer but 200."""
    ids = []
    for sample in samples:
        status, answer = _call(endpoints, "POST", "/predict", sample)
        if status != 200:
            raise Unhealthy(f"POST /predict answered {status} instead of 200: {answer}")
        ids.append(str(answer["id"]))
    return ids


def _predict(stack: LocalStack, samples: Sequence[dict[str, Any]], folder: Path, stop: threading.Event) -> list[str]:
    """Predict from a file with `bdlab predict`, and return the ids that it printed. Raises StackError."""
    file = folder / "samples.jsonl"
    file.write_text("".join(json.dumps(sample) + "\n" for sample in samples), encoding="utf-8")
    outcome = stack.commands.run("predict", ["predict", "--file", str(file), "--json", "--source", "demo"], stop)
    return [str(json.loads(line)["id"]) for line in outcome.output.splitlines()]


def _wait_for_rows(endpoints: Endpoints, ids: Sequence[str], stop: threading.Event) -> list[dict[str, Any]]:
    """Return the stored rows of `ids`, in that order, once all are there.

    Raises Unhealthy if some are missing after 30 s, and StartInterrupted if `stop` is set."""
    status, missing = 0, len(ids)
    for _ in tries(_ROWS_TIMEOUT_S, stop=stop, longest_s=_POLL_S):
        status, answer = _call(endpoints, "GET", f"/predictions?limit={10 * len(ids)}&source=all")
        stored = {row["id"]: row for row in answer} if status == 200 else {}
        missing = sum(wanted not in stored for wanted in ids)
        if not missing:
            return [stored[wanted] for wanted in ids]
    if stop.is_set():
        raise StartInterrupted("asked to stop while waiting for the rows")
    late = f"are not in Postgres after {_ROWS_TIMEOUT_S:.0f} s (GET /predictions answered {status})"
    raise Unhealthy(f"{missing} of {len(ids)} predictions {late}")


def _verify(stack: LocalStack, stop: threading.Event, *options: str) -> str:
    """Return what `bdlab verify` printed. Raises Unhealthy if it does not add up."""
    verify = ["verify", "--wait", str(_VERIFY_WAIT_S), *options]
    outcome = stack.commands.run("verify", verify, stop, check=False)
    if outcome.code != 0:
        raise Unhealthy(f"bdlab verify ended with exit code {outcome.code}:\n{outcome.output}{outcome.tail}")
    return outcome.output


def _call(endpoints: Endpoints, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Return status and decoded JSON. Raises StackError if the API does not answer."""
    context = ssl.create_default_context(cafile=endpoints.ca_file) if endpoints.ca_file else False
    try:
        with httpx.Client(verify=context, trust_env=False, timeout=_HTTP_TIMEOUT_S) as client:
            headers = {"Bdlab-Source": "demo"}
            response = client.request(method, endpoints.http_url + path, json=body, headers=headers)
            return response.status_code, response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise StackError(f"{method} {endpoints.http_url}{path} was not answered: {error}") from error


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
