"""The steps that make the namespace of the set-up, and what has to be in the root namespace nevertheless."""

from bdlab.errors import PolicyDenied, SecretMissing, SettingsInvalid, VaultError, VaultUnavailable
from bdlab.vault.bootstrap.plan import Step
from bdlab.vault.client import VaultClient

_LOOKUP_SELF = "auth/token/lookup-self"
_ABSENT = "bdlab-asks-whether-this-is-refused"


class Namespace:
    """Makes the namespace, and those above it, if they are missing."""

    name = "namespace"

    def __init__(self, path: str) -> None:
        self._path = path

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        """Return what is missing. Raises SettingsInvalid if Vault has no namespaces."""
        if not _there(reader):
            return (self._path,)
        try:
            reader.in_namespace(f"{self._path}/{_ABSENT}").read(_LOOKUP_SELF)
        except VaultUnavailable:
            raise
        except VaultError:
            return ()
        raise SettingsInvalid(
            f"setting vault.namespace: Vault at {reader.address} has no namespaces, and would have its root "
            f"set up instead of {self._path!r}",
            hint="OpenBao has them from 2.3 on, HashiCorp Vault in its Enterprise edition. For any other "
            "leave vault.namespace (VAULT_NAMESPACE) out.",
        )

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        parts = pending[0].split("/")
        for depth, name in enumerate(parts):
            above = writer.in_namespace("/".join(parts[:depth]))
            if _there(above.in_namespace("/".join(parts[: depth + 1]))):
                continue
            try:
                above.write(f"sys/namespaces/{name}")
            except PolicyDenied as error:
                raise VaultError(
                    f"there is no namespace {pending[0]!r} in Vault at {writer.address}, and this token may "
                    "not make it",
                    hint="Have an administrator make it (`bao namespace create`), or correct vault.namespace "
                    "(VAULT_NAMESPACE).",
                ) from error


class InRootNamespace:
    """Sets up the identity `recovery` in the root namespace, the only one that can make a root token."""

    name = "root namespace"

    def __init__(self, *steps: Step) -> None:
        self._steps = steps

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        if reader.own_token().get("namespace_path"):
            return ()  # a token of a namespace, as that of `inspect`, sees nothing of those above
        root = reader.in_namespace("")
        return tuple(f"{step.name} of {what}" for step in self._steps for what in step.pending(root))

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        del pending
        root = writer.in_namespace("")
        for step in self._steps:
            if missing := step.pending(root):
                step.apply(root, missing)


def _there(client: VaultClient) -> bool:
    """Return whether the client's namespace exists."""
    try:
        client.read(_LOOKUP_SELF)
    except SecretMissing:
        return False
    except PolicyDenied:
        pass
    return True
