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
from bdlab.vault.rotation.run import Rotation
from bdlab_cli.output.rotations import progress
from bdlab_cli.wiring.accounting import account
from bdlab_cli.wiring.checks import own_ca_file, own_url
from bdlab_cli.wiring.samples import samples_of

_BEFORE_S, _AFTER_S, _VERIFY_WAIT_S = 1.0, 2.0, 60.0


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
    """Post `rate` inputs a second for at least `seconds`, rotate meanwhile, then account for all offsets.

    Raises BdlabError."""
    http = layers.settings().http
    url = url or own_url(http)
    contract = load_contract(path_of(layers.settings()))
    bodies = [json.dumps(sample).encode() for sample in samples_of(contract)]
    access = {"ca_file": own_ca_file(http), "key": key.reveal() if key else ""}
    with LoadGenerator(url, bodies, requests_per_second=rate, **access) as load:
        progress(f"posting {rate:g} {contract.plural} a second to {url}")
        began = time.monotonic()
        stop.wait(_BEFORE_S)
        done = list(rotations)
        stop.wait(max(_AFTER_S, seconds - (time.monotonic() - began)))
        report = load.stop()
    progress(f"verifying every offset; the consumer may take {_VERIFY_WAIT_S:g} s to catch up")
    verified = account(layers, stop, wait_s=_VERIFY_WAIT_S).verified
    return Drill(rotations=done, load=report, verified=verified)
