"""Every error as `application/problem+json` (RFC 9457)."""

import tomllib
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import Send

from bdlab.errors import BdlabError, BrokerError, DatabaseError, EventTooLarge, ModelError, VaultError
from bdlab.inputs import InputInvalid
from bdlab.serving.responses import encode_json, json_messages, json_response

log = structlog.get_logger()
PROBLEM_JSON = "application/problem+json"
RETRY_AFTER_S = 2
_SEE_LOG = "The server's log has the reason."
_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
#: Status, title and error code (RFC 6750, 3) of each refusal of a key or token.
REFUSALS: dict[str, tuple[int, str, str]] = _TABLE["refusals"]
_UNAVAILABLE = {
    BrokerError: "not-acknowledged",
    DatabaseError: "database-away",
    VaultError: "vault-away",
    ModelError: "model-failed",
}


class ProblemDetails(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The members of RFC 9457, and three more: `errors` has each invalid field, `id` is that of an event
    that may still be on the topic, `results` has the result of each input in a batch."""

    type: str
    title: str
    status: int
    detail: str = ""
    errors: tuple[Any, ...] = ()
    id: str = ""
    results: tuple[Any, ...] = ()


class Problem(Exception):
    """Raised in a handler to respond with these details."""

    def __init__(self, kind: str, detail: str, status: int = 0, title: str = "", **more: Any) -> None:
        """`kind` is of problems.toml, or else comes with `status` and `title`; if it is empty, there is no type."""
        if not status:
            status, title = _TABLE["problems"][kind]
        super().__init__(title)
        name = f"urn:bdlab:problem:{kind}" if kind else "about:blank"
        self.details = ProblemDetails(type=name, title=title, status=status, detail=detail, **more)
        self.headers = {"Retry-After": str(RETRY_AFTER_S)} if kind and status == 503 else {}


def invalid_parameter(field: str, why: str) -> Problem:
    return Problem("invalid-parameter", f"{field}: {why}", errors=({"field": field, "why": why},))


def from_error(error: BdlabError, *, event_id: str = "") -> Problem:
    """Return what a client is told about one of bdlab's own errors."""
    detail = " ".join(part for part in (error.message + ".", error.hint) if part)
    if isinstance(error, InputInvalid):
        title = f"The {error.noun} cannot be predicted from"
        invalid = f"invalid-{error.noun.replace(' ', '-')}"
        return Problem(invalid, error.message, 422, title, errors=error.problems)
    if isinstance(error, EventTooLarge):
        return Problem("too-large", detail)
    for kind, name in _UNAVAILABLE.items():
        if isinstance(error, kind):
            return Problem(name, detail, id=event_id)
    log.error("request failed", error=type(error).__name__, problem=error.message)
    return Problem("failed", _SEE_LOG)


def problem_of(error: Exception, scope: Any) -> Problem:
    """Return what a client is told about an error in the handler of a request."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, BdlabError):
        return from_error(error)
    log.error("request failed", method=scope["method"], path=scope["path"], exc_info=error)
    return Problem("failed", _SEE_LOG)


def _response(found: Problem) -> Response[bytes]:
    return json_response(found.details, found.details.status, media_type=PROBLEM_JSON, headers=found.headers)


async def send_problem(found: Problem, send: Send) -> int:
    """Respond to a request that does not reach Litestar, and return the status."""
    body = encode_json(found.details)
    for message in json_messages(body, found.details.status, media_type=PROBLEM_JSON, headers=found.headers):
        await send(message)
    return found.details.status


def on_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Respond to what Litestar refuses by itself: no such route, or a method that is not allowed."""
    status = HTTPStatus(error.status_code)
    detail = str(error.detail or "")
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
        detail = f"There is no {request.method} {request.url.path[:200]}; /docs lists what there is."
    response = _response(Problem("", detail, status.value, status.phrase))
    response.headers.update(error.headers or {})
    return response


HANDLERS: dict[int | type[Exception], Any] = {
    HTTPException: on_http_error,
    Exception: lambda request, error: _response(problem_of(error, request.scope)),
}
