"""The models that a proposal is proved by: the tiny one, one with each field changed, one with each size another."""

from typing import Any

from .abstract import Abstract, our_name

# What each of our sizes is set to, one at a time, to see that nothing else was taken for it.
OTHER_SIZES = {"vocab_size": 151, "context": 120, "position_rows": 120, "width": 56, "layers": 4}
OTHER_SIZES |= {"heads": 8, "kv_heads": 4, "head_width": 14, "mlp_width": 104}
OTHER_SIZES |= {"experts": 6, "experts_per_token": 3, "expert_width": 44}
Trials = dict[str, tuple[dict[str, Any], dict[str, Any]]]  # by a name: changes in their names, and in ours


def varied(whole: Abstract) -> Trials:
    """The tiny model, and one with each field changed."""
    changed = {
        f"{one.name} {one.tried}": ({one.theirs: one.tried_there}, {one.name: one.tried}) for one in whole.constants
    }
    return {"": ({}, {})} | changed


def resized(whole: Abstract) -> Trials:
    """Models of which one size is another, by what the config calls it."""
    found = {}
    for ours, theirs in whole.named.items():
        value = OTHER_SIZES[ours]
        changes: dict[str, Any] = {theirs: value} | {one: value for one, alike in whole.alike.items() if alike == ours}
        mine: dict[str, Any] = {ours: value}
        if ours == "layers":  # and what there is for each of them
            more = {one.theirs: (one.name, one.here * 2) for one in whole.constants if isinstance(one.here, tuple)}
            more |= {"layer_types": ("layer_types", whole.types_here * 2)} if whole.types_here else {}
            changes |= {one: list(values) for one, (_, values) in more.items()}
            mine |= dict(more.values())
        mine |= {our_name(one): value for one, alike in whole.alike.items() if alike == ours}
        found[theirs] = changes, mine
    return found
