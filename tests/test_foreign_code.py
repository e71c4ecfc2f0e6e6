# ruff: noqa: E501
"""verify of a person's own module: a right one is never called wrong, a bug in its code is placed and named."""

import copy
import re
import threading
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import archport
from archport.errors import MappingError, SourceError
from archport.parity import references
from archport.parity.counterparts import canonical
from archport.parity.foreign.tapping import Taps
from archport.registry import architecture, skeleton

from .references import FAMILIES, OLD, SIZES
from .styles import STYLES, Style, changed
from .styles_bugs import BUGS, Bug

ARCHITECTURES = list(SIZES)
SAMPLE = range(0, len(BUGS), 17)  # of the bugs, in the default run


@cache
def reference(variant: str):
    return next(style for style in STYLES.values() if style.variant == variant).reference()


def filled(style: Style) -> nn.Module:
    hf = reference(style.variant)
    module = style.made(hf)
    archport.fill(module, hf, STYLES[style.name].rows)
    return module


def verified(style: Style, module: nn.Module | None = None, **more):
    how = {"rows": style.rows, "forward": style.forward} | more
    return archport.verify(module or filled(style), reference=reference(style.variant), **how)


# --- right modules ---


@pytest.mark.parametrize("name", STYLES)
def test_a_right_module_is_the_same_model_in_any_style(name):
    report = verified(STYLES[name])
    assert report.ok, str(report)
    assert report.fault is None
    names = [check.name for check in report.checks]
    assert names[0] == "weights"
    assert "code, random ids" in names
    assert "logits, full context" in names
    assert "cache" in report.not_run
    assert report.to_dict()["not_run"] == list(report.not_run)
    assert "not run: " in str(report)
    assert "not run: " in report.to_markdown()


@pytest.mark.parametrize("name", STYLES)
def test_rows_may_be_left_out_where_values_decide(name):
    report = verified(STYLES[name], rows=None)
    assert report.ok, str(report)


def rows_of(arch, sizes, hf):
    """The rows of transformers' own module, as if it were a person's."""
    cfg = arch.config_class(**sizes)
    theirs = {canonical(arch.table, key): key for key in hf.state_dict()}
    rows = {}
    for name, _ in skeleton(arch, cfg).named_parameters(remove_duplicate=False):
        for row in arch.table.rows(name, cfg, theirs):
            if all(key in theirs for key in row.keys):
                rows[name] = replace(row, keys=tuple(theirs[key] for key in row.keys))
    return rows


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_transformers_own_code_is_never_called_wrong(name):
    if OLD and name in FAMILIES:
        pytest.skip("before transformers 5 the class of a family lacks settings that its variants have")
    arch = architecture(name)
    variants = [*references.variants(arch).items()]
    for variant, sizes in variants[::4] if name in FAMILIES else variants:
        hf = references.loud(arch, sizes)
        how = {"rows": rows_of(arch, sizes, hf), "forward": lambda module, ids: module(ids, use_cache=False).logits}
        report = archport.verify(hf, reference=hf, **how)
        assert report.ok, f"{variant}: {report}"


DIGITS = ("0.79788456", "0.7978846")  # of sqrt(2 / pi), as people write it


@pytest.mark.parametrize("digits", DIGITS)
def test_a_constant_that_float32_cannot_tell_from_the_right_one_is_right(digits):
    def written(number):
        gelu = f"(lambda up: 0.5 * up * (1 + torch.tanh({number} * (up + 0.044715 * up**3))))"
        return verified(changed(STYLES["gpt2_nano"], "self.gelu(self.c_fc(x))", f"{gelu}(self.c_fc(x))"))

    right, wrong = written(digits), written("0.79788")
    assert right.ok, str(right)
    assert not wrong.ok
    assert wrong.fault.place == "transformer.h.0.mlp"


class Wrapped(nn.Module):
    """A style with a part that makes it hard to handle."""

    def __init__(self, inner, forward):
        super().__init__()
        self.inner, self.take = inner, forward or first

    def forward(self, ids):
        return self.take(self.inner, ids)


def first(module, ids):
    result = module(ids)
    return result[0] if isinstance(result, tuple | list) else result["logits"] if isinstance(result, dict) else result


class Locked(Wrapped):
    def __init__(self, *given):
        super().__init__(*given)
        self.lock = threading.Lock()

    def forward(self, ids):
        with self.lock:
            return super().forward(ids)


