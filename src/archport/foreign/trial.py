"""Trying rows out: a copy of a person's module is filled by them and run beside our own model of the same weights."""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..config import DecoderConfig
from ..errors import in_a_line
from ..layers import Decoder
from ..registry import Architecture, skeleton
from ..translate.layout import Layout
from ..translate.table import Cell, Table
from .rows import table_of
from .running import CodeError, Forward, copied, logits_of
from .theirs import Theirs

TOKENS = 9
# Of the largest logit: what rounds to float32 inside, or in all it does, is far below, other weights are far above.
APART = {torch.float64: 1e-4, torch.float32: 1e-3}


def views(
    table: Table, cfg: DecoderConfig, names: Iterable[str], ours: Callable[[str], Tensor], theirs: Theirs
) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of ours and of theirs that hold the same numbers by the rows of a table."""
    for name in names:
        for row in table.rows(name, cfg):
            layout = Layout(row, cfg.axes)
            for key in dict.fromkeys(row.keys):
                pair = (ours(name), theirs[key])
                yield from [pair] if row.pattern is None else layout.pairs(key, *pair)


class Trial:
    """A copy of a module, in `dtype`, and our model of the same sizes, in float64, with loud weights in ours.

    Raises: CodeError for a module that cannot be copied or run.
    """

    def __init__(
        self,
        theirs: Theirs,
        arch: Architecture,
        cfg: DecoderConfig,
        forward: Forward | None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.dtype = dtype
        self.forward, self.vocab = forward, cfg.vocab_size
        if any(one.is_meta for one in (*theirs.parameters.values(), *theirs.buffers.values())):
            raise CodeError(f"{theirs.name}: is on meta, and cannot be run")
        try:
            module = copied(theirs.module).to(dtype).eval()
        except Exception as error:  # it is somebody else's code
            raise CodeError(f"{theirs.name}: cannot be copied: {in_a_line(error)}") from None
        self.theirs = Theirs(module)
        self.device = next(iter(self.theirs.parameters.values())).device
        self.port = _loud(arch, cfg).to(self.device)
        self.loud = {name: one.detach() for name, one in self.port.named_parameters(remove_duplicate=False)}
        self.arch, self.cfg = arch, cfg
        self._pairs: dict[int, tuple[Mapping[str, Cell], list[tuple[Tensor, Tensor]]]] = {}
        generator = torch.Generator().manual_seed(5)
        self.ids = torch.randint(cfg.vocab_size, (1, min(TOKENS, cfg.context)), generator=generator).to(self.device)
        self._expected: dict[frozenset[str], Tensor] = {}
        self._found: dict[tuple[int, ...], Tensor] = {}

    def beside(self, port: Decoder) -> "Trial":
        """The same module beside another model than ours, as one with a bug."""
        other = copy.copy(self)
        other.port, other._expected = port, {}
        return other

    @torch.no_grad()
    def apart(self, ways: Iterable[Mapping[str, Cell]], among: Collection[str]) -> float:
        """How far their logits are from ours where only `among` of our parameters are not zero; up to 1 is rounding.

        Raises: CodeError where their code does.
        """
        ways = list(ways)
        found = self._theirs(ways)
        expected = self._logits(frozenset(among))[:, -found.shape[1] :]
        return ((found - expected).abs().max() / (APART[self.dtype] * expected.abs().max())).item()

    def _theirs(self, ways: Sequence[Mapping[str, Cell]]) -> Tensor:
        """Their logits where they hold what these rows take, and zeros."""
        known = tuple(map(id, ways))
        if known not in self._found:
            for one in self.theirs.parameters.values():
                one.zero_()
            for rows in ways:
                for ours, theirs in self._views(rows):
                    theirs.copy_(ours)
            self._found[known] = logits_of(self.theirs.module, self.ids, self.vocab, self.forward)
        return self._found[known]

    def _views(self, rows: Mapping[str, Cell]) -> list[tuple[Tensor, Tensor]]:
        if id(rows) not in self._pairs:  # the rows are kept with them, and so their id
            table = table_of(self.arch, rows)
            pairs = views(table, self.cfg, self.loud, self.loud.__getitem__, self.theirs)
            self._pairs[id(rows)] = (rows, list(pairs))
        return self._pairs[id(rows)][1]

    def _logits(self, among: frozenset[str]) -> Tensor:
        if among not in self._expected:
            for name, one in self.port.named_parameters():
                loud = self.loud.get(name, one.data)
                one.data = loud if name in among else loud.new_zeros(()).expand_as(loud)
            self._expected[among] = self.port(self.ids).double()
        return self._expected[among]


def _loud(arch: Architecture, cfg: DecoderConfig) -> Any:
    """Our model with weights of which none is quiet, zero or alike, in float64."""
    model = skeleton(arch, cfg).double()
    generator = torch.Generator().manual_seed(7)
    for name, parameter in list(model.named_parameters()):
        values = torch.empty(parameter.shape, dtype=torch.float64)
        if values.ndim == 1:
            values.uniform_(-1, 1, generator=generator)
        else:
            values.normal_(0, min(0.3, 2 * values.shape[-1] ** -0.5), generator=generator)
        path, _, leaf = name.rpartition(".")
        model.get_submodule(path).register_parameter(leaf, torch.nn.Parameter(values))
    model.tie()
    return model.eval()
