"""What of a program are sizes, and what a config calls them."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

from ..layers import CountedEmbed
from ..mappings import COMMON_HARMLESS
from .part import Part, Program
from .schedule import Unwritten
from .subject import Subject, named_sizes, spellings

REQUIRED = (
    "vocab_size",
    "context",
    "position_rows",
    "width",
    "layers",
    "heads",
    "expert_width",
    "experts",
    "experts_per_token",
)
DERIVED = ("kv_heads", "head_width", "mlp_width")  # which follow from the others where a config does not say them
CONSTANT = (("kv_heads", 1),)  # sizes that a flag of a config decides


def sizes_of(program: Program, others: Sequence[Part], config: Mapping[str, Any]) -> dict[str, int]:
    """The sizes of a program, and of other blocks that it may have, by our names."""
    attn = program.blocks[0].settings["attn"].settings
    mlp: dict[str, Any] = {}
    for block in (*program.blocks, *others):
        mlp |= block.settings["mlp"].settings
    sizes = {"vocab_size": program.embed.settings["vocab_size"], "width": program.embed.settings["width"]}
    heads = attn.get("heads") or named_sizes(config).get("heads", 1)
    sizes |= {"layers": len(program.blocks), "heads": heads, "kv_heads": attn.get("kv_heads", heads)}
    sizes |= {"head_width": attn.get("head_width", sizes["width"] // heads)}
    if "mlp_width" in mlp:
        sizes["mlp_width"] = mlp["mlp_width"]
    if "router" in mlp:
        width = mlp["experts"].parts[0].settings["mlp_width"]
        own = any(config.get(name) == width for name in spellings()["expert_width"])
        sizes["expert_width" if own else "mlp_width"] = width
        router = mlp["router"].settings
        sizes |= {"experts": router["experts"], "experts_per_token": router["top"]}
        shared = mlp["shared"].settings if "shared" in mlp else {}
        sizes |= {"mlp_width": shared["mlp_width"]} if own and shared.get("mlp_width", width) != width else {}
    named = spellings()["context"]
    context = program.embed.settings.get("context") or next((v for n, v in config.items() if n in named and v), 2048)
    if program.embed.kind is CountedEmbed:
        sizes["position_rows"] = context + program.embed.settings["padding"] + 1
    return sizes | {"context": context}


def named_by(subject: Subject, sizes: Mapping[str, int], harmless: Container[str]) -> dict[str, str]:
    """What the config calls our sizes: a field of that meaning, with that value; derived ones may have none.

    Of several, it is the first that is not `harmless`, as a size of an encoder is to a decoder.

    Raises: Unwritten where no field says a size that does not follow from others.
    """
    named: dict[str, str] = {}
    known = {theirs for names in spellings().values() for theirs in names}
    for name, value in sizes.items():
        if (name, value) in CONSTANT:
            continue
        words = spellings()["context" if name == "position_rows" else name]
        theirs = [one for one, found in subject.config.items() if one in words and found == value]
        others = [
            one
            for one, found in subject.config.items()
            if found == value and type(found) is int and one.partition(".")[0] not in COMMON_HARMLESS | known
        ]
        if theirs or (name in REQUIRED and others):
            named[name] = min(theirs or others, key=lambda one: one in harmless)
        elif name in REQUIRED and name != "context":
            raise Unwritten(f"{name}: is {value}, and no field of the config says so")
        elif name != "context" and value != _derived(name, sizes):
            raise Unwritten(f"{name}: is {value}, which follows from no field of the config")
    return named


def _derived(name: str, sizes: Mapping[str, int]) -> int:
    rules = {
        "head_width": sizes["width"] // sizes["heads"],
        "kv_heads": sizes["heads"],
        "mlp_width": 4 * sizes["width"],
    }
    return rules[name]
