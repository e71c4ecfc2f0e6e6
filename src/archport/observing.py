"""See and change what happens inside a forward pass, by names that are the same in every architecture.

The one place that hangs hooks on modules; all of them go when the `with` block ends, however it ends.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial, singledispatch
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
    """A place inside a forward pass: its name, the shape of its values, what they mean, and where they are computed.

    A value is the result of `step`, a method of the module `part`, or the first argument of its forward pass where
    `before`; of several results the one at `index`. `by_head` is for a step whose results have the heads before the
    sequence, where the site has them after it. While a site is observed, each method of the part that `instead` names
    first is replaced by the one it names second, which computes the same in steps. In a shape, `..` is any number of
    axes; it is empty where nobody has described the part.
    """

    name: str
    shape: str
    meaning: str
    part: str = ""
    step: str = "forward"
    before: bool = False
    index: int | None = None
    by_head: bool = False
    instead: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.shape}".rstrip() + f": {self.meaning}"


class Observed(Mapping[str, Tensor]):
    """The values of the observed sites: of the last pass by name, of every pass by `passes`."""

    def __init__(self, names: Iterable[str]) -> None:
        self._values: dict[str, list[Tensor]] = {name: [] for name in names}

    def __getitem__(self, name: str) -> Tensor:
        return self.passes(name)[-1]

    def passes(self, name: str) -> list[Tensor]:
        """The values of a site, one a pass, in order. Raises: KeyError."""
        if name not in self._values:
            raise KeyError(f"{name} is not observed{_nearest(name, self._values)}")
        if not self._values[name]:
            raise KeyError(f"{name}: nothing was computed there yet")
        return self._values[name]

    def record(self, name: str, value: Tensor) -> Tensor:
        """Add a value, and return it."""
        self._values[name].append(value)
        return value

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

    `names` are those of `sites`, or patterns in which `*` is any part between two dots. An edit takes a site's value
    and returns one of the same shape; where several match a site, each takes what the one before it returned. The
    value that goes on is the value kept, with its gradient. Works in every pass inside the `with` block: with and
    without a cache, padded, in `generate`, `stream` and `score`; `observe` blocks may be nested. Inside it the model
    can be neither copied nor pickled.

    Raises: SourceError; ConfigError for a name that is no site; in the pass, ValueError where an edit returns another
    shape, or where what is computed at a site is no tensor.
    """
    known = {site.name: site for site in sites(model)}
    edits: dict[str, list[Edit]] = defaultdict(list)
    for pattern, change in (edit or {}).items():
        for name in _matching(pattern, known):
            edits[name].append(_checked(change, pattern))
    kept = dict.fromkeys(name for pattern in names for name in _matching(pattern, known))
    observed = Observed(kept)
    with ExitStack() as stack:
        for name, site in known.items():
            if name in edits:
                stack.enter_context(_visited(model, site, partial(_edited, name, edits[name]), first=True))
            if name in kept:
                stack.enter_context(_visited(model, site, partial(observed.record, name), first=False))
        yield observed


@strict_keywords
def sites(model: Decoder) -> list[Site]:
    """Every place of a model that `observe` can see and change, what a module is made of before its result.

    Raises: SourceError.
    """
    if not isinstance(model, Decoder):
        raise SourceError(f"found a {type(model).__name__}, expected a Decoder of archport")
    blocks = {f"blocks.{number}": number for number in range(len(model.blocks))}
    known: dict[str, Site] = {}
    for path, module in model.named_modules():
        own = list(sites_of(module))
        if path in blocks:
            before = Site("", STREAM, f"the residual stream before block {blocks[path]}", before=True)
            after = Site("after", STREAM, f"the residual stream after block {blocks[path]}")
            own = [before, *(site for site in own if site.name), after]  # whatever class the block has
        for site in own:
            name = f"{path}.{site.name}".strip(".")
            # What a part says of a module inside it comes first, and holds.
            known.setdefault(name, replace(site, name=name, part=f"{path}.{site.part}".strip(".")))
    of_part: dict[str, list[Site]] = defaultdict(list)
    for site in known.values():
        of_part[site.part].append(site)

    def in_order(path: str, module: nn.Module) -> Iterator[Site]:
        yield from (site for site in of_part[path] if site.before)
        for name, child in module.named_children():
            yield from in_order(f"{path}.{name}".strip("."), child)
        yield from (site for site in of_part[path] if not site.before)

    return list(in_order("", model))


def is_observed(model: nn.Module) -> bool:
    """Whether something hangs on a model right now, by `observe` or by `hooked`."""
    return any(
        isinstance(value, _Hung)
        for module in model.modules()
        for held in (vars(module), module._forward_hooks, module._forward_pre_hooks)
        for value in held.values()
    )


