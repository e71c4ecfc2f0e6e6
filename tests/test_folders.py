"""Folders as people have them: what transformers makes of each, or one line; and what was odd is said."""

import json
import random
import re

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import archport
from archport.cli import checkpoints
from archport.errors import AsideWarning, CheckpointError, ConfigError, MappingError, UnsupportedError
from archport.layers.mlp import ACTIVATIONS as OURS
from archport.mappings import ACTIVATIONS
from archport.parity.by_block import verify_by_block
from archport.registry import architecture

from .folders import PREFIXES, check
from .references import VARIANTS, pretrained, reference

RUNS = 50
COMMON = ("gpt2", "gpt2 untied", "gptj", "gptj tied", "gpt_neox", "gpt_neox tied", "llama", "opt", "bloom", "gemma2")


def test_folders_put_together_at_random_are_equal_or_refused(tmp_path):
    results = [
        check(dice.choice(COMMON), dice, make(tmp_path / str(seed)))
        for seed, dice in ((seed, random.Random(seed)) for seed in range(RUNS))
    ]
    assert results.count("loaded") > RUNS / 2
    assert results.count("refused") > RUNS / 8


@pytest.mark.families
@pytest.mark.parametrize("variant", VARIANTS)
def test_folders_of_every_variant(variant, tmp_path):
    check(variant, random.Random(variant), tmp_path)


def make(folder):
    folder.mkdir()
    return folder


# --- heads ---

TIED = [name for name in archport.architectures() if name in transformers.CONFIG_MAPPING and name != "gpt_oss"]


def edited(folder, change=lambda state: state, **fields):
    """A folder of transformers with other tensors and other config fields, of which None takes one away."""
    state = change(load_file(folder / "model.safetensors"))
    save_file({key: one.clone() for key, one in state.items()}, folder / "model.safetensors", {"format": "pt"})
    hf = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps({key: value for key, value in hf.items() if value is not None}))
    return folder


def saved_in(folder, variant, **fields):
    reference(variant, **fields).save_pretrained(folder)
    return folder


def equal(folder, model):
    """Whether what we make of a folder is a reference's model, said in one line if `said` is given."""
    ids = torch.arange(9)[None]
    with torch.no_grad():
        theirs = model(ids).logits
        return bool((archport.load(folder)(ids) - theirs).abs().max() <= 1e-5 * max(1, theirs.abs().max()))


@pytest.mark.parametrize("name", TIED)
def test_a_base_model_without_its_head_loads_where_it_is_tied(name, tmp_path):
    reference(name, tie_word_embeddings=True).base_model.save_pretrained(tmp_path)
    model, account = pretrained(tmp_path, "auto", output_loading_info=True)
    if account["missing_keys"]:
        assert account["missing_keys"] == {"lm_head.bias"}
        with pytest.raises(MappingError, match=r"lm_head\.bias: missing"):
            archport.load(tmp_path)
    else:
        assert equal(tmp_path, model)


@pytest.mark.parametrize("name", TIED)
def test_a_tied_model_that_holds_only_its_head_loads(name, tmp_path):
    saved_in(tmp_path, name, tie_word_embeddings=True)
    table, config = architecture(name).table, archport.plan(tmp_path).config
    head, embedding = (table.row(one, config).keys[0] for one in ("head.weight", "embed.tokens.weight"))
    edited(tmp_path, lambda state: {head if key == embedding else key: one for key, one in state.items()})
    with pytest.warns(AsideWarning, match=f"{head} taken for {embedding} too, which is not there"):
        assert equal(tmp_path, pretrained(tmp_path, "auto"))


def test_a_model_that_holds_only_its_head_is_verified_block_by_block(tmp_path):
    saved_in(tmp_path, "gpt2")
    edited(tmp_path, lambda state: state | {"lm_head.weight": state.pop("transformer.wte.weight")})
    assert verify_by_block(tmp_path).ok


