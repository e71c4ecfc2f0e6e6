"""A decoder nobody has ported yet: read by running it, written down in our parts, and proved."""

from .proposal import Proposal, architecture_read, propose
from .transformers_class import model_types

__all__ = ["Proposal", "architecture_read", "model_types", "propose"]