@contextmanager
def hooked(
    modules: Mapping[str, nn.Module],
    *,
    before: Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any]], Any] | None = None,
    after: Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any], Any], Any] | None = None,
    first: bool = False,
) -> Iterator[None]:
    """Call `before` and `after` around the forward pass of any modules, with the name each has here.

    What they return, if anything, replaces the arguments, as (args, kwargs), or the result. They come after hooks that
    hang there already, unless `first`.
    """
    with ExitStack() as stack:
        for name, module in modules.items():
            if before is not None:
                hook: Any = _Hung(partial(before, name))
                stack.callback(module.register_forward_pre_hook(hook, prepend=first, with_kwargs=True).remove)
            if after is not None:
                hook = _Hung(partial(after, name))
                stack.callback(module.register_forward_hook(hook, prepend=first, with_kwargs=True).remove)
        yield


# --- the sites of each part, by its class ---


@singledispatch
def sites_of(part: nn.Module) -> Iterable[Site]:
    """The sites of one part, their names relative to its own; a part that nobody has described has its result.

    `sites_of.register` describes a class, and its subclasses with it.
    """
    return [Site("", "", _result(part))]


@sites_of.register(nn.ModuleList)
@sites_of.register(nn.ModuleDict)
@sites_of.register(nn.Dropout)
@sites_of.register(Rotary)
def _(part: nn.Module) -> Iterable[Site]:  # noqa: ARG001
    return []


@sites_of.register
def _(part: nn.Linear) -> Iterable[Site]:
    return [Site("", f"(.., {part.out_features})", _result(part))]


@sites_of.register
def _(part: nn.Embedding) -> Iterable[Site]:
    return [Site("", f"(.., {part.embedding_dim})", _result(part))]


@sites_of.register
def _(part: Decoder) -> Iterable[Site]:
    yield from _norms(part)
    yield Site("logits", "(batch, seq, vocab_size)", "the scores of the next token", step="logits")


@sites_of.register
def _(part: Embed) -> Iterable[Site]:
    yield Site("tokens", STREAM, "token vectors", part="tokens")
    if isinstance(part, PositionedEmbed):
        meaning = "learned positions, for all rows at once where none is padded"
        yield Site("positions", "(.., seq, width)", meaning, part="positions")
    yield Site("", STREAM, "what enters the first block", step="place")


@sites_of.register
def _(part: Block) -> Iterable[Site]:
    yield from _norms(part)
    if isinstance(part, SequentialBlock):
        yield Site("between", STREAM, "the residual stream between attention and MLP", step="add_attention")


@sites_of.register
def _(part: Attention) -> Iterable[Site]:
    yield Site("q", HEADS, "queries", step="project", index=0, by_head=True)
    yield Site("k", KV_HEADS, "keys", step="project", index=1, by_head=True)
    yield Site("v", KV_HEADS, "values", step="project", index=2, by_head=True)
    if part.q_norm is not None:
        yield Site("q_norm", HEADS, "queries after their norm", step="norm", index=0, by_head=True)
    if part.k_norm is not None:
        yield Site("k_norm", KV_HEADS, "keys after their norm", step="norm", index=1, by_head=True)
    if part.rotary is not None:
        yield Site("q_rotated", HEADS, "queries after rotary", step="rotate", index=0, by_head=True)
        yield Site("k_rotated", KV_HEADS, "keys after rotary", step="rotate", index=1, by_head=True)
    if _alike(part, "attend", "attend_eagerly", "scores", "probabilities"):
        eager = ("attend", "attend_eagerly")
        meaning = "how well each query matches each key, minus infinity where it may not look"
        yield Site("scores", SCORES, meaning, step="scores", instead=eager)
        meaning = "how much each query takes of each value"
        yield Site("probabilities", SCORES, meaning, step="probabilities", instead=eager)
    yield Site("heads", HEADS, "what each head has gathered", step="attend", by_head=True)
    if isinstance(part.out, nn.Linear) and _alike(part, "output", "output_by_head", "project_heads"):
        by_head = ("output", "output_by_head")
        meaning = "what each head adds to the stream; the bias of the output comes on top"
        yield Site("projected_heads", "(batch, seq, heads, width)", meaning, step="project_heads", instead=by_head)
    yield Site("out", STREAM, "what all heads add to the stream, with the bias", step="output")
    yield Site("", STREAM, "what attention adds to the stream")


@sites_of.register
def _(part: MLP) -> Iterable[Site]:  # noqa: ARG001
    yield Site("up", "(batch, seq, mlp_width)", "up-projected", part="up")
    yield Site("activation", "(batch, seq, mlp_width)", "after the activation", part="activation")
    yield Site("down", STREAM, "down-projected", part="down")
    yield Site("", STREAM, "what the MLP adds to the stream")


def _norms(part: nn.Module) -> Iterator[Site]:
    """The norms that stand in the stream, not in a head."""
    for name, child in part.named_children():
        if isinstance(child, nn.LayerNorm | nn.RMSNorm):
            yield Site(name, STREAM, "after this norm", part=name)


