"""What models are, in facts laid side by side: positions, wiring, attention, MLP, head, sizes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from ..config import dtype_name
from ..errors import CheckpointError, SourceError
from ..generation import text
from ..layers import SharedNormBlock
from .describing import Description, Fact
from .descriptions import described
from .subjects import Subject
from .trees import parameter_count

PARTS = ("positions", "residual", "attention", "mlp", "head", "vocabulary", "dropout", "sizes")
KINDS = {"embedding": "of embeddings", "attention": "of attention", "mlp": "of MLPs", "head": "of the head"}
NOT_KNOWN = "not known"


def facts(subject: Subject) -> list[Fact]:
    """Everything that two models may differ in but their numbers; what differs between layers is joined by `/`."""
    descriptions = described(subject)
    of_parts = [fact for description in descriptions.values() for fact in description.facts]
    of_whole = (*_vocabulary(subject), *_sizes(subject, descriptions))
    merged: dict[tuple[str, str], dict[str, None]] = {}
    for part, what, value in (
        *_positions(subject, descriptions),
        *_blocks(subject, descriptions),
        *of_parts,
        *of_whole,
    ):
        merged.setdefault((part, what), {})[value] = None
    return [Fact(*key, " / ".join(merged[key])) for key in _by_part(merged, PARTS)]


def _by_part(keys: Iterable[tuple[str, str]], first: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Keys with those of a part together, parts in the order of `first` and then as they come."""
    order = list(dict.fromkeys((*first, *(part for part, _ in keys))))
    return sorted(dict.fromkeys(keys), key=lambda key: order.index(key[0]))


def diff(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """A row a fact: its part, what it is, the value in each model, if it is the same in all. Raises: SourceError."""
    if len(subjects) < 2:
        raise SourceError(f"found {len(subjects)} model, expected two or more to compare")
    columns = [{(part, what): value for part, what, value in facts(subject)} for subject in subjects]
    rows = []
    for part, what in _by_part([key for column in (max(columns, key=len), *columns) for key in column]):
        values = [column.get((part, what), "-") for column in columns]
        rows.append({"part": part, "what": what, "values": values, "same": len(set(values)) == 1})
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


def _positions(subject: Subject, descriptions: Mapping[str, Description]) -> Iterator[Fact]:
    if not any(fact.part == "positions" for one in descriptions.values() for fact in one.facts):
        known = all(one.known and one.complete for one in descriptions.values())
        yield Fact("positions", "kind", "none" if known else NOT_KNOWN)
        yield Fact("positions", "context", f"{subject.config.context:,} tokens")


def _blocks(subject: Subject, descriptions: Mapping[str, Description]) -> Iterator[Fact]:
    for number, block in enumerate(subject.model.blocks):
        path, name = f"blocks.{number}", type(block).__name__
        if not any(fact.what == "wiring" for fact in descriptions[path].facts):
            wiring = getattr(block, "wiring", name) if descriptions[path].known else name
            yield Fact("residual", "wiring", wiring)
        parts = [descriptions[f"{path}.{name}"] for name, _ in block.named_children()]
        count = sum(part.kind == "norm" for part in parts)
        words = "one, for both" if isinstance(block, SharedNormBlock) else {1: "one", 2: "two"}.get(count, str(count))
        yield Fact("residual", "norms of a block", words if all(part.known for part in parts) else NOT_KNOWN)


def _vocabulary(subject: Subject) -> Iterator[Fact]:
    size = subject.config.vocab_size
    yield Fact("vocabulary", "size", f"{size:,}")
    yield Fact("vocabulary", "a multiple of", str(size & -size) if size % 2 == 0 else "no power of 2")
    if (known := _tokens_known(subject)) is not None:
        spare = f", {size - known:,} rows that none selects" if known < size else ""
        lacking = f", {known - size:,} without a row" if known > size else ""
        yield Fact("vocabulary", "tokenizer", f"{known:,} tokens{spare}{lacking}")


def _tokens_known(subject: Subject) -> int | None:
    folder = subject.plan.checkpoint.origin.folder if subject.plan else None
    if folder is None or not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return None
    try:
        return text.size(text.tokenizer(folder))
    except CheckpointError:
        return None


def _sizes(subject: Subject, descriptions: Mapping[str, Description]) -> Iterator[Fact]:
    model = subject.model
    yield Fact("sizes", "layers", str(len(model.blocks)))
    yield Fact("sizes", "width", f"{subject.config.width:,}")
    yield Fact("sizes", "parameters", f"{parameter_count(model):,}")
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
    inside = [(path.split("."), one.cached) for path, one in descriptions.items() if path.startswith("blocks.")]
    cached = [(path[1], numbers) for path, numbers in inside if numbers is not None]
    if len({layer for layer, _ in cached}) < len(subject.model.blocks):
        return NOT_KNOWN
    count = sum(numbers for _, numbers in cached) * subject.dtype.itemsize
    return f"{count:,} bytes a token in {dtype_name(subject.dtype)}"
