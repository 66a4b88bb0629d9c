"""Rich's console as bdlab has it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

from bdlab_cli.output.terminal import visible


class Console(rich.console.Console):
    """Shows foreign text as text: no control character, markup or emoji code in it has an effect.

    `print(..., markup=True)` is for what is bdlab's own.
    """

    def __init__(self, file: TextIO) -> None:
        super().__init__(file=file, highlight=False, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        # Tables ask for the lines of their cells here, too: what is escaped is counted in their widths.
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)
