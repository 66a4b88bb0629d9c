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
    no_model_life: Annotated[bool, Option("--no-model-life")] = False,
    json: bool = False,
) -> None:
    """Run the whole pipeline once in a throw-away folder and prove it.

    Real servers come up, sample inputs of the model go in over HTTP and from a file, and the rows are read back
    from Postgres. Then a second version of the shipped model is trained from feedback, compared and promoted. Every
    offset is accounted for. Exits with 0 only if all of it held."""
    from bdlab_cli.wiring.demo_steps import run_demo
    from bdlab_cli.wiring.local_stack import model_file

    load_settings()
    path = None if model is None else model_file(model)
    run_demo(broker, keep=keep, tls=tls, model=path, with_life=not no_model_life, as_json=json)
