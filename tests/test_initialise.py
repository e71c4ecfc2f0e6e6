"""Fresh weights: a model that knows as little as the reference's own, drawn of the generator that is given."""

import math

import pytest
import torch
from torch.nn import functional as F
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

import archport
from archport.interop.saving import hf_config
from archport.parity.references import with_plain_experts
from archport.registry import architecture, architectures

VOCABULARY = 97


@pytest.mark.parametrize("name", architectures())
def test_a_fresh_model_knows_as_little_as_the_reference(name):
    """Mean losses over five seeds: that of transformers' own class, and near that of a guess among all tokens."""
    ids = torch.randint(0, VOCABULARY, (8, 33), generator=torch.Generator().manual_seed(3))
    sizes = {**architecture(name).sizes, "vocab_size": VOCABULARY, "context": 64}
    losses = []
    for seed in range(5):
        model = archport.build(name, sizes, generator=torch.Generator().manual_seed(seed)).eval()
        hf = hf_config(model)
        config = CONFIG_MAPPING[hf.pop("model_type")](**hf)
        torch.manual_seed(seed)
        theirs = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
        reference = with_plain_experts(theirs).eval()
        with torch.no_grad():
            logits = (model(ids), reference(ids).logits)
        losses.append([F.cross_entropy(one[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item() for one in logits])
    found, expected = (sum(one) / len(one) for one in zip(*losses, strict=True))
    assert found == pytest.approx(expected, rel=0.01)
    assert found == pytest.approx(math.log(VOCABULARY), rel=0.05)


@pytest.mark.parametrize("name", architectures())
def test_weights_are_drawn_of_the_generator_that_is_given(name):
    def drawn(seed: int, other: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(other)
        sizes = architecture(name).sizes
        return archport.build(name, sizes, generator=torch.Generator().manual_seed(seed)).state_dict()

    first, again, another = drawn(1, 1), drawn(1, 2), drawn(2, 1)
    assert all(torch.equal(one, again[key]) for key, one in first.items())
    assert any(not torch.equal(one, another[key]) for key, one in first.items())
