"""Scaled rotary: frequencies and tables are the reference's below, at and past the trained length, bit for bit."""

import copy
import itertools

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

import archport
from archport.errors import ConfigError, UnsupportedError
from archport.layers import LongRope, Yarn
from archport.mappings import (
    COMMON_HARMLESS,
    COMMON_REQUIRES,
    ROTARY,
    ROTARY_FRACTION,
    ROTARY_HARMLESS,
    ROTARY_SUPERSEDES,
    ROTARY_WHOLE_HEAD,
)
from archport.models import RotaryConfig
from archport.models.gpt_neox import SIZES as SIZES_OF_NEOX
from archport.models.gpt_neox import VARIANTS
from archport.registry import architecture
from archport.translate.fields import read_config, write_config
from archport.translate.table import Table

from .references import loud
from .test_layers import error

VERSION = tuple(map(int, transformers.__version__.split(".")[:2]))
OLD = VERSION < (5, 0)  # settings have one spelling and, of a yarn's or longrope's factor and lengths, the lengths win

SIZES = {"vocab_size": 11, "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
NAMES = {"vocab_size": "vocab_size", "width": "hidden_size", "layers": "num_hidden_layers"}
NAMES |= {"heads": "num_attention_heads", "context": "max_position_embeddings", "head_width": "head_dim"}
COMMON = {"classes": ("LlamaForCausalLM",), "prefix": "model.", "weights": {}, "config": NAMES | ROTARY}
COMMON |= {"supersedes": ROTARY_SUPERSEDES, "harmless": COMMON_HARMLESS | ROTARY_HARMLESS | {"hidden_act"}}
TABLE = Table(**COMMON, requires=COMMON_REQUIRES | ROTARY_WHOLE_HEAD)
PARTIAL = Table(**COMMON | {"config": NAMES | ROTARY | ROTARY_FRACTION}, requires=COMMON_REQUIRES)


@st.composite
def rope(draw, kind: str, pairs: int) -> dict:
    """Settings of one kind, as the object of a config has them, and its trained length."""
    trained = draw(st.integers(8, 5000))
    factor = draw(st.integers(1, 32) | st.floats(1, 64, width=32))
    if kind in ("default", "linear", "dynamic"):
        return {"trained": trained, "rope": {} if kind == "default" else {"factor": factor}}
    given = {"original_max_position_embeddings": trained, "factor": factor}
    if kind == "llama3":
        low = draw(st.floats(0.25, 8, width=32))
        given |= {"low_freq_factor": low, "high_freq_factor": low + draw(st.floats(0.25, 8, width=32))}
    factors = st.lists(st.floats(1, 64, width=32), min_size=pairs, max_size=pairs)
    if kind == "longrope":
        given |= {"short_factor": draw(factors), "long_factor": draw(factors)}
    if kind == "yarn":
        more = {"beta_fast": st.floats(4, 64), "beta_slow": st.floats(0.25, 4)}
        more |= {"mscale": st.floats(0, 2), "mscale_all_dim": st.floats(0, 2)}
        given |= draw(
            st.fixed_dictionaries({}, optional=more if VERSION < (4, 55) else more | {"truncate": st.booleans()})
        )
    if draw(st.booleans()):
        given["attention_factor"] = draw(st.floats(0.5, 2))
    return {"trained": trained, "rope": given if kind != "llama3" else {k: v for k, v in given.items() if k[0] != "a"}}


@st.composite
def configs(draw, kind: str, fractions: tuple[float, ...] = (1.0,)) -> dict:
    """A config.json of a small Llama, and the length it was first trained on."""
    head_width = draw(st.integers(2, 40)) * 2
    fraction = draw(st.sampled_from(fractions))
    drawn = draw(rope(kind, int(head_width * fraction) // 2))
    theta = draw(st.sampled_from([10000.0, 500000.0, 9973.0, 1e6]))
    later = kind in ("llama3", "yarn", "longrope")
    context = round(drawn["trained"] * drawn["rope"]["factor"]) if later else drawn["trained"]
    config = {**SIZES, "max_position_embeddings": context, "head_dim": head_width, "rope_theta": theta}
    config["rope_scaling"] = {"rope_type": kind, **drawn["rope"]}
    if OLD and later:
        config["rope_scaling"]["factor"] = context / drawn["trained"]
        config |= {"original_max_position_embeddings": drawn["trained"]} if kind == "longrope" else {}
    return config | ({"partial_rotary_factor": fraction} if fraction < 1 else {})


def theirs(config: dict) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(**copy.deepcopy(config))


def ours(config: dict, table: Table = TABLE) -> RotaryConfig:
    return read_config(table, RotaryConfig, config, "config")[0]


def lengths(config: dict, length: int) -> list[int]:
    trained = config["rope_scaling"].get("original_max_position_embeddings", config["max_position_embeddings"])
    return [1, trained - 1, trained, trained + 1, trained + length]


KINDS = ["default", "linear", "dynamic", "llama3", "yarn", "longrope"]


@pytest.mark.parametrize("kind", KINDS[1:])
@settings(max_examples=80, deadline=None)
@given(data=st.data(), past=st.integers(2, 100_000))
def test_frequencies_and_attention_factor_are_the_reference_s(kind, data, past):
    config = data.draw(configs(kind, (1.0, 0.75, 0.5)))
    if int(config["head_dim"] * config.get("partial_rotary_factor", 1)) % 2 or config["head_dim"] < 6:
        return  # what the reference's formulas do not take
    rotary = ours(config, PARTIAL).rotary()
    for length in lengths(config, past):
        seq_len = length
        if kind == "dynamic":  # as `dynamic_rope_update` calls it
            seq_len = torch.tensor(length) if length > config["max_position_embeddings"] else None
        expected, factor = ROPE_INIT_FUNCTIONS[kind](theirs(config), torch.device("cpu"), seq_len=seq_len)
        frequencies = rotary.frequencies(torch.tensor([0, length - 1]))
        assert torch.equal(frequencies, expected)
        assert rotary.scaling.attention_factor == factor


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(
    data=st.data(), past=st.integers(2, 100_000), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64])
)
def test_tables_are_those_of_a_fresh_reference(kind, data, past, dtype):
    config = data.draw(configs(kind))
    if config["head_dim"] < 6:
        return
    rotary = ours(config).rotary()
    for length in lengths(config, past):
        positions = torch.arange(max(0, length - 7), length)
        expected = LlamaRotaryEmbedding(theirs(config))(torch.zeros(1, dtype=dtype), positions[None])
        turned = rotary(positions, dtype)
        for a, b in zip((turned.cos, turned.sin), expected, strict=True):
            assert a.dtype == dtype
            assert torch.equal(torch.cat((a, a), -1), b[0])


def test_a_pass_of_several_rows_takes_the_longest():
    config = {**SIZES, "max_position_embeddings": 8, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
    rotary = ours(config).rotary()
    positions = torch.tensor([[0, 1, 2], [20, 21, 22]])
    turned = rotary(positions[:, None], torch.float32)
    expected = LlamaRotaryEmbedding(theirs(config))(torch.zeros(1), positions)[0][:, None, :, :12]
    assert torch.equal(turned.cos, expected)
    assert not torch.equal(turned.cos[0, 0], rotary(positions[0], torch.float32).cos)


@pytest.mark.parametrize("kind", KINDS)
def test_scaled_rotary_compiles_without_a_break_and_once_for_all_lengths(kind):
    rotary = ours(EXAMPLES[kind]).rotary()
    compiled = torch.compile(lambda positions: rotary(positions, torch.float32).cos, fullgraph=True, backend="eager")
    for start in (0, 37, 1000):
        positions = torch.arange(start, start + 5)
        assert torch.equal(compiled(positions), rotary(positions, torch.float32).cos)


# --- what configs say ---

INSIDE = {
    "default": {},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.5},
    "llama3": {"factor": 4.0, "low_freq_factor": 1.5, "high_freq_factor": 3.0, "original_max_position_embeddings": 32},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32, "attention_factor": 1.1, "beta_fast": 16.0,
             "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 0.3, "truncate": False},
    "longrope": {"short_factor": [1.5] * 12, "long_factor": [2.5] * 12, "original_max_position_embeddings": 32},
}  # fmt: skip
EXAMPLES = {
    kind: {**SIZES, "max_position_embeddings": 128, "rope_theta": 777.0, "rope_scaling": {"rope_type": kind, **given}}
    for kind, given in INSIDE.items()
}


def spellings(kind: str) -> dict[str, dict]:
    """The same settings, in every way that published configs have them."""
    plain = {**SIZES, "max_position_embeddings": 128}
    given = INSIDE[kind]
    outside = {k: v for k, v in given.items() if k == "original_max_position_embeddings"}
    inside = {k: v for k, v in given.items() if k not in outside}
    return {
        "4": EXAMPLES[kind],
        "early 4": plain | {"rope_theta": 777.0, "rope_scaling": {"type": kind, **given}},
        "4, saved with both": plain | {"rope_theta": 777, "rope_scaling": {"type": kind, "rope_type": kind, **given}},
        "5": plain | {"rope_parameters": {"rope_type": kind, "rope_theta": 777.0, **given}},
        "5, and 4's": plain | {"rope_theta": 777, "rope_parameters": {"rope_theta": 777.0, "rope_type": kind, **given}},
        "Phi-3": plain | outside | {"rope_theta": 777.0, "rope_scaling": {"type": kind, **inside}},
        "repeated": EXAMPLES[kind] | outside,
    } | ({"null": plain | {"rope_theta": 777.0, "rope_scaling": None}} if kind == "default" else {})


@pytest.mark.parametrize("kind", KINDS)
def test_all_spellings_give_one_config(kind):
    read = {name: ours(config) for name, config in spellings(kind).items()}
    assert read == dict.fromkeys(read, read["4"])
    assert read["4"].rotary_scaling == kind
    assert read["4"].rotary_base == 777


@pytest.mark.parametrize(("kind", "spelling"), [(kind, name) for kind in KINDS for name in spellings(kind)])
def test_written_back_and_from_scratch_they_read_the_same(kind, spelling):
    config = spellings(kind)[spelling]
    cfg = ours(config)
    architectures = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    assert write_config(TABLE, cfg, "llama", config) == config | architectures
    scratch = write_config(TABLE, cfg, "llama", None)
    assert ours(scratch) == cfg
    assert scratch.get("rope_scaling") == (None if kind == "default" else {"rope_type": kind, **INSIDE[kind]})
    assert "rope_parameters" not in scratch


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(KINDS, 2)))
def test_a_config_changed_from_one_scaling_to_another_is_the_reference_s_too(before, after):
    """What it leaves of the first scaling is not used."""
    if OLD and after in ("yarn", "longrope"):
        pytest.skip("transformers 4 has no truncate yet, and reads longrope's length elsewhere")
    cfg = ours(EXAMPLES[after])
    written = write_config(TABLE, cfg, "llama", EXAMPLES[before])
    assert ours(written) == cfg
    positions = torch.arange(60, 66)
    config = {k: v for k, v in written.items() if k not in ("model_type", "architectures")}
    expected = LlamaRotaryEmbedding(theirs(config))(torch.zeros(1), positions[None])[0][0]
    assert torch.equal(cfg.rotary()(positions, torch.float32).cos, expected[:, :12])


