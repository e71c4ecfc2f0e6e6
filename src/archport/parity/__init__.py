"""Is it the same model, and if not, which line is wrong? compare, locate, diagnose, the catalogue of faults, report."""

from .by_block import verify_by_block
from .kill import kill_table
from .report import Report, to_html
from .verifying import verify, verify_architecture

__all__ = ["Report", "kill_table", "to_html", "verify", "verify_architecture", "verify_by_block"]
