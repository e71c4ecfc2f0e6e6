"""How alike two names of tensors are: only to try the likely first, never to decide."""

import re
from collections.abc import Iterable

from .templates import Template

# Words that people use for a part of ours, by the last word of its name; of each group there should be one.
NORM = "norm ln layernorm rms rmsnorm ln1 ln2 norm1 norm2 g1 g2 b1 b2 gain scale"
WORDS = {
    "tokens": ("tok token tokens word words wte vocab input embed embedding embeddings emb inp e",),
    "positions": ("pos position positions positional wpe place places",),
    "norm_attn": (NORM, "1 ln1 norm1 input attn attention before pre first g1 b1"),
    "norm_mlp": (NORM, "2 ln2 norm2 post mlp ffn ff feed second g2 b2"),
    "qkv": ("qkv attn attention query key value in into packed wqkv",),
    "q": ("q query wq queries",),
    "k": ("k key wk keys",),
    "v": ("v value wv values",),
    "kv": ("kv wkv",),
    "out": ("out o output proj dense wo mix back",),
    "up": ("up fc fc1 c in 0 4 w3 wide into",),
    "gate": ("gate w1 g",),
    "down": ("down proj out fc2 w2 2 narrow back",),
    "norm": (NORM, "f final last end out norm"),
    "head": ("head lm out output unembed logits outp u linear",),
    "weight": ("weight w gain scale gamma g g1 g2",),
    "bias": ("bias b beta shift offset b1 b2",),
}
SOUGHT = {name: [frozenset(words.split()) for words in groups] for name, groups in WORDS.items()}


def words_of(name: str) -> frozenset[str]:
    """The words of a name, in small letters."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return frozenset(re.findall(r"[a-z]+\d*|\d+", apart.lower().replace("{n}", " ").replace("_", " ")))


def unlike(ours: str, theirs: Template, parts: int, slot: str | None = None, place: float = 0.0) -> float:
    """What speaks against one of theirs for one of ours, of 0 to 3: its words, and how far apart they are in order.

    `parts` are how many tensors theirs has, `place` where ours is among its own, from 0 to 1.
    """
    path, _, leaf = ours.rpartition(".")
    words = words_of(theirs.name)
    sought: Iterable[str] = (slot or path.rpartition(".")[2], leaf)
    missing = 0.0
    for one in sought:
        groups = SOUGHT.get(one, [frozenset({one})])
        missing += sum(not words & group for group in groups) / len(groups)
    return missing + abs(place - theirs.place / max(1, parts - 1))
