"""Load a Hugging Face GPT checkpoint into a few hundred lines of PyTorch, and prove that it is the same model."""

from .cache import KVCache
from .errors import ArchportError
from .generate import generate, stream
from .layers import Decoder
from .parity import verify
from .port import build, export, from_state_dict, load, plan
from .registry import architectures, register
from .score import score
from .text import tokenizer

__all__ = [
    "ArchportError",
    "Decoder",
    "KVCache",
    "architectures",
    "build",
    "export",
    "from_state_dict",
    "generate",
    "load",
    "plan",
    "register",
    "score",
    "stream",
    "tokenizer",
    "verify",
]
__version__ = "0.1.0"
