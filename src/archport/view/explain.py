"""What each part of a model does, with this model's numbers, and where each of its tensors lies in a checkpoint."""

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, cast

from ..errors import ConfigError
from ..layers import PositionedEmbed, Rotary
from ..translate.table import Table
from .asked import nearest
from .facts import layout, scaling
from .subject import Subject
from .tree import Line, folded


def explain(subject: Subject, pattern: str | None = None) -> list[dict[str, Any]]:
    """A row a module: what it does, and for each of its tensors the shape, the checkpoint's keys and their layout.

    `pattern` is a part of a module's path, of a tensor's name or of its key, or a glob of one; blocks that are alike
    are explained once, as `blocks.{n}`. Raises: ConfigError for a pattern that nothing matches, with the nearest names.
    """
    rows = _merged([_row(subject, line) for line in folded(subject.model)])
    rows = [row for row in rows if row["text"] or row["tensors"]]
    if pattern is None:
        return rows
    layer = re.search(r"(?:^|\.)(\d+)(?:\.|$)", pattern)
    if layer and int(layer[1]) >= subject.config.layers:
        raise ConfigError({"pattern": f"found layer {layer[1]}, expected 0 to {subject.config.layers - 1}"}, "explain")
    table = subject.architecture.table
    found = [row for row in rows if any(_matches(pattern, name) for name in _names(row, table))]
    if not found:
        near = nearest(every(pattern), {name: () for row in rows for name in _names(row, table)})
        said = f"found {pattern!r}, which names nothing here; the nearest are {', '.join(near)}"
        raise ConfigError({"pattern": said}, "explain")
    return found


def _merged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of blocks that were not folded but say the same, as of two types of numbers, as one."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        same = found.setdefault(str(row | {"count": 0}), row | {"count": 0})
        same["count"] += row["count"]
    return list(found.values())


