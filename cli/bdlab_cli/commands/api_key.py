"""`bdlab api-key`: the keys of the HTTP API."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from typer import Argument, BadParameter, Option, Typer

from bdlab.access import NAME_FORM, SCOPES, ApiKey, hash_of, new_secret
from bdlab_cli.options import StartupTimeout, age
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings, open_session

app = Typer(
    add_completion=False,
    no_args_is_help=True,
    help="""Make, list and revoke the keys of the HTTP API.

    Vault keeps a hash of each key. Every `serve` knows of a change within 5 seconds, without a restart.
    """,
)
_Name = Annotated[str, Argument(metavar="NAME", help="A letter a-z, then at most 39 of a-z, 0-9 and -.")]


@app.command()
def create(
    name: _Name,
    *,
    scope: Annotated[str, Option()],
    expires: Annotated[str, Option(show_default="never")] = "",
    rate: Annotated[str, Option(show_default="no limit")] = "",
    json: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Make a key and print it on standard output, this once. The name of a key that has ended can be used again."""
    from bdlab.vault import api_keys

    if not NAME_FORM.fullmatch(name):
        raise BadParameter(f"{name!r} is no name of a key: give a letter a-z, then at most 39 of a-z, 0-9 and -")
    scopes: frozenset[Any] = frozenset(map(str.strip, scope.split(",")))
    if unknown := sorted(scopes.difference(SCOPES)):
        raise BadParameter(f"{unknown[0]!r} is no scope: there are {', '.join(SCOPES)}")
    limit = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)/s", rate)
    if rate and not (limit and float(limit[1])):
        raise BadParameter(f"{rate!r} is no rate: give a number of predictions and /s, such as 100/s")
    if expires and not age(expires):
        raise BadParameter(f"{expires!r} is no time to live")
    secret, now, most = new_secret(), datetime.now(UTC).replace(microsecond=0), float(limit[1]) if limit else None
    ends = now + age(expires) if expires else None
    key = ApiKey(name=name, hash=hash_of(secret), scopes=scopes, created_at=now, expires_at=ends, rate=most)
    _ask(startup_timeout, lambda client: api_keys.create(client, key))
    written = f"bdlab_{name}_{secret}"
    terminal.echo_result(_fields(name, key) | {"key": written}, written, as_json=json)
    if not json:
        terminal.echo("The key is shown this once: Vault keeps its hash alone.", err=True)


@app.command("list")
def list_(*, json: bool = False, startup_timeout: StartupTimeout = None) -> None:
    """List the keys: what each is for, until when, and whether it has expired."""
    from rich.table import Table

    from bdlab.vault import api_keys

    found = [_fields(name, key) for name, key in _ask(startup_timeout, api_keys.stored).items()]
    if json:
        terminal.echo_json({"keys": found})
        return
    table = Table("name", "scopes", "created", "expires", "rate", "state", title=f"{len(found)} API keys")
    for each in found:
        left = str(timedelta(seconds=each.get("expires_in_s") or 0)).partition(",")[0]
        expires = f"{each['expires_at'][:10]} in {left}" if each.get("expires_at") else ""
        cells = (each["name"], " ".join(each.get("scopes", ())), each.get("created_at", "")[:10], expires)
        state = ": ".join(filter(None, (each["state"], each.get("problem"))))
        table.add_row(*cells, f"{each['rate']:g}/s" if each.get("rate") else "", state)
    terminal.stdout().print(table)


@app.command()
def revoke(name: _Name, *, json: bool = False, startup_timeout: StartupTimeout = None) -> None:
    """Delete a key for good: within 5 seconds it opens nothing any more."""
    from bdlab.vault import api_keys

    _ask(startup_timeout, lambda client: api_keys.revoke(client, name))
    terminal.echo_result({"name": name, "state": "revoked"}, f"{name}: revoked", as_json=json)


def _ask(startup_timeout: float | None, request: Callable[..., Any]) -> Any:
    layers = load_settings({"startup_timeout_s": startup_timeout}, quiet=True)
    with open_session(layers, service="api-key", kafka=False) as session:
        return session.ask(request)


def _fields(name: str, key: ApiKey | str) -> dict[str, Any]:
    """Return a key without its hash, as JSON has it; of an entry that is none, why."""
    if isinstance(key, str):
        return {"name": name, "state": "invalid", "problem": key}
    now = datetime.now(UTC)
    left = max(0, int((key.expires_at - now).total_seconds())) if key.expires_at else None
    found: dict[str, Any] = msgspec.to_builtins(key, order="deterministic")
    del found["hash"]
    return found | {"expires_in_s": left, "state": "expired" if key.expired(now) else "active"}
