"""What models are, in facts laid side by side: positions, wiring, attention, MLP, head, sizes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from ..config import dtype_name
from ..errors import CheckpointError, SourceError
from ..generation import text
from ..layers import SharedNormBlock
from .describing import NOT_KNOWN, Description, Fact
from .descriptions import described
from .subjects import Subject
from .trees import parameter_count

PARTS = ("embedding", "positions", "residual", "attention", "mlp", "head", "vocabulary", "dropout", "sizes")
SHOWN = 8  # layers that are listed, where no rule says which they are
NUMBERS = {1: "one", 2: "two", 4: "four"}
ORDINALS = {2: "second", 3: "third", 4: "fourth", 5: "fifth", 6: "sixth", 8: "eighth"}
KINDS = {"embedding": "of embeddings", "attention": "of attention", "mlp": "of MLPs", "head": "of the head"}
ABSENT = "-"
LEGEND = f"{ABSENT} has no such thing"


def facts(subject: Subject) -> list[Fact]:
    """Everything that two models may differ in but their numbers; where layers differ, a value says in which it is."""
    descriptions = described(subject)
    merged: dict[tuple[str, str], dict[str, set[int | None]]] = {}
    for layer, (part, what, value) in (
        *_positions(subject, descriptions),
        *_blocks(subject, descriptions),
        *((layer_of(path), fact) for path, one in descriptions.items() for fact in one.facts),
        *((None, fact) for fact in (*_vocabulary(subject), *_sizes(subject, descriptions))),
    ):
        merged.setdefault((part, what), {}).setdefault(value, set()).add(layer)
    count = len(subject.model.blocks)
    return [Fact(*key, " / ".join(_by_layer(merged[key], count))) for key in _by_part(merged, PARTS)]


def layer_of(path: str) -> int | None:
    """The number of the block that a part lies in."""
    first, _, rest = path.partition(".")
    return int(rest.partition(".")[0]) if first == "blocks" and rest else None


def _by_layer(values: Mapping[str, set[int | None]], count: int) -> Iterator[str]:
    """Each value of a fact, with the layers it is of where those are not all."""
    everywhere = set(range(count))
    for value, found in values.items():
        layers = sorted(layer for layer in found if layer is not None)
        yield value if not layers or everywhere.issubset(layers) else f"{value} ({layers_in_words(layers, count)})"


def layers_in_words(layers: Sequence[int], count: int) -> str:
    """Some of so many layers: a run, every second one, all but such, or their numbers."""
    if words := _regular(layers, count):
        return words
    if words := _regular([layer for layer in range(count) if layer not in layers], count):
        return f"all but {words}"
    return f"layers {', '.join(map(str, layers[:SHOWN]))}" + (
        f" and {len(layers) - SHOWN} more" * (len(layers) > SHOWN)
    )


def _regular(layers: Sequence[int], count: int) -> str:
    first, last = layers[0], layers[-1]
    if len(layers) == 1:
        return f"layer {first}"
    step = layers[1] - first
    if list(layers) != list(range(first, last + 1, step)):
        return ""
    if step == 1:
        return f"layers {first} to {last}"
    ends = "" if last + step >= count else f" to {last}"
    return f"each {ORDINALS.get(step, f'{step}th')} layer from {first}{ends}"


def _by_part(keys: Iterable[tuple[str, str]], first: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Keys with those of a part together, parts in the order of `first` and then as they come."""
    order = list(dict.fromkeys((*first, *(part for part, _ in keys))))
    return sorted(dict.fromkeys(keys), key=lambda key: order.index(key[0]))


