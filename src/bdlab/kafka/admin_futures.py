"""Results of administrative requests, which confluent_kafka gives as futures."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException

from bdlab.errors import BrokerError, BrokerUnavailable
from bdlab.kafka.connection import BROKER_GONE, TIMED_OUT, TRANSPORT, broker_error
from bdlab.retry import tries

_T = TypeVar("_T")

_PAUSE_S = 0.1

LEAST_S = 0.1
"""The shortest time-out to give librdkafka: some of its calls take 0 or less as no limit."""

#: One broker of several may be dead, frozen or starting: another one, or the same a little later, answers.
_RETRIABLE = {BROKER_GONE, TRANSPORT, TIMED_OUT, KafkaError.NOT_CONTROLLER, KafkaError.REQUEST_TIMED_OUT}


def await_results(
    ask: Callable[[float], Mapping[str, Future[_T]]],
    timeout_s: float,
    *,
    retriable: Collection[int] = (),
) -> list[_T]:
    """Return the results, within `timeout_s` seconds, of the requests that `ask` sends.

    `ask` gets the seconds that are left, and names each request for an error's text ("creating topic 'x'").
    It is called again if the broker went away before it answered, and after an error whose code is in
    `retriable`; so the requests have to be idempotent. Raises BrokerError.
    """
    last: BrokerError  # there is at least one try
    for left_s in tries(timeout_s, first_s=_PAUSE_S):
        wait_s = max(LEAST_S, left_s)
        try:
            return [_result(future, wait_s, doing) for doing, future in ask(wait_s).items()]
        except BrokerError as error:
            cause = error.__cause__
            if not (isinstance(cause, KafkaException) and cause.args[0].code() in {*_RETRIABLE, *retriable}):
                raise
            last = error
    try:
        raise last
    finally:
        del last  # else it and this frame hold each other, and with them the clients that `ask` made


def _result(future: Future[_T], timeout_s: float, doing: str) -> _T:
    try:
        return future.result(timeout_s + 1)
    except KafkaException as error:
        # Without its traceback: the future keeps the error, and with it would keep its callers' clients.
        raise broker_error(error, doing) from error.with_traceback(None)
    except FutureTimeout as error:
        raise BrokerUnavailable(f"{doing}: no answer within {timeout_s:g} s") from error


def seconds_left(deadline: float) -> float:
    """Return the seconds until `deadline`, at least 0.1."""
    return max(LEAST_S, deadline - time.monotonic())
