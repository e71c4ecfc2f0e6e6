"""Stand-ins for linear maps: packed is the same model, int8 and int4 are the rounded weights and nothing worse.

Where no class of a kind works on a CPU, the model stays the plain one, to the last bit, and a warning says so.
"""

import copy
import json
import os
import pickle
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import archport
from archport.errors import ConfigError, ExportError, NotFiniteWarning, SourceError
from archport.fast import direct, half
from archport.fast.compiled import has_fixed_shapes
from archport.fast.direct import WideLinear
from archport.fast.few_bits import GROUP, Quantized
from archport.fast.half import HalfLinear
from archport.fast.linears import KINDS, is_swapped, stand_in_for, swap
from archport.fast.packed import PackedLinear
from archport.fast.stand_in import StandIn
from archport.layers.experts import FloatLinear
from archport.registry import architecture

from .cpu import CPU, swapping
from .peak import peak_of
from .references import SIZES, VARIANTS, bound, hf_dict, reference, sequences

EXACT = ("direct", "packed")
SHAPES = [(48, 32), (17, 32), (70, 45), (3, 96), (16, 1)]


def linear(out, width, dtype=torch.float32):
    layer = nn.Linear(width, out, dtype=torch.float32)
    with torch.no_grad():
        layer.weight.normal_(generator=torch.Generator().manual_seed(0))
    return layer.to(dtype).requires_grad_(False)


def swapped(whole, kind):
    """What a swap of a model leaves where this linear map was."""
    norm = nn.LayerNorm(whole.in_features, dtype=whole.weight.dtype)
    model = nn.ModuleDict({"norm": norm, "map": copy.deepcopy(whole)})
    with swapping(kind, whole.weight.dtype) as can:
        swap(model, kind)
    assert isinstance(model.map, KINDS[kind] if can else nn.Linear)  # one of the kind's
    return model.map


def assert_same(port, plain, ids):
    """One model, to the last bit."""
    assert not is_swapped(port)
    assert list(port.state_dict()) == list(plain.state_dict())
    for parameter, expected in zip(port.parameters(), plain.parameters(), strict=True):
        assert parameter.dtype == expected.dtype
        assert torch.equal(parameter, expected)
    with torch.no_grad():
        assert torch.equal(port(ids), plain(ids))


def weight_of(held):
    """The rounded weight, in float64: from the product with many rows, or in the float32 in which that is summed."""
    if isinstance(held, Quantized):
        return held.many(torch.eye(held.in_features, dtype=torch.bfloat16)).double().T
    product = held.multiply(torch.eye(held.in_features)).double()
    return (product if held.bias is None else product - held.bias.double()).T


FBGEMM = "fbgemm" in torch.backends.quantized.supported_engines


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_the_class_is_chosen_by_what_torch_says_of_this_cpu(kind, dtype):
    supported = {
        torch.float32: torch.backends.mkldnn.is_available(),
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }
    needed = dtype if kind in EXACT else torch.bfloat16  # few bits are multiplied in it
    first, other = KINDS[kind]
    found = stand_in_for(kind, dtype, CPU)
    if supported[needed]:
        assert found is first
    elif FBGEMM or kind == "direct":
        assert found is other
    else:
        name = str(needed).removeprefix("torch.")
        assert re.fullmatch(rf"{name} on this CPU: .*{'bf' if name == 'bfloat16' else 'fp'}16 path needs .*", found)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN cannot be told to be an older one")
