"""GET /predictions and /predictions/{id}: rows from Postgres, read with a read-only role."""

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
from bdlab.serving.access import Gate
from bdlab.serving.openapi import PREDICTION_ID, describe
from bdlab.serving.problems import Problem, invalid_parameter
from bdlab.serving.protocols import Parts
from bdlab.serving.responses import encode_json, json_response

MAX_LIMIT = 1000
QUERY_TIMEOUT_S = 15.0
#: The queries share one connection, so that more of them would only wait.
CONCURRENT_QUERIES = 4

#: RFC 9562, section 4. `UUID()` also takes other notations.
_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

T = TypeVar("T")


class PredictionsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of GET /predictions."""

    limit: Annotated[
        int, Meta(ge=1, le=MAX_LIMIT, description="How many; fewer if their texts have more than 4 MiB in all.")
    ] = 10
    source: Annotated[
        Literal["real", "all", "serve", "predict", "drill", "demo"],
        Meta(description="Where they came from: `real` is any but drills and demonstrations, `all` is any."),
    ] = "real"


def routes(parts: Parts, gate: Gate) -> list[HTTPRouteHandler]:
    # Threads for queries alone, so that a database that hangs stops no predictions.
    threads = ThreadPoolExecutor(CONCURRENT_QUERIES, thread_name_prefix="stored")
    need = gate.need("read")

    async def run(query: Callable[..., T], *arguments: Any) -> T:
        """Return the result of a blocking `query`. Raises DatabaseError."""
        try:
            async with asyncio.timeout(QUERY_TIMEOUT_S):
                # After a time-out one that runs still keeps its thread; one that waits is never run.
                return await asyncio.get_running_loop().run_in_executor(threads, query, *arguments)
        except TimeoutError:
            raise DatabaseUnavailable(f"the database did not answer within {QUERY_TIMEOUT_S:g} s") from None

    @get(**describe("/predictions", query=PredictionsQuery, need=need))
    async def newest(request: Request[Any, Any, Any]) -> Response[list[dict[str, Any]]]:
        query: PredictionsQuery = request.state.query
        # Encoding a thousand rows would block the event loop too long.
        return json_response(await run(lambda: encode_json(parts.stored.newest(query.limit, source=query.source))))

    @get(**describe("/predictions/{prediction_id:str}", parameters=[PREDICTION_ID], need=need))
    async def one(prediction_id: Annotated[str, Parameter()]) -> Response[dict[str, Any]]:
        """A prediction that was acknowledged a moment ago may not be stored yet."""
        if not _ID.fullmatch(prediction_id):
            raise invalid_parameter("id", f"has to be a UUID, and is {prediction_id[:80]!r}")
        wanted = UUID(prediction_id)
        row = await run(parts.stored.get, wanted)
        if row is None:
            why = f"{wanted} is not stored. If it is new, the consumer may store it in a moment."
            raise Problem("no-such-prediction", why)
        return json_response(row)

    return [newest, one]
