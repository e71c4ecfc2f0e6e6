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
from ...translate.table import Table
from ...translate.tensors import export_tensors, import_tensor


@dataclass(frozen=True)
class Weights:
    """What a person's module holds, by the rows of `table`: `named` are all its parameters and buffers.

    `keys` are those that each parameter of ours is made of, `extra` the parameters that no row takes.
    """

    table: Table
    config: DecoderConfig
    named: Mapping[str, Tensor]
    keys: Mapping[str, tuple[str, ...]]
    extra: tuple[str, ...]
    port: Decoder


def read(module: nn.Module, arch: Architecture, config: DecoderConfig) -> Weights:
    """The weights of a module, in a Decoder of ours in float64. Raises: MappingError with every fault of the rows."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    named = {**parameters, **dict(module.named_buffers(remove_duplicate=False))}
    table, config = _untied_twice(arch.table, config, named)
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
    port = shape.to(next(iter(tensors.values())).device).eval().requires_grad_(False)
    taken = {id(named[key]) for key in wanted if key in named}
    extra = tuple(name for name, one in parameters.items() if name not in wanted and id(one) not in taken)
    return Weights(table, config, named, keys, extra, port)


def _untied_twice(table: Table, config: DecoderConfig, named: Mapping[str, Tensor]) -> tuple[Table, DecoderConfig]:
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
        theirs = weights.named[key].detach()
        if torch.equal(tensor.to(theirs.dtype), theirs):
            continue
        error = (theirs.double() - tensor).abs().max().item() / max(tensor.abs().max().item(), 1e-30)
        yield Difference(key, error, next(_causes(key, theirs, tensor, expected), f"differs by {error:.1e}"))


def _causes(key: str, theirs: Tensor, right: Tensor, expected: Mapping[str, Tensor]) -> Iterator[str]:
    """What would make theirs of the checkpoint's."""
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(right.to(dtype).to(theirs.dtype), theirs):
            yield f"is rounded through {str(dtype).removeprefix('torch.')}"
    cast = partial(torch.Tensor.to, dtype=theirs.dtype)
    if theirs.ndim == 2 and theirs.shape[0] == theirs.shape[1] and torch.equal(cast(right.T), theirs):
        yield "is transposed"
    alike = (other for other, tensor in expected.items() if other != key and torch.equal(cast(tensor), theirs))
    yield from (f"holds what belongs into {other}" for other in alike)
    for axis, what in zip(range(theirs.ndim), ("rows", "columns"), strict=False):
        if len({theirs.shape[axis], 1}) > 1 and _same_set(theirs, cast(right), axis):
            yield f"has its {what} in another order"
    if not theirs.any():
        yield "is all zeros"


def _same_set(one: Tensor, other: Tensor, axis: int) -> bool:
    """Whether two tensors have the same slices, in any order."""
    sums, others = (tensor.movedim(axis, 0).flatten(1).double().sum(-1).sort().values for tensor in (one, other))
    return torch.allclose(sums, others, rtol=1e-9, atol=0)