def every(path: str) -> str:
    """A module or a key as it is called in every layer: `blocks.{n}.attn`."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "{n}", path, count=1)


def _names(row: dict[str, Any], table: Table) -> list[str]:
    """All that a part may be called: by us, by its file, and by others of its kind."""
    found = [row["path"], every(table.module(row["path"].replace("{n}", "0")) or row["path"])]
    for tensor in row["tensors"]:
        known = {every(key) for row_of in table.rows(tensor["name"].replace("{n}", "0")) for key in row_of.keys}
        aliases = (other for other, key in table.aliases.items() if every(key) in known)
        found += [tensor["name"], *tensor["keys"], *known, *aliases]
    return list(dict.fromkeys(found))


def _matches(pattern: str, name: str) -> bool:
    wanted = every(pattern)
    return wanted in name or fnmatchcase(name, wanted)


def _row(subject: Subject, line: Line) -> dict[str, Any]:
    table = subject.architecture.table
    path = every(line.path)
    in_file = {step.name: step.keys for step in subject.plan.mapped} if subject.plan else {}
    tensors = []
    module = subject.model.get_submodule(line.path)
    for name, parameter in module.named_parameters(recurse=False):
        row = table.row(f"{line.path}.{name}")
        keys = [every(key) for key in in_file.get(f"{line.path}.{name}", row.keys)]
        tied = subject.model.tied and f"{path}.{name}" in table.tied
        stored = (
            f"the same tensor as {table.tied[f'{path}.{name}']}; a file may leave it out"
            if tied
            else layout(row, parameter.ndim, fused=path.endswith("attn.qkv"))
        )
        tensors.append({"name": f"{path}.{name}", "shape": list(parameter.shape), "keys": keys, "stored": stored})
    role = path.removeprefix("blocks.{n}.")
    if role == "norm":
        role = "last norm" if path == "norm" else "shared norm"
    say = TEXTS.get(role)
    return {
        "path": path,
        "count": line.count,
        "kind": line.kind.removeprefix(f"{line.count} x "),
        "text": " ".join(say(subject).split()) if say else "",
        "source": _source(role, subject),
        "tensors": tensors,
    }


# --- the texts: what goes in, what comes out, why it is there ---


def _embed(s: Subject) -> str:
    learned = isinstance(s.model.embed, PositionedEmbed)
    where = (
        "and adds a learned vector for each position"
        if learned
        else "; where a token stands is said later, inside attention, by rotary angles"
    )
    return f"""Turns each token id into a vector of {s.config.width:,} numbers{" " if learned else ""}{where}. The
    result is the residual stream: every block reads it and adds to it, none replaces it."""


def _tokens(s: Subject) -> str:
    used = (
        "The output head is this same table, used a second time: its rows are what the last vector is compared with."
        if s.model.tied
        else "The output head has a table of its own."
    )
    return f"""One learned vector of {s.config.width:,} numbers for each of {s.config.vocab_size:,} tokens; a lookup,
    no arithmetic. A checkpoint may hold more rows than its tokenizer has tokens, to make the size a round
    number: no token selects those rows, but they get scores all the same. {used}"""


def _learned(s: Subject) -> str:
    return f"""One learned vector for each of {s.config.context:,} positions, added to the token's. There is none for
    position {s.config.context:,}, so the model cannot read further. Trained, neighbouring rows become alike
    and waves appear, though nothing but the data says which positions are neighbours."""


def _rotary(s: Subject) -> str:
    rotary = next((part for part in s.model.modules() if isinstance(part, Rotary)), None)
    if rotary is None:
        return ""
    pairs = (
        "element i with element i + width / 2" if rotary.pairing == "halves" else "neighbours: element 2i with 2i + 1"
    )
    rest = s.config.head_width - rotary.width
    passed = f"; the other {rest} pass unturned" if rest else ""
    slower = f", {rotary.factor:g} times slower than trained at first, to reach further" if rotary.factor != 1 else ""
    return f"""Turns queries and keys by angles that grow with their position{slower}, so that their product depends on
    how far apart two tokens are, not on where they stand. {rotary.width} of the {s.config.head_width}
    elements of each head are turned{passed}. Pairs are {pairs}: the two conventions look alike and are not
    interchangeable. Nothing here is learned or stored."""


def _blocks(s: Subject) -> str:
    return f"""One of {s.config.layers} layers, {getattr(s.model.blocks[0], "wiring", "")}:
    {WIRINGS.get(type(s.model.blocks[0]).__name__, "attention and an MLP, each added to the stream")}"""


WIRINGS = {
    "SequentialBlock": "attention is added to the stream first, then the MLP reads what attention left.",
    "ParallelBlock": "attention and the MLP read the same stream, each through its own norm, and both are added to it.",
    "SharedNormBlock": "attention and the MLP read the same stream through one norm, and both are added to it.",
}


def _norm(before: str) -> Callable[[Subject], str]:
    return lambda s: (
        f"""Before {before}: shifts and scales each position's {s.config.width:,} numbers to mean 0 and variance 1,
    adding {s.config.norm_eps:g} to the variance so that nothing divides by zero, then multiplies by a
    learned gain and adds a learned bias. The stream itself stays as it is."""
    )


def _attn(s: Subject) -> str:
    cfg, model = s.config, cast(Any, s.model)
    scaled = scaling([block.attn.scale for block in model.blocks], cfg.head_width)
    rate = cfg.attention_dropout
    dropped = f"In training {rate:.0%} of these attention weights are dropped." if rate else ""
    return f"""Lets each position gather from itself and those before it: {cfg.heads} heads of {cfg.head_width} numbers
    each compare its query with the keys of all it may see, turn the scores, {scaled}, into weights that sum
    to 1, and mix the values by them. It looks backwards only: output i has seen tokens 0 to i, no later
    ones; that is what lets one pass train all positions at once, and a cache of keys and values
    ({2 * cfg.width:,} numbers a token in this layer) replace reading the text again. {dropped}"""


def _qkv(s: Subject) -> str:
    cfg = s.config
    return f"""Makes queries, keys and values of all heads in one product: {cfg.width:,} numbers in, 3 x {cfg.heads} x
    {cfg.head_width} = {3 * cfg.width:,} out. Our rows go head by head, and within a head its query, its
    key, its value. Checkpoints disagree about this order, and a wrong one still computes something."""


def _out(s: Subject) -> str:
    return f"Mixes what the {s.config.heads} heads found and writes it to the stream: {s.config.width:,} in and out."


def _mlp(s: Subject) -> str:
    block: Any = s.model.blocks[0]
    share = sum(p.numel() for p in block.mlp.parameters()) / sum(p.numel() for p in block.parameters())
    return f"""Works on each position alone: widens {s.config.width:,} numbers to {s.config.mlp_width:,}, bends them,
    and narrows them again. {share:.0%} of a block's parameters are here."""