def _result(part: nn.Module) -> str:
    return f"the result of this {type(part).__name__}"


def _alike(part: nn.Module, step: str, *in_steps: str) -> bool:
    """Whether `in_steps` compute the same as `step`: not where a subclass overrides it, and none of them."""
    for cls in type(part).__mro__:
        if any(name in vars(cls) for name in in_steps):
            return True
        if step in vars(cls):
            break
    return False


# --- how a site is visited ---


class _Hung:
    """What hangs on a module for a while, and must not go into a copy of it: that would call the original's."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:  # by which copy and pickle go
        raise TypeError("a model that is observed cannot be copied or saved: leave the `with` block first")


class _Step(_Hung):
    """A method of one module, in its place while it is visited or replaced."""

    def __init__(self, method: Callable[..., Any]) -> None:
        super().__init__(method)
        self.visits: list[Callable[[Any], Any]] = []
        self.replacements: list[Callable[..., Any]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        method = self.replacements[-1] if self.replacements else self.function
        result = method(*args, **kwargs)
        for visit in self.visits:
            result = visit(result)
        return result


@contextmanager
def _visited(model: Decoder, site: Site, visit: Edit, *, first: bool) -> Iterator[None]:
    """Put what `visit` makes of a site's value in its place, in every pass, before other visits or after."""
    module = model.get_submodule(site.part)
    with ExitStack() as stack:
        if site.instead is not None:
            method, other = site.instead
            replaced = stack.enter_context(_step(module, method)).replacements
            stack.enter_context(_held(replaced, getattr(module, other), at=len(replaced)))
        if site.step == "forward":
            stack.enter_context(_hook(module, site, visit, first=first))
        else:
            visits = stack.enter_context(_step(module, site.step)).visits
            stack.enter_context(_held(visits, partial(_put, site, visit), at=0 if first else len(visits)))
        yield


@contextmanager
def _step(module: nn.Module, name: str) -> Iterator[_Step]:
    """A method that can be visited and replaced; it is the module's own again when nobody does any more."""
    own = vars(module).get(name)
    step = own if isinstance(own, _Step) else _Step(getattr(module, name))
    setattr(module, name, step)
    try:
        yield step
    finally:
        if not step.visits and not step.replacements:
            delattr(module, name)


@contextmanager
def _held(things: list[Any], thing: Any, *, at: int) -> Iterator[None]:
    """Hold something in a list, for a while."""
    things.insert(at, thing)
    try:
        yield
    finally:
        things.remove(thing)


def _hook(module: nn.Module, site: Site, visit: Edit, *, first: bool) -> AbstractContextManager[None]:
    """Visit the result of a forward pass, or its first argument."""

    def before(_: str, __: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return (_put(site, visit, args[0]), *args[1:]), kwargs

    def after(_: str, __: nn.Module, ___: Any, ____: Any, result: Any) -> Any:
        return _put(site, visit, result)

    modules = {site.part: module}
    return hooked(modules, before=before, first=first) if site.before else hooked(modules, after=after, first=first)


def _put(site: Site, visit: Edit, result: Any) -> Any:
    """Put what `visit` makes of a site's value in its place in the result of a step."""
    value = result if site.index is None else result[site.index]
    if not isinstance(value, Tensor):
        raise ValueError(f"{site.name}: found a {type(value).__name__}, expected a tensor: this cannot be observed")
    value = visit(value.transpose(1, 2)).transpose(1, 2) if site.by_head else visit(value)
    return value if site.index is None else (*result[: site.index], value, *result[site.index + 1 :])


def _edited(name: str, changes: Iterable[Edit], value: Tensor) -> Tensor:
    """What edits make of a value, or of a copy: they may work in place."""
    shape = value.shape
    for change in changes:
        value = change(value.clone())
        if not isinstance(value, Tensor) or value.shape != shape:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(f"the edit of {name} returns {got}, expected a tensor of shape {tuple(shape)}")
    return value


def _checked(change: Any, pattern: str) -> Edit:
    if not callable(change):
        raise ConfigError({"edit": f"found a {type(change).__name__} for {pattern!r}, expected a function"}, "observe")
    return change  # type: ignore[no-any-return]


def _matching(pattern: str, known: Mapping[str, Site]) -> list[str]:
    """The sites that a name or a pattern means. Raises: ConfigError."""
    if not isinstance(pattern, str):
        raise ConfigError({"site": f"found a {type(pattern).__name__}, expected a name"}, "observe")
    regex = re.compile(re.escape(pattern).replace(r"\*", r"[^.]+"))
    names = [name for name in known if regex.fullmatch(name)]
    if not names:
        raise ConfigError({"site": f"found {pattern!r}, which is none{_nearest(pattern, known)}"}, "observe")
    return names


def _nearest(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=3, cutoff=0.3)
    return f"; the nearest are {', '.join(close)}" if close else ""
