"""Pictures of what is inside a checkpoint, drawn with matplotlib: positions, weights, attention, spectra, norms."""

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import port
from ..errors import ConfigError, NotFiniteWarning, SourceError
from ..generation import text
from ..layers import Decoder, Rotary
from ..loading import LoadPlan, own_weight
from ..observing import observe
from ..registry import skeleton
from . import draw
from .asked import tensor
from .output import may_write, write
from .subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("positions", "weights", "attention", "spectrum", "norms")
PROMPT = "def __init__(self, name):\n    self.name = name"
OPTIONS = {"name": ("weights",), "layer": ("attention",), "prompt": ("attention", "norms")}  # which kinds have each
MATRICES = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")
OF_ALL = ("attention", "spectrum", "norms")  # these need most of the weights, the others one tensor
UNDATED: dict[str, dict[str, None]] = {".png": {}, ".svg": {"Date": None}}


def plot(
    subject: Subject, kind: str, *, name: str | None = None, layer: int | None = None, prompt: str | None = None
) -> "Figure":
    """A figure of one of KINDS: `name` is the tensor, for weights; `layer` is for attention, `prompt` for norms too.

    The layer is 0 and the prompt PROMPT where none is given. Only the tensors that are drawn are read.
    Raises: whatever `check` raises; ConfigError for what cannot be drawn; SourceError where no weights were fetched.
    """
    check(subject, kind, name=name, layer=layer, prompt=prompt)
    plan = _plan(subject)
    if not subject.at_hand and (kind in OF_ALL or not plan.checkpoint.remote):
        raise SourceError(f"{subject.name}: its weights were not fetched, so there is nothing to draw")
    if kind in ("positions", "weights"):
        step, ranges = tensor(plan, "embed.positions.weight" if kind == "positions" else name)
        weight = own_weight(plan, step).float()[tuple(ranges)]
        if kind == "positions":
            return draw.positions(subject.name, weight)
        place = ", ".join(f"{part.start}:{part.stop}" for part in ranges)
        shown = f"{step.name}[{place}]" if weight.shape != step.shape else f"{step.name}"
        return draw.weights(subject.name, shown, weight, [part.start for part in ranges])
    if kind == "spectrum":
        return draw.spectrum(subject.name, {matrix: _matrices(plan, matrix) for matrix in MATRICES})
    ids, words = _tokens(subject, plan, PROMPT if prompt is None else prompt)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotFiniteWarning)  # what comes of it is said below
        model = port.load(plan.checkpoint.origin.folder, dtype=torch.float32)
    if kind == "attention":
        seen = probabilities(model, ids, layer or 0)
        if not seen.isfinite().all():
            raise _fault(kind, f"found numbers in layer {layer or 0} that are not finite, expected finite ones")
        return draw.attention(subject.name, layer or 0, seen, words)
    norms = stream_norms(model, ids)
    good = norms.isfinite().all(-1).tolist()
    if not all(good):
        where = f"after {good.index(False)} layers" if good[0] else "in the embedding"
        raise _fault(kind, f"found numbers {where} that are not finite, expected finite ones")
    return draw.norms(subject.name, norms, subject.config.width)


def check(
    subject: Subject, kind: str, *, name: str | None = None, layer: int | None = None, prompt: str | None = None
) -> None:
    """Look at what is asked of `plot` as far as headers tell. Raises: ConfigError; SourceError, also for matplotlib."""
    if kind not in KINDS:
        raise _fault("kind", f"found {kind!r}, expected {', '.join(KINDS)}")
    given = {"name": name, "layer": layer, "prompt": prompt}
    faults = {
        option: f"found {given[option]!r}, but {kind} has none: it is for {' and '.join(kinds)}"
        for option, kinds in OPTIONS.items()
        if given[option] is not None and kind not in kinds
    }
    if faults:
        raise ConfigError(faults, "plot")
    plan = _plan(subject)
    if kind == "positions" and all(step.name != "embed.positions.weight" for step in plan.mapped):
        what = (
            "rotary positions, which are angles and not learned"
            if any(isinstance(part, Rotary) for part in subject.model.modules())
            else "no positions"
        )
        raise _fault(kind, f"{subject.name} has {what}; {', '.join(KINDS[1:])} can be drawn")
    if kind == "weights":
        tensor(plan, name)
    if layer is not None and not 0 <= layer < subject.config.layers:
        raise _fault("layer", f"found {layer}, expected 0 to {subject.config.layers - 1}")
    draw.new_figure()