def _activation(s: Subject) -> str:
    exact = {
        "gelu": "GELU, exact: x times the normal distribution's share below x",
        "gelu_tanh": "GELU by its tanh approximation, which differs from the exact one by less than 0.0005",
        "relu": "ReLU: negative numbers become 0",
    }
    return f"{exact.get(s.config.activation, s.config.activation)}. Without a bend, two linear maps would be one."


def _head(s: Subject) -> str:
    how = (
        "It has no weight of its own: it is the token embedding, used twice."
        if s.model.tied
        else "Its weight is its own, though of the embedding's shape."
    )
    bias = "" if s.model.head.bias is None else " It has a bias, which few GPTs do."
    return f"""Turns each position's vector into {s.config.vocab_size:,} scores, one a token: logits of the token that
    comes next. {how}{bias}"""


def _dropout(where: str, field: str) -> Callable[[Subject], str]:
    def say(s: Subject) -> str:
        if not (rate := getattr(s.config, field)):
            return f"Would set numbers of {where} to 0 at random in training; its rate here is 0, so it does nothing."
        return f"""In training sets each number of {where} to 0 with probability {rate:g}, and multiplies the others so
    that the mean stays what it was; in eval mode does nothing. It has no weights."""

    return say


TEXTS: dict[str, Callable[[Subject], str]] = {
    "embed": _embed,
    "embed.tokens": _tokens,
    "embed.positions": _learned,
    "embed.dropout": _dropout("the embedding", "embed_dropout"),
    "attn.rotary": _rotary,
    "blocks.{n}": _blocks,
    "norm_attn": _norm("attention"),
    "norm_mlp": _norm("the MLP"),
    "shared norm": _norm("attention and the MLP, once for both"),
    "last norm": _norm("the output head"),
    "attn": _attn,
    "attn.qkv": _qkv,
    "attn.out": _out,
    "attn.dropout": _dropout("what attention adds to the stream", "residual_dropout"),
    "mlp": _mlp,
    "mlp.up": lambda s: f"Widens: {s.config.width:,} numbers in, {s.config.mlp_width:,} out.",
    "mlp.activation": _activation,
    "mlp.down": lambda s: (
        f"Narrows and writes to the stream: {s.config.mlp_width:,} numbers in, {s.config.width:,} out."
    ),
    "mlp.dropout": _dropout("what the MLP adds to the stream", "residual_dropout"),
    "head": _head,
}
SOURCES = {
    "embed.positions": "GPT-2, Radford et al. 2019",
    "attn.rotary": "RoFormer, arXiv 2104.09864",
    "blocks.{n}": "adding to a stream: Deep Residual Learning, arXiv 1512.03385",
    "attn": "Attention Is All You Need, arXiv 1706.03762",
    "mlp": "Attention Is All You Need, arXiv 1706.03762",
}
SOURCES |= dict.fromkeys(("norm_attn", "norm_mlp", "shared norm", "last norm"), "Layer Normalization, arXiv 1607.06450")
SOURCES |= dict.fromkeys(("embed.dropout", "attn.dropout", "mlp.dropout"), "Dropout, Srivastava et al. 2014")
ACTIVATIONS = {"gelu": "GELU, arXiv 1606.08415", "relu": "ReLU, Nair and Hinton 2010"}


def _source(role: str, s: Subject) -> str:
    if role == "embed.tokens":
        return "sharing it with the head: arXiv 1608.05859" if s.model.tied else ""
    if role == "mlp.activation":
        return ACTIVATIONS.get(s.config.activation.removesuffix("_tanh"), "")
    return SOURCES.get(role, "")
