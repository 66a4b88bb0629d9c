"""An administrator's access: the first root token, a given token, or the identities of `vault-init`.

`vault-token` has it make a short-lived token for one task, with the name of the person in it; `vault-rekey` replaces
the unseal keys of a shamir seal, or the recovery keys of any other."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import getpass
import os
from collections.abc import Iterator
from datetime import timedelta
from functools import partial

import msgspec
import structlog

from bdlab.errors import IdentityRefused, TokenRefused, VaultError, VaultUnavailable
from bdlab.retry import wait_for
from bdlab.services import INSPECT, RECOVERY
from bdlab.settings import Secret
from bdlab.signals import deferred
from bdlab.vault.bootstrap import seal
from bdlab.vault.bootstrap.plan import Plan
from bdlab.vault.bootstrap.seal import Keys, KeysFile
from bdlab.vault.client import VaultClient
from bdlab.vault.identity import Identity
from bdlab.vault.responses import refusal

ROOT_POLICY = "root"
_log = structlog.get_logger()


@contextlib.contextmanager
def vault_init_lock(plan: Plan) -> Iterator[None]:
    """Lock the folder; two runs at once would each take the half-done work of the other for broken. Waits up to the
    plan's `timeout_s` for another run, then raises VaultUnavailable. The lock ends with the process."""
    folder = plan.vault.identities
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.fdopen(os.open(folder / ".vault-init.lock", os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise refusal(VaultError, "no_folder", folder=folder, error=error) from error

    def take() -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise VaultUnavailable(f"another vault-init is at work on {folder}") from error

    with lock:
        wait_for("the other vault-init", take, timeout_s=plan.timeout_s)
        yield


class AdminAccess:
    """Two clients: `reader` to see the set-up, and `writer` to change it, made only when it is needed."""

    def __init__(self, client: VaultClient, plan: Plan) -> None:
        self._anonymous, self._plan, self._file = client, plan, KeysFile(plan.keys_file)
        self._reader: VaultClient | None = None
        self._writer: VaultClient | None = None
        self._temporary: list[VaultClient] = []
        self.is_first_root, self.made_root = False, False
        """Whether `writer` has the root token of the initialisation, which has to be revoked in the end; or another."""

    def reader(self) -> VaultClient:
        """Return the client that reads. Raises VaultError if no token can be had."""
        if self._reader is None:
            self._reader = self._given() or self._first_root() or self._log_in(INSPECT) or self.writer()
        return self._reader

    def writer(self) -> VaultClient:
        """Return the client that changes. Raises VaultError if no token can be had."""
        if self._writer is None:
            self._reader = self._writer = self._recovered_root()
        return self._writer

    def prove_identities(self) -> None:
        """Log in as `inspect`, and begin to make a root token as `recovery`: a later run depends on both. Raises
        VaultError."""
        try:
            self._log_in(INSPECT, required=True)
            recovery = self._log_in(RECOVERY, required=True) or self._anonymous
            path = self._root_path(recovery)
            recovery.request("post", f"{path}/attempt", {})
            seal.end_attempt(recovery, f"{path}/attempt")
        except VaultUnavailable:
            raise
        except VaultError as error:
            raise refusal(VaultError, "root_kept", error=error, path=self._file.path) from error

    def revoke_first_root(self) -> None:
        """Revoke the root token, then remove it from the keys file."""
        if self._writer and self.is_first_root:
            self._writer.revoke_self()
            self._reader = self._writer = None
        keys = self._file.read()
        if keys and keys.root_token:
            self._file.write(msgspec.structs.replace(keys, root_token=""))
        self.is_first_root = False

    def close(self) -> None:
        """Revoke the tokens that were made for this run."""
        while self._temporary:
            _revoke(self._temporary.pop(0))

    def _given(self) -> VaultClient | None:
        if self._plan.token is None:
            return None
        client = self._anonymous.with_token(self._plan.token)
        try:
            client.own_token()
        except TokenRefused as error:
            raise refusal(IdentityRefused, "given_token", client=client) from error
        self._writer = client
        return client

    def _first_root(self) -> VaultClient | None:
        keys = self._file.read()
        if not keys or not keys.root_token:
            return None
        client = self._anonymous.with_token(Secret(keys.root_token))
        try:
            client.own_token()
        except TokenRefused:
            # An earlier run was killed between the revoking and the writing of the keys file.
            self.revoke_first_root()
            return None
        self._writer, self.is_first_root = client, True
        return client

    def _log_in(self, service: str, approle: str = "", *, required: bool = False) -> VaultClient | None:
        folder = self._plan.vault.identities / (approle or self._plan.deployment.own(service))
        identity = Identity(folder, service=service)
        if not identity.exists and not required:
            return None
        # A root token is made in the root namespace, so `recovery` is there too.
        anonymous = self._anonymous.in_namespace("") if service == RECOVERY else self._anonymous
        try:
            token = anonymous.log_in(*identity.obtain(anonymous))
        except IdentityRefused as error:
            if required:
                raise
            _log.info("this identity is not accepted any more", service=service, problem=error.message)
            return None
        self._temporary.append(client := anonymous.with_token(token.token))
        return client

    def _recovered_root(self) -> VaultClient:
        keys = self._file.read()
        if self._plan.dry_run:
            raise refusal(VaultError, "blind", identity=INSPECT, client=self._anonymous)
        if keys is None and self._plan.ask_key is None:
            raise self._no_way_in(f"there is no keys file at {self._file.path}")
        # That of another deployment may be there before this one is set up.
        others = sorted(folder.name for folder in self._plan.vault.identities.glob(f"*{RECOVERY}"))
        found = filter(None, (self._log_in(RECOVERY, approle) for approle in ("", *others)))
        made = self._make_root(next(found, self._anonymous), keys)
        root = self._anonymous.in_namespace("").with_token(made)
        try:  # it ends by itself if the run is killed
            token = root.make_token(policies=[ROOT_POLICY], ttl="900s", renewable=False)
        finally:
            root.revoke_self()
        self._temporary.append(client := self._anonymous.with_token(token))
        self.made_root = True
        return client

    def _make_root(self, client: VaultClient, keys: Keys | None) -> Secret:
        path = self._root_path(client)
        begun = seal.answer_data(client.request("post", f"{path}/attempt", {}))
        why = "a root token takes {required} key shares, and {there} are there"
        shares = seal.key_shares(keys, self._plan)
        progress = seal.give_shares(client, path, begun, shares, lambda **of: self._no_way_in(why.format(**of)))
        encoded = str(progress.get("encoded_token") or progress.get("encoded_root_token"))
        hidden = base64.b64decode(encoded + "=" * (-len(encoded) % 4))
        # Vault hides the token by XOR with the one-time password of the attempt.
        return Secret(bytes(left ^ right for left, right in zip(hidden, begun["otp"].encode(), strict=True)).decode())

    def _root_path(self, client: VaultClient) -> str:
        try:
            # That of OpenBao, then that of HashiCorp Vault, which asks for a token there from 2.0 on.
            return seal.usable_path(client, ("sys/generate-root-token", "sys/generate-root"), "attempt")
        except VaultUnavailable:
            raise
        except VaultError as error:
            raise self._no_way_in(error.message) from error

    def _no_way_in(self, reason: str) -> VaultError:
        return refusal(VaultError, "no_way_in", client=self._anonymous, reason=reason)


def _revoke(client: VaultClient) -> None:
    try:
        client.revoke_self()
    except VaultError as error:
        _log.warning("a token of this run could not be revoked, and will run out", problem=error.message)


def make_token(plan: Plan, *, ttl: timedelta, policies: tuple[str, ...] = (ROOT_POLICY,)) -> VaultClient:
    """Return a client with a new token that cannot be renewed; the caller revokes it and closes the client. It takes
    what a change by `vault-init` takes: the identity `recovery` and the recovery key, or the key shares. Vault's audit
    log then shows the user of this process with each request. Raises VaultError if no token can be had."""
    with contextlib.closing(VaultClient(plan.vault)) as client:
        wait_for("Vault", client.active, timeout_s=plan.timeout_s)
        with vault_init_lock(plan), contextlib.closing(AdminAccess(client, plan)) as access:
            writer = access.writer()
            # A policy is known in its own namespace, the root policy only in the root namespace.
            maker = writer.in_namespace("") if policies == (ROOT_POLICY,) else writer
            longest, name = f"{int(ttl.total_seconds())}s", f"operator-{_user()}"
            values = {"policies": list(policies), "ttl": longest, "explicit_max_ttl": longest, "display_name": name}
            token = maker.make_token(no_default_policy=True, renewable=False, **values)
        return client.with_token(token)


@contextlib.contextmanager
def temporary_token(plan: Plan, *, ttl: timedelta) -> Iterator[VaultClient]:
    """Yield such a client, and revoke its token at the end, whatever happens."""
    with contextlib.closing(make_token(plan, ttl=ttl)) as client:
        try:
            yield client
        finally:
            _revoke(client)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return f"user-{os.getuid()}"


def key_numbers(plan: Plan) -> tuple[int, int]:
    """Return how many key shares Vault has given out, and how many are needed. Raises VaultError."""
    with contextlib.closing(VaultClient(plan.vault)) as client:
        wait_for("Vault", client.active, timeout_s=plan.timeout_s)
        status = client.request("get", "sys/seal-status")
        return int(status["n"]), int(status["t"])


def rekey(plan: Plan) -> Keys:
    """Replace the keys by `plan.shares` new ones, of which `plan.threshold` are needed, and return them. It takes
    enough of the old ones. Vault puts the new ones into force only when it is given them once, and by then they are in
    a file beside the keys file: after a kill at any moment, one of the two files is right. Raises VaultError if no
    token can be had, or if an earlier run was cut off."""
    file = KeysFile(plan.keys_file)
    if file.candidate.exists():
        raise refusal(VaultError, "keys_changing", new=file.candidate, former=file.path)
    old = file.read()
    with temporary_token(plan, ttl=timedelta(minutes=10)) as client:
        kind = seal.seal_type(client)
        # OpenBao's path, then that of HashiCorp Vault.
        shamir, others = ("sys/rotate/root", "sys/rekey"), ("sys/rotate/recovery", "sys/rekey-recovery-key")
        path = seal.usable_path(client, shamir if kind == "shamir" else others, "init")
        wanted = {"secret_shares": plan.shares, "secret_threshold": plan.threshold, "require_verification": True}
        begun = seal.answer_data(client.request("post", f"{path}/init", wanted))
        too_few = partial(refusal, VaultError, "too_few_shares")
        answer = seal.give_shares(client, path, begun, seal.key_shares(old, plan), too_few)
        shares = tuple(str(key) for key in answer["keys_base64"])
        before = old or Keys(address="", seal=kind, threshold=0)
        of = {"address": client.address, "cluster_id": client.health().cluster_id, "threshold": plan.threshold}
        new = msgspec.structs.replace(before.with_shares(shares, kind), **of)
        with deferred("putting the new keys into force"):
            KeysFile(file.candidate).write(new)
            for share in shares[: plan.threshold]:
                client.request("post", f"{path}/verify", {"key": share, "nonce": answer["verification_nonce"]})
            file.promote()
        return new
