"""What is sent to `serve`: inputs and feedback from a form, with the credential of who is signed in."""

from __future__ import annotations

import json
import shlex
import ssl
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec

from bdlab.access import required_scopes
from bdlab.contract import Field
from bdlab.wiring.checks import own_ca_file
from bdlab_console.parts import Console

IN = "in."
"""What the names of a form's fields begin with, before those of the contract."""
_CONNECT_S, _GRACE_S = 3.0, 10.0


class Reply(msgspec.Struct, kw_only=True):
    """The `body` of what was acknowledged, after `ms`; else `what` failed, `why`, a `hint` what to do, and what is
    wrong with each field (`errors`)."""

    body: dict[str, Any] | None = None
    ms: float = 0.0
    what: str = ""
    why: str = ""
    hint: str = ""
    errors: dict[str, str] = {}


class Api:
    """The API at the parts' address."""

    def __init__(self, parts: Console) -> None:
        self._url, self._settings = parts.api_url, parts.settings
        self.needed = required_scopes(parts.settings.http)
        self._ca_file = own_ca_file(parts.settings.http) if self._url.startswith("https:") else ""

    @cached_property
    def _verify(self) -> ssl.SSLContext | bool:
        if not self._url.startswith("https:"):
            return False  # nothing to verify, and reading the system's authorities takes 30 ms
        context = ssl.create_default_context()
        if self._ca_file:
            context.load_verify_locations(self._ca_file)
        return context

    async def post(self, path: str, body: dict[str, Any], *, key: str, credential: str) -> Reply:
        """Send a request that has the same effect each time with the same idempotency `key`."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        headers |= {"Authorization": f"Bearer {credential}"} if credential else {}
        timeout = httpx.Timeout(self._settings.kafka.delivery_timeout_s + _GRACE_S, connect=_CONNECT_S)
        began = time.monotonic()
        try:
            async with httpx.AsyncClient(verify=self._verify, trust_env=False, timeout=timeout) as client:
                answer = await client.post(self._url + path, content=msgspec.json.encode(body), headers=headers)
        except (httpx.HTTPError, OSError) as error:
            hint = "Send it again once `serve` is back: the same form is the same event."
            what = f"The API at {self._url} does not answer"
            return Reply(what=what, why=f"{type(error).__name__}: {error}".rstrip(": "), hint=hint)
        try:
            found = msgspec.json.decode(answer.content, type=dict[str, Any])
        except msgspec.DecodeError:
            found = {"title": f"{self._url}{path} does not answer as bdlab does"}
        if answer.status_code == 200:
            return Reply(body=found, ms=(time.monotonic() - began) * 1000)
        errors = {str(each["field"]): str(each["why"]) for each in found.get("errors", ())}
        hint = {
            401: f"Sign in with a key that has the scope {path[1:]}.",
            403: f"Sign in with a key that has the scope {path[1:]}.",
            422: "What is wrong is said at each field.",
            429: f"Send it again in {answer.headers.get('retry-after', 'some')} s.",
            503: "Send it again a little later: the same form is the same event.",
        }.get(answer.status_code, "`bdlab doctor` says what is wrong.")
        what = f"{found.get('title', 'Refused')} (HTTP {answer.status_code})"
        return Reply(what=what, why=str(found.get("detail", "")), hint=hint, errors=errors)

    def commands(self, path: str, body: dict[str, Any], *, keyed: bool) -> dict[str, str]:
        """Return the lines for a shell and for Python that send it too, with a placeholder for a key if `keyed`."""
        wire = json.dumps(body, ensure_ascii=False)
        wire = wire if wire.isprintable() else json.dumps(body)  # what is invisible cannot be copied
        curl = ["curl -sS", *(["--cacert", shlex.quote(self._ca_file)] if self._ca_file else []), self._url + path]
        lines = ["-H 'Content-Type: application/json'", *(['-H "Authorization: Bearer $BDLAB_KEY"'] * keyed)]
        asked = [repr(self._url + path), f"json={body!r}"]
        asked += ['headers={"Authorization": "Bearer " + os.environ["BDLAB_KEY"]}'] * keyed
        asked += [f"verify=ssl.create_default_context(cafile={self._ca_file!r})"] * bool(self._ca_file)
        modules = ["httpx", *(["os"] * keyed), *(["ssl"] * bool(self._ca_file))]
        code = ",\n    ".join(asked)
        return {
            "A shell": " \\\n  ".join([" ".join(curl), *lines, f"-d {shlex.quote(wire)}"]),
            "Python": f"import {', '.join(modules)}\n\nprint(httpx.post(\n    {code},\n).json())",
        }


def key_of(form: Mapping[str, Any]) -> str:
    """Return the idempotency key of a form, or a new one."""
    try:
        return str(UUID(str(form.get("key", ""))))
    except ValueError:
        return str(uuid4())


def body_of(fields: Iterable[Field], form: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a form says of the fields, as JSON. What is left empty is null where it may be; else, but for a text,
    it is left out. What cannot be read is sent as a text, so that `serve` says what is wrong with it."""
    found: dict[str, Any] = {}
    for field in fields:
        text = str(form.get(IN + field.name, "")).replace("\r\n", "\n")
        if not text and (field.nullable or not field.is_text):
            found |= {field.name: None} if field.nullable else {}
        elif field.kind in ("integer", "number", "boolean"):
            try:
                found[field.name] = msgspec.json.decode(text)
            except msgspec.DecodeError:
                found[field.name] = text
        elif field.kind == "date-time":
            found[field.name] = f"{text}:00"[:19] + text[19:] + "Z"
        else:
            found[field.name] = text
    return found


def typed(field: Field, value: Any) -> str:
    """Return a value as a form has it: a moment in UTC without saying so, nothing for null."""
    if value is None or value is msgspec.UNSET:
        return ""
    if field.kind == "date-time":
        return msgspec.convert(value, datetime).astimezone(UTC).isoformat()[:-6]
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
