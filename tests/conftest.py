"""Fixtures live in `fix_*.py` beside this file, one file a concern."""

from hypothesis import HealthCheck, settings

# Tests share the machine with the servers that other tests start: slow is no failure.
settings.register_profile("bdlab", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bdlab")

pytest_plugins: list[str] = [
    "tests.fix_api",
    "tests.fix_kafka",
    "tests.fix_model",
    "tests.fix_servers",
    "tests.fix_pipeline",
    "tests.fix_database",
    "tests.fix_vault",
    "tests.fix_apache",
]
