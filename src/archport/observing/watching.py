"""Keep what is computed at some sites, and put what an edit makes of it in its place."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
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
        """Add a value, and return it; of an inference tensor a copy that can go on under gradient."""
        with torch.inference_mode(False):
            self._values[name].append(value.clone() if value.is_inference() else value)
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
    and returns one of the same shape, dtype and device; where several match a site, each takes what the one before it
    returned, and of nested blocks the inner one's come first. The value that goes on is the value kept, with its
    gradient. Works in every pass inside the `with` block: with and without a cache, padded, in `generate`, `stream` and
    `score`. Inside it the model can be neither copied nor pickled; what torch.compile made of it before is not seen.

    Raises: SourceError; ConfigError for a name that is no site, and at the end for an edit that was never made; in the
    pass, ValueError where an edit returns another tensor, or where what is computed at a site is no tensor.
    """
    known = {site.name: site for site in sites(model)}
    edits = [_Edit(pattern, change) for pattern, change in _pairs(edit)]
    of_site: dict[str, list[_Edit]] = {name: [] for name in known}
    for one in edits:
        for name in _matching(one.pattern, known):
            of_site[name].append(one)
    kept = dict.fromkeys(name for pattern in names for name in _matching(pattern, known))
    observed = Observed(kept)
    with ExitStack() as stack:
        for name, site in known.items():
            for one in reversed(of_site[name]):  # each comes before those that are there already
                stack.enter_context(visited(model, site, partial(one, name), first=True))
            if name in kept:
                stack.enter_context(visited(model, site, partial(observed.record, name), first=False))
        yield observed
    if idle := [one.pattern for one in edits if not one.applied]:
        raise ConfigError({"edit": f"nothing was computed at {', '.join(idle)}, so nothing was changed"}, "observe")


class _Edit:
    """A change of the values at some sites, which remembers whether it was ever made."""

    def __init__(self, pattern: str, change: Any) -> None:
        if not callable(change):
            wanted = f"found a {type(change).__name__} for {pattern!r}, expected a function"
            raise ConfigError({"edit": wanted}, "observe")
        self.pattern, self.change, self.applied = pattern, change, False

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """What the change makes of a copy of a value, in which it may work in place. Raises: ValueError."""
        self.applied = True
        edited = self.change(value.clone())
        expected = f"a tensor of shape {tuple(value.shape)} in {value.dtype} on {value.device}"
        if not isinstance(edited, Tensor):
            raise ValueError(f"the edit of {name} returns a {type(edited).__name__}, expected {expected}")
        if (edited.shape, edited.dtype, edited.device) != (value.shape, value.dtype, value.device):
            returned = f"shape {tuple(edited.shape)} in {edited.dtype} on {edited.device}"
            raise ValueError(f"the edit of {name} returns {returned}, expected {expected}")
        return edited


def _pairs(edit: Any) -> Iterable[tuple[str, Any]]:
    if edit is not None and not isinstance(edit, Mapping):
        raise ConfigError({"edit": f"found a {type(edit).__name__}, expected names and functions"}, "observe")
    return (edit or {}).items()


def _matching(pattern: str, known: Mapping[str, Site]) -> list[str]:
    """The sites that a name or a pattern means. Raises: ConfigError."""
    if not isinstance(pattern, str):
        raise ConfigError({"site": f"found a {type(pattern).__name__}, expected a name"}, "observe")
    if "**" in pattern:
        raise ConfigError({"site": f"found {pattern!r}, expected `*`, which is one part between two dots"}, "observe")
    regex = re.compile(re.escape(pattern).replace(r"\*", r"[^.]+"))
    names = [name for name in known if regex.fullmatch(name)]
    if not names:
        raise ConfigError({"site": f"found {pattern!r}, which is no site{_suggestions(pattern, known)}"}, "observe")
    return names


def _suggestions(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=3, cutoff=0.3)
    return f"; the nearest are {', '.join(close)}" if close else ""
