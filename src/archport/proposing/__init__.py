"""A decoder nobody has ported yet: read by running it, written down in our parts, and proved."""

from .proposal import Proposal, propose

__all__ = ["Proposal", "propose"]