class OfFixedLength(Wrapped):
    def forward(self, ids):
        assert ids.shape[1] == 32, f"{ids.shape[1]} tokens, expected 32"
        return super().forward(ids)


class OfLastToken(Wrapped):
    def forward(self, ids):
        return super().forward(ids)[:, -1]


class WithTargets(Wrapped):
    def forward(self, ids, targets=None):
        logits = super().forward(ids)
        if targets is None:
            return logits[:, [-1]], None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class WithoutGradient(Wrapped):
    @torch.no_grad()
    def forward(self, ids):
        return super().forward(ids)


class InNests(Wrapped):
    def forward(self, ids):
        return {"hidden": torch.zeros(3), "out": [None, {"logits": super().forward(ids)}]}


class WithGraph(Wrapped):
    def __init__(self, *given):
        super().__init__(*given)
        self.kept = next(self.parameters()) * 2  # amid a graph: torch does not copy it


class WithHook(Wrapped):
    def __init__(self, *given):
        super().__init__(*given)
        self.register_forward_hook(lambda *given: given[-1] + 0)


class SeqFirst(Wrapped):
    def forward(self, ids):
        return super().forward(ids).transpose(0, 1).contiguous().transpose(0, 1)


HARD = [Locked, OfFixedLength, OfLastToken, WithTargets, WithoutGradient, InNests, WithGraph, WithHook, SeqFirst]


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize(
    "name",
    ["gpt2_nano", *(pytest.param(one, marks=pytest.mark.families) for one in ("llama_separate", "gptj_neighbours"))],
)
def test_a_module_that_is_hard_to_handle_is_the_same_model(name, kind):
    style = STYLES[name]
    module = kind(filled(style), style.forward)
    rows = {ours: _inner(cell) for ours, cell in style.rows.items()}
    report = verified(style, module, rows=rows, forward=None)
    assert report.ok, str(report)


def _inner(cell):
    return f"inner.{cell}" if isinstance(cell, str) else replace(cell, keys=tuple(f"inner.{key}" for key in cell.keys))


INNER = {ours: _inner(cell) for ours, cell in STYLES["gpt2_nano"].rows.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_module_in_another_dtype_is_held_to_its_own(dtype):
    style = STYLES["gpt2_inline"]
    hf = reference(style.variant)
    hf = copy.deepcopy(hf).to(torch.bfloat16).float()  # weights that bfloat16 holds
    module = style.made(hf).to(dtype)
    archport.fill(module, hf, style.rows)
    report = archport.verify(module, reference=hf, rows=style.rows, forward=style.forward)
    assert report.ok, str(report)


def test_neither_module_nor_reference_is_changed():
    style = STYLES["gpt2_dropout"]
    hf, module = reference(style.variant), filled(style)
    module.train()
    next(module.parameters()).requires_grad_(False)
    before = [{name: one.clone() for name, one in model.state_dict().items()} for model in (hf, module)]
    flags = [part.training for part in module.modules()], [one.requires_grad for one in module.parameters()]
    report = verified(style, module)
    assert report.ok
    assert any("train mode" in line for line in report.not_run)
    assert [part.training for part in module.modules()] == flags[0]
    assert [one.requires_grad for one in module.parameters()] == flags[1]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    for model, state in zip((hf, module), before, strict=True):
        assert all(torch.equal(one, state[name]) for name, one in model.state_dict().items())


# --- bugs in the code ---


def outcome(bug: Bug) -> tuple[bool, bool, bool]:
    """Whether a bug is noticed, placed and named."""
    style = changed(STYLES[bug.style], bug.old, bug.new)
    report = verified(style)
    fault = report.fault
    placed = fault is not None and fault.place in bug.places
    return not report.ok, placed, fault is not None and fault.fault is not None and fault.fault.name in bug.names


@pytest.mark.parametrize("at", SAMPLE, ids=[f"{BUGS[at].kind}-{BUGS[at].style}" for at in SAMPLE])
def test_a_bug_in_the_code_is_noticed_placed_and_named(at):
    assert outcome(BUGS[at]) == (True, True, True)


@pytest.mark.families
def test_bugs_in_code_are_noticed_placed_and_named():
    noticed, placed, named = (sum(one) for one in zip(*map(outcome, BUGS), strict=True))
    assert len({bug.kind for bug in BUGS}) >= 12
    assert len({bug.style for bug in BUGS}) >= 12
    assert noticed == len(BUGS)
    assert placed >= 0.95 * len(BUGS)
    assert named >= 0.9 * len(BUGS)


def test_words_are_in_the_person_s_own_names():
    report = verified(changed(STYLES["gptj_neighbours"], "        scores = scores / k.shape[-1] ** 0.5\n", ""))
    words = "layers.0.att and 2 more like it: in yours scores are not scaled; gptj scales them"
    assert report.fault.words.startswith(words)
    report = verified(changed(STYLES["gpt2_inline"], " * size**-0.5", ""))
    assert report.fault.words.startswith("stack_0 (attention: ")


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("gpt2_nano", 'nn.GELU(approximate="tanh")', "nn.GELU()", "gpt2 uses GELU(approximate='tanh')"),
        ("llama_separate", "args.head_dim, args.rope_theta", "args.head_dim, 1e4", "llama uses 9973"),
    ],
)
def test_what_is_right_is_told_with_its_number(name, old, new, told):
    words = verified(changed(STYLES[name], old, new)).fault.words
    assert " and 2 more like it: in yours " in words
    assert words.endswith(told)