WRONG = {
    "no factor": ("linear", {"factor": None}, "factor: linear scaling needs it, found none"),
    "no low factor": ("llama3", {"low_freq_factor": None}, "low_freq_factor: llama3 scaling needs it, found none"),
    "no band": ("llama3", {"low_freq_factor": 3}, "high_freq_factor: found 3.0, expected more than rotary_low_factor"),
    "no list": ("longrope", {"long_factor": None}, "long_factor: longrope scaling needs it, found none"),
    "short list": ("longrope", {"short_factor": [1.0] * 11}, "short_factor: found 11 numbers, expected 12, one a"),
    "list of words": ("longrope", {"short_factor": ["a"] * 12}, "short_factor: found .*, expected a list"),
    "factor zero": ("linear", {"factor": 0}, "factor: found 0, expected a positive number"),
    "truncate null": ("yarn", {"truncate": None}, "truncate: found None, expected true or false"),
    "base one": ("yarn", {"rope_theta": 1.0}, "found 1.0"),
    "length one": ("longrope", {"original_max_position_embeddings": 1}, "found 1, which longrope scaling cannot use"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_one_line_that_names_them(case):
    kind, changes, message = WRONG[case]
    config = copy.deepcopy(EXAMPLES[kind])
    config |= {name: changes.pop(name) for name in list(changes) if name in config}
    config["rope_scaling"] |= changes
    with pytest.raises(ConfigError, match=message) as caught:
        ours(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rope_scaling": {"type": "axial"}}, "rope_scaling.type: found 'axial', archport builds default, linear"),
        ({"rope_parameters": {"mrope_section": [1, 2]}}, "rope_parameters.mrope_section: .* does not know"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: found 0.5, archport builds 1.0"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters.partial_rotary_factor: found 0.5"),
    ],
)
def test_what_would_be_another_model_is_refused(changes, field):
    with pytest.raises(UnsupportedError, match=field):
        ours(SIZES | {"max_position_embeddings": 128} | changes)


def test_contradicting_lengths_are_refused():
    with pytest.raises(ConfigError, match=r"original_max_position_embeddings: found 64, but rope_scaling.original"):
        ours(EXAMPLES["yarn"] | {"original_max_position_embeddings": 64})


def test_dynamic_scaling_needs_three_elements():
    with pytest.raises(ConfigError, match="turns 2 of each head, dynamic scaling needs 3 or more"):
        ours(EXAMPLES["dynamic"] | {"head_dim": 2})


# --- a whole model ---


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.startswith("rotary_")])
def test_a_scaled_gpt_neox_is_the_reference_past_the_length_it_was_trained_on(variant):
    if variant == "rotary_truncate False" and VERSION < (4, 55):
        pytest.skip("yarn's truncate came with transformers 4.55")
    arch = architecture("gpt_neox")
    config = write_config(arch.table, arch.config_class(**SIZES_OF_NEOX | VARIANTS[variant]), "gpt_neox", None)
    reference = loud(
        transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig.from_dict(copy.deepcopy(config)))
    ).eval()
    port = archport.from_state_dict(config, reference.state_dict())
    ids = torch.randint(0, 113, (2, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert error(port(ids), reference(ids).logits) <= 1e-5


def test_settings_are_shown_where_they_are_not_the_usual_ones():
    assert repr(Yarn(32.0, 4096, truncate=False)) == "Yarn(factor=32.0, context=4096, truncate=False)"
    assert repr(LongRope(4.0, 31, (1.0,) * 48, (2.0,) * 48)) == "LongRope(factor=4.0, context=31)"
