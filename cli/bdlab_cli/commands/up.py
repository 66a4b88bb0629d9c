"""`bdlab up`: run the whole pipeline on this machine, in the foreground."""

from typing import Annotated, Any

from typer import Option

from bdlab_cli.completion import cards
from bdlab_cli.options import DATA_DIR, Broker, DataDir, setting
from bdlab_cli.output import terminal
from bdlab_cli.output.progress import line
from bdlab_cli.wiring.session import load_settings
from bdlab_cli.wiring.signals import stop_on_signal


def up(
    *,
    data_dir: DataDir = DATA_DIR,
    http_port: Annotated[int | None, setting("http.port", "8000, or a free one", min=1, max=65535)] = None,
    console_port: Annotated[int | None, setting("console.port", "8001, or a free one", min=1, max=65535)] = None,
    broker: Broker = "auto",
    consumers: Annotated[int, Option(min=1, max=64)] = 1,
    tls: Annotated[
        bool | None, Option(envvar="BDLAB_STACK_TLS", show_default="as the folder began; a new one without")
    ] = None,
    model: Annotated[
        str | None, setting("model.path", "as last time; in a new folder what is promoted", autocompletion=cards)
    ] = None,
    certificate_ttl: Annotated[int | None, Option(min=5, show_default="30 days")] = None,
    json: bool = False,
) -> None:
    """Run the whole pipeline on this machine, in the foreground; Ctrl-C stops it.

    Starts OpenBao, Postgres and Apache Kafka, sets them up, and runs `bdlab serve`, `consume` and `console` over them.
    If Kafka cannot be had, a broker that keeps its log in memory takes its place, and a line says so. The same folder
    finds its data again."""
    from bdlab.certificates import SERVER_TTL_S
    from bdlab.model import load_contract
    from bdlab.settings import SHIPPED_MODEL
    from bdlab.stack import DataFolder, Event, LocalStack
    from bdlab_cli.output.stack_events import life_of, show, welcome
    from bdlab_cli.wiring.local_stack import bdlab_command, choose_broker, model_file

    deployment = load_settings().settings().deployment
    folder = DataFolder(data_dir)
    kept = folder.model_path
    chosen = kept if model is None else model_file(model)
    contract = load_contract(chosen)
    if chosen != kept or kept:
        now = "which the folder keeps once it is up"
        how = now if chosen != kept else f"as this folder keeps it; --model {SHIPPED_MODEL} goes back"
        show(Event("notice", "model", f"the model is {chosen or 'what is promoted'}, {how}"))
    with stop_on_signal() as stop:
        kind = choose_broker(folder, broker, stop)
        options: dict[str, Any] = {"http_port": http_port, "console_port": console_port, "consumers": consumers}
        options |= {"tls": tls, "deployment": deployment}
        options |= {"certificate_ttl_s": certificate_ttl or SERVER_TTL_S, "model_path": chosen}
        stack = LocalStack(data_dir, command=bdlab_command(), report=show, broker=kind, **options)
        endpoints = stack.open(stop)
        try:
            terminal.echo_result(endpoints, welcome(endpoints, kind, folder.path, contract), as_json=json)
            with line(life_of(stack.consumer_urls, endpoints)):
                stack.watch(stop)
            terminal.echo("stopping; once more Ctrl-C ends everything at once", err=True)
        finally:
            stack.close()
