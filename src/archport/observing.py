"""See and change what happens inside a forward pass, by names that are the same in every architecture.

The one place that hangs hooks on modules: all of them go when the `with` block ends, however it ends.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import singledispatch
from typing import Any

from torch import Tensor, nn

from .errors import ConfigError, SourceError
from .keywords import strict_keywords
from .layers import MLP, Attention, Block, Decoder, Embed, PositionedEmbed, Rotary, SequentialBlock

Edit = Callable[[Tensor], Tensor]

STREAM = "(batch, seq, width)"
HEADS = "(batch, seq, heads, head_width)"
KV_HEADS = "(batch, seq, kv_heads, head_width)"
SCORES = "(batch, heads, seq, keys)"


@dataclass(frozen=True)
class Site:
    """A place inside a forward pass: its name, the shape of its values, what they mean, and where they are made.

    They are the result of a `step`, a method of the module `part`, or what it is given where `before`; of several
    results the one at `index`. Where `by_head`, the step has heads before the sequence and the site has them after it.
    `instead` names methods of the part and those that stand in for them while the site is looked at.
    """

    name: str
    shape: str
    meaning: str
    part: str = ""
    step: str = "forward"
    before: bool = False
    index: int | None = None
    by_head: bool = False
    instead: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.shape}: {self.meaning}"


class Observed(Mapping[str, Tensor]):
    """The values of the sites that are looked at: of the last pass by name, of every pass by `passes`."""

    def __init__(self, sites: Iterable[Site]) -> None:
        self._values: dict[str, list[Tensor]] = {site.name: [] for site in sites}

    def __getitem__(self, name: str) -> Tensor:
        return self.passes(name)[-1]

    def passes(self, name: str) -> list[Tensor]:
        """The values of a site, one a pass, in order. Raises: KeyError."""
        if name not in self._values:
            raise KeyError(f"{name} is not observed{_nearest(name, self._values)}")
        if not self._values[name]:
            raise KeyError(f"{name}: nothing was computed there yet")
        return self._values[name]

    def record(self, name: str, value: Tensor) -> None:
        """Add a value."""
        self._values[name].append(value)

    def __iter__(self) -> Iterator[str]:
        return (name for name, values in self._values.items() if values)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"Observed({', '.join(f'{name} {tuple(self[name].shape)}' for name in self)})"


@strict_keywords
@contextmanager
def observe(model: Decoder, *names: str, edit: Mapping[str, Edit] | None = None) -> Iterator[Observed]:
    """Keep what is computed at some sites of a model, and put what `edit` makes of it in its place.

    `names` are those of `sites`, or patterns in which `*` is any part between two dots. An edit takes the site's value
    and returns one of the same shape; what is kept is what goes on. Values keep their gradients. Works in every pass
    inside the `with` block: with and without a cache, padded, in `generate`, `stream` and `score`.

    Raises: SourceError, ConfigError for a name that is no site, ValueError where an edit returns another shape.
    """
    known = {site.name: site for site in sites(model)}
    edits = {name: change for pattern, change in (edit or {}).items() for name in _matching(pattern, known)}
    looked_at = dict.fromkeys(name for pattern in names for name in _matching(pattern, known))
    observed = Observed(known[name] for name in looked_at)
    chosen = [known[name] for name in known if name in looked_at or name in edits]

    def visit(site: Site, value: Any) -> Tensor:
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{site.name}: found a {type(value).__name__}, which cannot be observed, expected a tensor"
            )
        if site.name in edits:
            value = _edited(site, value, edits[site.name])
        if site.name in looked_at:
            observed.record(site.name, value)
        return value

    with ExitStack() as stack:
        for part in dict.fromkeys(site.part for site in chosen):
            module = model.get_submodule(part)
            for method, stand_in in {pair for site in chosen if site.part == part for pair in site.instead}:
                stack.enter_context(_replaced(module, method, getattr(module, stand_in)))
        for part, step in dict.fromkeys((site.part, site.step) for site in chosen):
            here = [site for site in chosen if (site.part, site.step) == (part, step)]
            stack.enter_context(_visiting(model, here, visit))
        yield observed


@strict_keywords
def sites(model: Decoder) -> list[Site]:
    """Every place of a model that `observe` can see and change, in the order of its modules. Raises: SourceError."""
    if not isinstance(model, Decoder):
        raise SourceError(f"found a {type(model).__name__}, expected a Decoder of archport")
    blocks = {f"blocks.{number}": number for number in range(len(model.blocks))}
    found: dict[str, Site] = {}
    for path, module in model.named_modules():
        own = list(sites_of(module))
        if path in blocks:
            before = Site("", STREAM, f"the residual stream before block {blocks[path]}", before=True)
            after = Site("after", STREAM, f"the residual stream after block {blocks[path]}")
            own = [before, *own, after]
        for site in own:
            name = f"{path}.{site.name}".strip(".")
            found.setdefault(name, replace(site, name=name, part=f"{path}.{site.part}".strip(".")))
    found["logits"] = found.pop("logits")  # comes last
    return list(found.values())


def is_observed(model: nn.Module) -> bool:
    """Whether some site of a model is looked at right now."""
    return any(getattr(module, "_observed", 0) for module in model.modules())


@contextmanager
def hooked(
    modules: Mapping[str, nn.Module],
    *,
    before: Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any]], Any] | None = None,
    after: Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any], Any], Any] | None = None,
) -> Iterator[None]:
    """Call `before` and `after` around the forward pass of any modules, with the name each has here.

    What they return, if anything, replaces the arguments, as (args, kwargs), or the result.
    """
    with ExitStack() as stack:
        for name, module in modules.items():
            if before is not None:
                taken = lambda m, args, kwargs, name=name: before(name, m, args, kwargs)  # noqa: E731
                stack.callback(module.register_forward_pre_hook(taken, with_kwargs=True).remove)
            if after is not None:
                made = lambda m, args, kwargs, result, name=name: after(name, m, args, kwargs, result)  # noqa: E731
                stack.callback(module.register_forward_hook(made, with_kwargs=True).remove)
        yield


# --- the sites of each part, by its class ---


@singledispatch
def sites_of(part: nn.Module) -> Iterable[Site]:
    """The sites of one part, their names relative to its own; a part that nobody has described has its result."""
    return [] if isinstance(part, nn.ModuleList) else [Site("", "", f"what this {type(part).__name__} makes")]


@sites_of.register
def _(part: Decoder) -> Iterable[Site]:  # noqa: ARG001
    return [Site("logits", "(batch, seq, vocab_size)", "the scores of the next token", step="logits")]


@sites_of.register
def _(part: Embed) -> Iterable[Site]:
    learned = ", with learned positions" if isinstance(part, PositionedEmbed) else ""
    return [Site("", STREAM, f"token vectors{learned}: the stream before block 0")]


@sites_of.register
def _(part: Rotary) -> Iterable[Site]:  # noqa: ARG001
    return []


@sites_of.register
def _(part: nn.LayerNorm) -> Iterable[Site]:  # noqa: ARG001
    return [Site("", STREAM, "what the norm makes of the stream")]


@sites_of.register
def _(part: Block) -> Iterable[Site]:  # noqa: ARG001
    return []


@sites_of.register
def _(part: SequentialBlock) -> Iterable[Site]:  # noqa: ARG001
    return [Site("between", STREAM, "the residual stream between attention and MLP", step="add_attention")]


@sites_of.register
def _(part: Attention) -> Iterable[Site]:
    eager = (("attend", "attend_eagerly"),)
    yield Site("q", HEADS, "queries", step="project", index=0, by_head=True)
    yield Site("k", KV_HEADS, "keys", step="project", index=1, by_head=True)
    yield Site("v", KV_HEADS, "values", step="project", index=2, by_head=True)
    if part.rotary is not None:
        yield Site("q_rotated", HEADS, "queries after rotary", step="rotate", index=0, by_head=True)
        yield Site("k_rotated", KV_HEADS, "keys after rotary", step="rotate", index=1, by_head=True)
    yield Site("scores", SCORES, "how well each query matches each key", step="scores", instead=eager)
    meaning = "how much each query takes of each value"
    yield Site("probabilities", SCORES, meaning, step="probabilities", instead=eager)
    yield Site("heads", HEADS, "what each head has gathered", step="attend", by_head=True)
    if isinstance(part.out, nn.Linear):
        yield Site(
            "projected_heads",
            "(batch, seq, heads, width)",
            "what each head adds to the stream; the output's bias comes on top",
            step="project_heads",
            instead=(("output", "output_by_head"),),
        )
    yield Site("", STREAM, "what attention adds to the stream")


@sites_of.register
def _(part: MLP) -> Iterable[Site]:  # noqa: ARG001
    wide = "(batch, seq, mlp_width)"
    yield Site("up", wide, "before the activation", part="up")
    yield Site("activation", wide, "after the activation", part="activation")
    yield Site("", STREAM, "what the MLP adds to the stream")


# --- how a site is visited ---


def _visiting(model: Decoder, here: list[Site], visit: Callable[[Site, Any], Tensor]) -> Any:
    """Visit the sites of one step of one part, or of what it is given."""
    part, step = here[0].part, here[0].step
    module = model.get_submodule(part)
    if step != "forward":
        return _replaced(module, step, _visited(getattr(module, step), here, visit))

    def before(_: str, __: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for site in (site for site in here if site.before):
            args = (visit(site, args[0]), *args[1:])
        return args, kwargs

    def after(_: str, __: nn.Module, ___: Any, ____: Any, result: Any) -> Any:
        for site in (site for site in here if not site.before):
            result = visit(site, result)
        return result

    return _marked(module, hooked({part: module}, before=before, after=after))


def _visited(method: Callable[..., Any], here: list[Site], visit: Callable[[Site, Any], Tensor]) -> Callable[..., Any]:
    """A method whose results are visited."""

    def step(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        several = isinstance(result, tuple)
        results = list(result) if several else [result]
        for site in here:
            value = results[site.index or 0]
            value = visit(site, value.transpose(1, 2) if site.by_head else value)
            results[site.index or 0] = value.transpose(1, 2) if site.by_head else value
        return tuple(results) if several else results[0]

    return step


@contextmanager
def _replaced(module: nn.Module, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """Another method of one module, for now."""
    previous = vars(module).get(name)
    with _marked(module):
        object.__setattr__(module, name, method)
        try:
            yield
        finally:
            if previous is None:
                object.__delattr__(module, name)
            else:
                object.__setattr__(module, name, previous)


@contextmanager
def _marked(module: nn.Module, inner: Any = None) -> Iterator[None]:
    """Count how often a module is looked at."""
    object.__setattr__(module, "_observed", getattr(module, "_observed", 0) + 1)
    try:
        with ExitStack() as stack:
            if inner is not None:
                stack.enter_context(inner)
            yield
    finally:
        object.__setattr__(module, "_observed", module._observed - 1)  # type: ignore[operator]


def _edited(site: Site, value: Tensor, change: Edit) -> Tensor:
    edited = change(value)
    if not isinstance(edited, Tensor) or edited.shape != value.shape:
        got = f"shape {tuple(edited.shape)}" if isinstance(edited, Tensor) else f"a {type(edited).__name__}"
        raise ValueError(f"the edit of {site.name} returns {got}, expected a tensor of shape {tuple(value.shape)}")
    return edited


def _matching(pattern: str, known: Mapping[str, Site]) -> list[str]:
    """The sites that a name or a pattern means. Raises: ConfigError."""
    regex = re.compile(re.escape(pattern).replace(r"\*", r"[^.]+"))
    names = [name for name in known if regex.fullmatch(name)]
    if not names:
        raise ConfigError({"site": f"found {pattern!r}, which is none{_nearest(pattern, known)}"}, "observe")
    return names


def _nearest(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=3, cutoff=0.3)
    return f"; the nearest are {', '.join(close)}" if close else ""
