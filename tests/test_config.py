"""Configs: every spelling of transformers 4 and 5, every refusal by its field, every bad value before it is built."""

import contextlib
import copy
import dataclasses
import json
import math
import re

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import archport
from archport.config import DecoderConfig
from archport.errors import ArchportError, ConfigError, UnsupportedError
from archport.layers import LinearScaling, initialise
from archport.models import gpt2, gpt_neox, gptj
from archport.registry import architecture
from archport.translate.fields import read_config, require_writable, write_config
from archport.translate.table import Table, config_field

from .references import CLASSES, SIZES

V4 = {
    "gpt2": {"n_ctx": 37, "n_inner": None, "torch_dtype": "float32", "summary_type": "cls_index", "output_past": True},
    "gptj": {"n_inner": None, "rotary": True, "scale_attn_weights": True, "gradient_checkpointing": False},
    "gpt_neox": {"rotary_pct": 0.5, "rotary_emb_base": 9973, "rope_scaling": None, "rope_theta": 9973,
                 "partial_rotary_factor": 0.5, "torch_dtype": "float16", "tie_word_embeddings": False},
}  # fmt: skip


def hf(name: str, **changes) -> dict:
    return {"model_type": name, **SIZES[name], **changes}


def read(name: str, **changes):
    return archport.build(name, hf(name, **changes), device="meta").config


def without(fields: dict, *names: str) -> dict:
    return {name: value for name, value in fields.items() if name not in names}


@pytest.mark.parametrize("name", V4)
def test_a_config_written_by_transformers_4(name):
    ours = read(name, **V4[name])
    expected = archport.build(name, CLASSES[name][0](**SIZES[name] | V4[name]), device="meta").config
    assert ours == expected


@pytest.mark.parametrize("name", SIZES)
def test_a_config_written_by_this_transformers(name, tmp_path):
    config = CLASSES[name][0](**SIZES[name])
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert archport.build(name, written, device="meta").config == read(name)
    assert archport.build(name, config, device="meta").config == read(name)


ROPE = {"rope_type": "default", "rope_theta": 777.0, "partial_rotary_factor": 0.75}


def test_rotary_settings_in_the_spelling_of_transformers_5():
    sizes = without(hf("gpt_neox"), "rotary_pct", "rotary_emb_base")
    cfg = archport.build("gpt-neox", sizes | {"rope_parameters": ROPE}, device="meta").config
    assert (cfg.rotary_base, cfg.rotary_width) == (777.0, 18)


def test_both_spellings_at_once_must_agree():
    cfg = read("gpt_neox", rotary_pct=0.75, rotary_emb_base=777, rope_parameters=ROPE)
    assert (cfg.rotary_base, cfg.rotary_width) == (777, 18)
    with pytest.raises(ConfigError, match=r"rope_theta: found 777.0, but rotary_emb_base is 9973"):
        read("gpt_neox", rope_parameters=ROPE, rotary_pct=0.75)


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_linear_rope_scaling_in_its_spellings(key):
    cfg = read("gpt_neox", rope_scaling={key: "linear", "factor": 3.0})
    assert (cfg.rotary_scaling, cfg.rotary_factor) == ("linear", 3.0)
    # A factor beside the default type is not used, by the reference or by us.
    model = archport.build("gpt-neox", hf("gpt_neox", rope_scaling={key: "default", "factor": 3.0}), device="meta")
    assert model.blocks[0].attn.rotary.scaling is None
    with pytest.raises(ConfigError, match="rotary_factor: linear scaling needs it, found none"):
        read("gpt_neox", rope_scaling={key: "linear"})


@pytest.mark.parametrize("others", [{}, {"rotary_emb_base": 9973, "rotary_pct": 0.5}])
def test_fields_that_transformers_does_not_read_are_not_read(others):
    """Alone, rope_theta is 10000 in transformers; taking it at its word would be another model."""
    sizes = without(hf("gpt_neox"), "rotary_emb_base", "rotary_pct") | others
    unread = {"rope_theta": 20000, "partial_rotary_factor": 0.75}
    cfg = archport.build("gpt-neox", sizes | unread, device="meta").config
    theirs = transformers.GPTNeoXConfig(**without(sizes, "model_type") | unread)
    rope = getattr(theirs, "rope_parameters", None) or {
        "rope_theta": theirs.rotary_emb_base,
        "partial_rotary_factor": theirs.rotary_pct,
    }
    assert (cfg.rotary_base, cfg.rotary_fraction) == (rope["rope_theta"], rope["partial_rotary_factor"])


