"""Which of our parts are to blame for a difference, given what agreed before it."""

from collections.abc import Collection

from ..locate import DECODER


def suspects(name: str, side: str, done: Collection[tuple[str, str]], norms: Collection[str]) -> tuple[str, ...]:
    """What may be to blame, given what was compared before: all since then, so the block, if much of it was not."""
    path = name.split(".")
    if name == DECODER:
        return (DECODER,)
    before, block = _before(name), ".".join(path[:2])
    inside = any(one.startswith(f"{block}.") for one, _ in done)
    if side == "output":
        if (name, "input") in done or name not in norms:
            return (name,)
        return (block, name, *before) if inside and path[0] == "blocks" else (name, *before)
    if path[0] != "blocks" or len(path) == 2:
        return before
    holder = ".".join(path[:-1])
    if len(path) > 3:
        around = (".".join(path[:length]) for length in range(len(path) - 1, 2, -1))
        seen = next((one for one in around if (one, "input") in done), None)
        return (seen,) if seen else (block, holder, *before)
    return (holder, *before)


def _before(name: str) -> tuple[str, ...]:
    """What makes the stream that a part reads."""
    path = name.split(".")
    if path[0] != "blocks":
        return (DECODER,) if name in ("head", "norm") else ("embed",)
    if path[1] == "0":
        return ("embed",)
    return (f"blocks.{int(path[1]) - 1}",)
