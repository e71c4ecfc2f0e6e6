"""Which of the reference's modules answers to which of ours: read off the key table, never guessed."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..config import DecoderConfig
from ..layers import Decoder, RMSNorm
from ..translate.pattern import regroups
from ..translate.table import Table

NORMS = (nn.LayerNorm, RMSNorm)


def counterparts(model: Decoder, reference: nn.Module, table: Table) -> dict[str, str]:
    """Our module names with the reference's, in the order of our modules.

    The counterpart is the innermost module that holds all of ours' tensors and none that another of ours claims.
    """
    theirs = {canonical(table, key): key for key in reference.state_dict()}
    ours = {
        name: [theirs[key] for row in table.rows(name, model.config, theirs) for key in row.keys if key in theirs]
        for name, _ in model.named_parameters(remove_duplicate=False)
    }
    inside: defaultdict[str, list[str]] = defaultdict(list)  # of each module of ours, the keys of its tensors
    claims: Counter[str] = Counter()  # of each module of the reference, how many times ours claim a key in it
    for parameter, keys in ours.items():
        for module_of_ours in _modules_above(parameter):
            inside[module_of_ours] += keys
        claims.update(path for key in keys for path in _modules_above(key))
    pairs: dict[str, str] = {}
    for name, module in model.named_modules():
        by_name = table.module(name) if isinstance(module, NORMS) else None
        if by_name is not None and not any(True for _ in module.parameters()):
            pairs[name] = by_name  # which the tensors do not tell
            continue
        path = _common_module(set(inside[name]))
        if path and claims[path] == len(inside[name]):
            pairs[name] = path
    return pairs


def _modules_above(name: str) -> Iterator[str]:
    """The modules around a tensor, from the innermost on."""
    while name := name.rpartition(".")[0]:
        yield name


def canonical(table: Table, key: str) -> str:
    """The table's own spelling of a key of the reference's state_dict."""
    return table.aliases.get(key, key)


def keeps_order(table: Table, name: str, cfg: DecoderConfig) -> bool:
    """Whether outputs of a linear module of ours are in the reference's order: its row only permutes whole axes."""
    return not any(regroups(row.pattern) for row in table.rows(f"{name}.weight", cfg))


def first_tensor(values: Any) -> Any:
    """The stream among a module's arguments or results: the first tensor, whatever it is packed in."""
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, tuple | list):
        return first_tensor(values[0]) if values else None
    return values


def with_first_tensor(values: Any, tensor: Tensor) -> Any:
    """The same arguments or results with another tensor for the stream."""
    if isinstance(values, dict) and values:
        first = next(iter(values))
        return values | {first: with_first_tensor(values[first], tensor)}
    if isinstance(values, tuple | list) and values:
        return type(values)((with_first_tensor(values[0], tensor), *values[1:]))
    return tensor


def _common_module(keys: set[str]) -> str:
    paths = [key.split(".")[:-1] for key in keys]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)
