"""A flat file of token ids: in the safetensors format, so that anything reads it, and mapped, never read whole."""

import hashlib
import json
import struct
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from ..files.write import whole_file_at
from ..generation.tokenizers import Tokenizer

NAME = "ids"
ROOM = 4096  # bytes of the header, which is written when the number of ids is known
DTYPES = {"U16": torch.uint16, "U32": torch.uint32}
CODES = {"U16": "H", "U32": "I"}  # of Python's arrays
KIND = "archport.tokens"


@dataclass(frozen=True)
class TokenFile:
    """Ids (count) of a text in uint16 or uint32, mapped; of which tokenizer, and of what data.

    `tokenizer` and `data` are hashes; `vocab_size` is one more than the largest id that the tokenizer has.
    """

    path: Path
    ids: Tensor
    tokenizer: str
    vocab_size: int
    data: str = ""


def hash_of(tokenizer: Tokenizer) -> str:
    """Tokenizers that have the same make the same ids of a text."""
    own = getattr(tokenizer, "own", tokenizer)
    backend = getattr(own, "backend_tokenizer", own)
    said = backend.to_str() if hasattr(backend, "to_str") else json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(said.encode("utf-8")).hexdigest()


def write_tokens(path: Path, pieces: Iterable[list[int]], tokenizer: Tokenizer, *, data: str = "") -> TokenFile:
    """Write ids as they come, and never hold more than a piece of them. Raises: ExportError, and leaves no file."""
    size = 1 + max(tokenizer.get_vocab().values(), default=-1)
    kind = "U16" if size <= 1 << 16 else "U32"
    about = {"kind": KIND, "tokenizer": hash_of(tokenizer), "vocab_size": str(size), "data": data}
    with whole_file_at(path, ROOM) as partial, partial.open("wb") as file:
        file.seek(8 + ROOM)
        for piece in pieces:
            file.write(array(CODES[kind], piece).tobytes())
        end = file.tell() - 8 - ROOM
        tensor = {"dtype": kind, "shape": [end // DTYPES[kind].itemsize], "data_offsets": [0, end]}
        header = json.dumps({"__metadata__": about, NAME: tensor}).encode().ljust(ROOM)
        file.seek(0)
        file.write(struct.pack("<Q", ROOM) + header)
    return read_tokens(path)


def is_token_file(path: Path) -> bool:
    """Whether a file is one, or the beginning of one, by its header."""
    with path.open("rb") as file:
        header = file.read(8 + ROOM)[8:]
    return header.startswith(b"{") and f'"{KIND}"'.encode() in header


def read_tokens(path: Path) -> TokenFile:
    """Map a file of ids. Raises: CheckpointError."""
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            kind = file.get_slice(NAME).get_dtype() if NAME in file.keys() else None  # noqa: SIM118  # it is no dict
            count = file.get_slice(NAME).get_shape()[0] if kind in DTYPES else 0
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: found no file of token ids ({error}), expected one of archport tokens"
        ) from None
    if about.get("kind") != KIND or kind not in DTYPES or not about.get("vocab_size", "").isdigit():
        raise CheckpointError(f"{path}: found no token ids in it, expected a file that archport tokens wrote")
    with path.open("rb") as raw:
        start = 8 + int.from_bytes(raw.read(8), "little")
    ids = torch.empty(0, dtype=DTYPES[kind])
    if count:
        end = start + count * ids.itemsize
        ids = torch.from_file(str(path), shared=False, size=end, dtype=torch.uint8)[start:].view(ids.dtype)
    return TokenFile(path, ids, about.get("tokenizer", ""), int(about["vocab_size"]), about.get("data", ""))
