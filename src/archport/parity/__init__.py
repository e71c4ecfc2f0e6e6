"""Is it the same model, and if not, which line is wrong? compare, locate, diagnose, the catalogue of faults, report."""

from .by_block import verify_by_block
from .faults import Fault
from .kill import kill_table
from .report import Report
from .verifying import verify, verify_architecture

__all__ = ["Fault", "Report", "kill_table", "verify", "verify_architecture", "verify_by_block"]
