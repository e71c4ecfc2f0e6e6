"""What classes of transformers say of rotary positions in their configs, as their own validation has it."""

import pytest
from transformers import LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from archport.proposing.rotary_fields import scalings
from archport.proposing.transformers_class import of_kind


@pytest.mark.parametrize(("kind", "pairs", "taken"), [(LlamaForCausalLM, 5, None), (Phi3ForCausalLM, 6, ("longrope",))])
def test_the_scalings_that_a_config_takes_are_found(kind, pairs, taken):
    assert scalings(of_kind(kind, "x"), pairs) == taken


@pytest.mark.parametrize("scaling", ["linear", "dynamic", "llama3"])
def test_phi3_refuses_the_others_itself(scaling):
    settings = {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 1e4}
    with pytest.raises(Exception, match="longrope"):
        Phi3Config(rope_parameters={"rope_type": scaling, **settings, "original_max_position_embeddings": 11})
