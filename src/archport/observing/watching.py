"""Keep what is computed at some sites, and put what an edit makes of it in its place."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from functools import partial
from typing import Any

from torch import Tensor

from ..errors import ConfigError
from ..keywords import strict_keywords
from ..layers import Decoder
from .hooks import visited
from .site import Site, sites

Edit = Callable[[Tensor], Tensor]


class Observed(Mapping[str, Tensor]):
    """The values of the observed sites: of the last pass by name, of every pass by `passes`."""

    def __init__(self, names: Iterable[str]) -> None:
        self._values: dict[str, list[Tensor]] = {name: [] for name in names}

    def __getitem__(self, name: str) -> Tensor:
        return self.passes(name)[-1]

    def passes(self, name: str) -> list[Tensor]:
        """The values of a site, one a pass, in order. Raises: KeyError."""
        if name not in self._values:
            raise KeyError(f"{name} is not observed{_suggestions(name, self._values)}")
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
                stack.enter_context(visited(model, site, partial(_edited, name, edits[name]), first=True))
            if name in kept:
                stack.enter_context(visited(model, site, partial(observed.record, name), first=False))
        yield observed


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
        raise ConfigError({"site": f"found {pattern!r}, which is none{_suggestions(pattern, known)}"}, "observe")
    return names


def _suggestions(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=3, cutoff=0.3)
    return f"; the nearest are {', '.join(close)}" if close else ""
