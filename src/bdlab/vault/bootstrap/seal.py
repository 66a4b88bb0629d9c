"""The first two steps, initialise and unseal, the giving of key shares that other tasks need too, and the file
with the keys that Vault gives out only once: always 0600."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, Self

import msgspec

from bdlab.errors import IdentityRefused, InvalidInput, PolicyDenied, SecretMissing, VaultError, VaultUnavailable
from bdlab.files import sync_folder, write_private
from bdlab.retry import wait_for
from bdlab.settings import Secret
from bdlab.signals import deferred
from bdlab.vault.bootstrap.plan import Plan, StepResult
from bdlab.vault.client import Method, VaultClient
from bdlab.vault.responses import refusal


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """`unseal_keys` of a shamir seal, `recovery_keys` of any other; `root_token` until all is set up."""

    address: str
    cluster_id: str = ""
    seal: str
    threshold: int
    unseal_keys: tuple[str, ...] = ()
    recovery_keys: tuple[str, ...] = ()
    root_token: str = ""

    @property
    def shares(self) -> tuple[str, ...]:
        """The key shares that unseal Vault, or that allow a root token to be made."""
        return self.unseal_keys or self.recovery_keys

    def with_shares(self, shares: tuple[str, ...], seal: str) -> Self:
        """Return these keys with other shares, those of this type of seal."""
        of_shamir, of_others = (shares, ()) if seal == "shamir" else ((), shares)
        return msgspec.structs.replace(self, unseal_keys=of_shamir, recovery_keys=of_others)


class KeysFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def reserved(self) -> bool:
        """Whether it was created for an initialisation whose answer was never written into it."""
        return self.path.exists() and self.path.stat().st_size == 0

    def read(self) -> Keys | None:
        """Return the keys; None if there is no file or an empty one. Raises VaultError if it cannot be used."""
        try:
            if (mode := stat.S_IMODE(self.path.stat().st_mode)) & 0o077:
                raise refusal(VaultError, "open_keys", path=self.path, mode=mode)
            text = self.path.read_bytes()
            return msgspec.json.decode(text, type=Keys) if text else None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise VaultError(f"the keys file {self.path} cannot be read: {error.strerror}") from error
        except msgspec.MsgspecError as error:
            raise refusal(VaultError, "no_keys_file", path=self.path, error=error) from None

    def reserve(self) -> Path | None:
        """Create the empty file, before Vault is asked for keys that it gives only once. Move a file with the keys of
        an earlier Vault aside, and return its new name. Raises VaultError."""
        aside = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.read() is not None:
                aside = self.path.with_name(f"{self.path.name}.{datetime.now(UTC):%Y%m%dT%H%M%S}.old")
                self.path.rename(aside)
            if not self.reserved:
                os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                sync_folder(self.path.parent)
        except OSError as error:
            raise refusal(VaultError, "keys_file_not_made", path=self.path, error=error) from error
        return aside

    @property
    def candidate(self) -> Path:
        """The file for new keys, until Vault has put them into force."""
        return self.path.with_name(f"{self.path.name}.new")

    def promote(self) -> None:
        """Replace the file by the candidate."""
        self.candidate.replace(self.path)
        sync_folder(self.path.parent)

    def write(self, keys: Keys) -> None:
        write_private(self.path, msgspec.json.format(msgspec.json.encode(keys)).decode() + "\n")


def initialise(client: VaultClient, plan: Plan, file: KeysFile) -> StepResult:
    """Initialise Vault if it is not, and write its keys into `file`."""
    # Short, so that somebody who waits for a Vault that never answers is told so.
    health = wait_for("Vault", lambda: client.health(timeout_s=3.0), timeout_s=plan.timeout_s)
    if health.initialized:
        if file.read() is None and file.reserved and plan.token is None:
            raise refusal(VaultError, "lost_keys", client=client, path=file.path)
        return StepResult("initialise", "unchanged")
    if plan.token is not None:
        raise refusal(InvalidInput, "no_token_yet", client=client)
    if plan.dry_run:
        return StepResult("initialise", "would do", (f"keys into {file.path}",))
    seal = seal_type(client)
    prefix = "secret" if seal == "shamir" else "recovery"
    numbers = {f"{prefix}_shares": plan.shares, f"{prefix}_threshold": plan.threshold}
    with deferred("writing Vault's keys down"):
        aside = file.reserve()
        # If the call ended before Vault's answer, Vault would be initialised and its keys lost for good.
        answer = client.request("put", "sys/init", numbers, timeout_s=120.0)
        shares = tuple(answer.get("recovery_keys_base64") or answer.get("keys_base64") or ())
        root_token = str(answer["root_token"])
        keys = Keys(address=client.address, seal=seal, threshold=plan.threshold, root_token=root_token)
        file.write(keys.with_shares(shares, seal))
    moved = (f"keys of an earlier Vault moved to {aside}",) if aside else ()
    return StepResult("initialise", "done", (f"{seal} seal, keys in {file.path}", *moved))


def unseal(client: VaultClient, plan: Plan, file: KeysFile) -> StepResult:
    """Unseal Vault if that takes keys, and wait until it is active. Raises VaultUnavailable if it does not open in
    time, VaultError if keys are missing or wrong."""
    keys, given = file.read(), 0
    if client.health().sealed and seal_type(client) == "shamir":
        if plan.dry_run:
            return StepResult("unseal", "would do")
        for share in key_shares(keys, plan):
            given += 1
            if not _give_share(client, "put", "sys/unseal", {"key": share.reveal()}).get("sealed", True):
                break
        else:
            raise refusal(VaultError, "too_few_to_open", client=client, given=given)
    health = wait_for("Vault", client.active, timeout_s=plan.timeout_s)
    if keys and not keys.cluster_id and not plan.dry_run:
        file.write(msgspec.structs.replace(keys, cluster_id=health.cluster_id))
    elif keys and keys.cluster_id and keys.cluster_id != health.cluster_id and plan.token is None:
        raise refusal(VaultError, "other_vault", path=file.path, keys=keys, client=client, health=health)
    return StepResult("unseal", "done" if given else "unchanged")


def seal_type(client: VaultClient) -> str:
    return str(client.request("get", "sys/seal-status")["type"])


def _give_share(client: VaultClient, method: Method, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Give Vault one key share, and return its answer. Raises VaultError if the shares given so far do not fit."""
    try:
        return client.request(method, path, body)
    except (IdentityRefused, PolicyDenied, SecretMissing):
        raise
    except VaultError as error:
        # To a wrong recovery key Vault answers 500, as to a fault of its own.
        if isinstance(error, VaultUnavailable) and "recovery key" not in error.message:
            raise
        raise refusal(VaultError, "wrong_share", error=error) from error


