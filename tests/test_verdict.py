"""verify's verdict holds: ports wrong in places hard to see are red, right ones beside odd references green."""

import copy
import dataclasses
from dataclasses import replace

import pytest
import torch
from torch import nn

import archport
from archport.errors import AsideWarning, CheckpointError, ConfigError, SourceError
from archport.layers import MLP, Attention, Decoder, SequentialBlock
from archport.layers.rotary import Rotary, Rotation
from archport.parity import kill, verify_by_block
from archport.parity.ids import ids_for
from archport.parity.tiny_models import verify_architecture

from .commands import run
from .references import hf_dict, reference


@pytest.fixture
def hf():
    return reference("gpt2")


@pytest.fixture
def port(hf):
    return archport.from_state_dict(hf_dict(hf), copy.deepcopy(hf.state_dict()))


def line(report, name):
    return next(check for check in report.checks if check.name == name)


def failing(report):
    assert not report.ok
    return [check.name for check in report.checks if not check.ok]


class OneTokenWrong(nn.Embedding):
    wrong = -1

    def forward(self, ids):
        return super().forward(ids.masked_fill(ids == self.wrong, 0))


@pytest.mark.parametrize("quick", [False, True])
def test_a_lookup_wrong_for_one_rare_token(hf, port, quick):
    used = {token for ids in ids_for(port, None).values() for token in ids.flatten().tolist()}
    port.embed.tokens.__class__ = OneTokenWrong
    port.embed.tokens.wrong = next(token for token in range(port.config.vocab_size) if token not in used)
    lines = ["embeddings, every token"] if quick else ["embeddings, every token", "gradients, every token"]
    assert failing(archport.verify(port, reference=hf, quick=quick)) == lines


def test_a_config_that_says_another_model(hf, port):
    port.config = replace(port.config, norm_eps=0.25)
    assert archport.verify(port, reference=hf).problems == ("config.norm_eps is 0.25, the reference's 3e-05",)


def test_dropout_that_acts_in_train_mode_only(hf, port):
    port.blocks[1].mlp.dropout.p = 0.5
    port.blocks[2].attn.score_dropout = 0.25
    assert archport.verify(port, reference=hf).problems == (
        "blocks.1.mlp.dropout is p=0.5, inplace=False, the reference's p=0.1, inplace=False",
        "blocks.2.attn is heads=5, head_width=12, scale=0.288675, score_dropout=0.25, "
        "the reference's heads=5, head_width=12, scale=0.288675, score_dropout=0.1",
    )


class TwiceInTraining(MLP):
    def forward(self, x):
        return super().forward(x) * (2 if self.training else 1)


def test_code_that_is_wrong_in_train_mode_only(hf, port):
    port.blocks[1].mlp.__class__ = TwiceInTraining
    assert failing(archport.verify(port, reference=hf)) == ["logits, train mode", "logits, dropout drawn alike"]


class Detached(MLP):
    def forward(self, x):
        hidden = self.activation(self.up(x))
        return self.dropout(nn.functional.linear(hidden, self.down.weight, self.down.bias.detach()))


def test_a_parameter_that_gets_no_gradient(hf, port):
    port.blocks[1].mlp.__class__ = Detached
    report = archport.verify(port, reference=hf)
    assert failing(report) == ["gradients"]
    assert report.fault.place == "blocks.1.mlp.down.bias"
    assert "every module agrees, but not the line: gradients" in report.fault.words


class Flat(Decoder):
    def forward(self, ids, **how):
        return super().forward(ids, **how).flatten(0, 1)


def test_logits_of_another_shape(hf, port):
    port.__class__ = Flat
    assert "logits, one token" in failing(archport.verify(port, reference=hf, quick=True))


def test_parameters_of_several_dtypes(hf, port):
    port.blocks[1].mlp.up.half()
    assert archport.verify(port, reference=hf).problems == (
        "blocks.1.mlp.up.weight is torch.float16, most are torch.float32",
    )


class Nearsighted(Attention):
    """Forgets what is more than 30 tokens back."""

    def forward(self, x, context):  # noqa: ARG002
        q, k, v = self.qkv(x).unflatten(-1, (self.heads, 3, self.head_width)).permute(3, 0, 2, 1, 4)
        near = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril().triu(-30)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=near, scale=self.scale)
        return self.out(mixed.transpose(1, 2).flatten(-2))


