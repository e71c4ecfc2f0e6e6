"""The tensors in what a pickle holds: a state_dict, perhaps under one key of a training library, with other things."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, plain

# Keys that Lightning, DeepSpeed, Accelerate, FSDP and nanoGPT put a whole state_dict under.
WRAPPERS = ("model", "state_dict", "module", "model_state_dict")
SETTINGS = ("model_args", "cfg", "hf_config")  # what nanoGPT, TransformerLens and our own export say of the model
APP = "app"  # under which torch's distributed checkpoints may have these
SHOWN = 5  # names in a line


def unwrapped(state: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...], dict[str, Any]]:
    """The tensors by their names, notes on what was taken off or left aside, and the configs beside them.

    What is no tensor is left aside, as transformers does. A wrapping key is taken off where only one is there, and no
    tensor of more than one number beside it. Raises: CheckpointError.
    """
    notes = []
    _require_names(state, path)
    settings = {key: state[key] for key in SETTINGS if isinstance(state.get(key), Mapping)}
    state = {key: value for key, value in state.items() if key not in settings}
    outer = ""
    if isinstance(state.get(APP), Mapping) and not _tensors(state):
        outer, state = f"{APP!r}, and there ", state[APP]
        _require_names(state, path)
    wrappers = [key for key in WRAPPERS if isinstance(state.get(key), Mapping) and _tensors(state[key])]
    numbers = all(tensor.numel() == 1 for tensor in _tensors(state).values())  # as a loss, and no weights
    if settings and numbers and not wrappers:
        said, where = " and ".join(settings), " or ".join(map(repr, WRAPPERS[:2]))
        raise CheckpointError(
            f"{path}: found {said} beside {_listed(state) or 'nothing'}, expected weights under {where}"
        )
    if wrappers and numbers:
        if len(wrappers) > 1:
            found = f"found tensors under {' and '.join(map(repr, wrappers))}"
            raise CheckpointError(f"{path}: {found}, expected them under one key: save one of these alone")
        beside = {key: value for key, value in state.items() if key != wrappers[0]}
        notes.append(
            f"{path}: took the tensors out of {outer}{wrappers[0]!r}, which they lie under{_aside(beside, ' and ')}"
        )
        state = state[wrappers[0]]
        _require_names(state, path)
    tensors = _tensors(state)
    others = {key: value for key, value in state.items() if key not in tensors}
    if others and not tensors:
        inner = next((key for key, value in others.items() if isinstance(value, Mapping)), None)
        alone = "" if inner is None else f": save what {plain(inner[:60])!r} holds alone, if those are its weights"
        raise CheckpointError(f"{path}: found {_listed(others)}, expected names and dense tensors{alone}")
    if others:
        notes.append(f"{path}: {_aside(others)}")
    return tensors, tuple(notes), settings


def wrapping(state: Any) -> str | None:
    """The key that a whole state_dict lies under, in what a training library saves; None where there is none."""
    given = state if isinstance(state, Mapping) else {}
    return next((key for key in WRAPPERS if isinstance(given.get(key), Mapping) and _tensors(given[key])), None)


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _require_names(state: Any, path: Path) -> None:
    """Raises: CheckpointError unless it is a dictionary of names, whose tensors are dense."""
    named = isinstance(state, dict) and all(isinstance(key, str) for key in state)
    if not named or any(tensor.layout != torch.strided for tensor in _tensors(state).values()):
        raise CheckpointError(f"{path}: found something else, expected a dictionary of names and dense tensors")


def _aside(others: Mapping[str, Any], joined: str = "") -> str:
    return f"{joined}left aside {_listed(others)}, no part of the weights" if others else ""


def _listed(others: Mapping[str, Any]) -> str:
    """Names of things that are no tensors, and what they are."""
    more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    return ", ".join(f"{plain(key[:60])!r} ({type(others[key]).__name__})" for key in [*others][:SHOWN]) + more
