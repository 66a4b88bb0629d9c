"""What happens to a local stack, for the person who watches it."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as ProgressBar

from bdlab.stack import BrokerKind, Endpoints, Event
from bdlab.stack.brokers import described
from bdlab.stack.servers.jars import Assembly, Progress
from bdlab_cli.output import terminal


def show(console: Console, event: Event) -> None:
    """A line for the person who watches; what has only begun is shown where it takes time to end."""
    if event.kind == "began":
        return
    sign = {"done": "[green]✓[/]", "failed": "[red]✗[/]", "notice": "[yellow]![/]"}[event.kind]
    # The rest of a failure is in the error that follows.
    detail = f": {event.detail.splitlines()[0]}" if event.detail else ""
    seconds = f"  [dim]{event.seconds:.1f} s[/]" if event.kind != "notice" else ""
    console.print(f"{sign} {escape(event.step + detail)}{seconds}", markup=True, soft_wrap=True)


@contextmanager
def fetch_progress(assembly: Assembly) -> Iterator[Progress]:
    """Show on standard error what is being fetched: a bar, or elsewhere than at a terminal a line.

    Nothing is shown if there is nothing to fetch.
    """

    what, talk = f"fetching Apache Kafka {assembly.version}", terminal.stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with ProgressBar(*columns, console=talk, transient=True, disable=not talk.is_terminal) as bar:
        task = bar.add_task(what, total=assembly.size, visible=False)

        def show(done: int, total: int) -> None:
            if not (bar.tasks[0].visible or talk.is_terminal):
                talk.print(f"{what}: {total / 1e6:.1f} MB", soft_wrap=True)
            bar.update(task, completed=done, visible=True)

        yield show


def welcome(endpoints: Endpoints, kind: BrokerKind, quoted_folder: str) -> str:
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


def _typed() -> str:
    """What a person types for this very `bdlab`: its path where the name finds none or another."""
    own = Path(sys.executable).with_name("bdlab")
    found = shutil.which("bdlab")
    if found and Path(found).exists() and own.exists() and Path(found).samefile(own):
        return "bdlab"
    return shlex.quote(str(own)) if own.exists() else f"{shlex.quote(sys.executable)} -m bdlab_cli"
