"""Load a Hugging Face GPT checkpoint into a few hundred lines of PyTorch, and prove that it is the same model."""

from .errors import ArchportError
from .layers import Decoder
from .parity import verify
from .port import build, export, from_state_dict, load, plan
from .registry import architectures, register

__all__ = [
    "ArchportError",
    "Decoder",
    "architectures",
    "build",
    "export",
    "from_state_dict",
    "load",
    "plan",
    "register",
    "verify",
]
__version__ = "0.1.0"