def test_a_fault_far_along_the_sequence_is_located(hf, port):
    port.blocks[1].attn.__class__ = Nearsighted
    report = archport.verify(port, reference=hf)
    assert "logits, full context" in failing(report)
    assert report.fault.place == "blocks.1.attn"


class AnglesInTheModelsDtype(Rotary):
    def forward(self, positions, dtype):
        frequencies = 1.0 / self.base ** (torch.arange(0, self.width, 2).to(dtype) / self.width)
        angles = positions[:, None].to(dtype) * frequencies
        return Rotation(angles.cos(), angles.sin(), self.pairing)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gptj", "gpt_neox"])
def test_angles_that_only_half_precision_spoils(name, dtype):
    model = reference(name, **{"n_positions" if name == "gptj" else "max_position_embeddings": 1500})
    port = archport.from_state_dict(hf_dict(model), model.state_dict()).to(dtype)
    assert archport.verify(port, reference=model).ok
    port.blocks[0].attn.rotary.__class__ = AnglesInTheModelsDtype
    assert "logits, full context" in failing(archport.verify(port, reference=model, quick=True))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("embed.tokens.padding_idx", 60, "embed.tokens is 131, 60, padding_idx=60"),
        ("embed.tokens.sparse", True, "embed.tokens is 131, 60, sparse=True"),
        ("blocks.0.norm_attn.eps", 1e-12, "blocks.0.norm_attn is (60,), eps=1e-12"),
    ],
)
def test_a_setting_that_hardly_shows(hf, port, setting, value, message):
    module, _, name = setting.rpartition(".")
    setattr(port.get_submodule(module), name, value)
    assert archport.verify(port, reference=hf).problems[0].startswith(message)


def test_a_block_too_few_and_a_block_repeated(hf, port):
    port.blocks[1].load_state_dict(port.blocks[2].state_dict())
    report = archport.verify(port, reference=hf)
    assert report.fault.fault is None
    assert "blocks 1 and 2 exchanged" in report.fault.ruled_out
    del port.blocks[1]
    report = archport.verify(port, reference=hf)
    assert report.problems[0] == "it has 2 blocks, the reference 3"
    assert report.fault.fault is None


class Scaled(Decoder):
    def forward(self, ids, **how):
        return super().forward(ids, **how) * 0.5


def test_what_follows_the_head(hf, port):
    port.__class__ = Scaled
    report = archport.verify(port, reference=hf)
    assert report.fault.place == "decoder"
    assert report.fault.words.startswith("decoder: what it makes (2, 24, 131) differs by 5.0e-01 of the")


def test_a_reference_in_half_precision_is_compared_as_it_is():
    model = reference("gpt_neox").bfloat16()
    port = archport.from_state_dict(hf_dict(model), copy.deepcopy(model.state_dict()))
    for layer in model.gpt_neox.layers:
        layer.mlp.act = nn.ReLU()
    fault = archport.verify(port, reference=model).fault
    assert (fault.place, fault.fault.name) == ("blocks.0.mlp", "activation GELU (erf)")


# Right ports, written in another way.


class UpcastNorm(nn.LayerNorm):
    def forward(self, x):
        parameters = self.normalized_shape, self.weight.float(), self.bias.float(), self.eps
        return nn.functional.layer_norm(x.float(), *parameters).to(x.dtype)


class UpcastGELU(nn.GELU):
    def forward(self, x):
        return super().forward(x.float()).to(x.dtype)


def test_a_port_may_drop_to_float32_inside_a_module_of_its_own(hf, port):
    for block in port.blocks:
        block.norm_attn.__class__ = UpcastNorm
        block.mlp.activation.__class__ = UpcastGELU
    report = archport.verify(port, reference=hf)
    assert report.ok, str(report)
    port.blocks[1].norm_attn.eps = 0.1
    assert archport.verify(port, reference=hf).fault.place == "blocks.1.norm_attn"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["gpt2", "gptj", "gpt_neox"])
def test_contexts_of_a_few_tokens(name, seed):
    context = "max_position_embeddings" if name == "gpt_neox" else "n_positions"
    model = reference(name, seed=seed, **{context: 2 + seed % 2})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    port = archport.from_state_dict(hf_dict(model), model.state_dict())
    report = archport.verify(port, reference=model)
    assert report.ok, str(report)


# Another model altogether, or no model.


def test_a_reference_of_another_size_or_architecture(port):
    assert archport.verify(port, reference=reference("gpt_neox")).problems == (
        "it is a gpt2, the reference a gpt_neox",
    )
    wider = archport.build("gpt2", {"vocab_size": 113, "context": 43, "width": 50, "layers": 3, "heads": 5})
    assert archport.verify(wider, reference=reference("gpt2")).problems[0] == (
        "embed.tokens.weight is (113, 50), the reference's (131, 60)"
    )


