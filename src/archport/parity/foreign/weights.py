"""Their tensors through their rows: as a Decoder of ours, and beside those of the checkpoint, each by its own name."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from ...config import DecoderConfig
from ...files.header import Header
from ...layers import Decoder
from ...registry import Architecture, skeleton
from ...translate.planning import plan
from ...translate.table import Row, Table
from ...translate.tensors import export_tensors, import_tensor


@dataclass(frozen=True)
class Weights:
    """What a person's module holds, by the rows of `table`: `named` are all its parameters and buffers.

    `keys` are those that each parameter of ours is made of, `extra` the parameters that no row takes; `untied` is the
    one of these that is a head, where the rows tie it.
    """

    table: Table
    config: DecoderConfig
    named: Mapping[str, Tensor]
    keys: Mapping[str, tuple[str, ...]]
    extra: tuple[str, ...]
    port: Decoder
    untied: str | None = None


def read(module: nn.Module, arch: Architecture, config: DecoderConfig) -> Weights:
    """The weights of a module, in a Decoder of ours in float64. Raises: MappingError with every fault of the rows."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    named = {**parameters, **dict(module.named_buffers(remove_duplicate=False))}
    table, config = _tied_as_they_are(arch.table, config, named)
    own_head = _own_head(table, config, named)
    if own_head:
        table, config = replace(table, weights={**table.weights, **own_head}), replace(config, tied=False)
    shape = skeleton(replace(arch, table=table), config)
    names = [name for name, _ in shape.named_parameters(remove_duplicate=False)]
    keys = {name: tuple(dict.fromkeys(key for row in table.rows(name, config) for key in row.keys)) for name in names}
    wanted = {key for taken in keys.values() for key in taken}
    headers = {key: Header(tuple(named[key].shape), named[key].dtype) for key in wanted & named.keys()}
    planned = plan(table, config, shape, headers, dtype=torch.float64, where=f"rows of {type(module).__name__}")
    tensors = {}
    for step in planned.mapped:
        ours, copies = import_tensor(step, planned.axes, lambda key: named[key].detach())
        for copy in copies:
            copy.target.copy_(copy.source)
        tensors[step.name or ""] = ours.clone() if ours.data_ptr() in {t.data_ptr() for t in named.values()} else ours
    shape.load_state_dict(tensors, assign=True, strict=False)
    shape.tie()
    port = shape.eval().requires_grad_(False)
    taken = {id(named[key]) for key in wanted if key in named}
    extra = tuple(name for name, one in parameters.items() if name not in wanted and id(one) not in taken)
    untied = keys["head.weight"][0] if own_head else None
    return Weights(table, config, named, keys, extra, port, untied)


def _tied_as_they_are(table: Table, config: DecoderConfig, named: Mapping[str, Tensor]) -> tuple[Table, DecoderConfig]:
    """The table and config of the module as it is: with one row for a tied head, and tied only where theirs is."""
    rows = dict(table.weights)
    head, embedding = (table.rows(name, config) for name in ("head.weight", "embed.tokens.weight"))
    if not head or not embedding:
        return table, config
    [one], [other] = head[0].keys, embedding[0].keys
    shared = one == other or (one in named and named.get(other) is named[one])
    if shared:
        rows = {name: cell for name, cell in rows.items() if name not in ("head.weight", "head.*")}
    return replace(table, weights=rows), replace(config, tied=shared)


def _own_head(table: Table, config: DecoderConfig, named: Mapping[str, Tensor]) -> dict[str, Row]:
    """A row for a head that the rows do not know of, as they tie it: a matrix of its shape that none of them takes."""
    if not config.tied or table.rows("head.weight", config):
        return {}
    sizes = (config.vocab_size, config.width)
    patterns: dict[tuple[int, ...], str | None] = {sizes: None, sizes[::-1]: "width vocab -> vocab width"}
    taken = {id(named[key]) for row in table.rows("embed.tokens.weight", config) for key in row.keys if key in named}
    found = [name for name, one in named.items() if tuple(one.shape) in patterns and id(one) not in taken]
    return {"head.weight": Row((found[0],), patterns[tuple(named[found[0]].shape)])} if len(found) == 1 else {}


def exported(weights: Weights, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of ours as their tensors, by their names. Raises: MappingError."""
    own = dict(weights.port.named_parameters())
    present = {name: one for name, one in parameters.items() if name in own}
    return {key: one.make() for key, one in export_tensors(weights.table, weights.config, present).items()}


def places(weights: Weights) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """Where each element of each of their tensors is in ours, counted through all, and the shapes of ours."""
    shapes, numbered, start = {}, {}, 0
    for name, parameter in weights.port.named_parameters():
        shapes[name] = tuple(parameter.shape)
        numbered[name] = torch.arange(start, start + parameter.numel(), dtype=torch.float64).view(parameter.shape)
        start += parameter.numel()
    return exported(weights, numbered), shapes


@dataclass(frozen=True)
class Difference:
    """A tensor of theirs that is not the checkpoint's, how far off it is, and what it looks like."""

    key: str
    error: float
    words: str


def differences(weights: Weights, right: Decoder) -> Iterator[Difference]:
    """Each of their tensors that differs from the checkpoint's, given in a port of ours, with the cause if known."""
    expected = exported(weights, dict(right.named_parameters(remove_duplicate=False)))
    for key, tensor in expected.items():
        theirs = weights.named[key].detach().to(tensor.device)
        if torch.equal(tensor.to(theirs.dtype), theirs):
            continue
        error = (theirs.double() - tensor).abs().max().item() / max(tensor.abs().max().item(), 1e-30)
        yield Difference(key, error, next(_causes(key, theirs, tensor, expected), f"differs by {error:.1e}"))


def _causes(key: str, theirs: Tensor, right: Tensor, expected: Mapping[str, Tensor]) -> Iterator[str]:
    """What would make theirs of the checkpoint's."""
    if not theirs.any():
        yield "is all zeros"
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(right.to(dtype).to(theirs.dtype), theirs):
            yield f"is rounded through {str(dtype).removeprefix('torch.')}"
    cast = partial(torch.Tensor.to, dtype=theirs.dtype)
    if theirs.ndim == 2 and theirs.shape[0] == theirs.shape[1] and torch.equal(cast(right.T), theirs):
        yield "is transposed"
    alike = (other for other, tensor in expected.items() if other != key and torch.equal(cast(tensor), theirs))
    yield from (f"holds what belongs into {other}" for other in alike)
    for axis, what in zip(range(theirs.ndim), ("rows", "columns"), strict=False):
        if theirs.shape[axis] > 1 and _same_set(theirs, cast(right), axis):
            yield f"has its {what} in another order"


def _same_set(one: Tensor, other: Tensor, axis: int) -> bool:
    """Whether two tensors have the same slices, in any order."""
    rows = (tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1).double() for tensor in (one, other))
    sums, others = (each.sum(-1).sort().values for each in rows)
    return torch.allclose(sums, others, rtol=1e-9, atol=0)
