"""GET /health, /health/live, /health/ready, /vault-status, /kafka-status and /metrics. They only read."""

from __future__ import annotations

import asyncio

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from bdlab import __version__
from bdlab.events import Review
from bdlab.health import CachedProbe
from bdlab.probes import BrokerState, DatabaseState, VaultState
from bdlab.serving.delivery_health import DeliveryHealth
from bdlab.serving.metrics import CONTENT_TYPE, Metrics
from bdlab.serving.openapi import describe, state_response
from bdlab.serving.protocols import Parts
from bdlab.serving.responses import (
    HealthAnswer,
    KafkaAnswer,
    LiveAnswer,
    ReadyAnswer,
    VaultAnswer,
    json_response,
)

_TRIAL = Review(text="A trial of the model: good, or bad?", summary="trial")


class Dependencies:
    """What the API stands on, looked at at most once a second however often it is asked for."""

    def __init__(self, parts: Parts) -> None:
        def vault_away(why: str) -> VaultState:
            return VaultState(connected=False, problem=why)

        def broker_away(why: str) -> BrokerState:
            kafka = parts.settings.kafka
            return BrokerState(
                connected=False, bootstrap_servers=kafka.bootstrap_servers, topic=kafka.topic, problem=why
            )

        def database_away(why: str) -> DatabaseState:
            return DatabaseState(connected=False, problem=why)

        def look_at_database() -> DatabaseState:
            return parts.stored.state(count_rows=False)

        def try_model() -> str:
            parts.scorer.score(_TRIAL)
            return ""

        self.vault = CachedProbe(parts.vault.state, vault_away, name="vault")
        self.broker = CachedProbe(parts.broker.state, broker_away, name="broker")
        self.database = CachedProbe(look_at_database, database_away, name="database")
        self.model_problem = CachedProbe(try_model, str, name="model")


def _health(
    model_problem: str,
    vault: VaultState,
    broker: BrokerState,
    database: DatabaseState,
    delivery_health: DeliveryHealth,
    *,
    model: str,
) -> HealthAnswer:
    durable = not model_problem and not _publish_problem(broker, delivery_health)
    whole = vault.connected and not vault.sealed and vault.held_valid and database.connected
    return HealthAnswer(
        status="unhealthy" if not durable else "healthy" if whole else "degraded",
        model_loaded=not model_problem,
        vault_connected=vault.connected and not vault.sealed,
        kafka_connected=broker.connected,
        database_connected=database.connected,
        version=__version__,
        model=model,
    )


def _publish_problem(broker: BrokerState, delivery_health: DeliveryHealth) -> str:
    """Why nothing can be published; empty where it can."""
    if not broker.connected:
        return f"the broker does not answer: {broker.problem}"
    if not broker.partitions:
        return f"the topic is not there: {broker.problem}"
    if delivery_health.problem:
        return f"predictions are not acknowledged: {delivery_health.problem}"
    return ""


def _readiness(
    model_problem: str, vault: VaultState, broker: BrokerState, delivery_health: DeliveryHealth
) -> ReadyAnswer:
    problems = []
    if model_problem:
        problems.append(f"the model does not predict: {model_problem}")
    if unpublishable := _publish_problem(broker, delivery_health):
        problems.append(unpublishable)
    # Predicting needs the token's secrets and no database: its lease may run out meanwhile. And a Vault that
    # is away has refused nothing: what was read from it is used on, and no replica is drained, however long.
    if vault.connected and not (vault.held_valid or (vault.token_ttl_s or 0) > 0):
        problems.append(f"Vault no longer takes this service's credentials: {vault.problem or 'expired'}")
    return ReadyAnswer(ready=not problems, problems=tuple(problems))


def routes(parts: Parts, metrics: Metrics, delivery_health: DeliveryHealth) -> list[HTTPRouteHandler]:
    dependencies = Dependencies(parts)

    @get(
        "/health",
        **describe(),
        summary="State of the API and of what it stands on",
        tags=["state"],
        responses=state_response(HealthAnswer, "Unhealthy: nothing can be predicted durably"),
    )
    async def health() -> Response[HealthAnswer]:
        """503 where nothing can be predicted durably; degraded where Vault or the database is away."""
        found = _health(
            *await asyncio.gather(
                dependencies.model_problem.get_async(),
                dependencies.vault.get_async(),
                dependencies.broker.get_async(),
                dependencies.database.get_async(),
            ),
            delivery_health,
            model=parts.scorer.name,
        )
        return json_response(found, 503 if found.status == "unhealthy" else 200)

    @get("/health/live", **describe(), summary="The process is alive", tags=["state"], sync_to_thread=False)
    def live() -> Response[LiveAnswer]:
        return json_response(LiveAnswer(), 200)

    @get(
        "/health/ready",
        **describe(),
        summary="A prediction can be made and published",
        tags=["state"],
        responses=state_response(ReadyAnswer, "Not ready"),
    )
    async def ready() -> Response[ReadyAnswer]:
        """The model predicts, the broker answers and takes events, the credentials are valid; else 503."""
        found = _readiness(
            *await asyncio.gather(
                dependencies.model_problem.get_async(),
                dependencies.vault.get_async(),
                dependencies.broker.get_async(),
            ),
            delivery_health,
        )
        return json_response(found, 200 if found.ready else 503)

    @get(
        "/vault-status",
        **describe(),
        summary="Vault as this service sees it",
        tags=["state"],
        responses=state_response(VaultAnswer, "Vault does not answer"),
    )
    async def vault_status() -> Response[VaultAnswer]:
        state = await dependencies.vault.get_async()
        found = VaultAnswer(
            connected=state.connected,
            authenticated=state.authenticated,
            sealed=state.sealed,
            secrets_engine=state.secrets_engine,
            token_ttl_s=state.token_ttl_s,
            policies=state.policies,
            problem="" if state.connected else state.problem,
        )
        return json_response(found, 200 if state.connected else 503)

    @get(
        "/kafka-status",
        **describe(),
        summary="Kafka as this service sees it",
        tags=["state"],
        responses=state_response(KafkaAnswer, "Kafka does not answer"),
    )
    async def kafka_status() -> Response[KafkaAnswer]:
        """`consumer_lag` is null where this service's user may not see the group; `problem` says why then."""
        state = await dependencies.broker.get_async()
        found = KafkaAnswer(
            connected=state.connected,
            bootstrap_servers=state.bootstrap_servers,
            brokers=state.brokers,
            topic=state.topic,
            partitions=state.partitions,
            consumer_lag=state.consumer_lag,
            problem=state.problem,
        )
        return json_response(found, 200 if state.connected else 503)

    @get(
        "/metrics",
        **describe(),
        summary="Prometheus metrics",
        tags=["state"],
        media_type="text/plain",
        sync_to_thread=True,
    )
    def show_metrics() -> Response[bytes]:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    return [health, live, ready, vault_status, kafka_status, show_metrics]
