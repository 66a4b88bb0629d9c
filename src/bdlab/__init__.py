"""bdlab: a scikit-learn review model as a durable prediction pipeline."""

__version__ = "0.1.0"
