"""Is it the same model, and if not, which line is wrong? compare, locate, diagnose, the catalogue of faults, report."""

from .by_block import verify_by_block
from .faults import Fault
from .kill import kill_table
from .report import Report
from .tiny_models import verify_architecture
from .verifying import verify

__all__ = ["Fault", "Report", "kill_table", "verify", "verify_architecture", "verify_by_block"]
