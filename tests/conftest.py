"""Fixtures live in `fix_*.py` beside this file, one file a concern."""

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