REFUSED = {
    "other rope type": ("gpt_neox", {"rope_scaling": {"type": "axial"}}, r"rope_scaling\.type.*'axial'"),
    "rope type of v5": ("gpt_neox", {"rope_parameters": {"rope_type": "su"}}, r"rope_parameters\.rope_type.*'su'"),
    "cross attention": ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
    "pruned heads": ("gpt2", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
    "quantised": ("gpt_neox", {"quantization_config": {"bits": 4}}, "quantization_config"),
    "classification head": ("gpt2", {"architectures": ["GPT2ForSequenceClassification"]}, "architectures"),
    "no rotary": ("gptj", {"rotary": False}, "rotary: found False"),
    "not scaled": ("gptj", {"scale_attn_weights": False}, "scale_attn_weights"),
    "activation": ("gpt_neox", {"hidden_act": "mish"}, "hidden_act: found 'mish', archport builds gelu, gelu_new"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_names_the_field(case):
    name, changes, message = REFUSED[case]
    with pytest.raises(UnsupportedError, match=message):
        read(name, **changes)


BAD = {
    "zero layers": ("gpt2", {"n_layer": 0}, "n_layer: found 0, expected a whole number from 1"),
    "negative": ("gptj", {"n_embd": -84}, "n_embd: found -84"),
    "float": ("gpt_neox", {"hidden_size": 96.0}, r"hidden_size: found 96\.0"),
    "string": ("gpt_neox", {"num_hidden_layers": "3"}, "num_hidden_layers: found '3'"),
    "bool": ("gpt2", {"n_head": True}, "n_head: found True"),
    "millions of layers": ("gpt_neox", {"num_hidden_layers": 10**7}, "num_hidden_layers: found 10000000"),
    "null": ("gpt_neox", {"vocab_size": None}, "vocab_size: found None"),
    "eps NaN": ("gpt_neox", {"layer_norm_eps": math.nan}, "layer_norm_eps: found nan, expected a positive"),
    "eps zero": ("gpt2", {"layer_norm_epsilon": 0}, "layer_norm_epsilon: found 0"),
    "dropout of one": ("gpt2", {"resid_pdrop": 1.0}, "resid_pdrop: found 1.0, expected a rate"),
    "heads do not divide": ("gpt2", {"n_head": 7}, "n_head: found 7, expected a divisor of width 60"),
    "rotary too wide": ("gptj", {"rotary_dim": 30}, "rotary_dim: found 30, expected an even number up to"),
    "rotary odd": ("gptj", {"rotary_dim": 3}, "rotary_dim: found 3"),
    "rotary of nothing": ("gpt_neox", {"rotary_pct": 0.01}, "rotary_pct: 0.01 of head width 24 is 0"),
    "flag is a word": ("gpt_neox", {"use_parallel_residual": "yes"}, "use_parallel_residual: found 'yes'"),
    "rope is a word": ("gpt_neox", {"rope_scaling": "linear"}, "rope_scaling: found 'linear', expected an object"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_value_names_the_field_in_the_file_s_own_spelling(case):
    name, changes, message = BAD[case]
    with pytest.raises(ConfigError, match=message) as caught:
        read(name, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", V4)
def test_a_missing_size_is_named(name):
    for field in SIZES[name]:
        sizes = without(hf(name), field)
        if field in ("n_inner", "intermediate_size", "rotary_pct", "rotary_emb_base") or "eps" in field:
            archport.build(name, sizes, device="meta")  # these have a default, the reference's own
        elif field != "rotary_dim":
            with pytest.raises(ConfigError, match=f"{field}: missing"):
                archport.build(name, sizes, device="meta")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=300, deadline=2000)
@given(data=st.data(), name=st.sampled_from(sorted(SIZES)))
def test_any_json_in_any_field_builds_or_is_an_error_of_ours(data, name):
    table = archport.registry.architecture(name).table
    field = data.draw(st.sampled_from(sorted({f.partition(".")[0] for f in table.fields} - {"model_type"})))
    with contextlib.suppress(ConfigError):
        read(name, **{field: data.draw(json_values)})


OURS = {
    "gpt2": {"vocab_size": 131, "context": 37, "width": 60, "layers": 3, "heads": 5},
    "gptj": {"vocab_size": 127, "context": 41, "width": 84, "layers": 3, "heads": 6, "rotary_width": 8},
    "gpt_neox": {"vocab_size": 113, "context": 43, "width": 96, "layers": 3, "heads": 4},
}
likely_values = st.sampled_from([1, 2, 3, 4, 8, 12, 0.5, 1.0, 1e-5, True, False, None, "relu", "gelu", "linear"])


@settings(max_examples=600, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(OURS)))
def test_any_json_in_any_field_of_ours_comes_back_from_a_config_json_or_is_an_error_of_ours(data, name):
    arch = architecture(name)
    fields = data.draw(st.lists(st.sampled_from(dataclasses.fields(arch.config_class)), min_size=1, max_size=2))
    values = {field.name: data.draw(likely_values | json_values) for field in fields}
    default = arch.config_class(**OURS[name])
    for origin in (None, write_config(arch.table, default, name, None), hf(name, **V4[name])):
        try:
            config = arch.config_class(**OURS[name] | values)
            require_writable(arch.table, config, "config")
        except ConfigError:
            return
        written = json.loads(json.dumps(write_config(arch.table, config, name, origin)))
        assert read_config(arch.table, arch.config_class, written, "config") == (config, ())
        assert dataclasses.replace(config) == config


def test_head_width_and_kv_heads_follow_from_the_others_unless_given():
    cfg = DecoderConfig(**SMALL)
    assert (cfg.head_width, cfg.kv_heads, cfg.mlp_width) == (4, 2, 32)
    cfg = DecoderConfig(**SMALL | {"heads": 3, "head_width": 5, "kv_heads": 1})
    assert (cfg.head_width, cfg.kv_heads) == (5, 1)  # three heads do not divide a width of 8, and need not
    assert DecoderConfig(**SMALL, head_width=4, kv_heads=2) == DecoderConfig(**SMALL)
    with pytest.raises(ConfigError, match="heads: found 3, expected a divisor of width 8"):
        DecoderConfig(**SMALL | {"heads": 3})
    with pytest.raises(ConfigError, match="kv_heads: found 2, expected a divisor of heads 3"):
        DecoderConfig(**SMALL | {"heads": 3, "head_width": 5, "kv_heads": 2})
    with pytest.raises(ConfigError, match="head_width: found 0, expected a whole number from 1 to"):
        DecoderConfig(**SMALL, head_width=0)


CANNOT_SAY = {
    "kv_heads": ({"kv_heads": 1}, "kv_heads: found 1, expected 2: the key table has no row for it"),
    "head_width": ({"head_width": 3}, "head_width: found 3, expected 4: the key table has no row for it"),
    "heads": (
        {"heads": 3, "head_width": 2},
        "head_width: found 2, expected None: the key table has no row for it; None has it follow the other fields",
    ),
    "activation": ({"activation": "mish"}, "activation: found 'mish', expected one of gelu, gelu_tanh, relu"),
}


@pytest.mark.parametrize("case", CANNOT_SAY)
def test_a_value_that_the_files_of_an_architecture_cannot_say_is_refused(case):
    """A GPT-2 of grouped heads would be built with a key a head, and exported as a GPT-2 that has them all."""
    values, message = CANNOT_SAY[case]
    for device in ("cpu", "meta"):
        with pytest.raises(ConfigError, match=f"^config of gpt2: {message}") as caught:
            archport.build("gpt2", SMALL | values, device=device)
        assert len(caught.value.faults) == 1
    with pytest.raises(ConfigError, match=message):
        write_config(architecture("gpt2").table, gpt2.Config(**SMALL | values), "gpt2", None)


def test_a_changed_config_keeps_what_was_derived_and_says_so():
    config = gpt2.Config(**SMALL)
    with pytest.raises(ConfigError, match=r"head_width: found 4, expected 2: .*kv_heads: found 2, expected 4: "):
        archport.build("gpt2", dataclasses.replace(config, heads=4))
    again = dataclasses.replace(config, heads=4, head_width=None, kv_heads=None)
    assert again == gpt2.Config(**SMALL | {"heads": 4})
    assert archport.build("gpt2", again).blocks[0].attn.kv_heads == 4


def test_a_changed_model_s_config_cannot_be_exported_either(tmp_path):
    model = archport.build("gpt2", SMALL)
    model.config = dataclasses.replace(model.config, kv_heads=1)
    with pytest.raises(ConfigError, match="kv_heads: found 1, expected 2"):
        archport.export(model, tmp_path / "there")
    assert not (tmp_path / "there").exists()


SMALL = {"vocab_size": 11, "context": 5, "width": 8, "layers": 1, "heads": 2}


def test_build_takes_our_config_a_dict_an_hf_dict_and_a_transformers_config():
    for name, module, more in [
        ("gpt2", gpt2, {}),
        ("gpt-j", gptj, {"rotary_width": 2}),
        ("gpt-neox", gpt_neox, {"rotary_fraction": 1.0}),
    ]:
        config = module.Config(**SMALL, **more)
        assert archport.build(name, config).config == archport.build(name, SMALL | more).config == config


def test_a_misspelt_field_of_ours_says_the_nearest():
    with pytest.raises(ConfigError, match=r"layer: no such field; nearest: layers.*layers: missing"):
        archport.build("gpt2", without(SMALL, "layers") | {"layer": 3})


def test_build_refuses_a_config_of_another_architecture():
    with pytest.raises(ConfigError, match="found 'gpt2', expected 'gpt_neox'"):
        archport.build("gpt-neox", hf("gpt2"))
    with pytest.raises(ConfigError, match=r"found a builtins\.int, expected the arch"):
        archport.build("gpt-neox", 3)


@pytest.mark.parametrize("name", ["gpt-neox", "gpt_neox", "gptneox", "GPT-NeoX"])
def test_names_with_or_without_hyphens(name):
    assert archport.build(name, hf("gpt_neox"), device="meta").architecture == "gpt_neox"


@pytest.mark.parametrize("name", SIZES)
def test_fresh_weights_follow_the_architecture(name):
    sizes = {architecture(name).table.field("width").spellings[0]: 240}
    torch.manual_seed(0)
    ours = archport.build(name, hf(name, **sizes))
    theirs = CLASSES[name][1](CLASSES[name][0](**SIZES[name] | sizes))
    expected = archport.from_state_dict(theirs.config, theirs.state_dict())
    for (key, a), b in zip(ours.named_parameters(), expected.parameters(), strict=True):
        assert (a.std() > 0) == (b.std() > 0), key
        few = a.numel() < 100  # of which the deviation may be anything
        assert few or a.std().item() == pytest.approx(b.std().item(), rel=0.1, abs=1e-9), key
        assert few or abs(a.mean().item() - b.mean().item()) < 0.003, key


@pytest.mark.parametrize("name", SIZES)
def test_weights_without_values_are_drawn_too(name):
    model = archport.build(name, hf(name), device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(torch.nan)
    initialise(model, std=0.02, residual_std=0.01)
    assert [key for key, weight in model.named_parameters() if not weight.isfinite().all()] == []


def test_meta_allocates_nothing():
    model = archport.build("gpt-neox", hf("gpt_neox", hidden_size=96 * 100, num_attention_heads=400), device="meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_build_in_another_dtype():
    assert archport.build("gpt2", SMALL, dtype=torch.bfloat16).head.weight.dtype == torch.bfloat16


def test_unknown_fields_are_reported(tmp_path):

    model = CLASSES["gpt2"][1](CLASSES["gpt2"][0](**SIZES["gpt2"]))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"brand_new_switch": 1}))
    assert archport.plan(tmp_path).unknown_fields == ("brand_new_switch",)


rope_fields = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["default", "linear", "yarn", "dynamic"]),
        "rope_type": st.sampled_from(["default", "linear", "llama3"]),
        "factor": st.sampled_from([1.0, 2.0, 3.5]),
        "rope_theta": st.sampled_from([10000, 20000.0, 500.0]),
        "partial_rotary_factor": st.sampled_from([0.25, 0.5, 1.0]),
        "original_max_position_embeddings": st.just(8),
        "beta_fast": st.just(32.0),
    },
)
rope_configs = st.fixed_dictionaries(
    {},
    optional={
        "rotary_pct": st.sampled_from([0.25, 0.5, 1.0]),
        "rotary_emb_base": st.sampled_from([10000, 777]),
        "rope_theta": st.sampled_from([10000, 777]),
        "partial_rotary_factor": st.sampled_from([0.25, 0.5]),
        "rope_scaling": st.none() | rope_fields,
        "rope_parameters": st.none() | rope_fields,
        "head_dim": st.sampled_from([24, 8]),
    },
)


