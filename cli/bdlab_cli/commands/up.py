"""`bdlab up`: the whole pipeline on this machine, in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdlab_cli.options import DATA_DIR, Broker, BrokerName, DataDir

if TYPE_CHECKING:
    import threading

    from rich.console import Console

    from bdlab.stack import BrokerKind, DataFolder, Endpoints, Event

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def up(
    data_dir: DataDir = DATA_DIR,
    http_port: Annotated[
        int | None,
        typer.Option(
            "--http-port",
            envvar="BDLAB_HTTP_PORT",
            min=1,
            max=65535,
            show_default="8000, or a free one",
            help="The API's port; an error where it is in use.",
        ),
    ] = None,
    broker: Broker = "auto",
    consumers: Annotated[
        int,
        typer.Option(
            "--consumers", envvar="BDLAB_CONSUMERS", min=1, max=64, help="How many `bdlab consume` run."
        ),
    ] = 1,
    tls: Annotated[
        bool | None,
        typer.Option(
            "--tls/--no-tls",
            envvar="BDLAB_TLS",
            show_default="as the folder began; a new one without",
            help="Vault, PostgreSQL and the API speak TLS only, with certificates from Vault's PKI engine.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            envvar="BDLAB_MODEL_PATH",
            metavar="CARD",
            show_default="as last time; the shipped one in a new folder",
            help="Model card or joblib file to predict with, kept with the folder; `shipped` is bdlab's own.",
        ),
    ] = None,
    certificate_ttl: Annotated[
        int | None,
        typer.Option(
            "--certificate-ttl",
            envvar="BDLAB_CERT_TTL",
            min=5,
            metavar="SECONDS",
            show_default="30 days",
            help="How long certificates are good for; they are renewed when two thirds of that are over.",
        ),
    ] = None,
) -> None:
    """Run the whole pipeline on this machine, in the foreground; Ctrl-C stops it.

    Starts OpenBao, Postgres and Apache Kafka, sets them up, and runs `bdlab serve` and `bdlab consume` over
    them. If Kafka cannot be had, a broker that keeps its log in memory takes its place, which it says.
    The same folder finds its data again.
    """
    import shlex

    from bdlab.certificates import SERVER_TTL_S
    from bdlab.settings import SHIPPED_MODEL
    from bdlab.stack import DataFolder, Event, LocalStack
    from bdlab_cli.wiring import session as wiring

    wiring.layers()
    talk, out = wiring.talk(), wiring.out()
    folder = DataFolder(data_dir)
    kept = folder.model_path
    chosen = kept if model is None else "" if model == SHIPPED_MODEL else _absolute(model)
    if chosen != kept:
        what = f"the model is {chosen or 'the shipped one'} from now on, which the folder keeps"
        show(talk, Event("notice", "model", what))
    elif kept:
        what = f"the model is {kept}, as this folder keeps it; --model {SHIPPED_MODEL} goes back"
        show(talk, Event("notice", "model", what))
    with wiring.stop_on_signal() as stop:
        kind = choose_broker(talk, folder, broker, stop)
        stack = LocalStack(
            data_dir,
            command=bdlab_command(),
            report=lambda event: show(talk, event),
            broker=kind,
            http_port=http_port,
            consumers=consumers,
            tls=tls,
            certificate_ttl_s=certificate_ttl or SERVER_TTL_S,
            model_path=chosen,
        )
        endpoints = stack.open(stop)
        try:
            out.print(_welcome(endpoints, kind, shlex.quote(str(folder.path))), soft_wrap=True)
            stack.watch(stop)
            talk.print("stopping; once more Ctrl-C ends everything at once")
        finally:
            stack.close()


def choose_broker(
    console: Console, folder: DataFolder, name: BrokerName, stop: threading.Event
) -> BrokerKind:
    """The broker that the stack of `folder` gets; fetching it is shown, and one in memory is told of."""
    from bdlab.errors import StartInterrupted
    from bdlab.probes import MEMORY_ONLY
    from bdlab.stack import Event, brokers
    from bdlab.stack.servers import jars
    from bdlab_cli.commands.fetch_kafka import prepare_quick_starts, shown

    with shown(jars.kafka()) as progress:

        def fetching(done: int, total: int) -> None:
            if stop.is_set():
                raise StartInterrupted("asked to stop while Apache Kafka was being fetched")
            progress(done, total)

        former = folder.broker
        kind, missing = brokers.choose_broker(folder, name, fetching)
    if kind == "tansu":
        why = f" {missing.message}. {missing.hint}" if missing else ""
        what = f"{MEMORY_ONLY}.{why} `--broker kafka` runs Apache Kafka, which keeps its log on disk."
        show(console, Event("notice", "broker", what))
        return kind
    if former == "tansu":
        show(console, Event("notice", "broker", "Apache Kafka from now on, which the folder keeps"))
    prepare_quick_starts(stop)
    return kind


def _absolute(model: str) -> str:
    """The services run in another folder than this process."""
    return str(Path(model).expanduser().absolute())


def bdlab_command() -> list[str]:
    """The command line of this very installation of `bdlab`."""
    import sys

    return [sys.executable, "-m", "bdlab_cli"]


def _typed() -> str:
    """What a person types for this very `bdlab`: its path where the name finds none or another."""
    import shlex
    import shutil
    import sys

    own = Path(sys.executable).with_name("bdlab")
    found = shutil.which("bdlab")
    if found and Path(found).exists() and own.exists() and Path(found).samefile(own):
        return "bdlab"
    return shlex.quote(str(own)) if own.exists() else f"{shlex.quote(sys.executable)} -m bdlab_cli"


def show(console: Console, event: Event) -> None:
    """A line for the person who watches; what has only begun is shown where it takes time to end."""
    from rich.markup import escape

    if event.kind == "began":
        return
    sign = {"done": "[green]✓[/]", "failed": "[red]✗[/]", "notice": "[yellow]![/]"}[event.kind]
    # The rest of a failure is in the error that follows.
    detail = f": {event.detail.splitlines()[0]}" if event.detail else ""
    seconds = f"  [dim]{event.seconds:.1f} s[/]" if event.kind != "notice" else ""
    console.print(f"{sign} {escape(event.step + detail)}{seconds}", markup=True, soft_wrap=True)


def _welcome(endpoints: Endpoints, kind: BrokerKind, quoted_folder: str) -> str:
    import shlex

    from bdlab.stack.brokers import described

    url, bdlab = endpoints.http_url, _typed()
    trust = f"--cacert {shlex.quote(endpoints.ca_file)} " if endpoints.ca_file else ""
    return f"""
The pipeline is up. Ctrl-C stops it; its data stays in {quoted_folder}

  API      {url}   (docs: {url}/docs)
  Vault    {endpoints.vault_address}
  Broker   {endpoints.bootstrap_servers}   ({described(kind)})
  Postgres {endpoints.postgres_host} port {endpoints.postgres_port}
  Model    {endpoints.model}

Try:

  curl {trust}-X POST "{url.replace("127.0.0.1", "localhost")}/predict" -H "Content-Type: application/json" \
-d '{{"text": "This product is terrible!", "summary": "Product review"}}'

Or from another terminal:

  eval "$({bdlab} env --data-dir {quoted_folder})"
  {bdlab} predict "Great taste, will buy again." && {bdlab} status && {bdlab} verify
"""
