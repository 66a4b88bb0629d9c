"""Named checks and their results, shared by the HTTP API and `bdlab status`."""

from bdlab.health.results import CheckResult, Report, State
from bdlab.health.watch import Watch

__all__ = ["CheckResult", "Report", "State", "Watch"]
