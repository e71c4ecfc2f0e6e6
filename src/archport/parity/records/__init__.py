"""Records of verifications: what one says, what it rests on, and whether it still holds."""

from .making import made, verified
from .record import Record, read
from .holding import Standing, standing

__all__ = ["Record", "Standing", "made", "read", "standing", "verified"]