@pytest.mark.parametrize("kind", ["GPT2ForSequenceClassification", "GPTNeoXForSequenceClassification"])
def test_a_classifier_without_a_language_head_is_refused_by_its_class(kind, tmp_path):
    variant = "gpt2" if "GPT2" in kind else "gpt_neox tied"
    getattr(transformers, kind)(reference(variant).config).save_pretrained(tmp_path)
    with pytest.raises(
        UnsupportedError, match=rf"config\.json: architectures: found \['{kind}'\], a head of another task"
    ):
        archport.load(tmp_path)


def test_an_untied_base_model_says_what_it_lacks(tmp_path):
    reference("gpt_neox").base_model.save_pretrained(tmp_path)
    with pytest.raises(
        MappingError, match=r"embed_out\.weight: missing.*: a base model has no head, and the config does not tie it"
    ):
        archport.load(tmp_path)


def test_double_heads_and_value_heads_load_and_are_said(tmp_path, capsys):
    model = transformers.GPT2DoubleHeadsModel(reference("gpt2").config)
    model.save_pretrained(tmp_path)
    with pytest.warns(AsideWarning) as caught:
        assert equal(tmp_path, pretrained(tmp_path, "auto"))
    said = [str(one.message) for one in caught]
    of_config = "architectures: found GPT2DoubleHeadsModel, loaded as GPT2LMHeadModel, which the tensors are"
    aside = "multiple_choice_head.summary.bias, multiple_choice_head.summary.weight left aside"
    complete = "beside a complete language model, which does not use it"
    assert said == [f"{tmp_path}/config.json: {of_config}", f"{tmp_path}/model.safetensors: {aside}, {complete}"]
    checkpoints.load(str(tmp_path))
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(None, 1)[1] for line in printed if line.startswith("note ")] == said
    checkpoints.load(str(tmp_path), as_json=True)
    assert json.loads(capsys.readouterr().out)["notes"] == said


# --- names ---