@pytest.mark.skipif(int(transformers.__version__.split(".")[0]) < 5, reason="rope_parameters came with transformers 5")
@settings(max_examples=400, deadline=None)
@given(changes=rope_configs)
def test_any_rope_settings_are_the_reference_s_or_an_error(changes):
    """The oracle is the reference's own table of frequencies; refusing is allowed, being different is not."""
    config = without(hf("gpt_neox"), "rotary_pct", "rotary_emb_base") | changes
    try:
        model = archport.build("gpt-neox", copy.deepcopy(config), device="meta")
    except ConfigError:
        return
    theirs = transformers.GPTNeoXConfig.from_dict(copy.deepcopy(config))
    expected = transformers.models.gpt_neox.modeling_gpt_neox.GPTNeoXRotaryEmbedding(theirs).inv_freq
    frequencies = model.blocks[0].attn.rotary.frequencies(torch.arange(3))
    assert frequencies.shape == expected.shape
    assert torch.allclose(frequencies, expected, rtol=1e-6)


def test_some_rope_settings_are_accepted():
    for changes in (
        {
            "rope_parameters": {
                "rope_type": "linear",
                "factor": 2.0,
                "rope_theta": 20000.0,
                "partial_rotary_factor": 0.5,
            }
        },
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"type": "linear", "factor": 2.0}, "rope_scaling": None},
    ):
        sizes = without(hf("gpt_neox"), "rotary_pct", "rotary_emb_base") | changes
        assert archport.build("gpt-neox", sizes, device="meta").blocks[0].attn.rotary.scaling == LinearScaling(2.0)


