"""GET /health, /health/live, /health/ready, /vault-status, /kafka-status and /metrics: they only read."""

import asyncio
from functools import partial

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from bdlab import __version__
from bdlab.contract import example_of
from bdlab.health import CachedProbe
from bdlab.probes import BrokerState, DatabaseState, VaultState
from bdlab.serving.access import Gate
from bdlab.serving.metrics import CONTENT_TYPE, Metrics
from bdlab.serving.openapi import describe
from bdlab.serving.protocols import Parts
from bdlab.serving.publisher import DeliveryHealth
from bdlab.serving.responses import HealthAnswer, KafkaAnswer, LiveAnswer, ReadyAnswer, VaultAnswer, json_response


def _publish_problem(broker: BrokerState, delivery_health: DeliveryHealth) -> str:
    """Return why nothing can be published; empty if predictions can be published."""
    if not broker.connected:
        return f"the broker does not answer: {broker.problem}"
    if not broker.partitions:
        return f"the topic does not exist: {broker.problem}"
    if delivery_health.problem:
        return f"predictions are not acknowledged: {delivery_health.problem}"
    return ""


def routes(parts: Parts, metrics: Metrics, delivery_health: DeliveryHealth, gate: Gate) -> list[HTTPRouteHandler]:
    # The states of what the API depends on; each is asked for at most once a second.
    kafka, codec = parts.settings.kafka, parts.model.scorer.codec
    no_broker = partial(BrokerState, connected=False, bootstrap_servers=kafka.bootstrap_servers, topic=kafka.topic)
    no_feedback = partial(no_broker, topic=kafka.feedback_topic)
    rows = partial(parts.stored.state, count_rows=False)
    trial = msgspec.convert(example_of(codec.contract), codec.input)

    def try_model() -> str:
        parts.model.scorer.score(trial)
        return ""

    vault_probe = CachedProbe(parts.vault.state, lambda why: VaultState(connected=False, problem=why), name="vault")
    broker_probe = CachedProbe(parts.broker.state, lambda why: no_broker(problem=why), name="broker")
    feedback_probe = CachedProbe(parts.feedback_broker.state, lambda why: no_feedback(problem=why), name="feedback")
    rows_probe = CachedProbe(rows, lambda why: DatabaseState(connected=False, problem=why), name="database")
    model_probe = CachedProbe(try_model, str, name="model")
    scrape = need if (need := gate.need("metrics"))[1] else None

    @get(**describe("/health", state=HealthAnswer))
    async def health() -> Response[HealthAnswer]:
        """503 if nothing can be predicted durably; degraded if Vault or the database is not available, or if the
        promoted model was refused."""
        model_problem, vault, broker, database = await asyncio.gather(
            model_probe.get_async(), vault_probe.get_async(), broker_probe.get_async(), rows_probe.get_async()
        )
        durable = not (model_problem or parts.model.unfit or _publish_problem(broker, delivery_health))
        unsealed = vault.connected and not vault.sealed
        whole = unsealed and vault.credentials_valid and database.connected and not parts.model.problem
        found = HealthAnswer(
            status="unhealthy" if not durable else "healthy" if whole else "degraded",
            model_loaded=not model_problem,
            vault_connected=unsealed,
            kafka_connected=broker.connected,
            database_connected=database.connected,
            version=__version__,
            model=parts.model.scorer.name,
            model_problem=parts.model.unfit or parts.model.problem,
        )
        return json_response(found, 200 if durable else 503)

    @get(**describe("/health/live"), sync_to_thread=False)
    def live() -> Response[LiveAnswer]:
        return json_response(LiveAnswer(), 200)

    @get(**describe("/health/ready", state=ReadyAnswer))
    async def ready() -> Response[ReadyAnswer]:
        """200 if the model predicts, the broker answers and acknowledges, and the credentials are valid."""
        model_problem, vault, broker = await asyncio.gather(
            model_probe.get_async(), vault_probe.get_async(), broker_probe.get_async()
        )
        problems = [f"the model does not predict: {model_problem}"] if model_problem else []
        if parts.model.unfit:
            problems.append(f"the model does not fit the database: {parts.model.unfit}")
        if problem := _publish_problem(broker, delivery_health):
            problems.append(problem)
        # Predictions need what the token reads, and no database lease. A Vault that does not answer has refused
        # nothing: the API goes on with what it has read, so that an outage of Vault takes out no replica.
        if vault.connected and not (vault.credentials_valid or (vault.token_ttl_s or 0) > 0):
            problems.append(f"Vault no longer accepts this service's credentials: {vault.problem or 'expired'}")
        return json_response(ReadyAnswer(ready=not problems, problems=tuple(problems)), 503 if problems else 200)

    @get(**describe("/vault-status", state=VaultAnswer))
    async def vault_status() -> Response[VaultAnswer]:
        state = await vault_probe.get_async()
        found = msgspec.convert(state, VaultAnswer, from_attributes=True)
        if state.connected:
            found = msgspec.structs.replace(found, problem="")
        return json_response(found, 200 if state.connected else 503)

    @get(**describe("/kafka-status", state=KafkaAnswer))
    async def kafka_status() -> Response[KafkaAnswer]:
        """`consumer_lag` is null if this service may not read the group; `problem` then has the reason."""
        state, of_feedback = await asyncio.gather(broker_probe.get_async(), feedback_probe.get_async())
        values = msgspec.structs.asdict(state) | {"feedback": msgspec.structs.asdict(of_feedback)}
        found = msgspec.convert(values, KafkaAnswer)
        return json_response(found, 200 if state.connected else 503)

    @get(**describe("/metrics", need=scrape), media_type="text/plain")
    async def show_metrics() -> Response[bytes]:
        metrics.flush()
        return Response(await asyncio.to_thread(metrics.render), media_type=CONTENT_TYPE)

    return [health, live, ready, vault_status, kafka_status, show_metrics]
