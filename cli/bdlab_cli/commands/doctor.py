"""`bdlab doctor`: find what is wrong, and say what to do."""

from typing import Annotated

from typer import Exit, Option

from bdlab_cli.options import DATA_DIR, DataDir


def doctor(
    *,
    json: bool = False,
    api_url: Annotated[str | None, Option(show_default="from the settings")] = None,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Look at everything that a supporter would ask for, and say what is wrong and what to do, the gravest first.

    It takes 4 to 15 s, also if servers are away. Its output has no secret and no text of a user, so that it may be
    published, though names of hosts and folders. Exit code 0: nothing is critical; 10: something is."""
    from bdlab.stack import DataFolder
    from bdlab.wiring.doctor import examine
    from bdlab_cli.output.findings import show_diagnosis
    from bdlab_cli.wiring.session import load_settings

    layers = load_settings(quiet=True, daemon=True)
    found = examine(layers, DataFolder(data_dir), api_url=api_url)
    show_diagnosis(found, as_json=json)
    raise Exit(10 if found.state == "unhealthy" else 0)
