"""The bodies of the API's responses."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_type_hints
from uuid import UUID

import msgspec
from litestar import MediaType, Response

from bdlab.contract.fields import Copier
from bdlab.events import EventCodec, PredictionEvent, Score, Term


class Answers:
    """Makes the answers, structs of `kind`, with the acknowledged predictions of a contract. They have its outputs, and
    what has moved the prediction most (`explanation`); `created_at` is UTC. `known_terms` is the share of the input's
    different words that the model knows, null if the model does not report it; `warning` is the reason why the
    prediction is not reliable, null if there is none."""

    def __init__(self, codec: EventCodec) -> None:
        outputs = get_type_hints(codec.score)
        self.kind = msgspec.defstruct(
            "Answer",
            [
                ("id", UUID),
                *((field.column, outputs[field.column]) for field in codec.contract.outputs),
                ("explanation", tuple[Term, ...]),
                ("model", str),
                ("created_at", str),
                ("known_terms", Annotated[float, msgspec.Meta(ge=0, le=1)] | None),
                ("warning", str | None),
            ],
            module=__name__,
            frozen=True,
            kw_only=True,
        )
        self._copy = Copier(self.kind, codec.event, codec.score, but=("created_at",))

    def __call__(self, event: PredictionEvent, score: Score) -> msgspec.Struct:
        moment = event.created_at.isoformat(timespec="microseconds")
        return self._copy(event, score, created_at=f"{moment[:26]}Z")


class BatchItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of one input of a batch that was not acknowledged as a whole. `not acknowledged`: it may be on the
    topic; `invalid`: it is not on the topic. An acknowledged one has a `result`, the others have `why`."""

    index: int
    id: UUID
    status: Literal["acknowledged", "not acknowledged", "invalid"]
    why: str = ""
    result: msgspec.Struct | None = None


class HealthAnswer(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal["healthy", "degraded", "unhealthy"]
    model_loaded: bool
    vault_connected: bool
    kafka_connected: bool
    database_connected: bool
    version: str
    model: str
    """The name@version that every prediction has too."""
    model_problem: str
    """Why the version that was promoted last is not taken, or why predictions of this one cannot be stored."""


class LiveAnswer(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal["alive"] = "alive"


class ReadyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`problems` has the reasons if `ready` is false."""

    ready: bool
    problems: tuple[str, ...] = ()


class VaultAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`problem` is the reason why Vault does not answer."""

    connected: bool
    authenticated: bool
    sealed: bool | None
    secrets_engine: str
    token_ttl_s: float | None
    policies: tuple[str, ...]
    problem: str = ""


class TopicAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`problem` is the reason why there is no answer, or no lag."""

    topic: str
    partitions: int
    consumer_lag: int | None
    problem: str = ""


class KafkaAnswer(TopicAnswer, frozen=True, kw_only=True, omit_defaults=True):
    """`topic` and what follows it are of the predictions; `feedback` has the same of the other topic."""

    connected: bool
    bootstrap_servers: str
    brokers: int
    feedback: TopicAnswer


_encode = msgspec.json.Encoder().encode


def encode_json(content: Any) -> bytes:
    """Return `content` as JSON with a line break at its end, for the prompt of a terminal."""
    return _encode(content) + b"\n"


def json_response(
    content: Any, status: int = 200, *, media_type: str = MediaType.JSON, headers: dict[str, str] | None = None
) -> Response[Any]:
    """Return a response with `content` as JSON; bytes are JSON already."""
    body = content if isinstance(content, bytes) else encode_json(content)
    return Response(body, status_code=status, media_type=media_type, headers=headers)


def json_messages(
    body: bytes, status: int = 200, *, media_type: str = MediaType.JSON, headers: Mapping[str, str] | None = None
) -> tuple[Any, Any]:
    """Return the two ASGI messages of a response with encoded JSON, as the framework would send them."""
    head = [(b"content-type", media_type.encode()), (b"content-length", b"%d" % len(body))]
    if headers:
        head += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return (
        {"type": "http.response.start", "status": status, "headers": head},
        {"type": "http.response.body", "body": body, "more_body": False},
    )
