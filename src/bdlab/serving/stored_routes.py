"""GET /predictions and /predictions/{id}: rows from Postgres, through a role that may only read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

import msgspec
from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import Parameter
from msgspec import Meta

from bdlab.errors import DatabaseUnavailable
from bdlab.serving.openapi import PREDICTION_ID, describe, problem_response
from bdlab.serving.problems import invalid_parameter, problem
from bdlab.serving.protocols import Parts
from bdlab.serving.responses import encode_json, json_response

MAX_LIMIT = 1000
QUERY_TIMEOUT_S = 15.0
#: More would only wait for each other at the one connection.
CONCURRENT_QUERIES = 4

#: RFC 9562, section 4. Python's own reader takes other notations too.
_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

T = TypeVar("T")

_away = {503: problem_response("The database cannot be asked now")}


class PredictionsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of GET /predictions: a field is one of them, in the document too."""

    limit: Annotated[
        int,
        Meta(ge=1, le=MAX_LIMIT, description="How many; fewer come where their texts are more than 4 MiB."),
    ] = 10
    source: Annotated[
        Literal["real", "all", "serve", "predict", "drill", "demo"],
        Meta(description="Where they came from: `real` is any but drills and demonstrations, `all` any."),
    ] = "real"


class _DatabaseThreads:
    """Threads of their own: a database that hangs holds them for as long as it does, and predictions none."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(CONCURRENT_QUERIES)
        self._threads = ThreadPoolExecutor(CONCURRENT_QUERIES, thread_name_prefix="stored")

    async def run(self, query: Callable[..., T], *arguments: Any) -> T:
        """The result of a blocking `query`. Raises DatabaseError."""
        try:
            async with asyncio.timeout(QUERY_TIMEOUT_S):
                await self._slots.acquire()
                running = asyncio.get_running_loop().run_in_executor(self._threads, query, *arguments)
                running.add_done_callback(self._leave)
                # Given up, it still runs: its slot is free when its thread is.
                return await asyncio.shield(running)
        except TimeoutError:
            raise DatabaseUnavailable(f"the database did not answer within {QUERY_TIMEOUT_S:g} s") from None

    def _leave(self, running: asyncio.Future[Any]) -> None:
        self._slots.release()
        if not running.cancelled():
            running.exception()  # nobody may be left who asks for it


def routes(parts: Parts) -> list[HTTPRouteHandler]:
    queries = _DatabaseThreads()

    @get(
        "/predictions",
        **describe(query=PredictionsQuery),
        summary="The newest stored predictions",
        tags=["stored"],
        responses=_away,
    )
    async def newest(request: Request[Any, Any, Any]) -> Response[list[dict[str, Any]]]:
        query: PredictionsQuery = request.state.query

        def encoded() -> bytes:
            return encode_json(parts.stored.newest(query.limit, source=query.source))

        # Encoding a thousand rows takes time, too, that the event loop has not got.
        return json_response(await queries.run(encoded))

    @get(
        "/predictions/{prediction_id:str}",
        **describe(path=PREDICTION_ID),
        summary="One stored prediction",
        tags=["stored"],
        responses={
            404: problem_response("There is no such prediction in the database"),
            422: problem_response("The id is no UUID"),
            **_away,
        },
    )
    async def one(prediction_id: Annotated[str, Parameter()]) -> Response[dict[str, Any]]:
        """A prediction that was acknowledged a moment ago may not be stored yet."""
        if not _ID.fullmatch(prediction_id):
            raise invalid_parameter("id", f"has to be a UUID, and is {prediction_id[:80]!r}")
        wanted = UUID(prediction_id)
        row = await queries.run(parts.stored.get, wanted)
        if row is None:
            raise problem(
                404,
                "no-such-prediction",
                "There is no such prediction in the database",
                f"{wanted} is not stored. The consumer may still be about to store it.",
            )
        return json_response(row)

    return [newest, one]
