"""An architecture in a line: the parts that it has at some sizes, or at one or another of several."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..registry import Architecture
from .fact_table import facts
from .subjects import Subject

# What most have, and need not be said: a fact with the value that it has there.
USUAL = {
    "attention norms of q and k": "no",
    "attention clip": "no",
    "attention sinks": "no",
    "embedding token vectors": "as they are",
    "head logits": "as they are",
    "residual branches": "as they are",
}


def parts(arch: Architecture, several: Iterable[Mapping[str, Any]]) -> str:
    """What it is made of at all the sizes given, in short; empty where none are."""
    known = [_known(arch, sizes) for sizes in several]
    return "; ".join(_parts(known)) if known else ""


def _known(arch: Architecture, sizes: Mapping[str, Any]) -> dict[str, list[str]]:
    """The values of each fact, without the layers that have each."""
    few = {"experts": sizes["experts_per_token"]} if "experts_per_token" in sizes else {}  # which are as good as many
    shown = Subject(arch.name, arch, arch.config_class(**{**sizes, **few}))
    values = {f"{part} {what}": value.split(" / ") for part, what, value in facts(shown)}
    return {what: [value.partition(" (")[0] for value in some] for what, some in values.items()}


def _parts(known: Sequence[Mapping[str, list[str]]]) -> Iterator[str]:
    def values(what: str) -> list[str]:
        return list(dict.fromkeys(value for one in known for value in one.get(what, [])))

    def unusual(what: str) -> list[str]:
        return [value for value in values(what) if value != USUAL[what]]

    def anywhere(what: str, words: str) -> bool:
        return any(words in value for value in values(what))

    def among(what: str, words: str) -> str:
        """Where some layers alone have it, that they do."""
        mixed = any(0 < sum(words in value for value in one.get(what, [])) < len(one[what]) for one in known)
        return " in some layers" if mixed else ""

    told = dict.fromkeys(kind.partition(",")[0] for kind in values("positions kind") if kind != "none")
    yield f"{' or '.join(told) or 'no'} positions{among('positions kind', 'none')}"
    if values("positions rotary pairs") == ["2i and 2i + 1"]:
        yield "pairs of neighbours"
    for words, named in (("the last", "a window"), ("chunk", "chunks")):
        if anywhere("attention sees", words):
            yield named + among("attention sees", words)
    if anywhere("attention heads", "keys and values"):
        yield "grouped heads"
    if unusual("attention norms of q and k"):
        yield "norms of q and k"
    if unusual("attention clip"):
        yield "q, k and v clipped"
    if anywhere("attention scores", "bent"):
        yield "capped scores"
    if unusual("attention sinks"):
        yield "sinks"
    yield " or ".join(dict.fromkeys(value.partition(",")[0] for value in values("residual norm")))
    gated = "gated " if anywhere("mlp kind", "gated") else ""
    experts = "s as experts" if anywhere("mlp kind", "experts") else ""
    yield f"{gated}MLP{experts} with {' or '.join(values('mlp activation')).replace(',', '')}"
    yield " or ".join(values("residual wiring"))
    if changes := unusual("embedding token vectors"):
        verbs = (one.split(" ")[0].replace("times", "scaled") for value in changes for one in value.split(", "))
        yield f"token vectors {' and '.join(dict.fromkeys(verbs))}"
    if anywhere("head logits", "bent"):
        yield "capped logits"
    if anywhere("head logits", "times"):
        yield "scaled logits"
