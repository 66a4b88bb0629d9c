"""Offset accounting: proves with numbers that each position of the topic is recorded once."""

from bdlab.verification.report import ClosedPartition, PartitionReport, Report
from bdlab.verification.verify import verify

__all__ = ["ClosedPartition", "PartitionReport", "Report", "verify"]
