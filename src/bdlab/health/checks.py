"""From what the probes found to named checks: what is well, what is not, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from bdlab.errors import BdlabError
from bdlab.health.results import CheckResult
from bdlab.identity import Known
from bdlab.ledger import LogRange
from bdlab.probes import MEMORY_ONLY, MEMORY_ONLY_ID, BrokerState, DatabaseState, VaultState

#: Group -> its checks, in the order in which they are shown.
CHECKS = {
    "vault": ("vault.reachable", "vault.unsealed", "vault.token", "vault.policies"),
    "kafka": ("kafka.brokers", "kafka.topic", "kafka.lag"),
    "postgres": (
        "postgres.reachable",
        "postgres.schema",
        "postgres.rows",
        "postgres.dead_letters",
        "postgres.lease",
        "postgres.logins",
    ),
    "log": ("log",),
    "model": ("model",),
    "api": ("api",),
    "consumer": ("consumer",),
    "certificates": ("vault.certificate", "kafka.certificate", "postgres.certificate", "api.certificate"),
}

#: Where the check's detail has the model's name.
_MODEL_FIELD = {"model": "name", "api": "model"}

_VAULT_AWAY = "Start Vault, or point BDLAB_VAULT_ADDRESS (VAULT_ADDR) at it."
_IDENTITY = "Run `bdlab vault-init`: it hands each service its identity."


def unknown(group: str, why: str, hint: str = "") -> tuple[CheckResult, ...]:
    """All checks of a group that cannot be made; the first says why."""
    first, *others = CHECKS[group]
    return (
        CheckResult(name=first, state="unknown", message=why, hint=hint),
        *(CheckResult(name=name, state="unknown", message="not checked") for name in others),
    )


def vault_checks(state: VaultState, *, service: str, refusal: BdlabError | None) -> tuple[CheckResult, ...]:
    """`service` names the policy that its token has to have; `refusal` is why there is no token."""
    if not state.connected and not state.sealed:
        # Not there, or there and of no use: a standby, overloaded, failing.
        away = CheckResult(
            name="vault.reachable",
            state="unhealthy",
            message=state.problem,
            hint=state.hint or _VAULT_AWAY,
        )
        return (away, *unknown("vault", "Vault does not answer")[1:])
    reachable = CheckResult(name="vault.reachable", state="healthy", message="answers")
    if state.sealed:
        closed = CheckResult(name="vault.unsealed", state="unhealthy", message=state.problem, hint=state.hint)
        return (reachable, closed, *unknown("vault", "Vault is not open")[2:])
    return (
        reachable,
        CheckResult(
            name="vault.unsealed",
            state="healthy",
            message="; ".join(filter(None, ("open", state.secrets_engine, state.unaudited))),
        ),
        *_token_checks(state, service, refusal),
    )


def _token_checks(state: VaultState, service: str, refusal: BdlabError | None) -> tuple[CheckResult, ...]:
    if not state.authenticated:
        why = refusal.message if refusal else state.problem
        hint = (refusal.hint if refusal else "") or _IDENTITY
        # Whether the services' own identities are good cannot be told from this one.
        return (
            CheckResult(name="vault.token", state="unknown", message=why, hint=hint),
            CheckResult(name="vault.policies", state="unknown", message="no token"),
        )
    ttl_s = round(state.token_ttl_s or 0)
    token = CheckResult(
        name="vault.token",
        state="healthy",
        message=f"that of this command, as service {service!r}, is valid for {ttl_s} s",
        detail={"ttl_s": ttl_s},
    )
    has = service in state.policies
    problem = refusal or (BdlabError(state.problem, hint=state.hint) if state.problem else None)
    message = ", ".join(state.policies)
    if not has:
        message = f"policy {service!r} is not among {message or 'none'}"
    elif problem is not None:
        message = problem.message
    good = has and problem is None
    policies = CheckResult(
        name="vault.policies",
        state="healthy" if good else "unhealthy",
        message=message,
        hint=""
        if good
        else (problem and problem.hint) or "Run `bdlab vault-init`: it writes the policies and the secrets.",
        detail={"policies": list(state.policies)},
    )
    return token, policies


def broker_checks(state: BrokerState) -> tuple[CheckResult, ...]:
    if not state.connected:
        away = CheckResult(
            name="kafka.brokers",
            state="unhealthy",
            message=state.problem or f"no broker answers at {state.bootstrap_servers}",
            hint="Start the broker, or correct kafka/credentials in Vault.",
            detail={"bootstrap_servers": state.bootstrap_servers},
        )
        return (away, *unknown("kafka", "no broker answers")[1:])
    remark = f", {MEMORY_ONLY}" if state.cluster_id.startswith(MEMORY_ONLY_ID) else ""
    brokers = CheckResult(
        name="kafka.brokers",
        state="healthy",
        message=f"{state.brokers} at {state.bootstrap_servers}, cluster {state.cluster_id}{remark}",
        detail={
            "brokers": state.brokers,
            "bootstrap_servers": state.bootstrap_servers,
            "cluster_id": state.cluster_id,
        },
    )
    if not state.partitions:
        missing = CheckResult(
            name="kafka.topic",
            state="unhealthy",
            message=state.problem or f"topic {state.topic!r} is missing",
            hint="Create it with `bdlab migrate`.",
        )
        return (brokers, missing, CheckResult(name="kafka.lag", state="unknown", message="no topic"))
    topic = CheckResult(
        name="kafka.topic",
        state="healthy",
        message=f"{state.topic}, {state.partitions} partitions",
        detail={"topic": state.topic, "partitions": state.partitions},
    )
    if state.consumer_lag is None:
        lag = CheckResult(name="kafka.lag", state="unknown", message=state.problem or "cannot be told")
    else:
        lag = CheckResult(
            name="kafka.lag",
            state="healthy",
            message=f"{state.consumer_lag} events behind",
            detail={"lag_events": state.consumer_lag},
        )
    return brokers, topic, lag


def database_checks(state: DatabaseState, *, lease_ttl_s: float | None) -> tuple[CheckResult, ...]:
    """`lease_ttl_s`: for how many seconds the login of this check is good."""
    if not state.connected:
        away = CheckResult(
            name="postgres.reachable",
            state="unhealthy",
            message=state.problem,
            hint="See that PostgreSQL runs and takes connections, or correct database/credentials in Vault.",
        )
        return (away, *unknown("postgres", "the database does not answer")[1:])
    current = state.schema_fits
    found = "none" if state.schema_version is None else str(state.schema_version)
    return (
        CheckResult(name="postgres.reachable", state="healthy", message=f"PostgreSQL {state.server_version}"),
        CheckResult(
            name="postgres.schema",
            state="healthy" if current else "unhealthy",
            message=f"version {found}" + ("" if current else f", and {state.schema_expected} is wanted"),
            hint="" if current else "Run `bdlab migrate`.",
            detail={"version": state.schema_version, "expected": state.schema_expected},
        ),
        CheckResult(name="postgres.rows", state="unknown", message=state.problem or "no table")
        if state.rows is None
        else CheckResult(
            name="postgres.rows",
            state="healthy",
            message=f"{state.rows} predictions",
            detail={"rows": state.rows},
        ),
        CheckResult(name="postgres.dead_letters", state="unknown", message=state.problem or "no table")
        if state.open_dead_letters is None
        else CheckResult(
            # Open ones are work for somebody, and no fault of the system.
            name="postgres.dead_letters",
            state="healthy",
            message=f"{state.open_dead_letters} open",
            hint="See them with `bdlab dlq list --open`." if state.open_dead_letters else "",
            detail={"open": state.open_dead_letters},
        ),
        CheckResult(name="postgres.lease", state="unknown", message="no lease is held")
        if lease_ttl_s is None
        else CheckResult(
            name="postgres.lease",
            state="healthy" if lease_ttl_s > 0 else "unhealthy",
            message=f"that of this command's own login is valid for {round(lease_ttl_s)} s",
            detail={"ttl_s": round(lease_ttl_s)},
        ),
        _logins_check(state.ended_logins),
    )


def _logins_check(ended: Mapping[str, int] | None) -> CheckResult:
    """One that ended and still has a session is in, and ought not to be; one without is only in the way."""
    name = "postgres.logins"
    if ended is None:
        return CheckResult(name=name, state="unknown", message="cannot be told")
    if not ended:
        return CheckResult(name=name, state="healthy", message="none outlived its lease")
    sessions = sum(ended.values())
    return CheckResult(
        name=name,
        state="unhealthy" if sessions else "degraded",
        message=f"ended and not dropped, with {sessions} sessions: {', '.join(ended)}",
        hint="Run `bdlab rotate database`: it ends their sessions and drops them, or says why it cannot.",
        detail={"logins": list(ended), "sessions": sessions},
    )


def compared_models(results: Sequence[CheckResult]) -> list[CheckResult]:
    """The same checks; that of this terminal's model is unhealthy where the API predicts with another."""
    named = {
        check.name: str(check.detail.get(_MODEL_FIELD[check.name], ""))
        for check in results
        if check.name in _MODEL_FIELD
    }
    here, there = named.get("model"), named.get("api")
    if not here or not there or here == there:
        return list(results)
    changes = {
        "state": "unhealthy",
        "message": f"`predict` has {here} here, and the API predicts with {there}",
        "hint": "Have both use one: `bdlab up --model CARD` for a local stack, then its `bdlab env` for this "
        "terminal; elsewhere the same model.path (BDLAB_MODEL_PATH), and restart `serve`.",
    }
    return [
        msgspec.structs.replace(check, **changes) if check.name == "model" else check for check in results
    ]


def log_check(ranges: Sequence[LogRange], known: Known | None, refused: Mapping[int, str]) -> CheckResult:
    """Whether the broker's log is the recorded one; `refused` says of which partitions that is not proved."""
    if refused:
        first, *others = (f"partition {number}: {why}" for number, why in sorted(refused.items()))
        more = f" (and {len(others)} more partitions)" if others else ""
        return CheckResult(name="log", state="unhealthy", message=f"{first}{more}", hint="`bdlab verify`")
    state = "none of it is recorded yet" if known is None or not known.recorded else "the recorded one"
    number = ranges[0].topic_id if ranges else ""
    message = f"topic id {number or 'none'}: {state}"
    return CheckResult(name="log", state="healthy", message=message, detail={"topic_id": number})


def failed(name: str, error: BdlabError) -> CheckResult:
    return CheckResult(name=name, state="unhealthy", message=error.message, hint=error.hint)
