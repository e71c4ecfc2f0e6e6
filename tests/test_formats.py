"""Files of nanoGPT, litgpt and TransformerLens: in, out, every pair of them, and what training libraries save."""

import itertools
import json
import math
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

import archport
from archport.cli.texts import app
from archport.converting import settings_in, tensors_as
from archport.errors import (
    ArchportError,
    AsideWarning,
    CheckpointError,
    ConfigError,
    ExportError,
    MappingError,
    SourceError,
)
from archport.files.checkpoint import LITGPT_CONFIG
from archport.files.one_file import LITGPT
from archport.files.source import DEMO
from archport.formats import format_named, formats
from archport.registry import architecture, skeleton
from archport.translate.fields import read_config
from archport.translate.formats import settings_of
from archport.view import summary
from archport.view.subjects import subject
from archport.view.tensor_differences import tensors

from .commands import run
from .formats import common_sizes, digest, loud, numbered, of_each, sizes, variants
from .peak import peak_of

GOLDEN = json.loads((Path(__file__).parent / "golden" / "formats.json").read_text())
HUGGING_FACE = "transformers"


class Sub(nn.Module):
    """A module of the modules and parameters that it is given."""

    def __init__(self, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class GPT(nn.Module):
    """A GPT with nanoGPT's names: linear maps where transformers has Conv1D, a tied head, biases or none."""

    def __init__(
        self, block_size: int, vocab_size: int, n_layer: int, n_head: int, n_embd: int, dropout: float, bias: bool
    ) -> None:
        super().__init__()
        self.dropout = dropout  # which acts in train mode only
        self.heads = n_head

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(n_embd, bias=bias)

        def linear(before: int, after: int) -> nn.Linear:
            return nn.Linear(before * n_embd, after * n_embd, bias=bias)

        def block() -> Sub:
            attn, mlp = Sub(c_attn=linear(1, 3), c_proj=linear(1, 1)), Sub(c_fc=linear(1, 4), c_proj=linear(4, 1))
            return Sub(ln_1=norm(), attn=attn, ln_2=norm(), mlp=mlp)

        self.transformer = Sub(
            wte=nn.Embedding(vocab_size, n_embd),
            wpe=nn.Embedding(block_size, n_embd),
            h=nn.ModuleList(block() for _ in range(n_layer)),
            ln_f=norm(),
        )
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, ids: Tensor) -> Tensor:
        body = self.transformer
        x = body.wte(ids) + body.wpe(torch.arange(ids.shape[1]))
        for block in body.h:
            split = block.attn.c_attn(block.ln_1(x)).chunk(3, -1)
            q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in split)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + block.attn.c_proj(mixed.transpose(1, 2).flatten(2))
            x = x + block.mlp.c_proj(F.gelu(block.mlp.c_fc(block.ln_2(x))))
        return self.lm_head(body.ln_f(x))


ARGS = {"block_size": 29, "vocab_size": 71, "n_layer": 2, "n_head": 3, "n_embd": 24, "dropout": 0.1}


def nano(path: Path, *, bias: bool = True, prefix: str = "", **changed: Any) -> GPT:
    """A ckpt.pt as nanoGPT's train.py saves it, and the model it is of."""
    torch.manual_seed(0)
    model = GPT(**ARGS, bias=bias)
    checkpoint = {
        "model": {f"{prefix}{key}": tensor for key, tensor in model.state_dict().items()},
        "optimizer": torch.optim.AdamW(model.parameters()).state_dict(),
        "model_args": {**ARGS, "bias": bias},
        "iter_num": 3,
        "best_val_loss": torch.tensor(2.5),
        "config": {"dataset": "shakespeare", "compile": True, "learning_rate": 1e-3, "init_from": None},
    }
    torch.save(checkpoint | changed, path)
    return model


def ids(model: archport.Decoder) -> Tensor:
    count = min(13, model.config.context)
    return torch.randint(model.config.vocab_size, (2, count), generator=torch.Generator().manual_seed(1))


