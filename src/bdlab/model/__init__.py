"""The review model: training, its files and card, and its scorers.

Importing this package, and loading the shipped model, imports neither scikit-learn nor numpy."""

from bdlab.events import Scorer
from bdlab.model.scorer import load_contract, load_scorer

__all__ = ["Scorer", "load_contract", "load_scorer"]
