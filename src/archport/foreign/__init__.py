"""A person's own module, in any style: the rows that say where its tensors are, filling it, finding its rows."""

from .filling import fill
from .finding import find_rows
from .rows import Rows

__all__ = ["Rows", "fill", "find_rows"]
