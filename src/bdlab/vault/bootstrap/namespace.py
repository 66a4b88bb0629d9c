"""The steps that make the namespace of the set-up, and what has to be in the root namespace nevertheless."""

from functools import partial

from bdlab.errors import PolicyDenied, SecretMissing, SettingsInvalid, VaultError, VaultUnavailable
from bdlab.vault.bootstrap.plan import Change, Step
from bdlab.vault.client import VaultClient

_LOOKUP_SELF = "auth/token/lookup-self"
_ABSENT = "bdlab-asks-whether-this-is-refused"


NAMESPACE = "namespace"


def namespace_step(path: str) -> Step:
    """Return the step that makes the namespace, and those above it, if they are missing.

    To look raises SettingsInvalid if Vault has no namespaces.
    """

    def missing(reader: VaultClient) -> dict[str, Change]:
        if not _there(reader):
            return {path: partial(_make, path)}
        try:
            reader.in_namespace(f"{path}/{_ABSENT}").read(_LOOKUP_SELF)
        except VaultUnavailable:
            raise
        except VaultError:
            return {}
        raise SettingsInvalid(
            f"setting vault.namespace: Vault at {reader.address} has no namespaces, and would have its root "
            f"set up instead of {path!r}",
            hint="OpenBao has them from 2.3 on, HashiCorp Vault in its Enterprise edition. For any other "
            "leave vault.namespace (VAULT_NAMESPACE) out.",
        )

    return Step(name=NAMESPACE, missing=missing)


def _make(path: str, writer: VaultClient) -> None:
    parts = path.split("/")
    for depth, name in enumerate(parts):
        above = writer.in_namespace("/".join(parts[:depth]))
        if _there(above.in_namespace("/".join(parts[: depth + 1]))):
            continue
        try:
            above.write(f"sys/namespaces/{name}")
        except PolicyDenied as error:
            raise VaultError(
                f"there is no namespace {path!r} in Vault at {writer.address}, and this token may not make it",
                hint="Have an administrator make it (`bao namespace create`), or correct vault.namespace "
                "(VAULT_NAMESPACE).",
            ) from error


def root_namespace_step(*steps: Step) -> Step:
    """Return the step that sets up the identity `recovery` in the root namespace by these steps.

    Only that one can make a root token.
    """

    def missing(reader: VaultClient) -> dict[str, Change]:
        if reader.own_token().get("namespace_path"):
            return {}  # a token of a namespace, as that of `inspect`, sees nothing of those above
        root = reader.in_namespace("")
        return {
            f"{step.name} of {what}": partial(_in_root, step, {what: change})
            for step in steps
            for what, change in step.missing(root).items()
        }

    return Step(name="root namespace", missing=missing)


def _in_root(step: Step, changes: dict[str, Change], writer: VaultClient) -> None:
    step.apply(writer.in_namespace(""), changes)


def _there(client: VaultClient) -> bool:
    """Return whether the client's namespace exists."""
    try:
        client.read(_LOOKUP_SELF)
    except SecretMissing:
        return False
    except PolicyDenied:
        pass
    return True