@pytest.mark.parametrize("lacking", [False, True], ids=["with FBGEMM", "without"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cpu_without_the_instructions(kind, lacking):
    """On any x86 CPU, for oneDNN is told to leave out what is newer than AVX2; without FBGEMM the model stays plain."""
    code = (
        "import json, sys, warnings, torch, archport; ids = torch.tensor([[1, 2, 3]])\n"
        "from archport.fast.half import HalfLinear\n"
        "if sys.argv[2:]: HalfLinear.operators = ('quantized.no_such_operator',)\n"
        "plain = archport.load(dtype='bfloat16'); torch.set_num_threads(1)\n"
        "with warnings.catch_warnings(record=True) as said, torch.no_grad():\n"
        "    warnings.simplefilter('always'); port = archport.load(dtype='bfloat16', linears=sys.argv[1])\n"
        "    exact = archport.load(dtype='bfloat16').float()(ids); logits = port(ids)\n"
        "    error = lambda one: ((one - exact).abs().max() / exact.abs().max()).item()\n"
        "same = torch.equal(logits, plain(ids)); able = torch.ops.mkldnn._is_mkldnn_bf16_supported()\n"
        "print(json.dumps([able, type(port.head).__name__, same, error(logits), *(str(one.message) for one in said)]))"
    )
    older = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    words = [sys.executable, "-c", code, kind, *(["lacking"] if lacking or not FBGEMM else [])]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=older)
    able, name, same, error, *messages = json.loads(done.stdout)
    assert not able
    if kind != "direct" and (lacking or not FBGEMM):
        assert same
        [message] = messages
        assert re.match("the linear maps stay as they are: bfloat16 on this CPU: .* bf16 path needs the cpu", message)
    else:
        assert name == KINDS[kind][1].__name__
        assert not messages
        assert error < {"direct": 0.02, "packed": 0.02, "int8": 0.05, "int4": 0.4}[kind]


def spread(dtype, out=70, width=45):
    """Weights of many magnitudes, as those of a half-precision type may be."""
    drawn = torch.Generator().manual_seed(0)
    powers = torch.randint(-30 if dtype == torch.bfloat16 else -20, 3, (out, width), generator=drawn).double()
    layer = nn.Linear(width, out, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(out, width, generator=drawn).double() * powers.exp2())
    return layer.requires_grad_(False)


@pytest.mark.parametrize("piece", [1 << 20, 45 * 7])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stand_in", [HalfLinear, WideLinear])
def test_half_precision_is_multiplied_in_float32_and_rounded_once(stand_in, dtype, piece, monkeypatch):
    if stand_in is HalfLinear and not FBGEMM:
        pytest.skip("torch has no FBGEMM here")
    for module in (half, direct):
        monkeypatch.setattr(module, "PIECE", piece)
    monkeypatch.setattr(direct, "FEW", 0)
    whole = spread(dtype)
    faster = stand_in(whole)
    for shape in ((0,), (1,), (3,), (2, 20)):
        x = torch.randn(*shape, 45, generator=torch.Generator().manual_seed(1)).to(dtype)
        product = faster(x)
        assert (product.shape, product.dtype) == ((*shape, 70), dtype)
        exact = x.double() @ whole.weight.double().T + whole.bias.double()
        summed = x.double().abs() @ whole.weight.double().abs().T + whole.bias.double().abs()
        rounding = torch.finfo(dtype).eps / 2 * exact.abs() + 45 * torch.finfo(torch.float32).eps * summed
        assert ((product.double() - exact).abs() <= rounding + torch.finfo(dtype).smallest_normal * 1e-3).all()


MAGNITUDES = (0.0, 2.0**-133, 2.0**-126, 2.0**-113, 2.0**-112, 2.0**-60, 1.0, 2.0**60, 2.0**112)


@pytest.mark.parametrize("bias", [None, *MAGNITUDES])
@pytest.mark.parametrize("size", MAGNITUDES)
@pytest.mark.parametrize("stand_in", [HalfLinear, WideLinear])
def test_bfloat16_of_any_magnitude_is_multiplied(stand_in, size, bias):
    """Subnormal numbers, too, and a bias of any other magnitude."""
    if stand_in is HalfLinear and not FBGEMM:
        pytest.skip("torch has no FBGEMM here")
    whole = linear(70, 45, torch.bfloat16)
    whole.weight.mul_(size)
    whole.bias = None if bias is None else nn.Parameter(torch.full((70,), bias).bfloat16(), requires_grad=False)
    x = torch.randn(direct.FEW + 1, 45, generator=torch.Generator().manual_seed(1)).bfloat16()
    exact, summed = (
        of(x.double()) @ of(whole.weight.double()).T + (0 if bias is None else bias) for of in (torch.clone, torch.abs)
    )
    rounding = torch.finfo(torch.bfloat16).eps / 2 * exact.abs() + 45 * torch.finfo(torch.float32).eps * summed
    assert ((stand_in(whole)(x).double() - exact).abs() <= rounding + 2.0**-133).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_direct_linear_map_reads_the_weight_where_it_lies(dtype):
    whole = linear(70, 45, dtype)
    with swapping("direct", dtype) as can:
        model = swap(nn.ModuleDict({"map": whole}), "direct")
    if can:
        assert model.map.weight.data_ptr() == whole.weight.data_ptr()
        for rows in (1, direct.FEW, direct.FEW + 1):
            x = torch.randn(rows, 45, generator=torch.Generator().manual_seed(1)).to(dtype)
            summed = x.double().abs() @ whole.weight.double().abs().T + whole.bias.double().abs()
            exact = x.double() @ whole.weight.double().T + whole.bias.double()
            assert ((model.map(x).double() - exact).abs() <= 8 * torch.finfo(dtype).eps * summed).all()


@pytest.mark.skipif(not FBGEMM, reason="torch has no FBGEMM here")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float16_holds_what_its_docstring_says(dtype):
    whole = spread(dtype)
    whole.bias.zero_()
    moved = (weight_of(HalfLinear(whole)) - whole.weight.double()).abs()
    largest = whole.weight.double().abs().max()
    small = whole.weight.double().abs() < largest * 2**-31
    assert (moved[~small] == 0).all()
    assert (moved <= (0 if dtype == torch.float16 else largest * 2**-39)).all()
    assert small.any()


@pytest.mark.skipif(not FBGEMM, reason="torch has no FBGEMM here")
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_a_weight_that_is_not_finite_stays_as_it_is(value):
    model = nn.ModuleDict({"first": linear(8, 8, torch.float16), "second": linear(8, 8, torch.float16)})
    model.first.weight[3, 4] = value
    before = model.first.weight.clone()
    if stand_in_for("packed", torch.float16, CPU) is HalfLinear:
        swap(model, "packed")
        assert type(model.first) is nn.Linear
        assert torch.equal(model.first.weight.nan_to_num(1.5), before.nan_to_num(1.5))
        assert type(model.second) is HalfLinear


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_packed_model_is_the_reference(variant, kind):
    model = reference(variant)
    port = swap(archport.from_state_dict(hf_dict(model), copy.deepcopy(model.state_dict())), kind)
    assert any(isinstance(module, KINDS[kind]) for module in port.modules())
    linears = {name for name, module in port.named_modules() if isinstance(module, nn.Linear)}
    assert all(name.endswith("router.score") for name in linears)
    with torch.no_grad():
        for ids in sequences(model):
            theirs = model(ids).logits
            assert (port(ids) - theirs).abs().max() <= bound(variant, theirs, 2e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", list(SIZES))
def test_verify_takes_packed_models(name, dtype, tmp_path):
    reference(name).save_pretrained(tmp_path)
    with swapping("packed", getattr(torch, dtype)) as can:
        report = archport.verify(tmp_path, packed=True, dtype=dtype)
    assert report.ok, str(report)
    checks = {check.name: check for check in report.checks}
    assert "logits, cached" in checks
    assert "gradients" not in checks
    if not can:
        plain = {check.name: check for check in archport.verify(tmp_path, dtype=dtype).checks}
        assert checks == {name: plain[name] for name in checks}


def assert_multiplies(stand_in, whole, rows):
    """By the rounded weight in a stand-in; else just as the plain map."""
    x = torch.randn(rows, whole.in_features, generator=torch.Generator().manual_seed(1)).bfloat16()
    if not isinstance(stand_in, StandIn):
        assert torch.equal(stand_in(x), copy.deepcopy(whole).bfloat16()(x))
    weight = weight_of(stand_in) if isinstance(stand_in, StandIn) else whole.weight.bfloat16().double()
    expected = x.double() @ weight.T + whole.bias.double()
    assert (stand_in(x).double() - expected).abs().max() <= 0.03 * expected.abs().max()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_int8_rounds_to_the_nearest_of_255_steps(shape, rows):
    whole = linear(*shape)
    stand_in = swapped(copy.deepcopy(whole).bfloat16(), "int8")
    if isinstance(stand_in, StandIn):
        exact = whole.weight.bfloat16().double()
        step = exact.abs().amax(1, keepdim=True) / 127
        assert ((weight_of(stand_in) - exact).abs() <= 0.5 * step + 2**-7 * exact.abs()).all()
    assert_multiplies(stand_in, whole, rows)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_int4_rounds_to_the_nearest_of_16_steps(shape, rows):
    whole = linear(*shape)
    stand_in = swapped(copy.deepcopy(whole).bfloat16(), "int4")
    if isinstance(stand_in, StandIn):
        filled = nn.functional.pad(whole.weight.bfloat16().double(), (0, -shape[1] % GROUP))
        groups = filled.unflatten(1, (-1, GROUP))
        step = (groups.amax(-1) - groups.amin(-1)) / 15
        allowed = (0.5 * step[..., None] + 2**-6 * groups.abs().amax(-1, keepdim=True)).expand_as(groups).flatten(1)
        error = (weight_of(stand_in) - whole.weight.bfloat16().double()).abs()
        assert (error <= allowed[:, : shape[1]]).all()
    assert_multiplies(stand_in, whole, rows)


@pytest.mark.parametrize(("kind", "numbers", "steps"), [("int8", 2048, 255), ("int4", GROUP, 16)])
def test_so_many_numbers_are_left_of_as_many_as_share_a_scale(kind, numbers, steps):
    """Whichever class the CPU has: a row in 8 bits, a group in 4."""
    stand_in = swapped(linear(16, 2048), kind)
    if isinstance(stand_in, StandIn):
        for alike in weight_of(stand_in).reshape(-1, numbers):
            assert steps / 2 < len(alike.unique()) <= steps


def test_what_rounding_costs_on_the_trained_model():
    ids = archport.tokenizer().encode(Path(__file__).read_text()[:3000]).ids
    plain, whole = (archport.score(archport.load(dtype=dtype), ids).loss for dtype in ("auto", "float32"))
    for kind, most in {"int8": 0.02, "int4": 0.2}.items():
        with swapping(kind) as can:
            loss = archport.score(swap(archport.load(), kind), ids).loss
        assert abs(loss - whole) < most
        assert (loss != plain) == can


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(SIZES))
def test_generation_with_every_kind(name, kind):
    model = reference(name)
    plain = archport.from_state_dict(hf_dict(model), copy.deepcopy(model.state_dict()))
    with swapping(kind) as can:
        port = swap(copy.deepcopy(plain), kind)
    rows, expected = (
        archport.generate(one, [5, 17, 3], samples=2, max_new_tokens=8, seed=0, end=[]) for one in (port, plain)
    )
    assert [len(row) for row in rows] == [11, 11]
    if not can:
        assert rows == expected
        assert_same(port, plain, sequences(model)[0])
    with torch.no_grad():
        ids = sequences(model)[0]
        expected = model(ids).logits
        error = (port(ids).float() - expected).square().mean().sqrt() / expected.std()
    assert error < {"direct": 1e-6, "packed": 1e-6, "int8": 0.1, "int4": 0.6}[kind]


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_weights_that_are_made_one_by_one_are_warned_of_in_the_file_s_order(kind, dtype, tmp_path):
    model = reference("llama").bfloat16()
    for name in ("model.embed_tokens", "model.layers.1.mlp.up_proj", "model.layers.0.self_attn.q_proj"):
        model.get_submodule(name).weight.data[2, 3] = torch.nan
    model.save_pretrained(tmp_path)
    how = {"dtype": dtype, "check_finite": dtype == "auto"}
    with pytest.warns(NotFiniteWarning) as expected:
        archport.load(tmp_path, **how)
    with pytest.warns() as said:
        archport.load(tmp_path, linears=kind, **how)
    [found] = [one.message for one in said if isinstance(one.message, NotFiniteWarning)]
    assert found.names == expected[0].message.names
    assert found.names == ("embed.tokens.weight", "blocks.0.attn.qkv.weight", "blocks.1.mlp.up.weight")


def test_while_packing_hardly_more_is_held_than_at_the_end(tmp_path):
    """Of a model that is cast, whose head is the largest weight."""
    config = GPTNeoXConfig(hidden_size=512, num_hidden_layers=12, num_attention_heads=8, intermediate_size=2048)
    GPTNeoXForCausalLM(config).bfloat16().save_pretrained(tmp_path)
    taken = peak_of(
        "import archport; archport.load(linears='packed', dtype='float32')",
        "archport.load(sys.argv[1], linears='packed', dtype='float32')",
        tmp_path,
    )
    weights = 2 * (tmp_path / "model.safetensors").stat().st_size
    assert 0.5 * weights < taken < 1.1 * weights


def test_weights_that_are_shared_or_changed_survive_packing(tmp_path):
    model = reference("gpt2")
    model.save_pretrained(tmp_path)
    for dtype in ("float32", "bfloat16"):
        plain = archport.load(tmp_path, dtype=dtype)
        with swapping("packed", getattr(torch, dtype)) as can:
            packed = archport.load(tmp_path, dtype=dtype, linears="packed")
        assert torch.equal(packed.embed.tokens.weight, plain.embed.tokens.weight)
        assert packed.embed.tokens.weight.requires_grad == (not can)
        if not can:
            assert_same(packed, plain, sequences(model)[0])


def test_what_cannot_be_swapped(monkeypatch):
    with pytest.raises(ConfigError, match="kind: found 'int2', expected direct, packed, int8, int4"):
        swap(archport.load(), "int2")
    monkeypatch.setattr(PackedLinear, "operators", ("mkldnn.no_such_operator",))
    with pytest.warns(UserWarning, match=r"the linear maps stay as they are: torch .* has no mkldnn\.no_such_operator"):
        port = swap(archport.load(dtype="float32"))
    assert isinstance(port.head, nn.Linear)
    monkeypatch.undo()

    def refuses(*_):
        raise RuntimeError("needs instructions that are not here")

    for stand_in in KINDS["packed"]:
        monkeypatch.setattr(stand_in, "pack", refuses)
    found = stand_in_for("packed", torch.float16, CPU)
    assert found == "float16 on this CPU: needs instructions that are not here"


@pytest.mark.parametrize("kind", KINDS)
def test_a_swapped_model_cannot_be_exported(kind, tmp_path):
    plain = archport.load(dtype="float32")
    with swapping(kind) as can:
        port = swap(archport.load(dtype="float32"), kind)
    if can:
        with pytest.raises(ExportError, match="direct, packed or quantised: export it as loaded without them"):
            archport.export(port, tmp_path / "out")
    else:
        archport.export(port, tmp_path / "out")
        assert_same(archport.load(tmp_path / "out"), plain, torch.tensor([[1, 2, 3]]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_swapped_model_says_what_it_cannot_do(kind):
    with swapping(kind) as can:
        port = archport.load(dtype="float32", linears=kind)
    ids = torch.tensor([[1, 2, 3]])
    if not can:
        assert_can_do_all(port, kind, ids)
        return
    with pytest.raises(ConfigError, match="its linear maps are direct, packed or quantised already"):
        swap(port, "int8")
    for use in (copy.deepcopy, pickle.dumps, lambda model: model.state_dict()):
        with pytest.raises(TypeError, match="cannot be copied or saved: take the model as it was loaded"):
            use(port)
    with pytest.raises(SourceError, match="direct, packed or quantised: verify it as loaded, with packed=True"):
        archport.verify(port)
    port.embed.requires_grad_(True)
    with pytest.raises(ValueError, match="linear maps only go forward: use"):
        port(ids)
    with torch.no_grad():
        port(ids)
        with pytest.raises(ValueError, match=r"found float16, expected .*, in which these linear maps were"):
            port.half()(ids)
        for given in (ids, ids.to("meta")):
            with pytest.raises(ValueError, match="found meta, expected cpu, on which these linear maps were loaded"):
                port.to("meta")(given)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("part", ["", "blocks.1.attn", "head"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_swapped_model_takes_no_other_weights(kind, part, strict):
    with swapping(kind) as can:
        port = archport.load(dtype="float32", linears=kind)
    other = archport.build("gpt_neox", port.config)
    before = [parameter.clone() for parameter in port.parameters()]
    weights = other.get_submodule(part).state_dict()
    if not can:
        port.get_submodule(part).load_state_dict(weights, strict=strict)
        assert torch.equal(port.get_submodule(part).state_dict()[next(iter(weights))], next(iter(weights.values())))
        return
    with pytest.raises(TypeError, match=r"^direct, packed or quantised linear maps cannot take other weights: give"):
        port.get_submodule(part).load_state_dict(weights, strict=strict)
    assert all(map(torch.equal, port.parameters(), before))
    port.embed.load_state_dict(other.embed.state_dict())  # which has none
    assert torch.equal(port.embed.tokens.weight, other.embed.tokens.weight.to(port.dtype))


def assert_can_do_all(port, kind, ids):
    """What a model that was left as it is can do: everything."""
    plain = archport.load(dtype="float32")
    with swapping(kind):
        assert swap(port, kind) is port
    for other in (port, copy.deepcopy(port), pickle.loads(pickle.dumps(port))):
        assert_same(other, plain, ids)
    assert archport.verify(port, quick=True).ok
    for model in (port, plain):
        model.requires_grad_(True)(ids).square().sum().backward()
    assert torch.equal(port.head.weight.grad, plain.head.weight.grad)
    with torch.no_grad():
        assert torch.equal(port.half()(ids), plain.half()(ids))


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_few_rows_are_multiplied_in_few_bits(kind, monkeypatch):
    few_bits = KINDS[kind][0]
    if stand_in_for(kind, torch.float32, CPU) is not few_bits:  # which this CPU lacks
        with pytest.raises(RuntimeError, match="bf16 path needs"):
            few_bits(linear(48, 32))
        return
    stand_in = few_bits(linear(48, 32))
    asked = []
    monkeypatch.setattr(
        stand_in, "product", lambda rows: asked.append(len(rows)) or torch.zeros(len(rows), 48).bfloat16()
    )
    for rows in (1, stand_in.few, stand_in.few + 1):
        stand_in(torch.zeros(rows, 32).bfloat16())
    assert asked == [1, stand_in.few]


@pytest.mark.parametrize("kind", KINDS)
def test_experts_are_swapped_and_their_router_stays(kind):
    port = archport.build("mixtral", dict(architecture("mixtral").sizes)).eval()
    port.blocks[0].attn.out = FloatLinear(60, 72)
    tokens = torch.randn(9, 72)
    routed = [block.mlp.router(tokens) for block in port.blocks]
    with swapping(kind) as can:
        swap(port, kind)
    left = {name for name, module in port.named_modules() if isinstance(module, nn.Linear)}
    routers = {f"blocks.{n}.mlp.router.score" for n in range(len(port.blocks))}
    assert {"blocks.0.attn.out", *routers} <= left
    assert not can or left == {"blocks.0.attn.out", *routers}
    if kind in EXACT:
        for block, before in zip(port.blocks, routed, strict=True):
            assert all(map(torch.equal, block.mlp.router(tokens), before))


@pytest.mark.parametrize(("name", "fixed"), [("gpt2", True), ("mixtral", False)])
def test_a_graph_is_captured_only_where_no_shape_depends_on_data(name, fixed):
    assert has_fixed_shapes(archport.build(name, dict(architecture(name).sizes), device="meta")) == fixed
