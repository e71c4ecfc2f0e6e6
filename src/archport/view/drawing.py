"""How each figure is drawn: images and curves of numbers, in colours and lines that print in grey."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..errors import SourceError, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# From dark blue below 0 over grey to light yellow above: lightness alone tells the sign, in print and to all eyes.
SIGNED = "cividis"
ODD = "white"  # for numbers that are not finite: lighter than all of SIGNED
STYLES = ("-", "--", "-.", ":")
CURVES = 3  # columns of the positions that are also drawn as curves, where none are chosen
LABELS = 40  # tokens that are labelled along an axis, at most
LETTERS = 12  # of a label
NAME = 80  # letters of a model's name
PROMPT = 120  # letters of a text
TITLE, SMALL = 12, 6  # sizes of letters, in points
MORE = "\N{HORIZONTAL ELLIPSIS}"


class Spectrum(NamedTuple):
    """The singular values of a matrix of one layer."""

    layer: int
    shape: Sequence[int]
    values: Tensor


def new_figure() -> "Figure":
    """An empty figure. Raises: SourceError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SourceError("drawing needs matplotlib: pip install 'archport[plot]'") from None
    return Figure(figsize=(9, 6), layout="constrained")  # of its own canvas: needs no display


def positions(model: str, name: str, weight: Tensor, columns: Sequence[int] | None = None) -> "Figure":
    """Learned positions as an image, and some columns, or those that vary most, as curves."""
    figure = new_figure()
    image, curves = figure.subplots(2, 1, height_ratios=(2, 1))
    _image(image, weight, ("position", "element"))
    for column, style in zip(columns or strongest(weight), cycle(STYLES), strict=False):
        curves.plot(weight[:, column].numpy(), label=f"element {column}", linestyle=style)
    curves.set(xlabel="position", ylabel="value")
    curves.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(STYLES), frameon=False)
    return _titled(figure, model, _in_words(name, weight))


def strongest(weight: Tensor) -> list[int]:
    """The columns that vary most, in order."""
    count = min(CURVES, weight.shape[1])
    return sorted(weight.nan_to_num(0, 0, 0).var(0, correction=0).topk(count).indices.tolist())


def weights(model: str, name: str, weight: Tensor, sides: tuple[str, str], corner: Sequence[int]) -> "Figure":
    """A tensor as an image or a curve; `sides` are what lies down and across, and a block of it begins at `corner`."""
    figure = new_figure()
    axes = figure.subplots()
    if weight.ndim > 1:
        _image(axes, weight, sides, corner)
    else:
        axes.plot(range(corner[0], corner[0] + len(weight)), weight.numpy(), linewidth=0.8)
        axes.set(xlabel="element", ylabel="value")
    return _titled(figure, model, _in_words(name, weight))


