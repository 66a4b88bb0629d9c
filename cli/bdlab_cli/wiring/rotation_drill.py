"""`bdlab rotate --drill`: the rotations under load, and what the callers of the API noticed of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from bdlab.load import LoadGenerator, LoadReport
from bdlab.settings import Layers
from bdlab.vault.rotation import Rotation
from bdlab_cli.commands.verify import account
from bdlab_cli.wiring.checks import own_ca_file, own_url
from bdlab_cli.wiring.samples import OVER_HTTP

if TYPE_CHECKING:
    from rich.table import Table

_BEFORE_S = 1.0
_AFTER_S = 2.0
_VERIFY_WAIT_S = 60.0


class Drill(msgspec.Struct, frozen=True, kw_only=True):
    """`verified`: every offset of the topic is stored exactly once."""

    rotations: list[Rotation]
    load: LoadReport
    verified: bool

    @property
    def passed(self) -> bool:
        complete = all(one.outcome != "incomplete" for one in self.rotations)
        return complete and not self.load.failed and self.verified


def drill(
    layers: Layers,
    stop: threading.Event,
    rotations: Iterable[Rotation],
    *,
    url: str | None,
    requests_per_second: float,
    seconds: float,
    progress: Callable[[str], None],
) -> Drill:
    """Post reviews for at least `seconds`, rotate meanwhile, and account for all offsets afterwards.

    `progress` gets a line for what begins. Raises BdlabError.
    """
    http = layers.settings().http
    url = url or own_url(http)
    bodies = [json.dumps(sample.as_request()).encode() for sample in OVER_HTTP]
    load = LoadGenerator(
        url,
        bodies,
        requests_per_second=requests_per_second,
        ca_file=own_ca_file(http),
    )
    with load:
        progress(f"posting {requests_per_second:g} reviews a second to {url}")
        began = time.monotonic()
        stop.wait(_BEFORE_S)
        done = list(rotations)
        stop.wait(max(_AFTER_S, seconds - (time.monotonic() - began)))
        report = load.stop()
    progress(f"verifying every offset; the consumer may take {_VERIFY_WAIT_S:g} s to catch up")
    verified = account(layers, stop, wait_s=_VERIFY_WAIT_S).verified
    return Drill(rotations=done, load=report, verified=verified)


def table(found: Drill) -> Table:
    from rich.table import Table
    from rich.text import Text

    load = found.load
    shown = Table(title="What the callers noticed", show_header=False)
    shown.add_column()
    shown.add_column(justify="right")
    failed = Text(f"{load.failed:,}", style="red" if load.failed else "green")
    verdict = Text("verified", style="green") if found.verified else Text("NOT verified", style="red")
    rows: list[tuple[str, str | Text]] = [
        ("requests sent", f"{load.sent:,}"),
        ("requests failed", failed),
        *((f"  {reason}", f"{count:,}") for reason, count in load.failures.items()),
        ("longest pause between two acknowledgements", f"{load.longest_pause_ms:,.0f} ms"),
        ("answered within, half of them", f"{load.p50_ms:,.1f} ms"),
        ("answered within, 99 of 100", f"{load.p99_ms:,.1f} ms"),
        ("under load for", f"{load.seconds:.1f} s"),
        ("every offset stored exactly once", verdict),
    ]
    for row in rows:
        shown.add_row(*row)
    return shown
