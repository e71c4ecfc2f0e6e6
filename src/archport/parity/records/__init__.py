"""Records of verifications: what one says, what it rests on, and whether it still holds."""

from .holding import Standing, standing
from .making import made, verified
from .record import Record, read

__all__ = ["Record", "Standing", "made", "read", "standing", "verified"]
