"""Where each rate of dropout acts: seen in train mode, by the sizes of what is drawn."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .part import Program
from .subject import Subject, ids_of, run, vocab_of

RATE, NEARLY_ALL = 0.25, 0.999


@dataclass
class Rates:
    """The rates of a config: ours by our names, those that do nothing, and those that act where none of ours does."""

    named: dict[str, str] = field(default_factory=dict)
    harmless: set[str] = field(default_factory=set)
    fixed: dict[str, tuple[Any, ...]] = field(default_factory=dict)


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is drawn, by how many numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.bernoulli_:
            self.counts[result.numel()] += 1
        return result


def rates(subject: Subject, program: Program) -> Rates:
    """What each rate of dropout is for."""
    found = Rates()
    plain = _drawn(subject, {})
    for name, value in subject.config.items():
        if "drop" not in name or isinstance(value, bool | str) or name.startswith("id2label"):
            continue
        try:
            acts = [ours for ours, count in _acting(subject, program, {name: RATE}).items() if count]
            moved = not _drawn(subject, {name: NEARLY_ALL}).equal(plain)
        except Exception:  # it is somebody else's code
            acts, moved = [""], True
        if "" in acts or (moved and not acts):
            found.fixed[name] = (value,)
        elif acts:
            found.named |= {ours: name for ours in acts if ours not in found.named}
            found.fixed |= {} if name in found.named.values() else {name: (value,)}
        else:
            found.harmless.add(name)
    return found


@torch.no_grad()
def _drawn(subject: Subject, changes: Mapping[str, Any]) -> torch.Tensor:
    torch.manual_seed(0)
    module = subject.module(changes)
    return run(module.train(), ids_of(vocab_of(module)))


@torch.no_grad()
def _acting(subject: Subject, program: Program, changes: Mapping[str, Any]) -> dict[str, int]:
    """How often what is drawn is of the size of ours by their names; of another under an empty one."""
    module = subject.module(changes).train()
    ids = ids_of(vocab_of(module))
    with _Draws() as draws:
        run(module, ids)
    layers = len(program.blocks)
    heads = program.blocks[0].settings["attn"].settings.get("heads", 0)
    scores = draws.counts.pop(ids.numel() * ids.shape[1] * heads, 0)
    stream = draws.counts.pop(ids.numel() * program.embed.settings["width"], 0)
    known = scores in (0, layers) and stream in (0, 1, 2 * layers, 2 * layers + 1) and not draws.counts
    of_stream = {"embed_dropout": stream % (2 * layers), "residual_dropout": stream // (2 * layers)}
    return {"attention_dropout": scores, **of_stream} if known else {"": 1}
