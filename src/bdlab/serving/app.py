"""The ASGI application: its routes and its middleware."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

from litestar import Litestar, Request, Response, get
from litestar.config.cors import CORSConfig
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.types import ASGIApp

from bdlab.certificates import ends_at
from bdlab.hosts import AllowedHosts
from bdlab.serving import feedback_routes, health_routes, openapi, predict_routes, problems, requests, stored_routes
from bdlab.serving.access import NEED, Gate
from bdlab.serving.entry import Entry
from bdlab.serving.in_progress import InProgress
from bdlab.serving.metrics import Metrics
from bdlab.serving.protocols import Parts
from bdlab.serving.publisher import DeliveryHealth
from bdlab.serving.publishing import Intake, Publishing
from bdlab.serving.response_buffer import ResponseBuffer
from bdlab.serving.responses import encode_json, json_response

_GRACE_S = 1.0
_EXPIRIES_EVERY_S = 5.0


class _App(Litestar):
    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        """Leave out the plugins for pydantic and attrs, which would take a tenth of the start."""
        return [*plugins, MsgspecDIPlugin()]


def make_app(parts: Parts, *, on_shutdown: Callable[[], None] | None = None) -> ASGIApp:
    """Return the API over open `parts`. `on_shutdown` is called after the last response. If several workers share a
    Prometheus folder, the environment has to name it before this package is imported. Raises SettingsInvalid for
    http.allowed_hosts, http.require_key or an issuer that are not valid."""
    http, delivery_timeout_s = parts.settings.http, parts.settings.kafka.delivery_timeout_s
    metrics = Metrics(parts.model.scorer.name)
    parts.model.tell = metrics.serves
    delivery_health = DeliveryHealth(delivery_timeout_s=delivery_timeout_s)
    publishing = Publishing(parts.publisher, "predictions", parts, metrics, delivery_health)
    # What keeps feedback from its topic keeps no prediction from its own.
    own_health = DeliveryHealth(delivery_timeout_s=delivery_timeout_s)
    giving = Publishing(parts.feedback, "feedback", parts, metrics, own_health)
    response_buffer = ResponseBuffer()
    gate = Gate(parts.keys, http, metrics.refused)
    intake = Intake(parts, requests.BodyReader(http.max_body_bytes), response_buffer, gate)

    bounded = (intake.bodies.deadlines, publishing.deadlines, giving.deadlines)
    expiring = [each.expire for each in bounded]
    in_progress = InProgress(lambda: metrics.of["lost_lines"].inc(parts.flush_log()), metrics.flush, *expiring)

    async def before_request(request: Request[Any, Any, Any]) -> None:
        in_progress.refuse_new()
        await gate.admit(request.scope, request.route_handler.opt.get(NEED))
        requests.read_query(request)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        watching = asyncio.create_task(_watch_expiries(parts, metrics))
        yield
        watching.cancel()
        await in_progress.wait(delivery_timeout_s + _GRACE_S)
        if on_shutdown is not None:
            on_shutdown()

    cors = CORSConfig(
        allow_origins=list(http.origins()),
        allow_methods=["GET", "POST"],
        allow_headers=["Content-Type", "Idempotency-Key", "traceparent", "Authorization", "X-API-Key"],
        expose_headers=["Link", "Retry-After", "RateLimit", "RateLimit-Policy", "WWW-Authenticate"],
    )
    handlers = [
        *predict_routes.routes(parts, publishing, intake),
        *feedback_routes.routes(parts, giving, intake),
        *stored_routes.routes(parts, gate),
        *health_routes.routes(parts, metrics, delivery_health, gate),
        _openapi_json,
        openapi.assets,
    ]
    app = _App(
        route_handlers=handlers,
        openapi_config=openapi.config(parts.model.scorer.codec.contract),
        cors_config=cors if http.origins() else None,
        before_request=before_request,
        exception_handlers=problems.HANDLERS,
        lifespan=[lifespan],
        logging_config=None,
        debug=False,
    )
    allowed = AllowedHosts(http.allowed_hosts, bound=http.host)
    return Entry(app, handlers, allowed, gate, bool(http.origins()), in_progress, metrics, response_buffer)


async def _watch_expiries(parts: Parts, metrics: Metrics) -> None:
    while True:
        for credential, moment in (parts.vault.expiries() | ends_at(parts.settings.http.tls_cert_file)).items():
            metrics.of["expiries"].labels(credential).set(moment)
        await asyncio.sleep(_EXPIRIES_EVERY_S)


@lru_cache(1)
def _document(app: Litestar) -> bytes:
    return encode_json(app.openapi_schema.to_schema())


@get("/openapi.json", include_in_schema=False, sync_to_thread=False)
def _openapi_json(request: Request[Any, Any, Any]) -> Response[bytes]:
    return json_response(_document(request.app))
