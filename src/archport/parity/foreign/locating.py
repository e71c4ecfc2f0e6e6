"""Where do a person's module and our port of its weights part? Ours is fed what theirs was, part by part."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType

import torch
from torch import Tensor, nn

from ...foreign.running import tensors_in
from ...layers import MLP, Attention, Decoder, GatedMLP
from ...observing import hooked
from ..counterparts import NORMS, first_tensor, with_first_tensor
from ..locate import DECODER, in_place_of, relative_error
from ..running import Stop, run
from .passes import Passes, named
from .suspects import suspects
from .tapping import Taps, Trace
from .weights import Weights, places

TIGHT = 1e-10  # relative, in float64: sums in any order agree to it
TIMES = 8  # what rotary tables in float32 make of ours, theirs may be off by as a multiple
BY_FAR = 10  # times
BLOCK = re.compile(r"blocks\.\d+")


@dataclass(frozen=True)
class Finding:
    """A part of ours that was fed what theirs was, and how far it is from theirs: `side` input or output.

    `suspects` are our parts, the likeliest first, one of which is to blame if it differs. `factor` is what theirs is of
    ours, where it is that everywhere.
    """

    module: str
    side: str
    ours: Tensor
    error: float
    limit: float
    suspects: tuple[str, ...]
    factor: float | None = None

    @property
    def differs(self) -> bool:
        """Whether it is further off than rounding explains; a NaN is."""
        return not self.error <= self.limit

    @property
    def at(self) -> tuple[str, str]:
        """Where it is."""
        return self.module, self.side


@torch.no_grad()
def traced(theirs: Passes, weights: Weights, pairs: Mapping[str, str], ids: Tensor) -> Trace:
    """What their module takes and makes on one row of ids, by our names. Raises: RaisedError.

    `pairs` are our modules with those of theirs that hold the same tensors.
    """
    seq = ids.shape[-1]
    at, shapes = places(weights)
    parameters = {**dict(theirs.module.named_parameters()), **dict(theirs.module.named_buffers())}
    by_id: dict[int, Tensor] = {}
    for key, placed in at.items():
        if key in parameters:
            like = torch.empty_like(parameters[key], dtype=placed.dtype, requires_grad=False)
            by_id[id(parameters[key])] = like.copy_(placed)
    taps = Taps(by_id, shapes, seq)
    taken: dict[str, Tensor] = {}
    made: dict[str, Tensor] = {}
    ours_of: dict[str, list[str]] = {}
    for ours, path in pairs.items():
        ours_of.setdefault(path, []).append(ours)

    def stream(values: object) -> Tensor | None:
        return next((one for one in tensors_in(values) if one.ndim > 1 and one.numel() % seq == 0), None)

    def enter(name: str, _: nn.Module, args: object, kwargs: object) -> None:
        taps.running.append(name)
        if (given := stream((args, kwargs))) is not None:
            for ours in ours_of.get(name, ()):
                taken.setdefault(ours, given.reshape(seq, -1).clone())

    def leave(name: str, _: nn.Module, __: object, ___: object, result: object) -> None:
        taps.running.pop()
        if (given := stream(result)) is not None:
            for ours in ours_of.get(name, ()):
                made.setdefault(ours, given.reshape(seq, -1).clone())

    with hooked(named(theirs.module), before=enter, after=leave), taps:
        made_of_all = theirs.run(ids)[0]
    seen = _joined(taps.trace(), taken, made)
    return replace(seen, outputs={**seen.outputs, DECODER: made_of_all})


def _joined(seen: Trace, taken: Mapping[str, Tensor], made: Mapping[str, Tensor]) -> Trace:
    """What was seen at the parameters, and at modules; at blocks only where the one's output is the next's input."""
    inputs, outputs = dict(seen.inputs), dict(seen.outputs)
    blocks = sorted(filter(BLOCK.fullmatch, taken), key=lambda name: int(name.rpartition(".")[2]))
    for name in taken.keys() - {*blocks}:
        inputs.setdefault(name, taken[name])
        if name in made:
            outputs.setdefault(name, made[name])
    chain = all(
        one in made and made[one].shape == taken[other].shape and torch.equal(made[one], taken[other])
        for one, other in pairwise(blocks)
    )
    if chain:
        inputs |= {name: taken[name] for name in blocks}
        outputs |= {name: made[name] for name in blocks if name in made}
    return replace(seen, inputs=inputs, outputs=outputs)


@torch.no_grad()
def compared(
    model: Decoder,
    trace: Trace,
    ids: Tensor,
    limits: Mapping[tuple[str, str], float] = MappingProxyType({}),
    may_differ: Collection[tuple[str, str]] | None = None,
) -> list[Finding]:
    """Ours beside theirs, in the order ours runs: each part is fed what theirs was.

    Raises: Stop at the first that differs and is not among those that `may_differ`, where they are given.
    """
    findings: list[Finding] = []
    first = _first_maps(model)
    norms = {name for name, part in model.named_modules() if is_like_a_norm(part)}
    done: set[tuple[str, str]] = set()  # a part that ours runs again is looked at once, as theirs was

    def compare(name: str, side: str, ours: Tensor, theirs: Tensor) -> None:
        ours = ours.reshape(theirs.shape) if ours.numel() == theirs.numel() else ours
        error, limit = relative_error(ours, theirs), limits.get((name, side), TIGHT)
        factor = _factor(ours, theirs, limit) if error > limit else None
        findings.append(Finding(name, side, ours.clone(), error, limit, suspects(name, side, done, norms), factor))
        if may_differ is not None and findings[-1].differs and findings[-1].at not in may_differ:
            raise Stop

    def given(side: str, name: str) -> Tensor | None:
        kept = trace.inputs if side == "input" else trace.outputs
        known = [kept[one] for one in (name, *first.get(name, ())) if one in kept] if side == "input" else []
        return known[0] if known else kept.get(name)

    def before(name: str, _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        ours, theirs = first_tensor(args or kwargs), given("input", name)
        if theirs is None or not isinstance(ours, Tensor) or not ours.is_floating_point() or (name, "input") in done:
            return None
        compare(name, "input", ours, theirs)
        done.add((name, "input"))
        put = in_place_of(ours, theirs[None])
        return (with_first_tensor(args, put), kwargs) if args else (args, with_first_tensor(kwargs, put))

    def after(name: str, _: nn.Module, __: object, ___: object, result: object) -> object:
        ours, theirs = first_tensor(result), given("output", name)
        if theirs is None or not isinstance(ours, Tensor) or (name, "output") in done:
            return None
        compare(name, "output", ours, theirs)
        done.add((name, "output"))
        return with_first_tensor(result, in_place_of(ours, theirs[None]))

    inner = {one for maps in first.values() for one in maps}
    modules = {name: one for name, one in model.named_modules() if name and name not in inner}
    outer = {name: one for name, one in model.named_modules() if name in inner}
    with hooked(modules, before=before, after=after), hooked(outer, after=after):
        result = run(model, ids)
    theirs = trace.outputs[DECODER]
    compare(DECODER, "output", result[0, -len(theirs) :], theirs)
    return findings


def _factor(ours: Tensor, theirs: Tensor, limit: float) -> float | None:
    """What theirs is of ours, if it is that everywhere."""
    if ours.shape != theirs.shape:
        return None
    factor = (ours * theirs).sum() / ours.square().sum()
    return factor.item() if relative_error(ours * factor, theirs) <= limit else None


def drawn_as_theirs(trace: Trace, findings: list[Finding], compare: Callable[[Trace], list[Finding]]) -> Trace:
    """The trace without what theirs makes inside another boundary than ours, as where it scales outside the embedding.

    That is so where what comes next agrees if ours goes on, or comes nearer by far, and differs if theirs does.
    """
    differing = {one.at: one.error for one in findings if one.differs}
    for one, following in pairwise(findings):
        if one.side == "output" and {one.at, following.at} <= differing.keys():
            less = replace(trace, outputs={name: made for name, made in trace.outputs.items() if name != one.module})
            still = {other.at: other.error for other in compare(less) if other.differs}
            nearer = still.get(following.at, 0.0) * BY_FAR < following.error
            if nearer and still.keys() <= differing.keys() - {one.at}:
                trace, differing = less, still
    return trace


def limits(one: list[Finding], other: list[Finding]) -> dict[tuple[str, str], float]:
    """What each place may be off by, given ours with rotary angles in float32 and in float64: a multiple of that."""
    pairs = zip(one, other, strict=True)
    return {a.at: max(TIGHT, TIMES * relative_error(a.ours, b.ours)) for a, b in pairs}


def loosened(limits: Mapping[tuple[str, str], float], one: Trace, other: Trace) -> dict[tuple[str, str], float]:
    """The same, where theirs has constants in float32: a multiple of what rounding these otherwise changes there."""
    sides = {"input": (one.inputs, other.inputs), "output": (one.outputs, other.outputs)}
    return {
        (name, side): max(limit, TIMES * relative_error(again[name], first[name]))
        if name in (first := sides[side][0]) and name in (again := sides[side][1])
        else limit
        for (name, side), limit in limits.items()
    }


def is_like_a_norm(part: nn.Module) -> bool:
    """Whether all that a part has to learn are vectors, as norms have, of whatever class."""
    axes = {one.ndim for one in part.parameters()}
    return axes == {1} or isinstance(part, NORMS)


def _first_maps(model: Decoder) -> dict[str, list[str]]:
    """Of attention and MLPs, the maps that are fed what the whole is."""
    kinds: dict[type[nn.Module], tuple[str, ...]] = {Attention: ("qkv",), MLP: ("up",), GatedMLP: ("gate", "up")}
    first: dict[str, list[str]] = {}
    for name, part in model.named_modules():
        maps = next((maps for kind, maps in kinds.items() if isinstance(part, kind)), ())
        if there := [f"{name}.{leaf}" for leaf in maps if hasattr(part, leaf)]:
            first[name] = there
    return first
