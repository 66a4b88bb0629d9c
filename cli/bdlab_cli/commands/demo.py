"""`bdlab demo`: run the whole pipeline once, in a throw-away folder, with each step checked."""

from typing import Annotated

from typer import Option

from bdlab_cli.options import Broker, ModelPath
from bdlab_cli.wiring.session import load_settings


def demo(
    *,
    keep: bool = False,
    broker: Broker = "auto",
    tls: Annotated[bool, Option(envvar="BDLAB_STACK_TLS")] = False,
    model: ModelPath = None,
    json: bool = False,
) -> None:
    """Run the whole pipeline once in a throw-away folder and prove it.

    Real servers come up, sample inputs of the model go in over HTTP and from a file, the rows are read back
    from Postgres and every offset is accounted for. Exits with 0 only if all of it held."""
    from bdlab_cli.wiring.demo_steps import run_demo
    from bdlab_cli.wiring.local_stack import model_file

    load_settings()
    run_demo(broker, keep=keep, tls=tls, model=None if model is None else model_file(model), as_json=json)
