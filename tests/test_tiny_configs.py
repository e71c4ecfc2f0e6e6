"""The tiny models that a decoder is read by: their configs, and whether they take what they are given."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from transformers import PretrainedConfig

from archport.proposing.own_class import of_class
from archport.proposing.tiny_config import flat, nested, tiny_settings
from archport.proposing.varying import reading, result

NANO = "docs/examples/nano.py:GPT"


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"a": 1, "b": None, "c": [1, {"d": 2}]},
        {"a": {"b": 1, "c": 2}, "d": {}},
        {
            "rope_parameters": {
                "full_attention": {"rope_theta": 1.0, "rope_type": "default"},
                "sliding": {"rope_theta": 2},
            }
        },
        {"labels": {0: "a", 1: "b"}},
    ],
    ids=str,
)
def test_a_flat_config_is_nested_again_as_it_was(config):
    assert nested(flat(config)) == config


class Multiplied(PretrainedConfig):
    """More multipliers and more numbers without a meaning than any list has."""

    def __init__(self, **given):
        values = {f"{name}_multiplier": 1.0 for name in "abcdefghijkl"} | {
            f"{name}_number": 4096 for name in map(str, range(40))
        }
        for name, value in (values | given).items():
            setattr(self, name, value)
        super().__init__(**{name: value for name, value in given.items() if name not in values})


def test_no_two_multipliers_or_numbers_are_alike_however_many_there_are():
    settings = next(tiny_settings(Multiplied, {}))
    for end, count in (("_multiplier", 12), ("_number", 40)):
        values = [value for name, value in settings.items() if name.endswith(end)]
        assert len(set(values)) == count
        assert 1.0 not in values


@pytest.mark.parametrize(
    ("name", "takes", "what"),
    [
        ("spare", True, "harmless"),
        ("spare", False, "harmless"),  # as a window that another field turns off
        ("inner.spare", True, "harmless"),
        ("inner.spare", False, "refused"),  # it may not have arrived
    ],
)
def test_a_field_within_another_that_a_config_does_not_take_is_not_harmless(name, takes, what):
    subject = of_class(NANO)
    plain = subject.make

    def make(changes):
        module = plain({one: value for one, value in changes.items() if one != name})
        said = nested({name: changes.get(name, 2) if takes else 2})
        module.config = SimpleNamespace(to_dict=lambda: said)
        return module

    subject = replace(subject, config=subject.config | {name: 2}, make=make)
    assert result(subject, reading(subject), name, 3) == what
