"""Pictures of what is inside a checkpoint, drawn with matplotlib: positions, weights, attention, spectra, norms."""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import port
from ..errors import CheckpointError, ConfigError, NotFiniteWarning, SourceError
from ..files.source import BUNDLED
from ..files.write import check_target, whole_file
from ..keywords import strict_keywords
from ..layers import PositionedEmbed, Rotary
from ..load_plan import LoadPlan
from ..translate.pattern import Row
from . import drawing
from .descriptions import described
from .layouts import transposed
from .measured import probabilities, probabilities_site, spectra, stream_norms, tokens
from .selecting import Selected, fault, tensor
from .subjects import Subject, subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("positions", "weights", "attention", "spectrum", "norms")
PROMPT = "When Mary and John went to the store, John gave a drink to Mary."
CODE = "def __init__(self, name):\n    self.name = name"  # for the bundled checkpoint, which knows nothing else
# Which kinds have each option, and what it is.
OPTIONS: dict[str, tuple[tuple[str, ...], type]] = {
    "name": (("weights",), str),
    "layer": (("attention",), int),
    "prompt": (("attention", "norms"), str),
    "columns": (("positions",), Sequence),
}
OF_ALL = ("attention", "spectrum", "norms")  # these need most of the weights, the others one tensor
UNDATED: dict[str, dict[str, None]] = {".png": {}, ".svg": {"Date": None}}


@strict_keywords
def plot(
    source: str | Path | None,
    kind: str,
    *,
    name: str | None = None,
    layer: int | None = None,
    prompt: str | None = None,
    columns: Sequence[int] | None = None,
    revision: str | None = None,
    offline: bool = False,
    variant: str | None = None,
    follow_links: bool = False,
) -> "Figure":
    """A matplotlib Figure of what is inside a checkpoint: positions, weights, attention, spectrum or norms.

    `source` is a folder, a Hub id or "bundled". `name` is a tensor's, for weights: ours, or the checkpoint's key, which
    is drawn as it lies in the file; "[:64, 64:128]" behind it asks for a block. `columns` of learned positions become
    curves; without them, the three that vary most. `layer` is for attention, `prompt` for attention and norms. Only the
    tensors that are drawn are read.

    Raises: ConfigError, SourceError, CheckpointError, MappingError.
    """
    options: dict[str, Any] = {"name": name, "layer": layer, "prompt": prompt, "columns": columns}
    how = {"revision": revision, "offline": offline, "variant": variant, "follow_links": follow_links}
    target = opened(source, kind, how, **options)
    return draw(with_weights(target, kind, offline=offline), kind, **options)


def opened(source: str | Path | None, kind: str, how: Mapping[str, Any], **options: Any) -> Subject:
    """What is to be drawn, by its headers, the arguments of `plot` checked; `how` are those of `subject`.

    Raises: as `plot`.
    """
    _check_options(kind, options)
    looked_at = partial(subject, source, **how)
    try:
        target = looked_at()
    except CheckpointError:  # a pickle on the Hub has to be fetched before its headers are known
        target = looked_at(headers_only=False)
    check(target, kind, **options)
    return target


def with_weights(target: Subject, kind: str, *, offline: bool = False) -> Subject:
    """The subject, its files fetched where this kind of picture needs most of them."""
    if target.plan is None or target.at_hand or kind not in OF_ALL:
        return target
    origin = target.plan.checkpoint.origin
    return subject(origin.name, revision=origin.revision, offline=offline, headers_only=False, **origin.how)


