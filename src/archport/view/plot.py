"""Pictures of what is inside a checkpoint, drawn with matplotlib: positions, weights, attention, spectra, norms."""

import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import port, text
from ..errors import ConfigError, SourceError, printable
from ..layers import Attention, Decoder
from ..loading import LoadPlan, own_weight
from ..step import Step
from .output import may_write, write
from .subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = ("positions", "weights", "attention", "spectrum", "norms")
PROMPT = "def __init__(self, name):\n    self.name = name"
MATRICES = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")
SIGNED = "PuOr"  # two hues that everyone can tell apart, white between; in print, the darker the larger
UNDATED: dict[str, dict[str, None]] = {".png": {}, ".svg": {"Date": None}}
CURVES = 3  # columns of the positions that are also drawn as curves


def plot(
    subject: Subject,
    kind: str,
    *,
    name: str | None = None,
    layer: int = 0,
    prompt: str = PROMPT,
) -> "Figure":
    """A figure of one of KINDS: `name` is the tensor for weights, `layer` and `prompt` are for attention.

    Only the tensors that are drawn are read. Raises: ConfigError; SourceError, also without matplotlib.
    """
    if kind not in KINDS:
        raise ConfigError({"plot": f"found {kind!r}, expected {', '.join(KINDS)}"})
    if subject.plan is None:
        raise SourceError(f"{subject.name}: an architecture has no weights to draw; give a checkpoint")
    figure = _figure()
    if kind == "positions":
        _positions(figure, subject, subject.plan)
    elif kind == "weights":
        _weights(figure, subject, subject.plan, name)
    elif kind == "spectrum":
        _spectrum(figure, subject, subject.plan)
    else:
        model = port.load(subject.plan.checkpoint.origin.folder, dtype=torch.float32)
        tokenizer = text.tokenizer(model)
        ids = text.encoded(tokenizer, prompt)
        if len(ids) < 2:
            raise ConfigError({"prompt": f"found {len(ids)} tokens, expected at least 2"})
        words = [tokenizer.decode([token]) for token in ids]
        if kind == "attention":
            _attention(figure, subject, model, torch.tensor([ids]), words, layer)
        else:
            _norms(figure, subject, model, torch.tensor([ids]))
    return figure


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


def _figure() -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SourceError("drawing needs matplotlib: pip install 'archport[plot]'") from None
    return Figure(figsize=(9, 6), layout="constrained")  # of its own canvas: needs no display


# --- what is drawn ---


def _positions(figure: "Figure", subject: Subject, plan: LoadPlan) -> None:
    table = next((step for step in plan.mapped if step.name == "embed.positions.weight"), None)
    if table is None:
        what = "rotary positions, which are angles and not learned" if subject.model.rotary else "no positions"
        raise ConfigError({"plot": f"{subject.name} has {what}; {', '.join(KINDS[1:])} can be drawn"})
    weight = own_weight(plan, table).float()
    image, curves = figure.subplots(2, 1, height_ratios=(2, 1))
    _image(image, weight, "element", "position")
    for column in strongest(weight):
        curves.plot(weight[:, column].numpy(), label=f"element {column}", linestyle=("-", "--", ":")[len(curves.lines)])
    curves.set(xlabel="position", ylabel="value")
    curves.legend()
    _title(figure, f"{subject.name}: embed.positions.weight, {_sizes(weight)}")


def strongest(weight: Tensor) -> list[int]:
    """The columns that vary most, in order."""
    count = min(CURVES, weight.shape[1])
    return sorted(weight.var(0).topk(count).indices.tolist())


def _weights(figure: "Figure", subject: Subject, plan: LoadPlan, asked: str | None) -> None:
    """A weight, or a block of it: `blocks.0.attn.qkv.weight[0:64, 0:64]`."""
    steps = {step.name: step for step in plan.mapped}
    name, bracket, block = (asked or "").partition("[")
    if name not in steps:
        from difflib import get_close_matches

        near = get_close_matches(name, [str(one) for one in steps], 3, 0.0)
        raise ConfigError(
            {"weights": f"found {name!r}, expected the name of a tensor; the nearest are {', '.join(near)}"}
        )
    weight = own_weight(plan, steps[name]).float()
    ranges = _ranges(block, weight.shape) if bracket else [slice(0, size) for size in weight.shape]
    weight = weight[tuple(ranges)]
    axes = figure.subplots()
    if weight.ndim == 1:
        axes.plot(range(ranges[0].start, ranges[0].stop), weight.numpy(), linewidth=0.8)
        axes.set(xlabel="element", ylabel="value")
    else:
        _image(axes, weight, "in", "out", (ranges[1].start, ranges[0].start))
    _title(figure, f"{subject.name}: {asked}, {_sizes(weight)}")


def _ranges(block: str, shape: Sequence[int]) -> list[slice]:
    """`0:64, 128:` of the text `0:64, 128:]`, one for each axis."""
    found = [re.fullmatch(r"\s*(\d*)\s*:\s*(\d*)\s*", one) for one in block.removesuffix("]").split(",")]
    full = [(int(one[1] or 0), int(one[2] or size)) for one, size in zip(found, shape, strict=False) if one]
    if len(found) == len(full) == len(shape) and all(a < b <= size for (a, b), size in zip(full, shape, strict=True)):
        return [slice(*one) for one in full]
    wanted = ", ".join(f"0:{size}" for size in shape)
    raise ConfigError({"weights": f"found the block [{block}, expected one within [{wanted}]"})


