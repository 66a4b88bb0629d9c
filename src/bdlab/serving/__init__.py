"""The HTTP API: predictions in, acknowledged predictions out, and what state the pipeline is in."""

from bdlab.serving.app import make_app
from bdlab.serving.protocols import Parts

__all__ = ["Parts", "make_app"]
