"""Commands about the machine: env."""

import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version

import torch

from ..config import dtype_name
from ..fast.choosing import PROMPT, Path, measured
from ..fast.cpu import cpu
from ..fast.linears import KINDS
from .app import Json, app, print_json, say

LIBRARIES = ("archport", "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub")
ROWS = (1, 8, PROMPT)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@app.command()
def env(as_json: Json = False) -> None:
    """What this machine has, and which way to multiply is chosen on it, as measured now."""
    here = cpu()
    releases = {name: _version(name) for name in LIBRARIES}
    gpus = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
    paths = [measured(kind, dtype, ROWS) for dtype in DTYPES for kind in KINDS]
    if as_json:
        print_json(
            {"python": platform.python_version(), **releases, "system": platform.platform(), "cpu": asdict(here)}
            | {"gpus": gpus, "paths": [_facts(path) for path in paths]}
        )
        return
    say(", ".join(f"{name} {release}" for name, release in releases.items()))
    say(f"python {platform.python_version()}, {platform.platform()}")
    say(str(here))
    say(f"GPU: {', '.join(gpus) or 'none'}")
    for path in paths:
        say(str(path))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _facts(path: Path) -> dict[str, object]:
    """A path as JSON has it; seconds are those of a weight of 32 MB."""
    by = {"stand_in": path.stand_in.__name__, "words": path.stand_in.words} if path.stand_in else {"why": path.why}
    facts = {"kind": path.kind, "dtype": dtype_name(path.dtype), **by, "packing": path.packing}
    return facts | {"plain": dict(path.plain), "fast": dict(path.fast)}
