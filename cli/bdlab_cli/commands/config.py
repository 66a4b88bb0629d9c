"""`bdlab config`: show the settings with their layers, and check them."""

import os

from typer import Context, Exit, Typer

app = Typer(add_completion=False, no_args_is_help=True)


@app.command()
def show(*, no_vault: bool = False, json: bool = False) -> None:
    """Show each setting, its value, and the layer that it is from; a secret is ***.

    If Vault cannot be read, that is said after 5 s at the latest, and the other layers are shown."""
    from bdlab_cli.output import findings
    from bdlab_cli.wiring.session import load_settings, vault_layer

    layers = load_settings(quiet=True, daemon=True)
    vault, problem = ({}, "left out") if no_vault else vault_layer(layers)
    findings.show_settings(layers, vault, problem, as_json=json)


@app.command()
def check(ctx: Context, *, no_vault: bool = False, json: bool = False) -> None:
    """Check the settings of all layers: names, values, the files that they name, and whether they fit together.

    Exit code 0: no fault, though maybe warnings; 2: a fault, which other commands end for as well."""
    from bdlab.health.findings import settings_findings
    from bdlab.settings import LogSettings, load
    from bdlab.vault.bootstrap.plan import NAMES
    from bdlab_cli.output import findings, logs
    from bdlab_cli.wiring.session import vault_layer

    logs.configure(LogSettings(), quiet=True)
    layers = load(checked=False)
    vault, problem = ({}, "") if no_vault or layers.faults() else vault_layer(layers)
    options = ctx.find_root().command.twins() | NAMES  # type: ignore[attr-defined]
    found = settings_findings(layers, vault, problem, os.environ, options)
    findings.show(found, as_json=json)
    raise Exit(2 if any(each.gravity == "critical" for each in found) else 0)
