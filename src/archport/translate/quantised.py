"""Weights in a scheme of quantisation, which archport does not take: the scheme by its name, from config or tensors."""

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError
from ..files.header import Header

PLAIN = "archport takes weights in bfloat16, float16 or float32"

# The schemes by transformers' quant_method, where their own names differ.
SCHEMES = {"gptq": "GPTQ", "awq": "AWQ", "gguf": "GGUF", "aqlm": "AQLM", "hqq": "HQQ"}

# What lies beside a weight, by the end of its name: GPTQ's own first, as it shares the rest with AWQ.
BESIDE = {
    ".g_idx": "GPTQ",
    ".qweight": "AWQ",
    ".SCB": "bitsandbytes (8 bits)",
    ".absmax": "bitsandbytes (4 bits)",
    ".weight_scale_inv": "fp8",
    ".weight_scale": "fp8",
}


def scheme(config: Any) -> str:
    """The scheme that a quantization_config describes."""
    described = config if isinstance(config, Mapping) else {}
    if described.get("load_in_4bit") or described.get("load_in_8bit"):
        return "bitsandbytes"
    method = str(described.get("quant_method") or described.get("quant_algo") or "quantised")
    return SCHEMES.get(method, method)


def require_plain(headers: Mapping[str, Header], where: str) -> None:
    """Refuse tensors that stand for others, in one line. Raises: CheckpointError."""
    for end, name in BESIDE.items():
        if found := next((key for key in headers if key.endswith(end)), None):
            raise CheckpointError(f"{where}: found {name} weights ({found}), expected none: {PLAIN}")
    for key, header in headers.items():
        if header.dtype.is_floating_point and header.dtype.itemsize == 1:
            found = f"{key} in {str(header.dtype).removeprefix('torch.')}"
            raise CheckpointError(f"{where}: found fp8 weights ({found}), expected none: {PLAIN}")
