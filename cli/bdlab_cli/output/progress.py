"""Progress bars on standard error, for a person at a terminal."""

from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn

from bdlab_cli.output import terminal


def progress_bar(*columns: ProgressColumn) -> Progress:
    """Return a bar that shows each task's name and `columns`, and is gone at its end.

    It shows nothing if standard error is not a terminal.
    """
    console = terminal.stderr()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