def give_shares(
    client: VaultClient, path: str, begun: dict[str, Any], shares: Iterator[Secret], too_few: Callable[..., VaultError]
) -> dict[str, Any]:
    """Give the attempt at `path`, begun with the answer `begun`, its key shares; return Vault's last answer. `too_few`
    makes the error from the numbers of shares that are `required` and that are `there`. Raises VaultError."""
    answer, required = dict[str, Any](), int(begun["required"])
    if len(there := [*islice(shares, required)]) < required:
        raise too_few(required=required, there=len(there))
    for share in there:
        given = {"key": share.reveal(), "nonce": begun["nonce"]}
        answer = answer_data(_give_share(client, "post", f"{path}/update", given))
    return answer


def end_attempt(client: VaultClient, path: str) -> None:
    """Cancel the attempt that is open at `path`, as a new one would be refused. Raises VaultError."""
    found = answer_data(client.request("get", path))
    if found.get("started"):
        # HashiCorp Vault wants the attempt's nonce for ten minutes, and never takes an empty body.
        client.request("delete", path, {"nonce": found["nonce"]})


def usable_path(client: VaultClient, paths: Sequence[str], attempt: str) -> str:
    """Return the first of `paths` that this Vault has, and cancel what is open at its `attempt`. Raises VaultError,
    with the reasons, if it has none of them."""
    reasons = []
    for path in paths:
        try:
            end_attempt(client, f"{path}/{attempt}")
        except VaultUnavailable:
            raise
        except VaultError as error:
            reasons.append(error.message)
        else:
            return path
    raise VaultError("; ".join(reasons))


def answer_data(answer: dict[str, Any]) -> dict[str, Any]:
    """Return what OpenBao puts under `data` of its answer, and HashiCorp Vault at the top."""
    return data if isinstance(data := answer.get("data"), dict) else answer


def key_shares(keys: Keys | None, plan: Plan) -> Iterator[Secret]:
    """Yield the key shares, from the keys file and then by asking, until nobody has one."""
    there = keys.shares if keys else ()
    yield from map(Secret, there)
    if plan.ask_key:
        yield from takewhile(bool, map(plan.ask_key, range(len(there) + 1, 256)))
