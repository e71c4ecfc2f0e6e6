"""Layers that differ: the field of the config that says which is what, and files that say it."""

import pytest
from torch import nn

from archport.layers import MLP, Attention, GatedMLP, Rotary, SequentialBlock
from archport.proposing.dropping import rates
from archport.proposing.part import Part
from archport.proposing.schedule import Layer, Unwritten, merged
from archport.proposing.transformers_class import of_transformers
from archport.proposing.varying import reading

ROTARY = Part(Rotary, {"width": 8, "base": 97.0})
DENSE = Part(MLP, {"width": 48, "mlp_width": 88, "activation": "silu"})
GATED = Part(GatedMLP, {"width": 48, "mlp_width": 36, "activation": "silu"})


def layers(config, *blocks):
    """Blocks of one model, each of a rotary, if any, and an MLP."""
    made = []
    for number, (rotary, mlp) in enumerate(blocks):
        attn = Part(Attention, {"width": 48, "heads": 4} | ({"rotary": rotary} if rotary else {}))
        made.append(Layer(Part(SequentialBlock, {"attn": attn, "mlp": mlp}), number, config))
    return made


def chosen(*models):
    block, choices = merged([layer for model in models for layer in model], frozenset())
    assert isinstance(block.settings["attn"], Part)  # which differ in no more than a part of theirs
    return {one.rule.format(one.field): (one.then, one.otherwise) for one in choices}


def test_a_number_that_was_tried_at_two_values_says_where_a_stack_changes():
    one = layers({"dense": 1, "other": 7}, (None, DENSE), (None, GATED), (None, GATED))
    other = layers({"dense": 2, "other": 7}, (None, DENSE), (None, DENSE), (None, GATED))
    [(rule, (then, otherwise))] = chosen(one, other).items()
    assert rule == "layer < cfg.dense"
    assert (then.kind, otherwise.kind) == (MLP, GatedMLP)


@pytest.mark.parametrize(
    ("rule", "first", "second"),
    [
        ("(layer + 1) % cfg.{} == 0", 2, 3),
        ("layer % cfg.{} == 0", 2, 3),
        ("cfg.{}[layer]", [0, 1, 1, 0], [1, 0, 1, 0]),
        ("layer in cfg.{}", [0, 3], [2]),
        ('cfg.{}[layer] == "a"', ["a", "b", "b", "a"], ["b", "a", "a", "a"]),
    ],
)
def test_each_rule_is_found_for_two_values_of_its_field(rule, first, second):
    def holds(value, layer):
        return bool(eval(rule.format("it").replace("cfg.it", "value"), {"value": value, "layer": layer}))

    models = [
        layers({"it": value, "aside": 2}, *(((ROTARY if holds(value, at) else None), DENSE) for at in range(4)))
        for value in (first, second)
    ]
    [(found, (then, otherwise))] = chosen(*models).items()
    for value in (first, second):
        for layer in range(4):
            said = eval(found.replace("cfg.it", "value"), {"value": value, "layer": layer})
            assert (then if said else otherwise) is (ROTARY if holds(value, layer) else None)


def test_two_numbers_of_a_part_are_chosen_where_they_stand():
    other = Part(Rotary, {"width": 8, "base": 5.0})
    [(rule, sides)] = chosen(layers({"types": ["near", "far"]}, (ROTARY, DENSE), (other, DENSE))).items()
    assert rule == 'cfg.types[layer] == "far"'
    assert sides == (5.0, 97.0)


def test_what_no_field_says_is_not_written():
    with pytest.raises(Unwritten, match=r"blocks\.mlp: is MLP in layer 0, GatedMLP in layer 1, and no field"):
        chosen(layers({"dense": 1}, (None, DENSE), (None, GATED)))  # at one value alone
    three = Part(nn.Identity), DENSE, GATED
    with pytest.raises(Unwritten):
        chosen(layers({"types": ["a", "b", "c"]}, *((None, mlp) for mlp in three)))


@pytest.mark.parametrize(
    ("name", "named", "fixed"),
    [
        ("gpt2", {"embed": "embd_pdrop", "attention": "attn_pdrop", "residual": "resid_pdrop"}, set()),
        ("opt", {"attention": "attention_dropout", "residual": "dropout"}, {"layerdrop"}),
        ("llama", {"attention": "attention_dropout"}, set()),
    ],
)
def test_a_rate_of_dropout_is_ours_where_it_acts_as_ours_does(name, named, fixed):
    subject = of_transformers(name)
    found = rates(subject, reading(subject).program)
    assert found.named == {f"{ours}_dropout": theirs for ours, theirs in named.items()}
    assert found.fixed.keys() == fixed
    assert ("summary_first_dropout" in found.harmless) == (name == "gpt2")
