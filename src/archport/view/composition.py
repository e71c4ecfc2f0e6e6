"""An architecture in a line: its parts, by their facts at the sizes of its tests."""

from collections.abc import Iterator, Mapping

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


def parts(arch: Architecture) -> str:
    """What it is made of, in short; empty where it has no sizes to look at."""
    if not arch.sizes:
        return ""
    shown = Subject(arch.name, arch, arch.config_class(**arch.sizes))
    return "; ".join(_parts({f"{part} {what}": value for part, what, value in facts(shown)}))


def _parts(known: Mapping[str, str]) -> Iterator[str]:
    def values(what: str) -> list[str]:
        """The values of a fact, without the layers that have each."""
        return [value.partition(" (")[0] for value in known.get(what, "-").split(" / ")]

    def unusual(what: str) -> bool:
        return values(what) != [USUAL[what]] and known.get(what, "-") != "-"

    yield f"{' or '.join(values('positions kind'))} positions"
    if values("positions rotary pairs") == ["2i and 2i + 1"]:
        yield "pairs of neighbours"
    seen = values("attention sees")
    if any(value.startswith("the last") for value in seen):
        yield "a window" if len(seen) == 1 else "a window in some layers"
    if any("chunk" in value for value in seen):
        yield "chunks" if len(seen) == 1 else "chunks in some layers"
    if "keys and values" in known.get("attention heads", ""):
        yield "grouped heads"
    if unusual("attention norms of q and k"):
        yield "norms of q and k"
    if unusual("attention clip"):
        yield "q, k and v clipped"
    if "bent" in known.get("attention scores", ""):
        yield "capped scores"
    if unusual("attention sinks"):
        yield "sinks"
    yield " and ".join(dict.fromkeys(value.partition(",")[0] for value in values("residual norm")))
    experts = "experts" in known.get("mlp kind", "")
    gated = "gated " if "gated" in known.get("mlp kind", "") else ""
    yield f"{gated}MLP{'s as experts' * experts} with {' or '.join(values('mlp activation')).replace(',', '')}"
    yield " or ".join(values("residual wiring"))
    if unusual("embedding token vectors"):
        changes = known["embedding token vectors"].replace("times", "scaled").split(", ")
        yield f"token vectors {' and '.join(change.split(' ')[0] for change in changes)}"
    if unusual("head logits"):
        yield "capped logits" if "bent" in known["head logits"] else "scaled logits"