WRAPPED = {
    "_orig_mod.": lambda model: torch.nn.ModuleDict({"_orig_mod": model}),  # as torch.compile's
    "module.": torch.nn.DataParallel,
    "net.model.": lambda model: torch.nn.ModuleDict({"net": torch.nn.ModuleDict({"model": model})}),
}


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama"])
@pytest.mark.parametrize("prefix", WRAPPED)
def test_a_wrapped_model_s_names_lose_what_they_all_begin_with(prefix, name, tmp_path):
    model = reference(name)
    saved_in(tmp_path, name)
    (tmp_path / "model.safetensors").unlink()
    torch.save(WRAPPED[prefix](model).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.warns(
        AsideWarning, match=re.escape(f"{tmp_path}/pytorch_model.bin: '{prefix}' taken off the names of its tensors")
    ):
        assert equal(tmp_path, model)


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama"])
@pytest.mark.parametrize("base", [True, False])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_head_of_another_task_is_left_aside_below_any_prefix(prefix, base, name, tmp_path):
    model = reference(name)
    own = type(model).base_model_prefix + "."
    saved_in(tmp_path, name)

    def change(state):
        if base:
            state = {key.removeprefix(own): one for key, one in state.items() if key != "lm_head.weight"}
        return {prefix + key: one for key, one in (state | {"score.weight": torch.ones(1, 7)}).items()}

    edited(tmp_path, change, **({"tie_word_embeddings": True} if base else {}))
    assert any("score.weight left aside" in note for note in archport.plan(tmp_path).notes)


def test_blocks_compiled_one_by_one_lose_what_that_put_into_their_names(tmp_path):
    model = reference("gpt2")
    saved_in(tmp_path, "gpt2")
    wrapped = reference("gpt2")
    for number, block in enumerate(wrapped.transformer.h):
        wrapped.transformer.h[number] = WRAPPED["_orig_mod."](block)
    edited(tmp_path, lambda _: {key: one for key, one in wrapped.state_dict().items() if "lm_head" not in key})
    with pytest.warns(AsideWarning, match="'_orig_mod.' taken off"):
        assert equal(tmp_path, model)


def test_two_models_in_a_file_are_named_and_none_is_chosen(tmp_path):
    saved_in(tmp_path, "gpt2")
    edited(
        tmp_path, lambda state: {f"{who}.{key}": one for who in ("student", "teacher") for key, one in state.items()}
    )
    with pytest.raises(MappingError, match=r"found a model below each of student\., teacher\.; expected one"):
        archport.load(tmp_path)


def test_a_model_beside_the_model_is_left_aside(tmp_path):
    saved_in(tmp_path, "gpt2")
    edited(tmp_path, lambda state: state | {f"teacher.{key}": one + 1 for key, one in state.items()})
    with pytest.warns(AsideWarning, match=r"teacher\.\S+, .* more left aside"):
        assert equal(tmp_path, reference("gpt2"))


def test_names_are_known_from_the_headers_of_a_repository(hub, at, tmp_path):
    saved_in(tmp_path / "theirs", "gpt2")
    edited(tmp_path / "theirs", lambda state: {f"module.{key}": one for key, one in state.items()})
    hub.add("ns/wrapped", tmp_path / "theirs")
    plan = archport.plan("ns/wrapped", **at)
    assert plan.notes == ("ns/wrapped/model.safetensors: 'module.' taken off the names of its tensors",)
    assert all(one.range for one in hub.requests if one.method == "GET" and one.path.endswith(".safetensors"))
    key = "transformer.wte.weight"
    assert torch.equal(plan.checkpoint.read(key), reference("gpt2").state_dict()[key])


# --- weights of another kind ---

SCHEMES = {
    "GPTQ": {".qweight": torch.int32, ".qzeros": torch.int32, ".scales": torch.float16, ".g_idx": torch.int32},
    "AWQ": {".qweight": torch.int32, ".qzeros": torch.int32, ".scales": torch.float16},
    "bitsandbytes (8 bits)": {".weight": torch.int8, ".SCB": torch.float32},
    "bitsandbytes (4 bits)": {".weight": torch.uint8, ".absmax": torch.float32, ".quant_map": torch.float32},
    "fp8": {".weight": torch.float8_e4m3fn},
    "fp8 with scales": {".weight": torch.float8_e4m3fn, ".weight_scale_inv": torch.float32},
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantised_tensors_are_refused_by_the_name_of_their_scheme(scheme, tmp_path):
    place = "transformer.h.1.mlp.c_fc"

    def change(state):
        del state[f"{place}.weight"]
        return state | {f"{place}{end}": torch.ones(3, 4).to(dtype) for end, dtype in SCHEMES[scheme].items()}

    edited(saved_in(tmp_path, "gpt2"), change)
    name = re.escape(scheme.removesuffix(" with scales"))
    with pytest.raises(
        CheckpointError,
        match=rf"^{tmp_path}/model\.safetensors: found {name} weights \(\S+.*archport takes weights in bfloat16",
    ):
        archport.load(tmp_path)


METHODS = {
    "GPTQ": {"quant_method": "gptq", "bits": 4},
    "AWQ": {"quant_method": "awq"},
    "bitsandbytes": {"load_in_4bit": True},
    "fp8": {"quant_method": "fp8"},
    "quantised": {"bits": 4},
}


@pytest.mark.parametrize("scheme", METHODS)
def test_a_config_of_quantised_weights_is_refused_by_the_name_of_their_scheme(scheme, tmp_path):
    edited(saved_in(tmp_path, "gpt2"), quantization_config=METHODS[scheme])
    with pytest.raises(
        UnsupportedError, match=rf"config\.json: quantization_config: found {scheme} weights, expected none"
    ):
        archport.load(tmp_path)


@pytest.mark.parametrize("name", ["half", "float", "double", "float16", "bfloat16", "float32", "float64"])
def test_types_of_numbers_go_by_torch_s_names(name, tmp_path):
    edited(saved_in(tmp_path, "gpt2"), dtype=name)
    assert archport.load(tmp_path).norm.weight.dtype == pretrained(tmp_path, "auto").dtype == getattr(torch, name)
    assert archport.plan(tmp_path, dtype=name).dtype == getattr(torch, name)


@pytest.mark.parametrize(("short", "name"), [("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")])
def test_types_of_numbers_go_by_their_short_names(short, name):
    assert archport.plan(dtype=short).dtype == getattr(torch, name)


@pytest.mark.parametrize("field", ["dtype", "torch_dtype"])
def test_a_type_that_is_none_is_named_with_its_file(field, tmp_path):
    edited(saved_in(tmp_path, "gpt2"), **{"dtype": None, "torch_dtype": None, field: "auto"})
    with pytest.raises(AttributeError):
        pretrained(tmp_path, "auto")
    with pytest.raises(
        ConfigError, match=rf"^{tmp_path}/config\.json: {field}: found 'auto', expected float32, float16"
    ):
        archport.load(tmp_path)


# --- configs ---


def test_activations_are_those_of_transformers_that_are_exactly_ours():
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    ours = {name: make()(x) for name, make in OURS.items()}
    for name in transformers.activations.ACT2CLS:
        try:
            theirs = transformers.activations.ACT2FN[name](x)
        except (RuntimeError, TypeError, ImportError):  # it has weights, or is not for float64
            assert name not in ACTIVATIONS
            continue
        same = [one for one, values in ours.items() if (values - theirs).abs().max() < 1e-6]
        assert same == ([ACTIVATIONS[name]] if name in ACTIVATIONS else []), name


YEAR_2019 = {
    "attn_pdrop": 0.1, "embd_pdrop": 0.1, "finetuning_task": None, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-5, "n_ctx": 37, "n_embd": 60, "n_head": 5, "n_layer": 3, "num_labels": 1,
    "output_attentions": False, "output_hidden_states": False, "output_past": True, "pruned_heads": {},
    "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "torchscript": False, "use_bfloat16": False,
    "vocab_size": 131,
}  # fmt: skip


def test_a_config_of_2019_is_recognised_and_said(tmp_path, capsys):
    model = reference("gpt2", n_inner=None, layer_norm_epsilon=1e-5)
    model.save_pretrained(tmp_path / "old")
    (tmp_path / "old" / "config.json").write_text(json.dumps(YEAR_2019))
    where = f"{tmp_path}/old/config.json: model_type: missing"
    with pytest.warns(AsideWarning, match=f"{where}, taken for gpt2, which fields and tensors fit"):
        port = archport.load(tmp_path / "old")
    archport.export(port, tmp_path / "new")
    assert equal(tmp_path / "new", model)
    assert equal(tmp_path / "new", pretrained(tmp_path / "new", "auto"))
    checkpoints.build("gpt2", config=tmp_path / "old" / "config.json")
    assert capsys.readouterr().out.splitlines()[-1] == f"{where}, read as one of gpt2"
    with pytest.warns(AsideWarning, match="config of state_dict: model_type: missing, taken for gpt2"):
        archport.from_state_dict(YEAR_2019, model.state_dict())


def test_what_could_be_several_architectures_is_left_to_its_owner(tmp_path):
    edited(saved_in(tmp_path, "llama"), model_type=None, architectures=None)
    with pytest.raises(
        ConfigError, match=r"config\.json: model_type: missing, and fields and tensors fit .*llama.*: add"
    ):
        archport.load(tmp_path)
    edited(tmp_path, architectures=["LlamaForCausalLM"])
    with pytest.warns(AsideWarning, match="taken for llama"):
        assert equal(tmp_path, reference("llama"))
    edited(tmp_path, lambda _: {"x": torch.ones(1)})
    with pytest.raises(
        ConfigError, match=r"missing, and as llama, which architectures names: lm_head\.weight: missing, expected for"
    ):
        archport.load(tmp_path)
    edited(tmp_path, architectures=None)
    with pytest.raises(ConfigError, match="model_type: missing, and fields and tensors fit none that archport builds"):
        archport.load(tmp_path)


def test_code_of_a_repository_is_named_where_nothing_else_could_build_the_model(tmp_path):
    edited(saved_in(tmp_path, "gpt2"), model_type="new", auto_map={"AutoModelForCausalLM": "modeling_new.Model"})
    with pytest.raises(
        UnsupportedError, match=r"auto_map: found code for the model, modeling_new\.Model, which archport never"
    ):
        archport.load(tmp_path)
