"""Load a Hugging Face GPT checkpoint into a few hundred lines of PyTorch, and prove that it is the same model."""

import typing as _typing

from . import parallel as parallel
from .errors import ArchportError
from .exporting import export
from .foreign import fill, find_rows
from .generation.cache import KVCache
from .generation.configured import as_configured
from .generation.decoding import generate, stream
from .generation.scoring import score
from .generation.text import tokenizer
from .interop import as_transformers
from .layers import Decoder
from .observing import observe, sites
from .parity import verify
from .port import build, from_state_dict, load, plan
from .registry import architectures, register
from .train.blocks import blocks
from .train.loss import loss
from .translate.table import rearranged, sections
from .view import rendering as _rendering  # noqa: F401  # gives models, plans and reports their looks in a notebook
from .view.plotting import plot

if _typing.TYPE_CHECKING:
    from .proposing import propose

__all__ = [
    "ArchportError",
    "Decoder",
    "KVCache",
    "architectures",
    "as_configured",
    "as_transformers",
    "blocks",
    "build",
    "export",
    "fill",
    "find_rows",
    "from_state_dict",
    "generate",
    "load",
    "loss",
    "observe",
    "plan",
    "plot",
    "propose",
    "rearranged",
    "register",
    "score",
    "sections",
    "sites",
    "stream",
    "tokenizer",
    "verify",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> _typing.Any:
    """What few need and takes its time to import: where it is asked for."""
    if name == "propose":
        from .proposing import propose

        return propose
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