def diff(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """A row a fact: its part, what it is, the value in each model, and if it is the same in all.

    That is None where a model has no such thing or nobody knows, and those that do agree. Raises: SourceError.
    """
    if len(subjects) < 2:
        raise SourceError(f"found {len(subjects)} model, expected two or more to compare")
    columns = [{(part, what): value for part, what, value in facts(subject)} for subject in subjects]
    rows = []
    for part, what in _by_part([key for column in (max(columns, key=len), *columns) for key in column]):
        values = [column.get((part, what), ABSENT) for column in columns]
        known = {value for value in values if value not in (ABSENT, NOT_KNOWN)}
        same = False if len(known) > 1 else True if known == {*values} else None
        rows.append({"part": part, "what": what, "values": values, "same": same})
    return rows


def titles(subjects: Sequence[Subject]) -> list[str]:
    """A name for each model, also where two have the same."""
    names = [subject.name for subject in subjects]
    numbers = [names[: at + 1].count(name) for at, name in enumerate(names)]
    return [f"{name} ({number})" if number > 1 else name for name, number in zip(names, numbers, strict=True)]


def side_by_side(subjects: Sequence[Subject], rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows of `diff` with a column for each model."""
    names = titles(subjects)
    return [{"part": row["part"], "what": row["what"]} | dict(zip(names, row["values"], strict=True)) for row in rows]


def _positions(subject: Subject, descriptions: Mapping[str, Description]) -> Iterator[tuple[int | None, Fact]]:
    """That nothing tells positions apart, or that nobody knows, where no part says what does."""
    said = {layer_of(path) for path, one in descriptions.items() for fact in one.facts if fact.part == "positions"}
    if None in said:  # of all layers
        return
    if not said:
        yield None, Fact("positions", "context", f"{subject.config.context:,} tokens")
    for layer in range(len(subject.model.blocks)):
        if layer not in said:
            inside = [one for path, one in descriptions.items() if layer_of(path) in (layer, None)]
            known = all(one.known and one.complete for one in inside)
            yield layer, Fact("positions", "kind", "none" if known else NOT_KNOWN)


def _blocks(subject: Subject, descriptions: Mapping[str, Description]) -> Iterator[tuple[int, Fact]]:
    for number, block in enumerate(subject.model.blocks):
        path, name = f"blocks.{number}", type(block).__name__
        if not any(fact.what == "wiring" for fact in descriptions[path].facts):
            wiring = getattr(block, "wiring", name) if descriptions[path].known else name
            yield number, Fact("residual", "wiring", wiring)
        parts = [descriptions[f"{path}.{name}"] for name, _ in block.named_children()]
        count = sum(part.kind == "norm" for part in parts)
        words = "one, for both" if isinstance(block, SharedNormBlock) else NUMBERS.get(count, str(count))
        yield number, Fact("residual", "norms of a block", words if all(part.known for part in parts) else NOT_KNOWN)


def _vocabulary(subject: Subject) -> Iterator[Fact]:
    size = subject.config.vocab_size
    yield Fact("vocabulary", "size", f"{size:,}")
    yield Fact("vocabulary", "a multiple of", str(size & -size) if size % 2 == 0 else "no power of 2")
    if (known := _tokens_known(subject)) is not None:
        spare = f", {size - known:,} rows that none selects" if known < size else ""
        lacking = f", {known - size:,} without a row" if known > size else ""
        yield Fact("vocabulary", "tokenizer", f"{known:,} tokens{spare}{lacking}")


def _tokens_known(subject: Subject) -> int | None:
    origin = subject.plan.checkpoint.origin if subject.plan else None
    if origin is None or origin.folder is None:
        return None
    try:
        return text.size(text.tokenizer(origin.folder, follow_links=origin.follow_links))
    except CheckpointError:
        return None


def _sizes(subject: Subject, descriptions: Mapping[str, Description]) -> Iterator[Fact]:
    model = subject.model
    yield Fact("sizes", "layers", str(len(model.blocks)))
    yield Fact("sizes", "width", f"{subject.config.width:,}")
    yield Fact("sizes", "parameters", f"{parameter_count(model):,}")
    idle = sum(description.idle for description in descriptions.values())
    yield Fact("sizes", "active for a token", f"{parameter_count(model) - idle:,}" if idle else "all")
    kinds = {description.kind for description in descriptions.values()}
    counts: Counter[str] = Counter({what: 0 for kind, what in KINDS.items() if kind in kinds})
    for name, parameter in model.named_parameters():
        counts[_counted_as(subject, descriptions, name)] += parameter.numel()
    for what in filter(None, counts):
        yield Fact("sizes", what, f"{counts[what]:,}")
    if subject.plan:
        dtypes = dict.fromkeys(dtype_name(parameter.dtype) for parameter in model.parameters())
        yield Fact("sizes", "weights", " and ".join(dtypes))
    yield Fact("sizes", "KV cache", _cache(subject, descriptions))


def _counted_as(subject: Subject, descriptions: Mapping[str, Description], name: str) -> str:
    """By the outermost part around a parameter that is of a kind, or that nobody described."""
    for path in accumulate(name.split(".")[:-1], lambda outer, inner: f"{outer}.{inner}"):
        description = descriptions[path]
        if description.kind in KINDS:
            return KINDS[description.kind]
        if not (description.known or path.removeprefix("blocks.").isdigit()):
            return f"of {type(subject.model.get_submodule(path)).__name__}"
    return ""


def _cache(subject: Subject, descriptions: Mapping[str, Description]) -> str:
    """The bytes of keys and values kept for a token, where each layer has an attention that is known."""
    cached = {path: one for path, one in descriptions.items() if one.cached is not None}
    if len({layer_of(path) for path in cached}) < len(subject.model.blocks):
        return NOT_KNOWN
    size = subject.dtype.itemsize
    count = sum(one.cached or 0 for one in cached.values()) * size
    seen = f"{count:,} bytes a token in {dtype_name(subject.dtype)}"
    if reaches := [one.reach for one in cached.values() if one.reach is not None]:
        further = sum(one.cached or 0 for one in cached.values() if one.reach is None) * size
        more = f"only {further:,} more a token are" if further else "no more are"
        seen += f"; past {max(reaches):,} tokens {more} needed"
    return seen