# --- nanoGPT ---


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_nanogpt_s_file_is_the_same_model_bit_by_bit(tmp_path, bias, prefix):
    theirs = nano(tmp_path / "ckpt.pt", bias=bias, prefix=prefix)
    for source in (tmp_path / "ckpt.pt", tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ours = archport.load(source)
        assert torch.equal(ours(ids(ours)), theirs(ids(ours)))
    assert (ours.architecture, ours.config.activation, ours.config.residual_dropout) == ("gpt2", "gelu", 0.1)
    assert ours.head.weight is ours.embed.tokens.weight
    assert bias or not any(p.any() for name, p in ours.named_parameters() if name.endswith(".bias"))
    written = archport.export(ours, tmp_path / "again.pt", format="nanogpt")
    again = torch.load(written)
    assert again["model_args"] == {**ARGS, "bias": bias}
    mine = GPT(**again["model_args"])
    mine.load_state_dict(again["model"])  # which takes nothing more and nothing less
    assert torch.equal(mine(ids(ours)), theirs(ids(ours)))
    shared = again["model"]
    assert shared["lm_head.weight"].data_ptr() == shared["transformer.wte.weight"].data_ptr()


def test_the_command_loads_and_verifies_nanogpt_s_file(tmp_path):
    nano(tmp_path / "ckpt.pt")
    for command, expected in (("load", "16,896 in float32"), ("verify", "the same model as transformers")):
        done = run(command, str(tmp_path / "ckpt.pt"))
        assert done.stderr == ""
        assert expected in done.stdout


def test_transformers_config_and_nanogpt_s_tensors_are_told_apart(tmp_path):
    theirs = nano(tmp_path / "ckpt.pt")
    ours = archport.load(tmp_path / "ckpt.pt")
    with pytest.raises(MappingError) as error:
        archport.from_state_dict(ours.origin.hf, theirs.state_dict())
    assert error.value.faults == (
        "the linear weights are transposed: this is nanoGPT's format: "
        'archport.from_state_dict(config, state_dict, format="nanogpt") takes it',
    )
    for config in (ours.origin.hf, ARGS | {"bias": True}):
        again = archport.from_state_dict(config, theirs.state_dict(), format="nanogpt")
        assert torch.equal(again(ids(ours)), theirs(ids(ours)))


@pytest.mark.parametrize("function", ["gelu_new", "gelu"])
def test_another_activation_in_transformers_config_than_in_nanogpt_is_warned_of(function, tmp_path):
    theirs = nano(tmp_path / "ckpt.pt")
    hf = {**archport.load(tmp_path / "ckpt.pt").origin.hf, "activation_function": function}
    with warnings.catch_warnings(record=True, action="always") as warned:
        archport.from_state_dict(hf, theirs.state_dict(), format="nanogpt")
    said = "activation is 'gelu_tanh' in this config, and 'gelu' in nanoGPT: taken as the config says"
    assert [said in str(one.message) for one in warned] == [True] * (function == "gelu_new")


@pytest.mark.parametrize(("kind", "name"), [("nanogpt", "gpt2"), ("litgpt", "llama"), ("transformer_lens", "gpt2")])
def test_what_came_without_its_format_or_from_a_key_too_far_out_says_so(kind, name):
    model = loud(name, sizes(name, kind))
    table, settings = settings_in(format_named(kind), architecture(name), model.config)
    made = tensors_as(table, model.config, dict(model.named_parameters(remove_duplicate=False)))
    held = {key: one.make() for key, one in made.items()}
    with pytest.raises(ConfigError) as error:
        archport.from_state_dict(settings, held)
    title = format_named(kind).title
    assert f'this is {title}\'s format: archport.from_state_dict(config, state_dict, format="{kind}")' in str(
        error.value
    )
    assert "config.json" not in str(error.value)
    with pytest.raises(CheckpointError, match="tensors that have values: pass what lies under 'model'"):
        archport.from_state_dict(settings, {"model": held, "step": 3}, format=kind)


def test_no_message_names_a_config_json_that_is_not_there(tmp_path):
    path = tmp_path / "ckpt.pt"
    nano(path)
    held = torch.load(path)
    held["model"]["transformer.ln_f.weight"] = held["model"]["transformer.ln_f.weight"].half()
    held["model"].pop("transformer.wte.weight")
    torch.save(held, path)
    with warnings.catch_warnings(record=True, action="always") as warned:
        archport.load(path)
    assert len(warned) == 2
    assert not any("config.json" in str(one.message) for one in warned)
    torch.save({**held, "hf_config": {"model_type": "gpt2", "torch_dtype": "int8"}}, path)
    assert "config.json" not in refused(path)


def test_an_activation_that_nanogpt_has_not_is_said_and_kept(tmp_path):
    model = loud("gpt2", sizes("gpt2", "nanogpt") | {"activation": "gelu_tanh"})
    with pytest.warns(AsideWarning, match="activation is 'gelu_tanh' in this model, and 'gelu' in nanoGPT"):
        archport.export(model, tmp_path / "x.pt", format="nanogpt")
    again = archport.load(tmp_path / "x.pt")
    assert torch.equal(again(ids(model)), model(ids(model)))


def test_files_of_any_two_formats_are_compared_number_by_number(tmp_path):
    paths = {}
    for bias in (True, False):
        (folder := tmp_path / str(bias)).mkdir()
        nano(folder / "ckpt.pt", bias=bias)
        paths[bias] = folder / "ckpt.pt"
        model = archport.load(paths[bias])
        paths["hf", bias] = archport.export(model, folder / "hf")
        paths["lens", bias] = archport.export(model, folder / "lens.pt", format="transformer_lens")
    read = {name: subject(str(path), headers_only=False) for name, path in paths.items()}
    loaded = {name: dict(archport.load(path).named_parameters()) for name, path in paths.items()}
    for one, other in itertools.product(read, repeat=2):
        expected = {name: torch.equal(tensor, loaded[other][name]) for name, tensor in loaded[one].items()}
        assert {row["tensor"]: row["same"] for row in tensors(read[one], read[other])} == expected
    held = torch.load(paths[True])
    held["model"]["transformer.h.1.mlp.c_fc.weight"][3, 5] += 0.25
    torch.save(held, tmp_path / "changed.pt")
    changed = subject(str(tmp_path / "changed.pt"), headers_only=False)
    differing = [row for row in tensors(read["hf", True], changed) if not row["same"]]
    assert [(row["tensor"], row["largest"]) for row in differing] == [("blocks.1.mlp.up.weight", 0.25)]


# --- build, and transformers' names ---


def test_build_understands_nanogpt_s_five_fields_and_transformers_and_names_others():
    hf = {"n_positions": 29, **FOUR}
    ours = {"context": 29, "vocab_size": 71, "layers": 2, "heads": 3, "width": 24}
    configs = [archport.build("gpt2", values, device="meta").config for values in (FIVE, ARGS, hf, ours)]
    assert {(c.context, c.vocab_size, c.layers, c.heads, c.width) for c in configs} == {(29, 71, 2, 3, 24)}
    assert [config.activation for config in configs] == ["gelu", "gelu", "gelu_tanh", "gelu_tanh"]


FIVE = {name: value for name, value in ARGS.items() if name != "dropout"}
FOUR = {name: value for name, value in FIVE.items() if name != "block_size"}
IN_NO_LIBRARY_S_NAMES: dict[str, tuple[str, dict[Any, Any], str]] = {
    "ours with one of nanoGPT": (
        "gpt2",
        {"block_size": 29, "vocab_size": 71, "layers": 2, "heads": 3, "width": 24},
        "block_size: no such field: it is nanoGPT's name for context",
    ),
    "two contexts": ("gpt2", FIVE | {"n_positions": 64}, "block_size: no such field: it is nanoGPT's name for context"),
    "two of one length": ("gpt2", FIVE | {"n_positions": 29}, "block_size: no such field: it is nanoGPT's name"),
    "transformers' activation": (
        "gpt2",
        FIVE | {"activation_function": "gelu"},
        "block_size: no such field: it is nano",
    ),
    "one of ours": ("gpt2", FIVE | {"context": 29}, "context: no such field: nanoGPT calls it block_size"),
    "one of ours in transformers'": (
        "gpt2",
        FOUR | {"n_positions": 29, "tied": False},
        "tied: no such field: it is arch",
    ),
    "an odd one": ("gpt2", FIVE | {"foo": 1}, "gpt2, in the names of nanoGPT: foo: no such field"),
    "a misspelt one": ("gpt2", FIVE | {"n_heads": 3}, "n_heads: no such field"),
    "no context": ("gpt2", FOUR | {"blocksize": 29}, "blocksize: no such field; nearest: block_size"),
    "a model_type": (
        "gpt2",
        FIVE | {"model_type": "gpt2"},
        "block_size: no such field: it is nanoGPT's name for context",
    ),
    "for a Llama": ("llama", FIVE, "llama, in the names of litgpt: padded_vocab_size: missing, it gives vocab_size"),
    "biases perhaps": ("gpt2", FIVE | {"bias": "no"}, "bias: found 'no', expected True or False"),
    "no name": ("gpt2", FIVE | {3: 1}, "3: no name of a field, expected text"),
    "what nobody wrote": (
        "llama",
        {"padded_vocab_size": 71, **FIVE},
        "mlp_class_name: missing, and litgpt's default does not fit: found 'GptNeoxMLP', archport builds 'LLaMAMLP'",
    ),
}


@pytest.mark.parametrize("case", IN_NO_LIBRARY_S_NAMES)
def test_a_config_in_the_names_of_no_library_says_which_one_is_wrong(case):
    name, values, message = IN_NO_LIBRARY_S_NAMES[case]
    with pytest.raises(ConfigError) as error:
        archport.build(name, values, device="meta")
    assert message in str(error.value)


@pytest.mark.parametrize(("kind", "name"), [pair for pair in of_each() if pair[0] == "litgpt" or pair[1] == "gpt2"])
def test_build_takes_what_a_format_writes(kind, name):
    config = architecture(name).config_class(**sizes(name, kind))
    settings = next(
        settings_of(table, config, kind) for table in formats()[kind].tables_of(name) if _writable(table, config)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built = archport.build(name, settings, device="meta").config
    assert settings_in(format_named(kind), architecture(name), built)[1] == settings


def test_nanogpt_s_args_without_biases_build_what_such_a_file_loads_as(tmp_path):
    nano(tmp_path / "ckpt.pt", bias=False)
    with pytest.warns(AsideWarning, match="bias: found False, but gpt2 has biases here: they are zeros at first"):
        model = archport.build("gpt2", {**ARGS, "bias": False})
    assert model.config == archport.load(tmp_path / "ckpt.pt").config
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith(".bias"))


@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama"])
def test_a_model_has_its_tensors_under_transformers_names(name):
    from transformers import AutoConfig, AutoModelForCausalLM

    model = loud(name, architecture(name).sizes)
    tensors = model.hf_state_dict()
    reference = AutoModelForCausalLM.from_config(AutoConfig.for_model(**_hf_config(model))).eval()
    reference.load_state_dict(tensors)  # every one of its own, and no other
    assert (reference(ids(model)).logits - model(ids(model))).abs().max() < 1e-4
    assert tensors[next(iter(tensors))].data_ptr() in {p.data_ptr() for p in model.parameters()}


def _hf_config(model: archport.Decoder) -> dict[str, Any]:
    from archport.translate.fields import write_config

    return write_config(architecture(model.architecture).table, model.config, model.architecture, None)


# --- what the libraries themselves make of a model ---


@pytest.mark.parametrize(("kind", "name"), [pair for pair in of_each() if pair[0] in GOLDEN])
def test_tensors_are_those_that_the_library_makes_of_transformers_model(kind, name):
    model = numbered(name, sizes(name, kind))
    table = next(table for table in formats()[kind].tables_of(name) if _writable(table, model.config))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    tensors = tensors_as(table, model.config, parameters)
    assert digest({key: one.make() for key, one in tensors.items()}) == GOLDEN[kind][name]


def _writable(table: Any, config: Any) -> bool:
    try:
        settings_of(table, config, "config")
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("published", GOLDEN["configs of litgpt"])
def test_configs_as_litgpt_writes_them_are_the_architectures_they_are_of(published):
    name, settings = GOLDEN["configs of litgpt"][published]
    kind = format_named("litgpt")
    fitting = {}
    for candidate, table in kind.tables:
        try:
            config, unknown = read_config(table, architecture(candidate).config_class, settings, published)
        except ConfigError:
            continue
        assert unknown == ()
        fitting[candidate] = config
    assert name in fitting
    assert fitting[name].vocab_size == settings["padded_vocab_size"]


# --- every pair ---


def _written(model: archport.Decoder, kind: str, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    target = folder / (kind if kind in (HUGGING_FACE, "litgpt") else f"{kind}.pt")
    return archport.export(model, target, format=None if kind == HUGGING_FACE else kind)


def _same(one: archport.Decoder, other: archport.Decoder) -> bool:
    theirs = dict(other.named_parameters())
    named = list(one.named_parameters())
    return len(named) == len(theirs) and all(torch.equal(tensor, theirs[name]) for name, tensor in named)


@pytest.mark.parametrize(("kind", "name"), of_each())
def test_every_pair_of_formats_converts(kind, name, tmp_path):
    others = [other for other, found in of_each() if found == name and other != kind]
    model = loud(name, common_sizes(name))
    first = archport.load(_written(model, kind, tmp_path))
    assert _same(first, model)
    for other in (HUGGING_FACE, *others):
        second = archport.load(_written(first, other, tmp_path / "second"))
        assert (second.architecture, _same(second, model)) == (name, True)
        back = archport.load(_written(second, kind, tmp_path / f"from {other}"))
        assert (back.architecture, _same(back, model), back.config) == (name, True, model.config)
        assert torch.equal(back(ids(model)), model(ids(model)))


@pytest.mark.families
@pytest.mark.parametrize(("kind", "name"), of_each())
def test_every_variant_comes_back_as_it_was(kind, name, tmp_path):
    count = 0
    for number, fields in enumerate(variants(kind, name)):
        model = loud(name, fields)
        (tmp_path / str(number)).mkdir()
        again = archport.load(_written(model, kind, tmp_path / str(number)))
        assert (again.architecture, _same(again, model), again.config) == (name, True, model.config)
        count += 1
    assert count


def test_a_file_without_our_note_beside_it_is_read_by_its_own_config(tmp_path):
    for kind, name in of_each():
        model = loud(name, sizes(name, kind))
        path = _written(model, kind, tmp_path / f"{kind} {name}" if kind == "litgpt" else tmp_path)
        if kind == "litgpt":
            config = yaml.safe_load((path / LITGPT_CONFIG).read_text())
            (path / LITGPT_CONFIG).write_text(yaml.safe_dump(config | {"hf_config": {}}))
        else:
            torch.save({key: value for key, value in torch.load(path).items() if key != "hf_config"}, path)
        again = archport.load(path)
        assert torch.equal(again(ids(model)), model(ids(model)))
        if kind != "litgpt":
            path.unlink()


# --- what is wrong with a file is one line, and nothing is made ---


def _lens(path: Path, name: str = "gptj") -> dict[str, Any]:
    archport.export(loud(name, sizes(name, "transformer_lens")), path, format="transformer_lens")
    held: dict[str, Any] = torch.load(path)
    held.pop("hf_config")
    return held


def refused(source: Path | str) -> str:
    with pytest.raises(ArchportError) as error:
        archport.load(source)
    return str(error.value)


def test_numbers_where_a_model_has_no_parameter_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    held = _lens(path)
    held["state_dict"]["blocks.1.attn.b_K"][0, 0] = 1e-3
    torch.save(held, path)
    assert "blocks.1.attn.b_K and blocks.1.attn.b_V: found numbers, expected zeros: gptj has none" in refused(path)
    held["state_dict"]["blocks.1.attn.b_K"][0, 0] = 0.0
    held["state_dict"]["blocks.2.ln2.w"] = held["state_dict"]["blocks.2.ln2.w"] + 1
    torch.save(held, path)
    assert "blocks.2.ln2.w: found other numbers than in blocks.2.ln1.w, which it should repeat" in refused(path)


def test_buffers_of_transformer_lens_are_left_aside(tmp_path):
    path = tmp_path / "x.pt"
    held = _lens(path)
    held["state_dict"]["blocks.0.attn.mask"] = torch.ones(41, 41).tril().bool()
    held["state_dict"]["blocks.0.attn.rotary_sin"] = torch.ones(41, 8)
    torch.save(held, path)
    assert archport.load(path).architecture == "gptj"


def test_numbers_of_numpy_are_refused_with_what_to_do(tmp_path):
    held = _lens(tmp_path / "x.pt")
    held["cfg"]["attn_scale"] = __import__("numpy").float64(3.5)
    torch.save(held, tmp_path / "x.pt")
    assert "expected no numbers of numpy: it was not run; save them as float(..)" in refused(tmp_path / "x.pt")


NANO_FAULTS: dict[str, tuple[Any, str]] = {
    "a tensor is missing": (lambda c: c["model"].pop("transformer.h.1.mlp.c_fc.weight"), "c_fc.weight: missing"),
    "a tensor too many": (
        lambda c: c["model"].update({"transformer.more": torch.ones(2)}),
        "transformer.more: found (2,), but no parameter takes it",
    ),
    "a size is missing": (lambda c: c["model_args"].pop("n_head"), "nanoGPT's config: n_head: missing"),
    "a size is no number": (lambda c: c["model_args"].update(n_head="3"), "n_head: found '3', expected a whole"),
    "another size": (lambda c: c["model_args"].update(n_embd=48), "found (96, 24), expected (192, 48)"),
    "a head of its own": (lambda c: c["model"].update({"lm_head.weight": torch.ones(71, 24)}), "this format ties it"),
    "no biases, though said": (
        lambda c: c.update(model={key: one for key, one in c["model"].items() if not key.endswith(".bias")}),
        "1 fault between checkpoint and model, nothing was loaded\n  bias: found True in its config and no biases",
    ),
    "one bias is missing": (
        lambda c: c["model"].pop("transformer.h.0.ln_1.bias"),
        "1 fault between checkpoint and model, nothing was loaded\n  transformer.h.0.ln_1.bias: missing, expected",
    ),
    "no weights": (
        lambda c: c.pop("model"),
        "found model_args beside 'optimizer' (dict), 'iter_num' (int), 'best_val_loss' (Tensor), 'config' (dict), "
        "expected weights under 'model' or 'state_dict'",
    ),
    "a list of weights": (lambda c: c.update(model=[*c["model"].values()]), "found model_args beside 'model' (list), "),
    "a word for biases": (lambda c: c["model_args"].update(bias="no"), "bias: found 'no', expected True or False"),
    "whole numbers": (lambda c: c["model"].update({"transformer.ln_f.bias": torch.ones(24).int()}), "floating-point"),
    "no config": (lambda c: c.pop("model_args"), "found tensors without a config, expected config.json"),
}


@pytest.mark.parametrize("fault", NANO_FAULTS)
def test_a_fault_of_nanogpt_s_file_is_named(fault, tmp_path):
    path = tmp_path / "ckpt.pt"
    nano(path)
    held = torch.load(path)
    change, message = NANO_FAULTS[fault]
    change(held)
    torch.save(held, path)
    assert message in refused(path)


NESTED: list[Any] = []
for _ in range(150):
    NESTED = [NESTED]
STRANGE = (None, True, -1, 0, 7.5, 1e30, math.nan, math.inf, 1 << 80, "x", [], [1], {}, {1: 2}, torch.ones(3), NESTED)
STRANGE = (*STRANGE, torch.float16, torch.ones(1))


@pytest.mark.parametrize("field", [*ARGS, "bias", "more", 3])
def test_any_value_of_any_field_loads_or_is_one_error_of_ours(field, tmp_path):
    path = tmp_path / "ckpt.pt"
    nano(path)
    held = torch.load(path)
    for value in STRANGE:
        torch.save(held | {"model_args": {**held["model_args"], field: value}}, path)
        _loads_or_is_refused(path)


@pytest.mark.parametrize("key", ["model_args", "hf_config", "model"])
def test_any_value_in_the_place_of_a_part_loads_or_is_one_error_of_ours(key, tmp_path):
    path = tmp_path / "ckpt.pt"
    nano(path)
    held = torch.load(path)
    for value in STRANGE:
        torch.save(held | {key: value}, path)
        _loads_or_is_refused(path)


def _loads_or_is_refused(path: Path) -> None:
    message = str(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AsideWarning)
        try:
            archport.load(path)
        except ArchportError as error:
            message = str(error)
    assert str(path) in message


YAML_FAULTS = {
    "a: &x [1]\nb: *x\n": "found an alias",
    "a: 1\na: 2\n": "found 'a' twice",
    "- 1\n": "found a YAML list, expected an object",
    "": "found a YAML NoneType, expected an object",
    "a: [1\n": "expected a YAML object, found",
    "a: !!python/object/apply:os.system ['true']\n": "expected a YAML object, found",
    "[" * 5000: "expected a YAML object, found brackets nested too deeply",
    "- " * 5000: "expected a YAML object, found brackets nested too deeply",
    f"a: {'x' * (1 << 20)}\n": "expected at most 65536 of YAML",
    "{}\n": "litgpt's config: n_embd: missing; n_head: missing; n_layer: missing; padded_vocab_size: missing",
}


@pytest.mark.parametrize("text", YAML_FAULTS, ids=lambda text: repr(text[:12]))
def test_a_fault_of_litgpt_s_config_is_named(text, tmp_path):
    folder = archport.export(loud("llama", sizes("llama", "litgpt")), tmp_path / "lit", format="litgpt")
    (folder / LITGPT_CONFIG).write_text(text)
    assert YAML_FAULTS[text] in refused(folder)


LITGPT_FAULTS = {
    "latent_attention": ({"q_lora_rank": 3}, "latent_attention: found {'q_lora_rank': 3}, expected none"),
    "norm_class_name": ("BatchNorm", "norm_class_name: found 'BatchNorm', archport builds 'RMSNorm'"),
    "rope_interleave": (True, "rope_interleave: found True, archport builds False"),
    "n_query_groups": (5, "n_query_groups: found 5, expected a divisor"),
    "intermediate_size": (None, "fault"),
}


@pytest.mark.parametrize("field", LITGPT_FAULTS)
def test_a_field_of_litgpt_s_config_that_is_not_built_is_named(field, tmp_path):
    folder = archport.export(loud("llama", sizes("llama", "litgpt")), tmp_path / "lit", format="litgpt")
    value, message = LITGPT_FAULTS[field]
    config = yaml.safe_load((folder / LITGPT_CONFIG).read_text())
    (folder / LITGPT_CONFIG).write_text(yaml.safe_dump(config | {field: value}))
    assert message in refused(folder)


def test_what_a_format_has_no_room_for_is_refused_before_anything_is_written(tmp_path):
    cases: list[tuple[str, dict[str, Any], str, str]] = [
        ("gptj", {}, "nanogpt", "found a gptj, nanoGPT's format is for gpt2"),
        ("gpt2", {}, "nanogpt", "nanoGPT has no such gpt2"),
        ("gpt2", {}, "litgpt", "found a gpt2, litgpt's format is for gpt_neox, llama"),
        ("llama", {"attention_bias": True}, "litgpt", "attention_bias: found True, expected False"),
        ("mistral", {}, "transformer_lens", "window: found 9, expected None"),
        ("gemma", {}, "transformer_lens", "found a gemma, TransformerLens's format is for"),
    ]
    for name, fields, kind, message in cases:
        model = loud(name, architecture(name).sizes | fields)
        with pytest.raises(ExportError) as error:
            archport.export(model, tmp_path / "x.pt", format=kind)
        assert message in str(error.value)
    model = loud("gpt2", sizes("gpt2", "nanogpt"))
    with pytest.raises(ConfigError, match="nope: no such, archport knows litgpt, nanogpt, transformer_lens"):
        archport.export(model, tmp_path / "x.pt", format="nope")
    with pytest.raises(ExportError, match=r"expected a name ending in \.pt or"):
        archport.export(model, tmp_path / "x", format="nanogpt")
    assert not [*tmp_path.iterdir()]
    archport.export(model, tmp_path / "x.pt", format="nanogpt")
    before = (tmp_path / "x.pt").read_bytes()
    with pytest.raises(ExportError, match="is there already"):
        archport.export(model, tmp_path / "x.pt", format="nanogpt")
    assert (tmp_path / "x.pt").read_bytes() == before
    archport.export(model, tmp_path / "x.pt", format="nanogpt", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_an_export_over_a_training_checkpoint_is_refused_with_what_would_be_lost(tmp_path):
    path = tmp_path / "ckpt.pt"
    nano(path)
    model, before = archport.load(path), path.read_bytes()
    with pytest.raises(
        ExportError, match="found 'optimizer', 'iter_num', 'best_val_loss', 'config', which no export writ"
    ):
        archport.export(model, path, format="nanogpt", force=True)
    assert path.read_bytes() == before
    for number, held in enumerate(({"model": {}}, 3)):  # no checkpoint, so that nothing is lost
        torch.save(held, other := tmp_path / f"{number}.pt")
        archport.export(model, other, format="nanogpt", force=True)
        archport.export(archport.load(other), other, format="nanogpt", force=True)


def test_a_source_that_is_not_there_or_is_no_checkpoint_is_named_as_what_it_is(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("out/nofile.pt", "./nofile.pt", "nofile.ckpt", str(tmp_path / "no.safetensors")):
        assert f"{name}: no such file, expected a folder or a Hub id" in refused(name)
    assert "no such folder" in refused("./out/nothing")
    model = loud("llama", sizes("llama", "litgpt"))
    folder = archport.export(model, tmp_path / "lit", format="litgpt")
    (folder / LITGPT).rename(folder / "last.ckpt")
    assert "model_config.yaml (litgpt's, without its lit_model.pth: get that too)" in refused(folder)
    assert "last.ckpt (of another name: if it is a checkpoint, name that file itself)" in refused(folder)
    assert _same(archport.load(folder / "last.ckpt"), model)


def test_a_packed_model_has_no_names_of_transformers(tmp_path):
    model = archport.load(_written(loud("gpt2", sizes("gpt2", "nanogpt")), "nanogpt", tmp_path), linears="packed")
    with pytest.raises(ExportError, match="linear maps are direct, packed or quantised"):
        model.hf_state_dict()


def test_tensors_that_the_file_has_not_are_counted_apart(tmp_path):
    expected = {
        False: "15 mapped, 1 tied, 13 zeros that the file has not, 0 missing",
        True: "28 mapped, 1 tied, 0 missing",
    }
    for bias, account in expected.items():
        nano(tmp_path / "ckpt.pt", bias=bias)
        plan = archport.plan(tmp_path / "ckpt.pt")
        assert summary.account(summary.of_load(plan, skeleton(plan.architecture, plan.config))).startswith(account)


def test_texts_of_a_file_without_a_tokenizer_take_one_that_is_named(tmp_path):
    path = tmp_path / "ckpt.pt"
    archport.export(loud("gpt2", sizes("gpt2", "nanogpt") | {"vocab_size": 1024}), path, format="nanogpt")
    with pytest.raises(SourceError, match=rf"{path}: came from no folder, .*: name the folder .*, by --tokenizer or"):
        archport.tokenizer(archport.load(path))
    (tmp_path / "text").write_text("def f(x): return x")
    for words in (["generate", path, "--prompt", "def", "--max-new-tokens", "3"], ["score", path, tmp_path / "text"]):
        done = CliRunner().invoke(app, [*map(str, words), "--tokenizer", str(DEMO)])
        assert (done.exit_code, bool(done.stdout)) == (0, True)


def test_litgpt_s_file_may_be_named_itself_with_its_config_beside_it(tmp_path):
    model = loud("llama", sizes("llama", "litgpt"))
    archport.export(model, tmp_path / LITGPT, format="litgpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([LITGPT, LITGPT_CONFIG])
    again = archport.load(tmp_path / LITGPT)
    assert _same(again, model)
    (tmp_path / LITGPT_CONFIG).unlink()
    assert "found tensors without a config" in refused(tmp_path / LITGPT)


def test_litgpt_s_first_files_keep_the_order_of_ours(tmp_path):
    model = loud("gpt_neox", sizes("gpt_neox", "litgpt"))
    folder = archport.export(model, tmp_path / "lit", format="litgpt")
    held = torch.load(folder / LITGPT)
    for layer, block in enumerate(model.blocks):
        for leaf in ("weight", "bias"):
            held.pop(f"transformer.h.{layer}.attn.qkv.{leaf}")
            held[f"transformer.h.{layer}.attn.attn.{leaf}"] = getattr(block.attn.qkv, leaf).detach().clone()
    torch.save(held, folder / LITGPT)
    assert _same(archport.load(folder), model)


def test_an_export_holds_one_tensor_at_a_time(tmp_path):
    fields = sizes("gpt2", "nanogpt") | {"width": 640, "layers": 6, "heads": 10}
    size = sum(parameter.nbytes for parameter in archport.build("gpt2", fields, device="meta").parameters())
    grown = peak_of(
        f"import archport; model = archport.build('gpt2', {fields!r})\n"
        f"archport.export(archport.build('gpt2', {sizes('gpt2', 'nanogpt')!r}), sys.argv[1], format='nanogpt')",
        "archport.export(model, sys.argv[2], format='nanogpt')",
        tmp_path / "small.pt",
        tmp_path / "x.pt",
    )
    assert grown < 2.2 * size  # the file's own pages among them


# --- what training libraries save ---


def _names(model: archport.Decoder) -> dict[str, Tensor]:
    return {key: tensor.detach().clone() for key, tensor in model.hf_state_dict().items()}


def _lightning(names: dict[str, Tensor]) -> Any:
    """As Lightning's Trainer saves a module that holds the model as `model`."""
    return {
        "epoch": 0,
        "global_step": 3,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": OrderedDict({f"model.{key}": tensor for key, tensor in names.items()}),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(1.5), "best_k_models": {}, "dirpath": "x"}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)}}}],
        "lr_schedulers": [{"last_epoch": 1, "_last_lr": [0.1]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.001, "name": "x", "betas": (0.9, 0.95)},
    }


TRAINING = {
    "Lightning": _lightning,
    "Lightning, compiled": lambda names: _lightning({f"_orig_mod.{key}": one for key, one in names.items()}),
    "Fabric": lambda names: {"model": OrderedDict(names), "optimizer": {"state": {}, "param_groups": []}, "step": 3},
    "DeepSpeed, zero_to_fp32": lambda names: OrderedDict(names),
    "DeepSpeed, of one process": lambda names: {
        "module": OrderedDict(names),
        "buffer_names": [],
        "optimizer": None,
        "param_shapes": None,
        "lr_scheduler": None,
        "global_steps": 3,
        "ds_config": {"zero_optimization": {"stage": 0}},
        "ds_version": "0.19.8",
    },
    "Accelerate, in parallel": lambda names: OrderedDict({f"module.{key}": one for key, one in names.items()}),
    "FSDP, wrapped": lambda names: {
        key.replace("transformer.", "_fsdp_wrapped_module.transformer."): one for key, one in names.items()
    },
    "FSDP, checkpointed": lambda names: {
        key.replace(".mlp.", ".mlp._checkpoint_wrapped_module."): one for key, one in names.items()
    },
    "torch's distributed checkpoint": lambda names: {"app": {"model": names, "step": torch.tensor(1)}},
}


@pytest.mark.parametrize("library", TRAINING)
def test_what_a_training_library_saves_is_read_beside_a_config(library, tmp_path):
    model = loud("gpt2", architecture("gpt2").sizes)
    (tmp_path / "config.json").write_text(json.dumps(_hf_config(model)))
    torch.save(TRAINING[library](_names(model)), tmp_path / "last.ckpt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text(json.dumps(_hf_config(model)))
    torch.save(TRAINING[library](_names(model)), tmp_path / "folder" / "pytorch_model.bin")
    for source in (tmp_path / "last.ckpt", tmp_path / "folder"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AsideWarning)
            assert _same(archport.load(source), model)


def test_tensors_as_fsdp_gathers_them_are_read_and_others_with_attributes_are_not(tmp_path):
    model = loud("gpt2", architecture("gpt2").sizes)
    (tmp_path / "config.json").write_text(json.dumps(_hf_config(model)))
    names = _names(model)
    for tensor in names.values():
        tensor._has_been_cloned = True
    torch.save(names, tmp_path / "model.pt")
    assert _same(archport.load(tmp_path / "model.pt"), model)
    tensor.__dict__["other"] = math.pi
    torch.save(names, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"found a call of torch\.Tensor, expected names and dense tensors only"):
        archport.load(tmp_path / "model.pt")
