"""Rich's console, with foreign text made safe."""

from collections.abc import Iterable
from typing import TextIO

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from bdlab_cli.output.terminal import visible


class Console(rich.console.Console):
    """A console that shows foreign text as text: no control character, markup or emoji code has an effect."""

    def __init__(self, file: TextIO) -> None:
        super().__init__(file=file, highlight=False, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        if isinstance(renderable, Table):
            for column in renderable.columns:  # what does not fit goes on in the next line, instead of being cut
                column.overflow = "fold" if column.overflow == "ellipsis" and not column.no_wrap else column.overflow
        # Tables measure their cells by this as well, so escaped text counts in the widths.
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)
