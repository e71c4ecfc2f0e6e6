"""How a checkpoint stores a tensor, in words read off its row of the key table."""

from ..translate.table import Row


def layout(row: Row, ndim: int = 2, *, fused: bool = False) -> str:
    """How a checkpoint stores a weight that is ours as (out, in), or a bias; `fused` if of queries, keys and values."""
    regrouped = _regrouped(row)
    phrases = ["stored (in, out): transposed"] if ndim > 1 and _transposed(row) else []
    if len(row.keys) > 1:
        phrases.append(f"{len(row.keys)} weights, {_together(row)}")
    elif regrouped:
        columns = "columns are " if ndim > 1 else ""
        phrases.append(f"{columns}all queries, then keys, then values: regrouped head by head")
    return "; ".join(phrases) or ("as it is used" + (": head by head its query, key and value" if fused else ""))


def in_short(row: Row, *, fused: bool = False) -> str:
    """The order of a weight's axes in a checkpoint, as briefly as can be."""
    axes = "(in, out)" if _transposed(row) else "(out, in)"
    if len(row.keys) > 1:
        return f"{len(row.keys)} weights, {axes}"
    return axes + ((", all q, all k, all v" if _regrouped(row) else ", q, k, v of each head") if fused else "")


def _together(row: Row) -> str:
    """How several weights become one: by the first axis of the group that they lie in."""
    theirs, _, ours = (row.pattern or "").partition(" -> ")
    stack, first = theirs.split()[0], ours.partition("(")[2].split()[0]
    return "one after the other" if first == stack else f"put together {first} by {first}"


def _transposed(row: Row) -> bool:
    theirs, _, ours = (row.pattern or "").partition(" -> ")
    return theirs.startswith("...") and ours.endswith("...")


def _regrouped(row: Row) -> bool:
    return "(qkv head dim)" in (row.pattern or "").partition(" -> ")[0]
