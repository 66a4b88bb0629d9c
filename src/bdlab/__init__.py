"""bdlab: a model as a durable prediction pipeline. `load_model` and `rescorer` are its Python API (docs/python.md)."""

__version__ = "0.1.0"
__all__ = ["__version__", "load_model", "rescorer"]
TYPE_CHECKING = False  # importing typing would take most of the time of `import bdlab`
if TYPE_CHECKING:
    from os import PathLike

    from bdlab.model import Model
    from bdlab.model.arrow import Rescorer


def load_model(path: "str | PathLike[str]" = "") -> "Model":
    """Return the model of a card, its folder, or a joblib file with its sha256; empty is the shipped one. Raises
    `bdlab.errors.ModelError` if it cannot be loaded, and InvalidInput if a package is missing."""
    from bdlab.model import Model  # noqa: PLC0415 - `import bdlab` loads nothing

    return Model(path)


def rescorer(card: "str | PathLike[str]") -> "Rescorer":
    """Return a function that scores rows of an export with the model of a card: from Arrow table to Arrow table, for
    Spark, Ray and Dask. Raises `bdlab.errors.ModelError` if it cannot be loaded, InvalidInput without pyarrow."""
    from bdlab.model.arrow import Rescorer  # noqa: PLC0415 - `import bdlab` loads nothing

    return Rescorer(card)
