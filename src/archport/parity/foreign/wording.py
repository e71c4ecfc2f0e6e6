"""Places and faults in a person's own names: "layers.1.att: in yours scores are not scaled; gptj scales them"."""

import re
from collections.abc import Mapping, Sequence

from ..catalogue import faults_for
from ..diagnose import Diagnosis
from ..locate import DECODER
from .locating import Finding
from .naming import Named, planted
from .weights import Weights

PARTS = {"attn": "attention", "mlp": "MLP", "norm": "the norm", "norm_attn": "the norm before attention"}
PARTS |= {"norm_mlp": "the norm before the MLP", "embed": "embedding"}
HELD = ("rotary", "mask", "activation", "dropout", "sinks", "q_norm", "k_norm")  # by a part that has a place


class Places:
    """Where parts of ours are in a module of a person's, given our modules with those that hold the same tensors."""

    def __init__(self, weights: Weights, pairs: Mapping[str, str], whole: str) -> None:
        self.weights, self.pairs, self.whole = weights, pairs, whole

    def __call__(self, part: str) -> str:
        """The module of theirs that does what a part of ours does, or the innermost that holds its tensors."""
        return self._place(part)[0]

    def said(self, part: str) -> str:
        """The same, with what is meant where it holds more."""
        place, keys = self._place(part)
        if not keys:
            return place
        what = PARTS.get(part.rpartition(".")[2], part.rpartition(".")[2])
        return f"{place} ({what}: {', '.join(keys)})"

    def _place(self, part: str) -> tuple[str, list[str]]:
        """A place of theirs, and the tensors that tell which part of it is meant."""
        holder, _, leaf = part.rpartition(".")
        if part in self.pairs:
            return self.pairs[part], []
        if leaf in HELD and not self._keys(part):
            return self._place(holder)
        keys = self._keys(part)
        if part == DECODER or not keys:
            return (self.whole, []) if "." not in part else self._place(holder)
        common = _common([key.split(".") for key in keys])
        short = sorted({key.removeprefix(common + ".") for key in keys})
        return common or self.whole, short

    def _keys(self, part: str) -> list[str]:
        return [key for name, keys in self.weights.keys.items() if name.startswith(part + ".") for key in keys]


def _common(paths: Sequence[list[str]]) -> str:
    """The innermost module around all tensors of these names."""
    common = []
    for parts in zip(*(path[:-1] for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def named(found: Sequence[Named], places: Places, against: str) -> Diagnosis:
    """The words for faults that explain every difference."""
    lines = [f"{_sites(one, places)}: in yours {one.fault.faulty}; {against} {_right(one, places)}" for one in found]
    return Diagnosis(places(found[0].sites[0]), found[0].fault, "; ".join(lines))


def _right(found: Named, places: Places) -> str:
    """What a right one does; where that is another number or kind, which one."""
    words, site = found.fault.right, found.sites[0]
    if "another" not in words or site == DECODER:
        return words
    parts = (model.get_submodule(site) for model in (places.weights.port, planted(places.weights.port, found)))
    right, faulty = ({**vars(part), **part._modules} for part in parts)
    changed = [value for name, value in right.items() if name[0] != "_" and repr(value) != repr(faulty.get(name))]
    told = f"{changed[0]:.6g}" if changed and isinstance(changed[0], float) else repr(changed[0]) if changed else ""
    return re.sub("another (one|number)", told, words) if told else words


def _sites(found: Named, places: Places) -> str:
    said = list(dict.fromkeys(places.said(site) for site in found.sites))
    return said[0] + (f" and {len(said) - 1} more like it" if len(said) > 1 else "")


def reordered(order: Sequence[int], places: Places, against: str) -> Diagnosis:
    """The words for blocks that run in another order."""
    fault = next(one for one in faults_for(against) if one.name == "blocks in another order")
    ran = ", ".join(map(str, order))
    return Diagnosis(
        places.whole, fault, f"{places.whole}: in yours the blocks run in the order {ran}; {against} {fault.right}"
    )


def unnamed(first: Finding, places: Places, ruled_out: Sequence[str]) -> Diagnosis:
    """The words for a difference that no fault explains."""
    part = first.suspects[0]
    shape = tuple(first.ours.shape)
    whose = "it" if first.module == part else places.said(first.module)
    what = f"what {whose} makes" if first.side == "output" else f"what {whose} is fed"
    error = f"{what} {shape} differs by {first.error:.1e} of the largest element"
    error += f", it is {first.factor:.4g} times what it should be," if first.factor is not None else ""
    out = ", ".join(ruled_out) or "none"
    words = f"{places.said(part)}: {error} from our port of your weights; no known fault explains it, ruled out: {out}"
    return Diagnosis(places(part), None, words, tuple(ruled_out))
