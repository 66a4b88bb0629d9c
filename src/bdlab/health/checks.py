"""Makes named checks of what the probes found: what is well, what is not, and what to do about it."""

from collections.abc import Mapping, Sequence

import msgspec

from bdlab.errors import BdlabError
from bdlab.health import CheckResult, healthy, not_made, unhealthy
from bdlab.ledger import LogRange
from bdlab.log_identity import KnownLog
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

_VAULT_AWAY = "Start Vault, or point BDLAB_VAULT_ADDRESS (VAULT_ADDR) at it."
_IDENTITY = "Run `bdlab vault-init`: it hands each service its identity."


def unknown(group: str, why: str, hint: str = "") -> tuple[CheckResult, ...]:
    """Return all checks of a group as not made; the first has the reason."""
    first, *others = CHECKS[group]
    return (not_made(first, why, hint), *(not_made(name, "not checked") for name in others))


def away(group: str, why: str) -> tuple[CheckResult, ...]:
    """Return the checks of a group whose server went away meanwhile, or did not answer in time."""
    first, *others = unknown(group, "not checked")
    return (unhealthy(first.name, why, "See whether the server hangs."), *others)


def vault_checks(state: VaultState, *, service: str, refusal: BdlabError | None) -> tuple[CheckResult, ...]:
    """Return the checks of Vault. `service` is the policy that its token must have; `refusal` says why there
    is no token.
    """
    if not state.connected and not state.sealed:
        # Not there, or not usable: a standby, overloaded, failing.
        away = unhealthy("vault.reachable", state.problem, state.hint or _VAULT_AWAY)
        return (away, *unknown("vault", "Vault does not answer")[1:])
    reachable = healthy("vault.reachable", "answers")
    if state.sealed:
        sealed = unhealthy("vault.unsealed", state.problem, state.hint)
        return (reachable, sealed, *unknown("vault", "Vault is not open")[2:])
    found = "; ".join(filter(None, ("open", state.secrets_engine, state.unaudited)))
    opened = healthy("vault.unsealed", found)
    return (reachable, opened, *_token_checks(state, service, refusal))


def _token_checks(state: VaultState, service: str, refusal: BdlabError | None) -> tuple[CheckResult, ...]:
    problem, hint = (refusal.message, refusal.hint) if refusal else (state.problem, state.hint)
    if not state.authenticated:
        # This identity does not show whether those of the services are good.
        return not_made("vault.token", problem, (refusal and refusal.hint) or _IDENTITY), not_made(
            "vault.policies", "no token"
        )
    ttl_s = round(state.token_ttl_s or 0)
    valid = f"that of this command, as service {service!r}, is valid for {ttl_s} s"
    token = healthy("vault.token", valid, ttl_s=ttl_s)
    names, policies = ", ".join(state.policies), list(state.policies)
    if service not in policies:
        problem = f"policy {service!r} is not among {names or 'none'}"
    if not problem:
        return token, healthy("vault.policies", names, policies=policies)
    hint = hint or "Run `bdlab vault-init`: it writes the policies and the secrets."
    return token, unhealthy("vault.policies", problem, hint, policies=policies)


def broker_checks(state: BrokerState) -> tuple[CheckResult, ...]:
    """Return the checks of the broker, its topic and the lag of the consumer group."""
    if not state.connected:
        why = state.problem or f"no broker answers at {state.bootstrap_servers}"
        hint = "Start the broker, or correct kafka/credentials in Vault."
        away = unhealthy("kafka.brokers", why, hint, bootstrap_servers=state.bootstrap_servers)
        return (away, *unknown("kafka", "no broker answers")[1:])
    remark = f", {MEMORY_ONLY}" if state.cluster_id.startswith(MEMORY_ONLY_ID) else ""
    brokers = healthy(
        "kafka.brokers",
        f"{state.brokers} at {state.bootstrap_servers}, cluster {state.cluster_id}{remark}",
        brokers=state.brokers,
        bootstrap_servers=state.bootstrap_servers,
        cluster_id=state.cluster_id,
    )
    if not state.partitions:
        why = state.problem or f"topic {state.topic!r} is missing"
        missing = unhealthy("kafka.topic", why, "Create it with `bdlab migrate`.")
        return (brokers, missing, not_made("kafka.lag", "no topic"))
    shown = f"{state.topic}, {state.partitions} partitions"
    topic = healthy("kafka.topic", shown, topic=state.topic, partitions=state.partitions)
    behind = state.consumer_lag
    if behind is None:
        return brokers, topic, not_made("kafka.lag", state.problem or "cannot be told")
    return brokers, topic, healthy("kafka.lag", f"{behind} events behind", lag_events=behind)