def test_a_bug_of_one_layer_is_placed_there():
    style = changed(
        STYLES["llama_separate"],
        "h = layer(h, angles.cos(), angles.sin(), mask)",
        "h = layer(h, angles.cos(), angles.sin(), mask if layer is not self.layers[1] else None)",
    )
    report = verified(style)
    assert report.fault.place == "layers.1.attention"
    assert report.fault.fault.name == "mask missing"
    style = changed(
        STYLES["llama_separate"],
        "h = layer(h, angles.cos(), angles.sin(), mask)",
        "h = layer(h, angles.cos(), (angles if layer is self.layers[0] else -angles).sin(), mask)",
    )
    words = verified(style).fault.words
    assert words.startswith("layers.1.attention and 1 more like it: in yours rotary turns the other way")


def test_two_bugs_are_both_named():
    style = changed(STYLES["gpt2_nano"], 'nn.GELU(approximate="tanh")', "nn.ReLU()")
    module = filled(style)
    module.transformer.ln_f.eps = 1e-3
    words = verified(style, module).fault.words
    assert "transformer.h.0.mlp" in words
    assert "the activation is ReLU" in words
    assert "transformer.ln_f: in yours the norm's eps is 0.001" in words


UNNAMED = {
    "a constant": ("gpt2_conv1d", "0.7978845608028654", "0.79788", "h.0"),
    "a factor": ("gpt2_nano", "att = F.softmax(att, dim=-1)", "att = F.softmax(att * 1.001, dim=-1)", "transformer.h.0.attn"),
    "the base": ("llama_separate", "args.head_dim, args.rope_theta", "args.head_dim, args.rope_theta * 1.0001", "layers.0.attention"),
    "heads in another order": ("gpt2_einsum", "z, self.W_O)", "z, self.W_O.flip(0))", "blocks.0"),
    "where eps is": ("llama_fused", " + self.eps).sqrt()", ").sqrt() + self.eps", "blocks.0.norm_1"),
}  # fmt: skip


@pytest.mark.parametrize(
    "what", ["a constant", *(pytest.param(one, marks=pytest.mark.families) for one in [*UNNAMED][1:])]
)
def test_what_no_fault_explains_is_noticed_and_placed(what):
    name, old, new, place = UNNAMED[what]
    report = verified(changed(STYLES[name], old, new))
    assert not report.ok
    assert report.fault.place == place
    assert report.fault.fault is None
    assert "no known fault explains it" in report.fault.words


def test_a_scale_outside_the_embedding_is_not_blamed_for_what_is_wrong_with_it():
    style = changed(STYLES["gemma_outside"], "math.sqrt(self.tok.embedding_dim)", "5.6875")
    words = verified(style).fault.words
    assert words.startswith("tok: what layers.0 is fed (24, ")
    assert re.search(r"it is [01]\.\d+ times what it should be", words)


def test_logits_that_are_a_multiple_are_told():
    report = verified(changed(STYLES["gemma_outside"], "self.tok.weight.T", "self.tok.weight.T * 0.5"))
    assert report.fault.place == "Gemma"
    assert "it is 0.5 times what it should be" in report.fault.words