def drawn(figure: "Figure", ending: str) -> bytes:
    """A figure as `.png` or `.svg`, the same bytes for the same figure."""
    from matplotlib import rc_context

    made = BytesIO()
    with rc_context({"svg.hashsalt": "archport"}):
        figure.savefig(made, format=ending.removeprefix("."), dpi=150, metadata=UNDATED[ending])
    return made.getvalue()


def save(figure: "Figure", file: Path, *, force: bool = False) -> None:
    """Write a figure as PNG or SVG. Raises: ExportError when the file is there already or cannot be written."""
    may_write(file, tuple(UNDATED), force=force)
    write(file, drawn(figure, file.suffix))


def _plan(subject: Subject) -> LoadPlan:
    if subject.plan is None:
        raise SourceError(f"{subject.name}: an architecture has no weights to draw; give a checkpoint")
    return subject.plan


def _fault(field: str, what: str) -> ConfigError:
    return ConfigError({field: what}, "plot")


# --- the numbers that are drawn ---


def _matrices(plan: LoadPlan, matrix: str) -> tuple[tuple[int, ...], list[Tensor]]:
    """The shape of a matrix, and its singular values in every layer."""
    steps = [step for step in plan.mapped if str(step.name).endswith(f".{matrix}.weight")]
    values = []
    for step in steps:
        weight = own_weight(plan, step).float()
        if odd := draw.not_finite(weight):
            raise _fault(
                "spectrum", f"{step.name}: found {odd:,} of {weight.numel():,} numbers not finite, expected none"
            )
        values.append(torch.linalg.svdvals(weight))
    return steps[0].shape, values


def _tokens(subject: Subject, plan: LoadPlan, prompt: str) -> tuple[Tensor, list[str]]:  # -> (1, seq), a word a token
    """A text as ids and as words; a piece of a character is spelt as in the vocabulary."""
    model = skeleton(subject.architecture, subject.config)
    model.origin = plan.checkpoint.origin
    tokenizer = text.tokenizer(model)
    ids, most = text.encoded(tokenizer, prompt), subject.config.context
    if len(ids) < 2:
        raise _fault("prompt", f"found {len(ids)} tokens, expected at least 2")
    if len(ids) > most:
        raise _fault("prompt", f"found {len(ids):,} tokens, expected at most {most:,}")
    words = [tokenizer.decode([token], skip_special_tokens=False) for token in ids]
    whole = [word and "\N{REPLACEMENT CHARACTER}" not in word for word in words]
    return torch.tensor([ids]), [
        word if good else str(tokenizer.id_to_token(token)) for word, good, token in zip(words, whole, ids, strict=True)
    ]


@torch.no_grad()
def probabilities(model: Decoder, ids: Tensor, layer: int) -> Tensor:  # (1, seq) -> (heads, seq, seq)
    """How much each token of one text looks at each, in every head of a layer."""
    name = f"blocks.{layer}.attn.probabilities"
    with observe(model, name) as values:
        model(ids)
    return values[name][0]


@torch.no_grad()
def stream_norms(model: Decoder, ids: Tensor) -> Tensor:  # (1, seq) -> (layers + 1, seq)
    """The norm of each token's stream after the embedding and after every block."""
    found: list[Tensor] = []

    def keep(_: Any, __: Any, made: Tensor) -> None:
        found.append(made[0].norm(dim=-1))

    handles = [module.register_forward_hook(keep) for module in (model.embed, *model.blocks)]
    try:
        model(ids)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(found)
