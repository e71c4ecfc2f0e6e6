"""How a checkpoint stores a tensor, in words read off its row of the key table."""

from ..translate.pattern import Row


def layout(row: Row, ndim: int = 2, *, fused: bool = False) -> str:
    """How a checkpoint stores a weight that is ours as (out, in), or a bias; `fused` if of queries, keys and values."""
    theirs, ours, transposed, regrouped = _sides(row)
    phrases = ["stored (in, out): transposed"] if ndim > 1 and transposed else []
    if len(row.keys) > 1:
        # Several become one by the first axis of the group that they lie in.
        stack, first = theirs.split()[0], ours.partition("(")[2].split()[0]
        together = "one after the other" if first == stack else f"put together {first} by {first}"
        phrases.append(f"{len(row.keys)} weights, {together}")
    elif regrouped:
        columns = "columns are " if ndim > 1 else ""
        phrases.append(f"{columns}all queries, then keys, then values: regrouped head by head")
    return "; ".join(phrases) or ("as it is used" + (": head by head its query, key and value" if fused else ""))


def in_short(row: Row, *, fused: bool = False) -> str:
    """The order of a weight's axes in a checkpoint, as briefly as can be."""
    _, _, transposed, regrouped = _sides(row)
    axes = "(in, out)" if transposed else "(out, in)"
    if len(row.keys) > 1:
        return f"{len(row.keys)} weights, {axes}"
    return axes + ((", all q, all k, all v" if regrouped else ", q, k, v of each head") if fused else "")


def _sides(row: Row) -> tuple[str, str, bool, bool]:
    """The sides of a row's pattern, and whether it transposes and regroups."""
    theirs, _, ours = (row.pattern or "").partition(" -> ")
    return theirs, ours, theirs.startswith("...") and ours.endswith("..."), "([group k v] kv dim)" in theirs
