"""Named checks and their results, shared by the HTTP API and `bdlab status`."""

from bdlab.health.cached_probe import CachedProbe
from bdlab.health.results import CheckResult, Report, State

__all__ = ["CachedProbe", "CheckResult", "Report", "State"]