def database_checks(state: DatabaseState, *, lease_ttl_s: float | None) -> tuple[CheckResult, ...]:
    """Return the checks of PostgreSQL; the login of this command is valid for `lease_ttl_s` seconds."""
    if not state.connected:
        hint = "See that PostgreSQL runs and takes connections, or correct database/credentials in Vault."
        away = unhealthy("postgres.reachable", state.problem, hint)
        return (away, *unknown("postgres", "the database does not answer")[1:])
    found = f"version {'none' if state.schema_version is None else state.schema_version}"
    versions = {"version": state.schema_version, "expected": state.schema_expected}
    schema = healthy("postgres.schema", found, **versions)
    if not state.schema_fits:
        outdated = f"{found}, and {state.schema_expected} is wanted"
        schema = unhealthy("postgres.schema", outdated, "Run `bdlab migrate`.", **versions)
    no_table = state.problem or "no table"
    rows = not_made("postgres.rows", no_table)
    if state.rows is not None:
        rows = healthy("postgres.rows", f"{state.rows} predictions", rows=state.rows)
    letters = not_made("postgres.dead_letters", no_table)
    if (count := state.open_dead_letters) is not None:
        # Open ones are work for somebody, and no fault of the system.
        hint = "See them with `bdlab dlq list --open`." if count else ""
        letters = CheckResult("postgres.dead_letters", "healthy", f"{count} open", hint, {"open": count})
    lease = not_made("postgres.lease", "no lease is held")
    if lease_ttl_s is not None:
        ttl_s, made = round(lease_ttl_s), healthy if lease_ttl_s > 0 else unhealthy
        valid = f"that of this command's own login is valid for {ttl_s} s"
        lease = made("postgres.lease", valid, ttl_s=ttl_s)
    reachable = healthy("postgres.reachable", f"PostgreSQL {state.server_version}")
    return reachable, schema, rows, letters, lease, _logins_check(state.ended_logins)


def _logins_check(ended: Mapping[str, int] | None) -> CheckResult:
    """Check for users whose lease has ended; one with a session still has access to the database."""
    name = "postgres.logins"
    if ended is None:
        return not_made(name, "cannot be told")
    if not ended:
        return healthy(name, "none outlived its lease")
    sessions = sum(ended.values())
    return CheckResult(
        name,
        "unhealthy" if sessions else "degraded",
        f"ended and not dropped, with {sessions} sessions: {', '.join(ended)}",
        "Run `bdlab rotate database`: it ends their sessions and drops them, or says why it cannot.",
        {"logins": list(ended), "sessions": sessions},
    )


def compared_models(results: Sequence[CheckResult]) -> list[CheckResult]:
    """Return the checks; that of this terminal's model is unhealthy if the API predicts with another."""
    detail = {check.name: check.detail for check in results}
    here, there = detail.get("model", {}).get("name"), detail.get("api", {}).get("model")
    if not here or not there or here == there:
        return list(results)
    changes = {
        "state": "unhealthy",
        "message": f"`predict` has {here} here, and the API predicts with {there}",
        "hint": "Have both use one: `bdlab up --model CARD` for a local stack, then its `bdlab env` for this "
        "terminal; elsewhere the same model.path (BDLAB_MODEL_PATH), and restart `serve`.",
    }
    return [msgspec.structs.replace(check, **changes) if check.name == "model" else check for check in results]


def log_check(ranges: Sequence[LogRange], known: KnownLog | None, refused: Mapping[int, str]) -> CheckResult:
    """Check that the broker's log is the recorded one; `refused` has the partitions that are not proved."""
    if refused:
        first, *others = (f"partition {number}: {why}" for number, why in sorted(refused.items()))
        more = f" (and {len(others)} more partitions)" if others else ""
        return unhealthy("log", f"{first}{more}", "`bdlab verify`")
    state = "none of it is recorded yet" if known is None or not known.recorded else "the recorded one"
    topic_id = ranges[0].topic_id if ranges else ""
    return healthy("log", f"topic id {topic_id or 'none'}: {state}", topic_id=topic_id)


def failed(name: str, error: BdlabError) -> CheckResult:
    """Return an unhealthy check with the error's message and hint."""
    return unhealthy(name, error.message, error.hint)
