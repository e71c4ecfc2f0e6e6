"""Pictures of what is inside a checkpoint, drawn with matplotlib: positions, weights, attention, spectra, norms."""

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import port
from ..errors import ConfigError, NotFiniteWarning, SourceError
from ..files.write import check_target, whole_file
from ..generation import text
from ..layers import Attention, Decoder, PositionedEmbed, Rotary
from ..loading import LoadPlan, own_weight
from ..observing import observe, sites
from ..registry import skeleton
from . import drawing
from .descriptions import described
from .selecting import fault, tensor
from .subjects import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("positions", "weights", "attention", "spectrum", "norms")
PROMPT = "def __init__(self, name):\n    self.name = name"
OPTIONS = {"name": ("weights",), "layer": ("attention",), "prompt": ("attention", "norms")}  # which kinds have each
OF_ALL = ("attention", "spectrum", "norms")  # these need most of the weights, the others one tensor
UNDATED: dict[str, dict[str, None]] = {".png": {}, ".svg": {"Date": None}}


def plot(
    subject: Subject, kind: str, *, name: str | None = None, layer: int | None = None, prompt: str | None = None
) -> "Figure":
    """A figure of one of KINDS: `name` is the tensor, for weights; `layer` is for attention, `prompt` for norms too.

    Only the tensors that are drawn are read. Raises: ConfigError; SourceError, also where no weights were fetched.
    """
    check(subject, kind, name=name, layer=layer, prompt=prompt)
    plan, layer = _plan(subject), layer or 0
    if not subject.at_hand and (kind in OF_ALL or not plan.checkpoint.remote):
        raise SourceError(f"{subject.name}: its weights were not fetched, so there is nothing to draw")
    if kind in ("positions", "weights"):
        step, ranges = tensor(plan, name or _learned_positions(subject))
        weight, title = own_weight(plan, step).float()[tuple(ranges)], str(step.name)
        if kind == "positions":
            return drawing.positions(subject.name, title, weight)
        if weight.shape != step.shape:
            title += f"[{', '.join(f'{part.start}:{part.stop}' for part in ranges)}]"
        sides = described(subject)[str(step.name).rpartition(".")[0]].sides
        return drawing.weights(subject.name, title, weight, sides, [part.start for part in ranges])
    if kind == "spectrum":
        return drawing.spectrum(subject.name, _spectra(plan))
    ids, words = _tokens(subject, plan, PROMPT if prompt is None else prompt)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotFiniteWarning)  # reported below
        origin = plan.checkpoint.origin
        model = port.load(origin.folder, dtype=torch.float32, **origin.how)
    if kind == "attention":
        values, where = probabilities(model, ids, layer), f"in layer {layer}"
    else:
        values = stream_norms(model, ids)
        good = values.isfinite().all(-1).tolist()
        where = f"after {(*good, False).index(False)} layers" if good[0] else "in the embedding"
    if not values.isfinite().all():
        raise fault(kind, f"found numbers {where} that are not finite, expected finite ones")
    if kind == "attention":
        return drawing.attention(subject.name, layer, values, words)
    return drawing.norms(subject.name, values, subject.config.width)


def drawable(subject: Subject) -> list[str]:
    """The kinds that need no name, but for learned positions where a model has none."""
    return [kind for kind in KINDS if kind != "weights" and (kind != "positions" or _learned_positions(subject))]


def check(
    subject: Subject, kind: str, *, name: str | None = None, layer: int | None = None, prompt: str | None = None
) -> None:
    """Check the arguments of `plot` as far as headers tell. Raises: ConfigError; SourceError, also for matplotlib."""
    if kind not in KINDS:
        raise fault("kind", f"found {kind!r}, expected {', '.join(KINDS)}")
    faults = {
        option: f"found {value!r}, but {kind} has none: it is for {' and '.join(OPTIONS[option])}"
        for option, value in {"name": name, "layer": layer, "prompt": prompt}.items()
        if value is not None and kind not in OPTIONS[option]
    }
    if faults:
        raise ConfigError(faults, "plot")
    plan = _plan(subject)
    if kind == "positions" and _learned_positions(subject) is None:
        rotary = any(isinstance(part, Rotary) for part in subject.model.modules())
        what = "rotary positions, which are angles and not learned" if rotary else "no PositionedEmbed of archport"
        raise fault(kind, f"{subject.name} has {what}; {', '.join(KINDS[1:])} can be drawn")
    if kind == "weights" and len((step := tensor(plan, name)[0]).shape) not in (1, 2):
        raise fault(kind, f"found {step.name} with {len(step.shape)} axes, expected 1 or 2")
    if layer is not None and not 0 <= layer < subject.config.layers:
        raise fault("layer", f"found {layer}, expected 0 to {subject.config.layers - 1}")
    if kind == "attention":
        _probabilities_site(subject.model, layer or 0)
    drawing.new_figure()