def test_a_reference_that_is_none(hf, port):
    with pytest.raises(SourceError, match="the reference is 'gpt2', expected a transformers model"):
        archport.verify(port, reference="gpt2")
    with pytest.raises(SourceError, match="GPT2Model, which has no output head"):
        archport.verify(port, reference=hf.transformer)
    with pytest.raises(SourceError, match="found no reference, expected the checkpoint or the transformers model"):
        archport.verify(hf)
    with pytest.raises(ConfigError, match="device: found 'nowhere'"):
        archport.verify(port, reference=hf, device="nowhere")


def test_weights_of_the_reference_that_are_not_finite(hf, port):
    with torch.no_grad():
        hf.transformer.h[1].mlp.c_proj.bias[0] = float("nan")
    assert archport.verify(port, reference=hf).problems == (
        "the reference's transformer.h.1.mlp.c_proj.bias is not finite",
    )


def test_ports_that_cannot_be_run(hf, port):
    with pytest.raises(SourceError, match=r"embed\.tokens\.weight is on meta and has no values"):
        archport.verify(copy.deepcopy(port).to("meta"), reference=hf)
    patched = copy.deepcopy(port)
    patched.blocks[1].attn.forward = lambda x, context: x  # noqa: ARG005
    with pytest.raises(SourceError, match=r"blocks\.1\.attn has a forward of its own set on the instance"):
        archport.verify(patched, reference=hf)
    bare = Decoder(embed=port.embed, blocks=port.blocks, norm=port.norm, head=port.head, tied=True)
    with pytest.raises(SourceError, match=r"has no config or architecture: make it with archport\.build"):
        archport.verify(bare, reference=hf)
    port.norm = port.head = nn.Identity()
    report = archport.verify(port, reference=hf)
    assert line(report, "logits, one token").detail == "(1, 1, 60), expected (1, 1, 131)"


def test_a_dtype_that_nothing_higher_can_check():
    for ask in (archport.verify, verify_by_block):
        with pytest.raises(ConfigError, match="found float64, expected float32, float16 or bfloat16"):
            ask(dtype="float64")


def test_a_reference_with_other_weights_is_one_line(port):
    model = copy.deepcopy(reference("gpt2"))
    model.transformer.h[1].mlp.gate = torch.nn.Linear(2, 2)
    with pytest.raises(SourceError, match=r"reference has other weights than the models.*h\.1\.mlp\.gate") as caught:
        archport.verify(port, reference=model)
    assert "\n" not in str(caught.value)


def test_a_reference_with_a_head_for_another_task_is_verified():
    from transformers import GPT2Config, GPT2DoubleHeadsModel

    model = GPT2DoubleHeadsModel(GPT2Config(**hf_dict(reference("gpt2")))).eval()
    with pytest.warns(AsideWarning, match="multiple_choice_head"):
        port = archport.from_state_dict(model.config, model.state_dict())
    assert archport.verify(port, reference=model, quick=True).ok


def test_what_registers_must_be_an_architecture():
    for parts, message in (
        ({"name": ""}, "name: found '', expected a model_type"),
        ({"config_class": dict}, "config_class: found <class 'dict'>, expected a subclass of DecoderConfig"),
        ({"build": None}, "build: found None, expected a function"),
        ({"table": {}}, "table: found {}, expected a Table"),
    ):
        given = dataclasses.replace(archport.registry.architecture("gpt2"), name="other").__dict__ | parts
        with pytest.raises(ConfigError, match=message):
            archport.register(given.pop("name"), **given)


def test_an_architecture_by_another_name_than_its_checkpoints_say_is_verified_and_its_bugs_are_named(monkeypatch):
    arch = dataclasses.replace(archport.registry.architecture("gpt2"), name="gpt2_again", model_type="gpt2")
    faults = kill.faults_for("gpt2")[::30]
    monkeypatch.setattr(kill, "faults_for", lambda _: faults)
    with archport.registry.standing_in(arch):
        for report in verify_architecture("gpt2_again", quick=True):
            assert report.ok
            assert report.name.startswith("gpt2_again")
        kills = kill.kill_table("gpt2_again").kills
    assert kills
    assert all(one.named == one.fault.name for one in kills if one.counts)


# Ports that raise, or are called in another way.