def _spectrum(figure: "Figure", subject: Subject, plan: LoadPlan) -> None:
    grid = figure.subplots(2, 2, sharex=False).flatten()
    steps = {step.name: step for step in plan.mapped}
    for axes, matrix in zip(grid, MATRICES, strict=True):
        for layer, colour in enumerate(_shades(subject.config.layers)):
            values = torch.linalg.svdvals(own_weight(plan, steps[f"blocks.{layer}.{matrix}.weight"]).float())
            axes.plot(values.numpy(), color=colour, label=f"layer {layer}", linewidth=1)
        axes.set(title=matrix, xlabel="number", ylabel="singular value", yscale="log")
    handles, labels = grid[0].get_legend_handles_labels()
    few = slice(None, None, max(1, len(handles) // 6))
    figure.legend(handles[few], labels[few], loc="outside right center")
    _title(figure, f"{subject.name}: singular values of each layer's matrices")


def _attention(
    figure: "Figure", subject: Subject, model: Decoder, ids: Tensor, words: Sequence[str], layer: int
) -> None:
    if not 0 <= layer < subject.config.layers:
        raise ConfigError({"layer": f"found {layer}, expected 0 to {subject.config.layers - 1}"})
    weights = probabilities(model, ids, layer)
    columns = -(-len(weights) // 2) if len(weights) <= 8 else 4
    rows = -(-len(weights) // columns)
    figure.set_size_inches(3.2 * columns, 3.2 * rows + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for head, axes in enumerate(grid):
        if head >= len(weights):
            axes.set_axis_off()
            continue
        axes.imshow(weights[head].numpy(), cmap="Greys", vmin=0, vmax=1)
        ticks = [_shown(word) for word in words]
        axes.set_xticks(range(len(ticks)), ticks, rotation=90, fontsize=6, parse_math=False)
        axes.set_yticks(range(len(ticks)), ticks, fontsize=6, parse_math=False)
        axes.set_title(f"head {head}", fontsize=8)
    said = "each row is a token and what it looks at, white 0, black 1"
    _title(figure, f"{subject.name}: attention of layer {layer}; {said}")


@torch.no_grad()
def probabilities(model: Decoder, ids: Tensor, layer: int) -> Tensor:  # (1, seq) -> (heads, seq, seq)
    """How much each token of one text looks at each, in every head of a layer."""
    seen: dict[str, Any] = {}

    def keep(_: Any, given: tuple[Tensor, Step]) -> None:
        seen["x"], seen["step"] = given

    attention: Any = model.blocks[layer].attn
    handle = attention.register_forward_pre_hook(keep)
    try:
        model(ids)
    finally:
        handle.remove()
    return _probabilities(attention, seen["x"], seen["step"])


def _probabilities(attention: Attention, x: Tensor, step: Step) -> Tensor:
    q, k, _ = attention.split(attention.qkv(x))
    scores = step.rotate(q) @ step.rotate(k).transpose(-1, -2) * attention.scale
    ahead = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights: Tensor = scores.masked_fill(ahead, -torch.inf).softmax(-1)[0]
    return weights


def _norms(figure: "Figure", subject: Subject, model: Decoder, ids: Tensor) -> None:
    axes = figure.subplots()
    norms = stream_norms(model, ids)
    layers = range(len(norms))
    axes.plot(layers, norms.median(-1).values.numpy(), marker="o", label="median of the tokens")
    axes.fill_between(layers, norms.amin(-1).numpy(), norms.amax(-1).numpy(), alpha=0.2, label="smallest to largest")
    axes.set(xlabel="after layer (0: the embedding)", ylabel="norm of the residual stream", yscale="log")
    axes.legend()
    _title(figure, f"{subject.name}: residual stream, {ids.shape[-1]} tokens, width {subject.config.width}")


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


# --- how it is drawn ---


def _title(figure: "Figure", text: str) -> None:
    figure.suptitle(printable(text), parse_math=False, wrap=True)


def _image(axes: "Axes", weight: Tensor, across: str, down: str, corner: tuple[int, int] = (0, 0)) -> None:
    """Numbers as colours, white for 0, the scale the same to both sides; the largest hundredth of a percent clipped.

    `corner` is the column and the row at which a block begins.
    """
    flat = weight.abs().flatten()
    bound = flat.kthvalue(max(1, int(0.9999 * len(flat)))).values.item() or 1.0
    (rows, columns), (left, top) = weight.shape, corner
    edges = (left - 0.5, left + columns - 0.5, top + rows - 0.5, top - 0.5)
    image = axes.imshow(
        weight.numpy(), cmap=SIGNED, vmin=-bound, vmax=bound, aspect="auto", interpolation="nearest", extent=edges
    )
    axes.set(xlabel=across, ylabel=down)
    axes.figure.colorbar(image, ax=axes)


def _shades(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](0.8 * number / max(1, count - 1)) for number in range(count)]


def _sizes(weight: Tensor) -> str:
    return " x ".join(f"{size:,}" for size in weight.shape)


def _shown(word: str) -> str:
    """A token as a label: spaces and line ends visible."""
    return printable(word).replace(" ", "\N{OPEN BOX}")
