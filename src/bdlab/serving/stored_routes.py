"""GET /predictions and /predictions/{id}: rows from Postgres, read with a read-only role."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import Parameter

from bdlab.errors import DatabaseUnavailable
from bdlab.selection import InvalidParameter, PageCursor, Parameters, Selection
from bdlab.serving.access import Gate
from bdlab.serving.openapi import describe
from bdlab.serving.problems import Problem, invalid_parameter
from bdlab.serving.protocols import Parts
from bdlab.serving.responses import encode_json, json_response

QUERY_TIMEOUT_S = 15.0
CONCURRENT_QUERIES = 4  # they share one connection, so that more of them would only wait
# RFC 9562, section 4. `UUID()` also takes other notations.
_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
T = TypeVar("T")


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

    parameters = Parameters(parts.model.scorer.codec.contract)

    def read(wanted: Selection, limit: int) -> tuple[bytes, PageCursor | None]:
        rows, after = parts.stored.page(wanted, limit)
        return encode_json(rows), after  # encoding a thousand rows would block the event loop too long

    @get(**describe("/predictions", query=parameters.kind, need=need))
    async def newest(request: Request[Any, Any, Any]) -> Response[list[dict[str, Any]]]:
        query = request.state.query
        try:
            wanted = parameters.selection(query)
        except InvalidParameter as error:
            raise invalid_parameter(error.name, error.why) from None
        body, after = await run(read, wanted, query.limit)
        if after is None:
            return json_response(body)
        again = urlencode({**request.query_params.dict(), "cursor": after.encode()}, doseq=True)
        return json_response(body, headers={"Link": f'<{request.url.path}?{again}>; rel="next"'})

    @get(**describe("/predictions/{prediction_id:str}", need=need))
    async def one(prediction_id: Annotated[str, Parameter()]) -> Response[dict[str, Any]]:
        """A prediction that was acknowledged a moment ago may not be stored yet."""
        if not _ID.fullmatch(prediction_id):
            raise invalid_parameter("id", f"has to be a UUID, and is {prediction_id[:80]!r}")
        row = await run(parts.stored.get, UUID(prediction_id))
        if row is None:
            why = f"{UUID(prediction_id)} is not stored. If it is new, the consumer may store it in a moment."
            raise Problem("no-such-prediction", why)
        return json_response(row)

    return [newest, one]