@pytest.mark.parametrize("seq", [24, 7])
def test_raw_matrices_are_seen_where_the_stream_has_their_shape(seq):
    heads, width, size = 3, 24, 8
    weight, positions = nn.Parameter(torch.randn(heads, width, size)), nn.Parameter(torch.randn(1, width, width))
    shapes = {"embed.positions.weight": (width, width), "blocks.0.attn.qkv.weight": (heads * size, width)}
    at = torch.arange(2 * width**2, dtype=torch.float64).view(2, width, width)
    places = {id(positions): at[:1], id(weight): at[1].view(heads, size, width).mT}
    with torch.no_grad(), Taps(places, shapes, seq) as taps:
        stream = torch.randn(1, seq, width) + positions[:, :seq]
        made = torch.einsum("btw,hwd->bhtd", stream, weight)
    trace = taps.trace()
    assert torch.equal(trace.inputs["blocks.0.attn.qkv"], stream[0])
    torch.testing.assert_close(trace.outputs["blocks.0.attn.qkv"], made[0].transpose(0, 1).flatten(1))


def test_a_tensor_that_gets_no_gradient_is_told():
    style = changed(STYLES["llama_separate"], "F.silu(self.w1(x)) *", "F.silu(self.w1(x).detach()) *")
    report = verified(style)
    assert [check.name for check in report.checks if not check.ok] == ["gradients"]
    assert report.fault.place == "layers.0.feed_forward.w1.weight"
    assert "something is detached" in report.fault.words


def test_code_that_raises_makes_a_report_that_says_where():
    report = verified(changed(STYLES["gpt2_nano"], "y = att @ v\n", "y = att @ v.mT\n"))
    assert not report.ok
    assert report.fault.place == "transformer.h.0.attn"
    [problem] = report.problems
    assert report.fault.words == f"{problem}, so nothing after it was run"
    assert problem.startswith("transformer.h.0.attn (gpt2_nano.py, line 49) raises RuntimeError: ")
    assert "\n" not in problem


def test_dropout_that_stays_on_is_said():
    report = verified(changed(STYLES["gpt2_nano"], "att = self.attn_dropout(att)", "att = F.dropout(att, 0.1)"))
    assert not report.ok
    assert report.fault.place == "transformer.h.0.attn"
    assert "makes other numbers in each run" in report.fault.words


ROUNDS = {
    "autocast": ("att = F.softmax(att, dim=-1)", "att = F.softmax(att, dim=-1)\n        with torch.autocast('cpu', torch.bfloat16):\n            v = (att @ v).to(v.dtype)\n        att = torch.eye(T).to(v)", "transformer.h.0.attn"),
    "half of float32": ("x = self.transformer.ln_f(x)", "x = self.transformer.ln_f(x.half().float() if x.dtype == torch.float32 else x)", "transformer.ln_f"),
    "overflow": ("x = self.transformer.ln_f(x)", "x = self.transformer.ln_f(x * 1e38 * 1e38 / 1e38 / 1e38)", "transformer.ln_f"),
}  # fmt: skip


@pytest.mark.parametrize("what", ROUNDS)
def test_what_only_its_own_dtype_rounds_is_noticed(what):
    old, new, place = ROUNDS[what]
    report = verified(changed(STYLES["gpt2_nano"], old, new))
    assert [check.name for check in report.checks if not check.ok] == ["rounding"]
    assert report.fault.words.startswith(f"{report.fault.place}: in float32 it is ")
    assert report.fault.place in (place, place.rpartition(".")[0])


def test_another_dtype_than_asked_for_is_said():
    style = STYLES["gpt2_inline"]
    module = style.made(reference(style.variant)).bfloat16()
    archport.fill(module, reference(style.variant), style.rows)
    report = verified(style, module)
    assert not report.ok
    assert report.fault.words.endswith("dtype='bfloat16' allows what bfloat16 rounds")
    assert verified(style, module, dtype="bfloat16").ok


def test_which_positions_were_compared_is_said():
    style = STYLES["gpt2_nano"]
    report = verified(style, OfLastToken(filled(style), style.forward), rows=INNER, forward=None)
    assert "logits of tokens before the last, which it does not give" in report.not_run
    assert not any("before the last" in line for line in verified(style).not_run)


REFUSES = {
    "few tokens": "ids.shape[1] <= 16",
    "one row": "len(ids) == 1",
}


@pytest.mark.parametrize("what", REFUSES)
def test_ids_that_are_refused_are_cut_and_said(what):
    class Refuses(Wrapped):
        def forward(self, ids):
            assert eval(REFUSES[what]), "no"
            return super().forward(ids)

    style = STYLES["gpt2_nano"]
    report = verified(style, Refuses(filled(style), style.forward), rows=INNER, forward=None)
    assert report.ok, str(report)
    assert any(line.startswith("random ids: ") and "; it was given (" in line for line in report.not_run)


