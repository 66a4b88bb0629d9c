"""The rotations under load: what `bdlab rotate --drill` runs."""

import json
import threading
import time
from collections.abc import Iterable

import msgspec

from bdlab.load import LoadGenerator, LoadReport
from bdlab.model import load_contract
from bdlab.model.registry import path_of
from bdlab.settings import Layers, Secret
from bdlab.vault.rotation import Rotation
from bdlab.wiring.accounting import account
from bdlab.wiring.checks import own_ca_file, own_url
from bdlab_cli.output.rotations import progress
from bdlab_cli.wiring.samples import samples_of
from bdlab_cli.wiring.session import open_session


class Drill(msgspec.Struct, frozen=True, kw_only=True):
    """The rotations, what callers noticed, and whether every offset of the topic is stored exactly once."""

    rotations: list[Rotation]
    load: LoadReport
    verified: bool


def run_drill(
    layers: Layers,
    stop: threading.Event,
    rotations: Iterable[Rotation],
    url: str | None,
    rate: float,
    seconds: float,
    key: Secret | None,
) -> Drill:
    """Post `rate` inputs a second for at least `seconds`, rotate meanwhile, then account for all offsets. Raises
    BdlabError."""
    http, contract = layers.settings().http, load_contract(path_of(layers.settings()))
    url = url or own_url(http)
    bodies = [json.dumps(sample).encode() for sample in samples_of(contract)]
    access = {"ca_file": own_ca_file(http), "key": key.reveal() if key else ""}
    with LoadGenerator(url, bodies, requests_per_second=rate, **access) as load:
        progress(f"posting {rate:g} {contract.plural} a second to {url}")
        began = time.monotonic()
        stop.wait(1.0)
        done = list(rotations)
        stop.wait(max(2.0, seconds - (time.monotonic() - began)))
        report = load.stop()
    progress("verifying every offset; the consumer may take 60 s to catch up")
    with open_session(layers, stop, service="verify", database=True) as session:
        return Drill(rotations=done, load=report, verified=account(session, stop, wait_s=60.0).verified)
