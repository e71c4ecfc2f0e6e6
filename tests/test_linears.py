"""Stand-ins for linear maps: packed is the same model, int8 and int4 are the rounded weights and nothing worse."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import archport
from archport.errors import ConfigError, ExportError, SourceError
from archport.fast.linears import GROUP, KINDS, Int4Linear, PackedLinear, swap, why_not

from .references import SIZES, VARIANTS, hf_dict, reference, sequences

SHAPES = [(48, 32), (17, 32), (70, 45), (3, 96), (16, 1)]


def linear(out, width, dtype=torch.float32):
    made = nn.Linear(width, out, dtype=torch.float32)
    with torch.no_grad():
        made.weight.normal_(generator=torch.Generator().manual_seed(0))
    return made.to(dtype).requires_grad_(False)


def weight_of(quantized):
    """The rounded weight, in float64, from the half that goes through ordinary arithmetic."""
    return quantized.many(torch.eye(quantized.in_features, dtype=torch.bfloat16)).double().T


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_packed_model_is_the_reference(variant):
    model = reference(variant)
    port = swap(archport.from_state_dict(hf_dict(model), copy.deepcopy(model.state_dict())))
    assert any(isinstance(module, PackedLinear) for module in port.modules())
    assert not any(isinstance(module, nn.Linear) for module in port.modules())
    with torch.no_grad():
        for ids in sequences(model):
            assert (port(ids) - model(ids).logits).abs().max() <= 2e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", list(SIZES))
def test_verify_takes_packed_models(name, dtype, tmp_path):
    reference(name).save_pretrained(tmp_path)
    report = archport.verify(tmp_path, packed=True, dtype=dtype)
    assert report.ok, str(report)
    assert "logits, cached" in [check.name for check in report.checks]
    assert "gradients" not in [check.name for check in report.checks]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_int8_rounds_to_the_nearest_of_255_steps(shape, rows):
    whole = linear(*shape)
    made = KINDS["int8"](copy.deepcopy(whole).bfloat16())
    exact = whole.weight.bfloat16().double()
    step = exact.abs().amax(1, keepdim=True) / 127
    assert ((weight_of(made) - exact).abs() <= 0.5 * step + 2**-7 * exact.abs()).all()
    x = torch.randn(rows, shape[1], generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = x.double() @ weight_of(made).T + whole.bias.double()
    assert (made(x).double() - expected).abs().max() <= 0.03 * expected.abs().max()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_int4_rounds_to_the_nearest_of_16_steps(shape, rows):
    whole = linear(*shape)
    made = Int4Linear(copy.deepcopy(whole).bfloat16())
    filled = nn.functional.pad(whole.weight.bfloat16().double(), (0, -shape[1] % GROUP))
    groups = filled.unflatten(1, (-1, GROUP))
    step = (groups.amax(-1) - groups.amin(-1)) / 15
    allowed = (0.5 * step[..., None] + 2**-6 * groups.abs().amax(-1, keepdim=True)).expand_as(groups).flatten(1)
    error = (weight_of(made) - whole.weight.bfloat16().double()).abs()
    assert (error <= allowed[:, : shape[1]]).all()
    x = torch.randn(rows, shape[1], generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = x.double() @ weight_of(made).T + whole.bias.double()
    assert (made(x).double() - expected).abs().max() <= 0.03 * expected.abs().max()


def test_what_rounding_costs_on_the_trained_model():
    ids = archport.tokenizer().encode(Path(__file__).read_text()[:3000]).ids
    loss = {kind: archport.score(swap(archport.load(), kind), ids).loss for kind in KINDS if kind != "packed"}
    loss["float32"] = archport.score(archport.load(dtype="float32"), ids).loss
    assert abs(loss["int8"] - loss["float32"]) < 0.02
    assert abs(loss["int4"] - loss["float32"]) < 0.2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(SIZES))
def test_generation_with_every_kind(name, kind):
    model = reference(name)
    port = swap(archport.from_state_dict(hf_dict(model), copy.deepcopy(model.state_dict())), kind)
    rows = archport.generate(port, [5, 17, 3], samples=2, max_new_tokens=8, seed=0, end=[])
    assert [len(row) for row in rows] == [11, 11]
    with torch.no_grad():
        ids = sequences(model)[0]
        expected = model(ids).logits
        error = (port(ids).float() - expected).square().mean().sqrt() / expected.std()
    assert error < {"packed": 1e-6, "int8": 0.1, "int4": 0.6}[kind]


def test_a_packed_model_takes_its_own_memory_once(tmp_path):
    config = GPTNeoXConfig(hidden_size=512, num_hidden_layers=6, num_attention_heads=8, intermediate_size=2048)
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path)
    code = (
        "import sys, psutil, torch, archport; me = psutil.Process(); archport.load(linears='packed', dtype='float32')\n"
        "before = me.memory_info().rss; model = archport.load(sys.argv[1], linears='packed')\n"
        "archport.generate(model, [1, 2, 3], max_new_tokens=3); print(me.memory_info().rss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    weights = (tmp_path / "model.safetensors").stat().st_size
    assert 0.5 * weights < int(done.stdout) < 1.05 * weights  # of the embedding a few rows are read


def test_weights_that_are_shared_or_changed_survive_packing(tmp_path):
    model = reference("gpt2")
    model.save_pretrained(tmp_path)
    for dtype in ("float32", "bfloat16"):
        plain, packed = (archport.load(tmp_path, dtype=dtype, linears=kind) for kind in (None, "packed"))
        assert torch.equal(packed.embed.tokens.weight, plain.embed.tokens.weight)
        assert not packed.embed.tokens.weight.requires_grad


def test_what_cannot_be_swapped(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="kind: found 'int2', expected packed, int8, int4"):
        swap(archport.load(), "int2")
    monkeypatch.setattr(PackedLinear, "operators", ("mkldnn.no_such_operator",))
    with pytest.warns(UserWarning, match=r"the linear maps stay as they are: torch .* has no mkldnn\.no_such_operator"):
        port = swap(archport.load())
    assert isinstance(port.head, nn.Linear)
    monkeypatch.undo()

    def refuses(*_):
        raise RuntimeError("needs instructions that are not here")

    monkeypatch.setattr(PackedLinear, "pack", refuses)
    assert (
        why_not("packed", torch.float16, torch.device("cpu"))
        == "float16 on this CPU: needs instructions that are not here"
    )
    monkeypatch.undo()
    with pytest.raises(ExportError, match="packed or quantised: export it as loaded without them"):
        archport.export(swap(archport.load(dtype="float32"), "int8"), tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS)
def test_a_swapped_model_says_what_it_cannot_do(kind):
    port = archport.load(dtype="float32", linears=kind)
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(ConfigError, match="its linear maps are packed or quantised already"):
        swap(port, "int8")
    for use in (copy.deepcopy, pickle.dumps, lambda model: model.state_dict()):
        with pytest.raises(TypeError, match="cannot be copied or saved: take the model as it was loaded"):
            use(port)
    with pytest.raises(SourceError, match="packed or quantised: verify it as loaded, with packed=True"):
        archport.verify(port)
    port.embed.requires_grad_(True)
    with pytest.raises(ValueError, match="linear maps only go forward: use"):
        port(ids)
    with torch.no_grad():
        port(ids)
        with pytest.raises(ValueError, match=r"found float16, expected .*, in which these linear maps were"):
            port.half()(ids)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_few_rows_are_multiplied_in_few_bits(kind, monkeypatch):
    made = KINDS[kind](linear(48, 32))
    asked = []
    monkeypatch.setattr(made, "product", lambda rows: asked.append(len(rows)) or torch.zeros(len(rows), 48).bfloat16())
    for rows in (1, made.few, made.few + 1):
        made(torch.zeros(rows, 32).bfloat16())
    assert asked == [1, made.few]
