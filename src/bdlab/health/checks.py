"""Makes named checks of what the probes found: what is well, what is not, and what to do about it."""

from collections.abc import Mapping, Sequence

import msgspec

from bdlab.errors import BdlabError
from bdlab.health import CHECKS, HINTS, CheckResult, healthy, not_made, unhealthy
from bdlab.ledger import LogRange
from bdlab.log_identity import KnownLog
from bdlab.probes import MEMORY_ONLY, MEMORY_ONLY_ID, BrokerState, DatabaseState, VaultState


def _begun(group: str, *made: CheckResult) -> tuple[CheckResult, ...]:
    """Return all checks of a group; the last that was made says why the others are not."""
    return (*made, *(not_made(name, "not checked") for name in CHECKS[group][len(made) :]))


def unknown(group: str, why: str, hint: str = "") -> tuple[CheckResult, ...]:
    """Return all checks of a group as not made; the first has the reason."""
    return _begun(group, not_made(CHECKS[group][0], why, hint))


def away(group: str, why: str) -> tuple[CheckResult, ...]:
    """Return the checks of a group whose server went away meanwhile, or did not answer in time."""
    return _begun(group, unhealthy(CHECKS[group][0], why, "See whether the server hangs."))


def vault_checks(state: VaultState, *, service: str, refusal: BdlabError | None) -> tuple[CheckResult, ...]:
    """Return the checks of Vault. `service` is its token's policy; `refusal` says why there is no token."""
    if not state.connected and not state.sealed:  # not there, or not usable: a standby, overloaded, failing
        return _begun("vault", unhealthy("vault.reachable", state.problem, state.hint))
    reachable = healthy("vault.reachable", "answers")
    if state.sealed:
        return _begun("vault", reachable, unhealthy("vault.unsealed", state.problem, state.hint))
    opened = healthy("vault.unsealed", "; ".join(filter(None, ("open", state.secrets_engine, state.unaudited))))
    problem, hint = (refusal.message, refusal.hint) if refusal else (state.problem, state.hint)
    if not state.authenticated:  # this identity does not show whether those of the services are good
        token = not_made("vault.token", problem, (refusal and refusal.hint) or HINTS["vault.token"])
        return _begun("vault", reachable, opened, token)
    ttl_s = round(state.token_ttl_s or 0)
    token = healthy("vault.token", f"that of this command, as service {service!r}, is valid for {ttl_s} s", ttl_s=ttl_s)
    names, policies = ", ".join(state.policies), list(state.policies)
    if service not in policies:
        problem = f"policy {service!r} is not among {names or 'none'}"
    if not problem:
        return reachable, opened, token, healthy("vault.policies", names, policies=policies)
    return reachable, opened, token, unhealthy("vault.policies", problem, hint, policies=policies)


def broker_checks(state: BrokerState) -> tuple[CheckResult, ...]:
    """Return the checks of the broker, its topic and the lag of the consumer group."""
    servers, id_ = state.bootstrap_servers, state.cluster_id
    if not state.connected:
        why = state.problem or f"no broker answers at {servers}"
        return _begun("kafka", unhealthy("kafka.brokers", why, bootstrap_servers=servers))
    found = f"{state.brokers} at {servers}, cluster {id_}{f', {MEMORY_ONLY}' if id_.startswith(MEMORY_ONLY_ID) else ''}"
    brokers = healthy("kafka.brokers", found, brokers=state.brokers, bootstrap_servers=servers, cluster_id=id_)
    return brokers, *topic_checks("kafka", state)


def topic_checks(group: str, state: BrokerState) -> tuple[CheckResult, ...]:
    """Return the checks of a topic, and of the lag of its consumers, whose names begin with `group`."""
    name, lag = f"{group}.topic", f"{group}.lag"
    if not state.partitions:
        made = unhealthy if state.connected else not_made
        return made(name, state.problem or f"topic {state.topic!r} is missing"), not_made(lag, "not checked")
    shown = f"{state.topic}, {state.partitions} partitions"
    topic = healthy(name, shown, topic=state.topic, partitions=state.partitions)
    if (behind := state.consumer_lag) is None:
        return topic, not_made(lag, state.problem or "cannot be told")
    return topic, healthy(lag, f"{behind} events behind", lag_events=behind)


def database_checks(state: DatabaseState, *, lease_ttl_s: float | None) -> tuple[CheckResult, ...]:
    """Return the checks of PostgreSQL; the login of this command is valid for `lease_ttl_s` seconds."""
    if not state.connected:
        return _begun("postgres", unhealthy("postgres.reachable", state.problem))
    reachable = healthy("postgres.reachable", f"PostgreSQL {state.server_version}")
    version, expected = state.schema_version, state.schema_expected
    found = f"version {'none' if version is None else version}"
    schema = healthy("postgres.schema", found, version=version, expected=expected)
    if not state.schema_fits:
        found += f", and {expected} is wanted"
        schema = unhealthy("postgres.schema", found, version=version, expected=expected)
    rows, letters = (not_made(f"postgres.{name}", state.problem or "no table") for name in ("rows", "dead_letters"))
    if state.rows is not None:
        feedback = state.feedback or 0
        shown = f"{state.rows} predictions, {feedback} feedback"
        rows = healthy("postgres.rows", shown, rows=state.rows, feedback=feedback)
    if (count := state.open_dead_letters) is not None:
        # Open ones are work for somebody, and no fault of the system.
        hint = HINTS["postgres.dead_letters"] if count else ""
        letters = CheckResult("postgres.dead_letters", "healthy", f"{count} open", hint, {"open": count})
    lease = not_made("postgres.lease", "no lease is held")
    if lease_ttl_s is not None:
        ttl_s, made = round(lease_ttl_s), healthy if lease_ttl_s > 0 else unhealthy
        lease = made("postgres.lease", f"that of this command's own login is valid for {ttl_s} s", ttl_s=ttl_s)
    logins = not_made("postgres.logins", "cannot be told")
    if (ended := state.ended_logins) is not None:
        logins = healthy("postgres.logins", "none outlived its lease")
    if ended:  # a user with a session still has access to the database
        sessions = sum(ended.values())
        message = f"ended and not dropped, with {sessions} sessions: {', '.join(ended)}"
        logins = unhealthy("postgres.logins", message, logins=list(ended), sessions=sessions)
        logins = logins if sessions else msgspec.structs.replace(logins, state="degraded")
    return reachable, schema, rows, letters, lease, logins


def compared_models(results: Sequence[CheckResult]) -> list[CheckResult]:
    """Return the checks; that of this terminal's model is unhealthy if the API predicts with another."""
    detail = {check.name: check.detail for check in results}
    here, there = detail.get("model", {}).get("name"), detail.get("api", {}).get("model")
    if not here or not there or here == there:
        return list(results)
    message = f"`predict` has {here} here, and the API predicts with {there}"
    other = unhealthy("model", message, **detail["model"])
    return [other if check.name == "model" else check for check in results]


def log_check(ranges: Sequence[LogRange], known: KnownLog | None, refused: Mapping[int, str]) -> CheckResult:
    """Check that the broker's log is the recorded one; `refused` has the partitions that are not proved."""
    if refused:
        first, *others = (f"partition {number}: {why}" for number, why in sorted(refused.items()))
        return unhealthy("log", first + (f" (and {len(others)} more partitions)" if others else ""))
    state = "none of it is recorded yet" if known is None or not known.recorded else "the recorded one"
    topic_id = ranges[0].topic_id if ranges else ""
    return healthy("log", f"topic id {topic_id or 'none'}: {state}", topic_id=topic_id)