class Broken(MLP):
    def forward(self, x):
        return self.down(self.up(x)[..., :-1])


def test_a_port_that_raises_says_where(hf, port):
    port.blocks[1].mlp.__class__ = Broken
    (problem,) = archport.verify(port, reference=hf).problems
    assert problem.startswith("blocks.1.mlp.down raises RuntimeError: ")


class ByKeyword(SequentialBlock):
    def forward(self, x, context):
        x = x + self.attn(x=self.norm_attn(x), context=context)
        return x + self.mlp(x=self.norm_mlp(x))


def test_modules_called_by_keyword(hf, port):
    for block in port.blocks:
        block.__class__ = ByKeyword
    assert archport.verify(port, reference=hf).ok
    port.blocks[1].attn.scale = 1.0
    assert archport.verify(port, reference=hf).fault.fault.name == "scale missing"


def test_a_port_without_blocks(hf, port):
    port.blocks = nn.ModuleList()
    assert archport.verify(port, reference=hf).problems == ("it has no blocks",)


# Right ports beside references that are easy to get wrong.


@pytest.mark.parametrize("name", ["gpt2", "gptj", "gpt_neox"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_reference_whose_buffers_were_rounded(name, dtype):
    model = reference(name).to(dtype)
    port = archport.from_state_dict(hf_dict(model), model.state_dict())
    report = archport.verify(port, reference=model)
    assert report.ok, str(report)
    assert ("rounded buffers rebuilt" in report.against) == (name != "gpt2")


def test_attention_that_upcasts_in_half_precision():
    model = reference("gpt2", reorder_and_upcast_attn=True).half()
    port = archport.from_state_dict(hf_dict(model), model.state_dict())
    assert archport.verify(port, reference=model).ok


@pytest.mark.parametrize("std", [0.02, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("name", ["gpt2", "gptj", "gpt_neox"])
def test_weights_of_any_size(name, std):
    for seed in range(3):
        torch.manual_seed(seed)
        model = reference(name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, std)
        port = archport.from_state_dict(hf_dict(model), model.state_dict())
        report = archport.verify(port, reference=model)
        assert report.ok, str(report)


def test_a_context_of_one_token():
    sizes = {"vocab_size": 11, "context": 1, "width": 8, "layers": 1, "heads": 2}
    port = archport.build("gpt2", sizes)
    from archport.parity.references import loud
    from archport.registry import architecture

    model = loud(architecture("gpt2"), sizes)
    port = archport.from_state_dict(model.config, model.state_dict())
    report = archport.verify(port, reference=model)
    assert report.ok, str(report)
    assert "loss" not in [check.name for check in report.checks]


def test_inside_inference_mode(hf):
    with torch.inference_mode():
        port = archport.from_state_dict(hf_dict(hf), hf.state_dict())
        assert archport.verify(port, reference=hf).ok


# The command line.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--by-block", "--quick"], "--by-block is for a SOURCE"),
        (["gpt2", "--by-block"], "--by-block is for a SOURCE"),
        (["gpt2", "--revision", "main"], "gpt2 is an architecture"),
        (["--report", "report.txt"], "expected a name ending in .md or .html"),
    ],
)
def test_options_that_do_not_go_together(words, message):
    assert message in run("verify", *words, code=2).stderr.replace("\n", " ")


def test_bad_input_is_one_line(tmp_path):
    assert "device: found 'nowhere'" in run("verify", "--quick", "--device", "nowhere", code=1).stderr
    reference("gpt2").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"transformers cannot read its tokenizer \(tokenizer\.json\)"):
        archport.verify(tmp_path)
    plugin = tmp_path / "plugin.py"
    for text, message in (
        ("def", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import nothing_at_all", "No module"),
    ):
        plugin.write_text(text)
        assert message in run("--plugin", "plugin", "models", code=2, cwd=tmp_path).stderr
        assert message in run("--plugin", str(plugin), "models", code=2).stderr
    plugin.write_text("raise SystemExit(3)")
    assert "SystemExit" in run("--plugin", str(plugin), "models", code=2).stderr


def test_tokenizers_that_do_not_fit(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import BPE, WordLevel

    reference("gpt2").save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    Tokenizer(BPE({"~": 0}, [])).save(str(tmp_path / "tokenizer.json"))  # gives no ids
    assert archport.verify(tmp_path, quick=True).ok
    Tokenizer(WordLevel({"a": 0})).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"the tokenizer cannot encode .*WordLevel error"):
        archport.verify(tmp_path, quick=True)