def draw(
    subject: Subject,
    kind: str,
    *,
    name: str | None = None,
    layer: int | None = None,
    prompt: str | None = None,
    columns: Sequence[int] | None = None,
) -> "Figure":
    """The figure of `plot`. Raises: ConfigError; SourceError, also where no weights were fetched."""
    check(subject, kind, name=name, layer=layer, prompt=prompt, columns=columns)
    plan, layer = _plan(subject), layer or 0
    if not subject.at_hand and (kind in OF_ALL or not plan.checkpoint.remote):
        raise SourceError(f"{subject.name}: its weights were not fetched, so there is nothing to draw")
    if kind == "positions":
        selected = tensor(plan, _learned_positions(subject))
        return drawing.positions(subject.name, selected.title, selected.read(plan), columns)
    if kind == "weights":
        selected = tensor(plan, name)
        corner = [part.start for part in selected.ranges]
        sides = _sides(subject, plan, selected)
        return drawing.weights(subject.name, selected.title, selected.read(plan), sides, corner)
    if kind == "spectrum":
        return drawing.spectrum(subject.name, spectra(plan))
    prompt = _default_prompt(plan) if prompt is None else prompt
    ids, words = tokens(subject, plan, prompt)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotFiniteWarning)  # reported below
        origin = plan.checkpoint.origin
        model = port.load(origin.source, dtype=torch.float32, **origin.how)
    if kind == "attention":
        values, where = probabilities(model, ids, layer), f"in layer {layer}"
    else:
        values = stream_norms(model, ids)
        good = values.isfinite().all(-1).tolist()
        where = f"after {(*good, False).index(False)} layers" if good[0] else "in the embedding"
    if not values.isfinite().all():
        raise fault(kind, f"found numbers {where} that are not finite, expected finite ones")
    if kind == "attention":
        return drawing.attention(subject.name, layer, values, words, prompt)
    return drawing.norms(subject.name, values, subject.config.width, prompt)


def drawable(subject: Subject) -> list[str]:
    """The kinds that need no name, but for learned positions where a model has none."""
    return [kind for kind in KINDS if kind != "weights" and (kind != "positions" or _learned_positions(subject))]


def check(subject: Subject, kind: str, **options: Any) -> None:
    """Check the arguments of `plot` as far as headers tell. Raises: ConfigError; SourceError, also for matplotlib."""
    _check_options(kind, options)
    plan, layer, columns = _plan(subject), options.get("layer"), options.get("columns")
    if kind == "positions" and _learned_positions(subject) is None:
        rotary = any(isinstance(part, Rotary) for part in subject.model.modules())
        what = "rotary positions, which are angles and not learned" if rotary else "no PositionedEmbed of archport"
        raise fault(kind, f"{subject.name} has {what}; {', '.join(KINDS[1:])} can be drawn")
    if kind == "weights" and len((selected := tensor(plan, options.get("name"))).shape) not in (1, 2):
        raise fault(kind, f"found {selected.name} with {len(selected.shape)} axes, expected 1 or 2")
    if layer is not None and not 0 <= layer < subject.config.layers:
        raise fault("layer", f"found {layer}, expected 0 to {subject.config.layers - 1}")
    most = tensor(plan, _learned_positions(subject)).shape[1] if columns is not None else 0
    if columns is not None and (not columns or any(type(one) is not int or not 0 <= one < most for one in columns)):
        raise fault("columns", f"found {list(columns)}, expected numbers from 0 to {most - 1}")
    if kind == "attention":
        probabilities_site(subject.model, layer or 0)
    if kind in OPTIONS["prompt"][0] and subject.at_hand:
        prompt = options.get("prompt")
        tokens(subject, plan, _default_prompt(plan) if prompt is None else prompt)
    drawing.new_figure()


def _check_options(kind: str, options: dict[str, Any]) -> None:
    """Check what can be known of the arguments of `plot` before anything is opened. Raises: ConfigError."""
    if kind not in KINDS:
        raise fault("kind", f"found {kind!r}, expected {', '.join(KINDS)}")
    faults = {}
    for option, value in options.items():
        kinds, expected = OPTIONS[option]
        if value is not None and kind not in kinds:
            faults[option] = f"found {value!r}, but {kind} has none: it is for {' and '.join(kinds)}"
        elif value is not None and (not isinstance(value, expected) or isinstance(value, bool)):
            faults[option] = f"found {value!r}, expected a {expected.__name__}"
    if faults:
        raise ConfigError(faults, "plot")


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


def _default_prompt(plan: LoadPlan) -> str:
    return CODE if plan.checkpoint.origin.name == BUNDLED else PROMPT


def _learned_positions(subject: Subject) -> str | None:
    paths = (path for path, part in subject.model.named_modules() if isinstance(part, PositionedEmbed))
    return next((f"{path}.positions.weight" for path in paths), None)


def _sides(subject: Subject, plan: LoadPlan, selected: Selected) -> tuple[str, str]:
    """What lies down and across a matrix."""
    step = selected.step or next((step for step in plan.mapped if selected.name in step.keys), None)
    if step is None:
        return "row", "column"
    down, across = described(subject)[str(step.name).rpartition(".")[0]].sides
    turned = selected.step is None and transposed(Row(step.keys, step.pattern))
    return (across, down) if turned else (down, across)
