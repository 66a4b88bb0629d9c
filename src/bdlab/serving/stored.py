"""GET /predictions and /predictions/{id}: rows from Postgres, through a role that may only read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypeVar
from uuid import UUID

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import Parameter

from bdlab.errors import DatabaseUnavailable
from bdlab.serving.answers import json_response
from bdlab.serving.documentation import QueryOperation, problem_response
from bdlab.serving.ports import Parts
from bdlab.serving.problems import invalid_parameter, problem

MAX_LIMIT = 1000
QUERY_TIMEOUT_S = 15.0
#: More would only wait for each other at the one connection.
CONCURRENT_QUERIES = 4

_HOW_MANY = f"How many, 1 to {MAX_LIMIT}; fewer come where their texts are more than 16 MiB."

T = TypeVar("T")

_away = {503: problem_response("The database cannot be asked now")}


class _Queries:
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
    queries = _Queries()

    @get(
        "/predictions",
        operation_class=QueryOperation,
        summary="The newest stored predictions",
        tags=["stored"],
        responses={422: problem_response("The limit is out of range"), **_away},
    )
    async def newest(
        limit: Annotated[str, Parameter(description=_HOW_MANY)] = "10",
    ) -> Response[list[dict[str, Any]]]:
        if not (limit.isascii() and limit.isdigit() and len(limit) < 10 and 1 <= int(limit) <= MAX_LIMIT):
            raise invalid_parameter(
                "limit", f"has to be an integer from 1 to {MAX_LIMIT}, and is {limit[:40]!r}"
            )
        return json_response(await queries.run(parts.stored.newest, int(limit)))

    @get(
        "/predictions/{prediction_id:str}",
        operation_class=QueryOperation,
        summary="One stored prediction",
        tags=["stored"],
        responses={
            404: problem_response("There is no such prediction in the database"),
            422: problem_response("The id is no UUID"),
            **_away,
        },
    )
    async def one(
        prediction_id: Annotated[str, Parameter(description="The id that /predict answered with.")],
    ) -> Response[dict[str, Any]]:
        """A prediction that was acknowledged a moment ago may not be stored yet."""
        try:
            wanted = UUID(prediction_id)
        except ValueError:
            raise invalid_parameter("id", f"has to be a UUID, and is {prediction_id[:80]!r}") from None
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