def drawn(figure: "Figure", ending: str) -> bytes:
    """A figure as `.png` or `.svg`, the same bytes for the same figure."""
    from matplotlib import rc_context

    content = BytesIO()
    with rc_context({"svg.hashsalt": "archport"}):
        figure.savefig(content, format=ending.removeprefix("."), dpi=150, metadata=UNDATED[ending])
    return content.getvalue()


def save(figure: "Figure", file: Path, *, force: bool = False) -> None:
    """Write a figure as PNG or SVG. Raises: ExportError when the file is there already or cannot be written."""
    check_target(file, tuple(UNDATED), force=force)
    whole_file(file, drawn(figure, file.suffix))


def _plan(subject: Subject) -> LoadPlan:
    if subject.plan is None:
        raise SourceError(f"{subject.name}: an architecture has no weights to draw; give a checkpoint")
    return subject.plan


def _learned_positions(subject: Subject) -> str | None:
    paths = (path for path, part in subject.model.named_modules() if isinstance(part, PositionedEmbed))
    return next((f"{path}.positions.weight" for path in paths), None)


def _spectra(plan: LoadPlan) -> dict[str, list[drawing.Spectrum]]:
    """The singular values of each matrix of a block, by its name within one, in every layer that has it."""
    spectra: dict[str, list[drawing.Spectrum]] = {}
    for step in plan.mapped:
        if not str(step.name).startswith("blocks.") or len(step.shape) != 2:
            continue
        _, layer, matrix = str(step.name).split(".", 2)
        weight = own_weight(plan, step).float()
        if odd := drawing.not_finite(weight):
            numbers = f"{odd:,} of {weight.numel():,} numbers not finite"
            raise fault("spectrum", f"{step.name}: found {numbers}, expected none")
        spectrum = drawing.Spectrum(int(layer), step.shape, torch.linalg.svdvals(weight))
        spectra.setdefault(matrix.removesuffix(".weight"), []).append(spectrum)
    if not spectra:
        raise fault("spectrum", "found no matrices in the blocks, expected some")
    return spectra


def _tokens(subject: Subject, plan: LoadPlan, prompt: str) -> tuple[Tensor, list[str]]:  # -> (1, seq), a word a token
    """A text as ids and as words; a piece of a character is written as in the vocabulary."""
    model = skeleton(subject.architecture, subject.config)
    model.origin = plan.checkpoint.origin
    tokenizer = text.tokenizer(model)
    ids = text.encoded(tokenizer, prompt, model.config.vocab_size)
    most = subject.config.context
    if len(ids) < 2:
        raise fault("prompt", f"found {len(ids)} tokens, expected at least 2")
    if len(ids) > most:
        raise fault("prompt", f"found {len(ids):,} tokens, expected at most {most:,}")
    words = [tokenizer.decode([token], skip_special_tokens=False) for token in ids]
    for at, word in enumerate(words):
        if not word or "\N{REPLACEMENT CHARACTER}" in word:
            words[at] = str(tokenizer.id_to_token(ids[at]))
    return torch.tensor([ids]), words


def _probabilities_site(model: Decoder, layer: int) -> str:
    for site in sites(model):
        if site.name.startswith(f"blocks.{layer}.") and site.name.endswith(".probabilities"):
            return site.name
    parts = ", ".join(type(part).__name__ for part in model.blocks[layer].children())
    message = f"layer {layer} has no attention probabilities to observe, as {Attention.__name__} has: found {parts}"
    raise fault("attention", message)


@torch.no_grad()
def probabilities(model: Decoder, ids: Tensor, layer: int) -> Tensor:  # (1, seq) -> (heads, seq, seq)
    """How much each token of one text looks at each, in every head of a layer."""
    name = _probabilities_site(model, layer)
    with observe(model, name) as values:
        model(ids)
    return values[name][0]


@torch.no_grad()
def stream_norms(model: Decoder, ids: Tensor) -> Tensor:  # (1, seq) -> (layers + 1, seq)
    """The norm of each token's stream after the embedding and after every block."""
    names = ["embed", *(f"blocks.{layer}.after" for layer in range(len(model.blocks)))]
    with observe(model, *names) as values:
        model(ids)
    return torch.stack([values[name][0].norm(dim=-1) for name in names])
