"""What a generation starts from and ends at: prompts that the model can read, and the ids that end a text."""

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import GenerationError
from ..layers import Decoder

Prompts = Tensor | Sequence[int] | Sequence[Sequence[int]]


def read_prompts(model: Decoder, ids: Prompts) -> list[list[int]]:
    """One prompt or several as lists of ids that the model knows. Raises: GenerationError."""
    if not isinstance(model, Decoder):
        raise GenerationError(f"found a {type(model).__name__} for a model, expected a Decoder of archport")
    if model.device.type == "meta":
        raise GenerationError("the model is on meta and has no weights")
    rows: Any = ids.tolist() if hasattr(ids, "tolist") else ids  # a tensor, or an array
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise GenerationError(f"found a {type(ids).__name__} of shape {tuple(getattr(ids, 'shape', ()))}, expected ids")
    rows = [row.tolist() if hasattr(row, "tolist") else row for row in rows]
    nested = bool(rows) and all(isinstance(row, Sequence) for row in rows)
    return [_prompt(row, number, model.config.vocab_size) for number, row in enumerate(rows if nested else [rows])]


def _prompt(row: Sequence[Any], number: int, vocab: int) -> list[int]:
    if not row:
        raise GenerationError(f"prompt {number} is empty, expected at least one token")
    for token in row:
        if isinstance(token, bool) or not hasattr(token, "__index__") or not 0 <= int(token) < vocab:
            raise GenerationError(f"prompt {number}: found token {token!r:.60}, expected ids from 0 to {vocab - 1}")
    return [int(token) for token in row]


def end_ids(model: Decoder) -> set[int]:
    """The ids that end a text: from generation_config.json, from the config without one; a number, a list or none."""
    if model.origin is None:
        return set()
    value = (model.origin.hf if model.origin.generation is None else model.origin.generation).get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if other := [token for token in ids if type(token) is not int]:
        warnings.warn(f"eos_token_id: found {other!r:.60}, expected whole numbers: not used", stacklevel=5)
    return {token for token in ids if type(token) is int and 0 <= token < model.config.vocab_size}