def test_logits_of_another_shape_for_some_ids_make_a_report():
    class Cuts(Wrapped):
        def forward(self, ids):
            return super().forward(ids)[:1] if ids.shape[1] == 32 else super().forward(ids)

    style = STYLES["gpt2_nano"]
    report = verified(style, Cuts(filled(style), style.forward), rows=INNER, forward=None)
    assert not report.ok
    assert report.fault.words.startswith("for ids (2, 32), Cuts: gives back (1, 32, ")


# --- weights ---


def _transposed(module):
    module.transformer.h[1].attn.c_proj.weight.data = module.transformer.h[1].attn.c_proj.weight.data.T.contiguous()


def _exchanged(module):
    weight = module.transformer.h[1].attn.c_attn
    for one in (weight.weight, weight.bias):
        q, k, v = one.data.chunk(3)
        one.data = torch.cat((k, q, v))


def _rounded(module):
    for one in module.parameters():
        one.data = one.data.bfloat16().float()


def _of_another_layer(module):
    module.transformer.h[2].mlp.c_fc.weight.data = module.transformer.h[1].mlp.c_fc.weight.data.clone()


def _zeroed(module):
    module.transformer.ln_f.bias.data.zero_()


def _shuffled(module):
    module.transformer.wpe.weight.data = module.transformer.wpe.weight.data.flip(0)


WEIGHTS = {
    _transposed: ("transformer.h.1.attn.c_proj.weight", "square weight is transposed"),
    _exchanged: ("transformer.h.1.attn", "rows of queries and keys have changed places"),
    _rounded: ("transformer.wte.weight", "is rounded through bfloat16"),
    _of_another_layer: ("transformer.h.2.mlp.c_fc.weight", "holds what belongs into transformer.h.1.mlp.c_fc.weight"),
    _zeroed: ("transformer.ln_f.bias", "is all zeros"),
    _shuffled: ("transformer.wpe.weight", "has its rows in another order"),
}


@pytest.mark.parametrize("change", WEIGHTS)
def test_weights_that_differ_are_told_by_their_names(change):
    module = filled(STYLES["gpt2_nano"])
    with torch.no_grad():
        change(module)
    report = verified(STYLES["gpt2_nano"], module)
    place, words = WEIGHTS[change]
    assert next(check.name for check in report.checks if not check.ok) == "weights"
    assert all(check.ok for check in report.checks if check.name.startswith("code"))
    assert report.fault.place in (place, place.removesuffix(".weight"))
    assert words in report.fault.words


def test_a_head_of_its_own_is_told_where_the_checkpoint_ties_it():
    style = STYLES["gpt2_nano"]
    untied = changed(style, "        self.transformer.wte.weight = self.lm_head.weight\n", "")
    module = untied.made(reference(style.variant))
    archport.fill(module, reference(style.variant), style.rows | {"head.weight": "lm_head.weight"})
    with torch.no_grad():
        module.lm_head.weight.mul_(1.5)
    report = verified(untied, module)
    assert not report.ok
    assert report.fault.place == "lm_head.weight"
    assert report.fault.fault.name == "head untied"
    assert report.fault.words == "lm_head.weight: in yours the head has weights of its own; gpt2 ties it"
    assert all(check.ok for check in report.checks if check.name.startswith("code"))


# --- what is asked for ---


def test_bad_arguments_are_one_line():
    style = STYLES["gpt2_nano"]
    module = filled(style)
    hf = reference(style.variant)
    with pytest.raises(SourceError, match="found no reference"):
        archport.verify(module, rows=style.rows)
    with pytest.raises(SourceError, match="for a module of your own, found a Decoder"):
        archport.verify(archport.load(), rows=style.rows)
    with pytest.raises(MappingError, match=r"transformer.h.0.attn.c_atn.weight: missing"):
        archport.verify(
            module, reference=hf, rows=style.rows | {"blocks.{n}.attn.qkv.*": "transformer.h.{n}.attn.c_atn.*"}
        )
    with pytest.raises(SourceError, match=r"gives back .*forward=lambda module, ids"):
        archport.verify(module, reference=hf, rows=style.rows, forward=lambda one, ids: one.transformer.wte(ids))
    with pytest.raises(SourceError, match="is on meta"):
        archport.verify(copy.deepcopy(module).to("meta"), reference=hf, rows=style.rows)
