"""The folders of the shipped files: the policies and the model.

A wheel carries them inside the package; an editable install reads them from the checkout."""

from pathlib import Path

from bdlab.errors import BdlabError

_PACKAGE = Path(__file__).resolve().parent


def _folder(packaged: str, in_checkout: str) -> Path:
    for folder in (_PACKAGE / packaged, _PACKAGE.parents[1] / in_checkout):
        if folder.is_dir():
            return folder
    raise BdlabError(
        f"the folder {packaged!r} that ships with bdlab is missing from {_PACKAGE}",
        hint="Install bdlab again: the installation is incomplete.",
    )


def policies_dir() -> Path:
    """Return the folder of Vault's policy files, `<service>.hcl`."""
    return _folder("policies", "vault/policies")


def models_dir() -> Path:
    """Return the folder of the shipped model, its data files and its card."""
    return _folder("models", "models")
