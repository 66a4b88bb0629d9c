"""Fixtures live in `fix_*.py` beside this file, one file a concern."""

import signal

import pytest
from hypothesis import HealthCheck, settings

from tests import brokers, tls

# Under nohup, or in the background of a script, these come ignored, and what a test starts inherits that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests share the machine with the servers that other tests start: slow is no failure.
settings.register_profile("bdlab", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bdlab")

pytest_plugins: list[str] = [
    "tests.fix_api",
    "tests.fix_kafka",
    "tests.fix_model",
    "tests.fix_servers",
    "tests.fix_pipeline",
    "tests.fix_console",
    "tests.fix_database",
    "tests.fix_vault",
    "tests.fix_apache",
    "tests.fix_golden",
    "tests.fix_up",
    "tests.fix_rotation",
    "tests.fix_browser",
]


def pytest_report_header() -> str:
    return f"broker: {brokers.CHOICE.kind}: {brokers.CHOICE.why}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests that this run is for, and say why one of them stays without TLS."""
    others = [item for item in items if not (brokers.belongs(item) and tls.belongs(item))]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]
    # The longest first, so that none of them is waited for at the end.
    items.sort(key=lambda item: not any(map(item.get_closest_marker, ("storm", "elsewhere"))))
    for item in items:
        if reason := tls.reason_to_skip(item):
            item.add_marker(pytest.mark.skip(reason=reason))
