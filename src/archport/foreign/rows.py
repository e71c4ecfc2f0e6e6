"""Rows of a person's own module: our names on the left, theirs on the right, in the language of the key tables."""

from collections.abc import Mapping
from dataclasses import replace

from ..registry import Architecture
from ..translate.table import Cell, Table


def table_of(arch: Architecture, rows: Mapping[str, Cell]) -> Table:
    """The key table of a module of one's own that is to be like an architecture.

    It has the config rows of that architecture and none of its names of tensors.
    """
    return replace(arch.table, prefix="", weights=dict(rows), aliases={}, ignored={}, modules={})
