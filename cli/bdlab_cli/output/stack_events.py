"""What happens to a local stack, for the person who watches it."""

import json
import shlex
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from rich.markup import escape
from rich.progress import DownloadColumn, TransferSpeedColumn

from bdlab.contract import Contract, example_of
from bdlab.health.remote import sink_figures
from bdlab.stack import BrokerKind, Endpoints, Event
from bdlab.stack.brokers import described
from bdlab.stack.servers.java import Assembly
from bdlab_cli.output import terminal
from bdlab_cli.output.progress import no_line, progress_bar


def show(event: Event) -> None:
    """Print a line for an event, unless it only tells that a step has begun."""
    if event.kind == "began":
        return
    sign = {"done": "[green]✓[/]", "failed": "[red]✗[/]", "notice": "[yellow]![/]"}[event.kind]
    # The rest of a failure is in the error that follows.
    detail = f": {event.detail.splitlines()[0]}" if event.detail else ""
    seconds = f"  [dim]{event.seconds:.1f} s[/]" if event.kind != "notice" else ""
    terminal.stderr().print(f"{sign} {escape(event.step + detail)}{seconds}", markup=True, soft_wrap=True)


@contextmanager
def fetch_progress(assembly: Assembly) -> Iterator[Callable[[int, int], None]]:
    """Show what is being fetched, if anything is: a bar, or a line if standard error is not a terminal."""
    what = f"fetching Apache Kafka {assembly.version}"
    with no_line(), progress_bar(DownloadColumn(), TransferSpeedColumn()) as bar:
        task = bar.add_task(what, total=assembly.size, visible=False)

        def progress(done: int, total: int) -> None:
            if bar.disable and not bar.tasks[0].visible:
                terminal.echo(f"{what}: {total / 1e6:.1f} MB", err=True)
            bar.update(task, completed=done, visible=True)

        yield progress


def life_of(urls: Sequence[str], endpoints: Endpoints) -> Callable[[], str]:
    """Return what tells in a line where the console is, and what the consumers at `urls` do now; a rate is that of the
    last seconds."""
    seen: deque[tuple[float, float]] = deque(maxlen=6)

    def life() -> str:
        figures = sink_figures(urls, ca_file=endpoints.ca_file)
        if not figures:
            return f"{endpoints.console_url}  the consumers do not answer".lstrip()
        stored = figures.get("rows_total", 0)
        if seen and stored < seen[-1][1]:
            seen.clear()  # a consumer was started again, and counts anew
        seen.append((monotonic(), stored))
        (since, before), (now, _) = seen[0], seen[-1]
        rate = (stored - before) / (now - since) if now > since else 0
        lag, letters = (figures.get(name, 0) for name in ("lag_events", "dead_letters_total"))
        figures_now = f"{rate:,.1f}/s  stored {stored:,.0f}  lag {lag:,.0f}  dead letters {letters:,.0f}"
        return f"{endpoints.console_url}  {figures_now}".lstrip()

    return life


def welcome(endpoints: Endpoints, kind: BrokerKind, folder: Path, contract: Contract) -> str:
    """Return what `bdlab up` prints once the stack answers: where, and what to try."""
    example = example_of(contract)
    typed = (f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in example.items())
    words = {"bdlab": bdlab_as_typed(), "broker": described(kind), "folder": shlex.quote(str(folder))}
    words |= {"arguments": shlex.join(typed), "body": shlex.quote(json.dumps(example))}
    words["trust"] = f"--cacert {shlex.quote(endpoints.ca_file)} " if endpoints.ca_file else ""
    words["console"] = endpoints.console_url or f"did not start: {folder / 'logs' / 'console.log'} says why"
    words["named_url"] = endpoints.http_url.replace("127.0.0.1", "localhost")  # as the certificate names it
    return Path(__file__).with_name("welcome.txt").read_text("utf-8").format(endpoints=endpoints, **words)


def bdlab_as_typed() -> str:
    """Return what a person types for this `bdlab`: its path if the name finds none, or another one."""
    own, found = Path(sys.executable).with_name("bdlab"), shutil.which("bdlab")
    if found and Path(found).exists() and own.exists() and Path(found).samefile(own):
        return "bdlab"
    return shlex.quote(str(own)) if own.exists() else f"{shlex.quote(sys.executable)} -m bdlab_cli"