def spectrum(model: str, spectra: Mapping[str, Sequence[Spectrum]]) -> "Figure":
    """Singular values of every matrix, each with its shape, a curve a layer."""
    from matplotlib import colormaps

    figure, rows = new_figure(), -(-len(spectra) // 2)
    figure.set_size_inches(9, max(6, 3 * rows))
    grid = figure.subplots(rows, 2, squeeze=False).flatten()
    layers = sorted({one.layer for several in spectra.values() for one in several})
    handles = {}
    for axes, (matrix, several) in zip(grid, spectra.items(), strict=False):
        for layer, _, values in several:
            colour = colormaps["viridis"](0.8 * layer / max(1, layers[-1]))
            style, label = STYLES[layer % len(STYLES)], f"layer {layer}"
            [handles[layer]] = axes.plot(values.numpy(), color=colour, linestyle=style, linewidth=1, label=label)
        sizes = " and ".join(dict.fromkeys(_sizes(one.shape) for one in several))
        axes.set(title=f"{matrix}, {sizes}", xlabel="number", ylabel="singular value")
        _scaled(axes, [one.values for one in several])
    for axes in grid[len(spectra) :]:
        axes.set_axis_off()
    few = [layers[at] for at in sorted({round(part * (len(layers) - 1) / 6) for part in range(7)})]
    figure.legend(handles=[handles[layer] for layer in few], loc="outside right center", handlelength=3)
    return _titled(figure, model, f"singular values of the matrices of {_counted(len(layers), 'layer')}")


def attention(model: str, layer: int, probabilities: Tensor, words: Sequence[str], prompt: str) -> "Figure":
    """What each token of a text looks at, an image a head."""
    figure = new_figure()
    heads, tokens = probabilities.shape[:2]
    columns = -(-heads // 2) if heads <= 8 else 4
    rows = -(-heads // columns)
    every = -(-tokens // LABELS)
    ticks = range(0, tokens, every)
    side = 3.2 + 0.1 * max(0, len(ticks) - 24)
    figure.set_size_inches(max(6.4, side * columns), side * rows + 0.8)
    labels = [_label(words[at]) for at in ticks]
    # Among many tokens few get much of it: of the numbers that may be above 0 the largest hundredth is black.
    most = _largest(probabilities[:, torch.ones(tokens, tokens).tril().bool()], 0.99) if tokens > LABELS else 1
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[heads:]:
        axes.set_axis_off()
    for head, axes in enumerate(grid[:heads]):
        image = axes.imshow(probabilities[head].numpy(), cmap="Greys", vmin=0, vmax=most)
        image.set_interpolation(_interpolation(axes, probabilities[head]))
        axes.set_xticks(ticks, labels, rotation=90, fontsize=SMALL, parse_math=False)
        axes.set_yticks(ticks, labels, fontsize=SMALL, parse_math=False)
        axes.set_title(f"head {head}", fontsize=8)
    counted = f"{_counted(heads, 'head')}, {tokens} tokens" + (f", one in {every} named" if every > 1 else "")
    meaning = f"each row is a token and what it looks at, white 0, black {'1' if most == 1 else f'{most:.2g} or more'}"
    return _titled(figure, model, f"attention of layer {layer}, {counted}", meaning, prompt=prompt)


def norms(model: str, values: Tensor, width: int, prompt: str) -> "Figure":
    """The norm of the residual stream after each layer, over the tokens of a text."""
    figure = new_figure()
    axes = figure.subplots()
    layers = range(len(values))
    axes.plot(layers, values.median(-1).values.numpy(), marker="o", label="median of the tokens")
    axes.fill_between(layers, values.amin(-1).numpy(), values.amax(-1).numpy(), alpha=0.2, label="smallest to largest")
    axes.set(xlabel="after layer (0: the embedding)", ylabel="norm of the residual stream")
    _scaled(axes, values)
    axes.legend()
    return _titled(figure, model, f"residual stream, {values.shape[1]} tokens, width {width}", prompt=prompt)


def _scaled(axes: "Axes", curves: Iterable[Tensor]) -> None:
    """Whole numbers across, and up a logarithmic axis unless one of the curves, which it cannot show, is all 0."""
    axes.locator_params("x", integer=True)
    axes.set_yscale("log" if all(curve.any() for curve in curves) else "linear")


def _image(axes: "Axes", weight: Tensor, sides: tuple[str, str], corner: Sequence[int] = (0, 0)) -> None:
    """Numbers as colours, the scale the same to both sides of 0; the largest hundredth of a percent clipped."""
    from matplotlib import colormaps

    bound = _largest(weight[weight.isfinite()].abs(), 0.9999)
    (rows, columns), (top, left) = weight.shape, corner
    edges = (left - 0.5, left + columns - 0.5, top + rows - 0.5, top - 0.5)
    colours = colormaps[SIGNED].with_extremes(bad=ODD)
    image = axes.imshow(weight.numpy(), cmap=colours, vmin=-bound, vmax=bound, aspect="auto", extent=edges)
    image.set_interpolation(_interpolation(axes, weight))
    image.set_interpolation_stage("data")  # so that one number that is not finite is seen among many
    axes.set(ylabel=sides[0], xlabel=sides[1])
    axes.figure.colorbar(image, ax=axes)


def _largest(numbers: Tensor, part: float) -> float:
    """What so large a part of some numbers does not exceed; 1 where that is 0."""
    flat = numbers.flatten()
    return flat.kthvalue(max(1, int(part * len(flat)))).values.item() or 1.0 if len(flat) else 1.0


def _interpolation(axes: "Axes", cells: Tensor) -> str:
    """A cell a number where all fit; else averages, so that no row is passed over."""
    box = axes.get_window_extent()
    return "nearest" if len(cells) <= box.height and cells.shape[1] <= box.width else "antialiased"


def not_finite(weight: Tensor) -> int:
    """How many numbers are NaN or infinite."""
    return int((~weight.isfinite()).sum())


def _titled(figure: "Figure", model: str, what: str, *more: str, prompt: str | None = None) -> "Figure":
    """The figure under a title in lines that fit, with the end of a long name and the beginning of a long text."""
    title = figure.suptitle("", fontsize=TITLE, parse_math=False)

    def fits(line: str) -> bool:
        title.set_text(line)
        return title.get_window_extent().width < 0.95 * figure.bbox.width

    letters = _in_letters(model)
    starts = range(max(0, len(letters) - NAME), len(letters))
    names = (MORE * (start > 0) + "".join(letters[start:]) for start in starts)
    lines = [f"{next(filter(fits, names), '')}: {what}", *more]
    if prompt is not None:
        letters = _in_letters(prompt)
        ends = range(min(len(letters), PROMPT), 0, -1)
        texts = ("".join(letters[:end]) + MORE * (end < len(letters)) for end in ends)
        lines.append(next(filter(fits, texts), ""))
    title.set_text("\n".join(_wrapped(line, fits) for line in lines))
    return figure


def _wrapped(line: str, fits: Callable[[str], bool]) -> str:
    """A line, broken between words where it is too long: matplotlib takes what is between $ for a formula there."""
    done, *words = line.split(" ")
    for word in words:
        done += (" " if fits(f"{done.rpartition(chr(10))[2]} {word}") else "\n") + word
    return done


def _label(word: str) -> str:
    """A token as a label: spaces and line ends visible, clipped."""
    letters = _in_letters(word.replace(" ", "\N{OPEN BOX}"))
    if sum(map(len, letters)) > LETTERS:
        letters.append(MORE)
    while sum(map(len, letters)) > LETTERS:
        letters[-2:] = [MORE]
    return "".join(letters)


def _in_letters(text: str) -> list[str]:
    """Letters, each as itself or, where the font lacks it or it is invisible, its escape."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    has = get_font(findfont(FontProperties())).get_char_index
    return [printable(one) if has(ord(one)) else one.encode("unicode_escape").decode() for one in text]


def _sizes(shape: Sequence[int]) -> str:
    return " x ".join(f"{size:,}" for size in shape)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}"


def _in_words(name: str, weight: Tensor) -> str:
    odd = not_finite(weight)
    colour = f", {ODD}" if weight.ndim > 1 else ""
    return f"{name}, {_sizes(weight.shape)}" + (f"; {odd:,} not finite{colour}" if odd else "")
