"""verify's verdict holds: ports wrong in places hard to see are red, right ones beside odd references green."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import archport
from archport.errors import CheckpointError, ConfigError, SourceError
from archport.layers import MLP, Attention, Decoder, SequentialBlock
from archport.parity.verify import ids_for

from .references import hf_dict, reference
from .test_cli import run


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
    seen = {token for ids in ids_for(port, None).values() for token in ids.flatten().tolist()}
    port.embed.tokens.__class__ = OneTokenWrong
    port.embed.tokens.wrong = next(token for token in range(port.config.vocab_size) if token not in seen)
    assert failing(archport.verify(port, reference=hf, quick=quick)) == ["embeddings, every token"]


def test_a_config_that_says_another_model(hf, port):
    port.config = replace(port.config, norm_eps=0.25)
    assert archport.verify(port, reference=hf).problems == ("config.norm_eps is 0.25, the reference's 3e-05",)


def test_dropout_that_acts_in_train_mode_only(hf, port):
    port.blocks[1].mlp.dropout.p = 0.5
    port.blocks[2].attn.score_dropout = 0.25
    assert archport.verify(port, reference=hf).problems == (
        "blocks.1.mlp.dropout.p is 0.5, the reference's 0.1",
        "blocks.2.attn.score_dropout is 0.25, the reference's 0.1",
    )


class TwiceInTraining(MLP):
    def forward(self, x):
        return super().forward(x) * (2 if self.training else 1)


def test_code_that_is_wrong_in_train_mode_only(hf, port):
    port.blocks[1].mlp.__class__ = TwiceInTraining
    assert failing(archport.verify(port, reference=hf)) == ["logits, train mode"]


class Detached(MLP):
    def forward(self, x):
        return nn.functional.linear(self.activation(self.up(x)), self.down.weight, self.down.bias.detach())


def test_a_parameter_that_gets_no_gradient(hf, port):
    port.blocks[1].mlp.__class__ = Detached
    report = archport.verify(port, reference=hf)
    assert failing(report) == ["gradients"]
    assert report.fault.place == "blocks.1.mlp.down.bias"
    assert "every module agrees, but not the line: gradients" in report.fault.words


class Flat(Decoder):
    def forward(self, ids):
        return super().forward(ids).flatten(0, 1)


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

    def forward(self, x, step):  # noqa: ARG002
        q, k, v = self.qkv(x).unflatten(-1, (self.heads, 3, self.head_width)).permute(3, 0, 2, 1, 4)
        near = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril().triu(-30)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=near, scale=self.scale)
        return self.out(mixed.transpose(1, 2).flatten(-2))


def test_a_fault_far_along_the_sequence_is_located(hf, port):
    port.blocks[1].attn.__class__ = Nearsighted
    report = archport.verify(port, reference=hf)
    assert "logits, full context" in failing(report)
    assert report.fault.place == "blocks.1.attn"


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
    with pytest.raises(SourceError, match="the reference is a str, expected a transformers model"):
        archport.verify(port, reference="gpt2")
    with pytest.raises(SourceError, match="GPT2Model, which has no output head"):
        archport.verify(port, reference=hf.transformer)
    with pytest.raises(SourceError, match="found a GPT2LMHeadModel, expected a Decoder"):
        archport.verify(hf)
    with pytest.raises(ConfigError, match="device: found 'nowhere'"):
        archport.verify(port, reference=hf, device="nowhere")


def test_weights_of_the_reference_that_are_not_finite(hf, port):
    with torch.no_grad():
        hf.transformer.h[1].mlp.c_proj.bias[0] = float("nan")
    assert archport.verify(port, reference=hf).problems == (
        "the reference's transformer.h.1.mlp.c_proj.bias is not finite",
    )


# Ports that raise, or are called in another way.


class Broken(MLP):
    def forward(self, x):
        return self.down(self.up(x)[..., :-1])


def test_a_port_that_raises_says_where(hf, port):
    port.blocks[1].mlp.__class__ = Broken
    (problem,) = archport.verify(port, reference=hf).problems
    assert problem.startswith("blocks.1.mlp.down raises RuntimeError: ")


class ByKeyword(SequentialBlock):
    def forward(self, x, step):
        x = x + self.attn(x=self.norm_attn(x), step=step)
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


@pytest.mark.parametrize("std", [0.02, 0.3, 1.0])
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
    ("words", "said"),
    [
        (["--by-block", "--quick"], "--by-block is for a SOURCE"),
        (["gpt2", "--by-block"], "--by-block is for a SOURCE"),
        (["gpt2", "--revision", "main"], "gpt2 is an architecture"),
        (["--report", "report.txt"], "expected a name ending in .md or .html"),
    ],
)
def test_options_that_do_not_go_together(words, said):
    assert said in run("verify", *words, code=2).stderr.replace("\n", " ")


def test_bad_input_is_one_line(tmp_path):
    assert "device: found 'nowhere'" in run("verify", "--quick", "--device", "nowhere", code=1).stderr
    reference("gpt2").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer"):
        archport.verify(tmp_path)
    plugin = tmp_path / "plugin.py"
    for text, said in (("def", "SyntaxError"), ("1 / 0", "ZeroDivisionError"), ("import nothing_at_all", "No module")):
        plugin.write_text(text)
        assert said in run("--plugin", "plugin", "models", code=2, cwd=tmp_path).stderr
