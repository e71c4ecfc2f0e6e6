"""What a person's module feeds each of our maps and norms and makes of it, seen where its parameters are used.

A map may be a linear module, a product with a raw matrix, one of several that ours has in one, or a slice of a fused
one: each element of each parameter carries the place that it has in ours, so that the result of a product says itself
which of our columns it holds.
"""

from bisect import bisect_right
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# What only gives elements another place; a cast or a copy not even that.
MOVES = frozenset(
    """t permute transpose view _unsafe_view _reshape_alias reshape expand slice select split split_with_sizes unbind
    cat stack unsqueeze squeeze alias detach narrow index index_select lift_fresh""".split()  # noqa: SIM905
)
COPIES = frozenset({"_to_copy", "clone", "contiguous"})
PRODUCTS = frozenset({"mm", "bmm", "addmm", "baddbmm"})
KEEPS = frozenset({"view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "alias", "detach", "_to_copy", "clone"})


@dataclass(frozen=True)
class Trace:
    """What went into and came out of parts that answer to ours, by our names: (seq, features), columns in our order.

    `within` is the innermost of their modules that ran at the time.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    within: Mapping[str, str]

    @property
    def order(self) -> list[int]:
        """The numbers of blocks, as they ran."""
        return [*dict.fromkeys(int(name.split(".")[1]) for name in self.within if name.startswith("blocks."))]


class Taps(TorchDispatchMode):
    """Watches a pass over one row of `seq` tokens.

    `places` says of each of their parameters, by its id, where its elements are in ours, `shapes` what ours are.
    """

    def __init__(self, places: Mapping[int, Tensor], shapes: Mapping[str, tuple[int, ...]], seq: int) -> None:
        super().__init__()
        self.places, self.seq = dict(places), seq
        self.shapes, self.starts = shapes, starts_of(shapes)
        device = next(iter(places.values())).device
        self._bounds = torch.tensor([*self.starts.values()], dtype=torch.float64, device=device)
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.within: dict[str, str] = {}
        self.running: list[str] = []  # their modules, the innermost last
        self._made: dict[int, str] = {}  # of which map of ours a tensor is the result, not yet with its bias
        self._biased: set[str] = set()  # those whose bias is used
        self._with_bias: set[str] = set()  # those of whose result it is a part
        self._alive: list[Any] = []  # or another tensor would get its id

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        with suppress(IndexError, RuntimeError, ValueError):  # what does not fit is not seen
            self._see(func.overloadpacket.__name__, func, args, kwargs, result)
        return result

    def _see(self, name: str, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        self._alive.append((args, result))
        flat = [one for arg in args for one in (arg if isinstance(arg, list | tuple) else [arg])]
        tensors = [one for one in flat if isinstance(one, Tensor)]
        placed = [one for one in tensors if id(one) in self.places]
        if name in KEEPS and tensors and id(tensors[0]) in self._made:
            self._made[id(result)] = self._made[id(tensors[0])]
        if not placed:
            return
        if name in ("embedding", "index") and len(tensors) > 1 and tensors[0] is placed[0]:
            self._looked_up(self.places[id(placed[0])], result)
        elif name == "native_layer_norm":
            self._normed(args, result)
        elif name in PRODUCTS:
            self._multiplied(args[-2:], args[0] if len(args) > 2 else None, result)
        elif name in COPIES:
            at = self.places[id(placed[0])]
            self.places[id(result)] = at.contiguous() if result.is_contiguous() else at  # as what views it expects
        elif name in MOVES and len(placed) == len(tensors):
            self._moved(func, args, kwargs, result)
        elif isinstance(result, Tensor):
            one = self.places[id(placed[0])]
            others = [other.numel() for other in tensors if id(other) not in self.places]
            if result.shape == one.shape and max(others, default=0) < one.numel():  # or it is a stream of that shape
                self.places[id(result)] = one
            elif name.startswith(("mul", "add")):
                self._met(one, [other for other in tensors if other is not placed[0]], result)

    def _moved(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        def place(value: Any) -> Any:
            if isinstance(value, list | tuple):
                return type(value)(place(one) for one in value)
            return self.places[id(value)] if isinstance(value, Tensor) else value

        moved = func(*place(args), **kwargs)
        both = zip(result, moved, strict=True) if isinstance(result, list | tuple) else [(result, moved)]
        self.places |= {id(one): at for one, at in both}

    def _multiplied(self, factors: Any, added: Any, result: Tensor) -> None:
        """A product of a stream and a matrix of parameters, or of several of both."""
        left, right = factors
        if (id(left) in self.places) == (id(right) in self.places):
            return
        if id(left) in self.places:
            stream, at, made = right.mT, self.places[id(left)].mT, result.mT
        else:
            stream, at, made = left, self.places[id(right)], result
        map_ = self._map(self._name(at))
        if id(added) in self.places:
            self._biased.add(map_)
            self._with_bias.add(map_)
        self._made[id(result)] = map_
        whole = added is None or id(added) in self.places
        for a, b, c in zip(*(one if one.ndim == 3 else one[None] for one in (stream, at, made)), strict=True):
            if len(a) == self.seq:
                self._product(a, b, c if whole else None)

    def _product(self, stream: Tensor, at: Tensor, result: Tensor | None) -> None:
        """(seq, in) times (in, out) of parameters that have these places in ours."""
        which = torch.bucketize(at[0].contiguous(), self._bounds[1:], right=True)
        for one in which.unique():
            name, columns = [*self.shapes][int(one)], (which == one).nonzero()[:, 0]
            start, width, map_ = self.starts[name], self.shapes[name][-1], self._map(name)
            _put(self.inputs, map_, stream, (at[:, columns[0]] - start) % width, width)
            if result is not None:
                rows = torch.div(at[0, columns] - start, width, rounding_mode="floor")
                _put(self.outputs, map_, result[:, columns], rows, self.shapes[name][0])
            self._ran(map_)

    def _map(self, name: str) -> str:
        """Our module of a parameter that a product takes: the head, where the embedding is one too."""
        return "head" if name == "embed.tokens.weight" else name.rpartition(".")[0]

    def _looked_up(self, at: Tensor, result: Tensor) -> None:
        name = self._name(at)
        width, module = self.shapes[name][-1], name.rpartition(".")[0]
        if at.ndim == 2 and result.numel() == self.seq * width:
            _put(self.outputs, module, result.reshape(self.seq, -1), (at[0] - self.starts[name]) % width, width)
            self._ran(module)

    def _normed(self, args: Any, result: Any) -> None:
        module = self._name(self.places[id(args[2])]).rpartition(".")[0]
        if module not in self.within:
            self.inputs[module], self.outputs[module] = (
                one.reshape(self.seq, -1).clone() for one in (args[0], result[0])
            )
            self._ran(module)

    def _met(self, at: Tensor, others: list[Tensor], result: Tensor) -> None:
        """A weight of one axis that a stream is multiplied by, or a bias that is added to it."""
        name = self._name(at)
        module, _, leaf = name.rpartition(".")
        shape = at.shape[next((n for n, size in enumerate(at.shape) if size > 1), 0) :]
        fits = result.shape[-len(shape) :] == shape and result.numel() == self.seq * at.numel()
        if leaf == "bias":
            self._biased.add(module)
            fits = fits and bool(others) and self._made.get(id(others[0])) == module
        elif len(self.shapes[name]) > 1 or module in self.within:
            return
        if not fits:
            return
        columns = (at.reshape(-1) - self.starts[name]).long()
        if leaf == "bias":
            self._with_bias.add(module)
            if module in self.outputs:
                self.outputs[module][:, columns] = torch.nan
        else:
            self._made[id(result)] = module
        _put(self.outputs, module, result.reshape(self.seq, -1), columns, self.shapes[name][0])
        self._ran(module)

    def _ran(self, module: str) -> None:
        self.within.setdefault(module, self.running[-1] if self.running else "")

    def _name(self, at: Tensor) -> str:
        """The parameter of ours that elements are of, by the first of them."""
        return [*self.shapes][bisect_right([*self.starts.values()], float(at.reshape(-1)[0])) - 1]

    def trace(self) -> Trace:
        """All that was seen whole."""
        apart = self._biased - self._with_bias  # the bias is added later, where it was not seen
        inputs, outputs = (
            {name: one for name, one in kept.items() if not one.isnan().all(0).any()}
            for kept in (self.inputs, self.outputs)
        )
        return Trace(inputs, {name: one for name, one in outputs.items() if name not in apart}, self.within)


def _put(kept: dict[str, Tensor], name: str, values: Tensor, columns: Tensor, width: int) -> None:
    """Columns of what one of our modules takes or makes, unless they are there already."""
    whole = kept.setdefault(name, values.new_full((len(values), width), torch.nan))
    columns = columns.long()
    whole[:, columns] = torch.where(whole[:1, columns].isnan(), values, whole[:, columns])


def starts_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Where the elements of each parameter start, if all are counted through."""
    starts, start = {}, 0
    for name, shape in shapes.items():
        starts[name] = start
        start += torch.Size(shape).numel()
    return starts