def test_whole_numbers_in_float_fields_become_floats():
    assert type(gpt2.Config(**SMALL, norm_eps=1).norm_eps) is float


def test_gpt_neox_has_one_rate_for_embedding_and_residual():
    with pytest.raises(ConfigError, match=r"embed_dropout: found 0\.3, but residual_dropout is 0\.1"):
        gpt_neox.Config(**SMALL, rotary_fraction=1.0, embed_dropout=0.3, residual_dropout=0.1)


@pytest.mark.parametrize("kind", [["gpt2"], {"a": 1}, 3, None])
def test_a_model_type_of_any_kind_is_an_error_of_ours(kind):
    with pytest.raises(ConfigError):
        archport.from_state_dict({"model_type": kind}, {"x": torch.ones(1)})


NESTED = {"heads": "attn.deep.n_heads", "kv_heads": config_field("attn.kv", "n_kv"), "tied": "tie"}


def nested_table() -> Table:
    table = architecture("gpt2").table
    fields = {name: cell for name, cell in table.config.items() if name not in NESTED} | NESTED
    return dataclasses.replace(table, config=fields, harmless=table.harmless | {"attn.deep.note_*", "aux_*"})


@given(heads=st.sampled_from([1, 2, 3, 6]), outside=st.booleans(), origin=st.booleans())
def test_fields_lie_in_objects_of_any_depth(heads, outside, origin):
    kind, table = architecture("gpt2").config_class, nested_table()
    flat = {field: value for field, value in SIZES["gpt2"].items() if field != "n_head"}
    given = {"n_kv": heads} if outside else {}
    inside = {"deep": {"n_heads": 12, "note_1": [1]}} | ({} if outside else {"kv": heads})
    hf = flat | given | {"attn": inside, "aux_loss": 0.1, "tie": True}
    config, unknown = read_config(table, kind, hf, "config")
    assert (config.heads, config.kv_heads, unknown) == (12, heads, ())
    written = write_config(table, dataclasses.replace(config, heads=6, head_width=None), "gpt2", hf if origin else None)
    assert written["attn"]["deep"]["n_heads"] == 6
    assert not origin or (written["attn"]["deep"]["note_1"], written.get("n_kv")) == ([1], heads if outside else None)
    assert read_config(table, kind, written, "config")[0] == dataclasses.replace(config, heads=6, head_width=None)
    assert hf["attn"]["deep"]["n_heads"] == 12  # what was given stays


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attn": {"deep": 3}}, "attn.deep: found 3, expected an object"),
        ({"attn": {"deep": {"n_heads": 12, "other": 1}}}, "attn.deep.other: found 1, a setting archport does not know"),
        ({"attn": {"deep": {}}}, "attn.deep.n_heads: missing"),
        ({"attn": {"deep": {"n_heads": 12}, "kv": 3}, "n_kv": 4}, "n_kv: found 4, but attn.kv is 3"),
    ],
)
def test_what_is_wrong_inside_an_object_is_named_by_its_path(change, words):
    with pytest.raises(ArchportError, match=re.escape(words)):
        read_config(nested_table(), architecture("gpt2").config_class, SIZES["gpt2"] | change, "config")


def test_what_a_config_has_to_say_is_written_where_no_origin_says_it():
    table = dataclasses.replace(architecture("gpt2").table, written={"bos_token_id": 0})
    config = gpt2.Config(**SMALL)
    plain, said = write_config(table, config, "gpt2", None), hf("gpt2", bos_token_id=7)
    assert (plain["bos_token_id"], plain["eos_token_id"]) == (0, None)
    origin = read_config(table, gpt2.Config, said, "here")[0]
    assert write_config(table, origin, "gpt2", said)["bos_token_id"] == 7
