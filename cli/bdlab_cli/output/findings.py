"""Findings and settings, as `bdlab doctor` and `bdlab config` show them."""

from collections.abc import Sequence

import msgspec
from rich.table import Column, Table
from rich.text import Text

from bdlab.health.findings import Diagnosis, Finding, of_layers
from bdlab.settings import Layers, Values
from bdlab_cli.output import terminal

_STYLES = {"critical": "bold red", "warning": "yellow", "notice": "cyan"}


def show(found: Sequence[Finding], *, as_json: bool) -> None:
    """Print the findings, each with what to do."""
    if as_json:
        terminal.echo_json({"findings": found})
        return
    for each in found:
        line = Text.assemble((each.gravity, _STYLES[each.gravity]), f" {each.name}: {each.message}")
        terminal.stdout().print(line, soft_wrap=True)
        if each.hint:
            terminal.echo(f"  {each.hint}")
    if not found:
        terminal.echo("Nothing was found to be wrong.")


def show_settings(layers: Layers, vault: Values, problem: str, *, as_json: bool) -> None:
    """Print the settings; `problem` says why Vault's layer is not among them."""
    found = of_layers(layers, vault)
    if as_json:
        terminal.echo_json({"settings": found, "vault_not_read": problem})
        return
    table = Table(Column("setting", no_wrap=True), "value", "from")
    for each in found:
        table.add_row(each["name"], str(each["value"]), each["from"])
    terminal.stdout().print(table)
    if problem:
        terminal.echo(f"Without Vault's layer: {problem}", err=True)


def show_diagnosis(found: Diagnosis, *, as_json: bool) -> None:
    """Print the findings, then what they follow from, and what was not looked at."""
    if as_json:
        terminal.echo_json(found)
        return
    show(found.findings, as_json=False)
    facts = msgspec.to_builtins(found.facts) | {"not looked at": found.not_looked_at}
    facts["settings"] = {each["name"]: f"{each['value']} ({each['from']})" for each in facts["settings"]}
    facts["shares"] = {name: "{used:,} of {limit:,} {unit}".format(**each) for name, each in facts["shares"].items()}
    for name, value in facts.items():
        lines = value.items() if isinstance(value, dict) else value if isinstance(value, list) else [("", value)]
        for number, (about, each) in enumerate(lines):
            terminal.echo(f"{'' if number else name.replace('_', ' '):<14} {about}{about and ': '}{each}")
    terminal.echo("\nNo secret and no text of a user is in this output; names of hosts and folders are.")
