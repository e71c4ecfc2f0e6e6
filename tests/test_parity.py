"""Is it the same function? Every architecture and variant against transformers, on loud weights."""

import copy

import pytest
import torch

import archport
from archport.layers import Decoder, Experts
from archport.parity import references
from archport.parity.outputs import with_parameters
from archport.registry import architecture

from .references import (
    A_THIRD,
    FAMILIES,
    VARIANTS,
    bound,
    context,
    hf_dict,
    reference,
    sequences,
    with_attention,
)

HALF = (torch.float16, torch.bfloat16)


def port_of(model) -> Decoder:
    return archport.from_state_dict(hf_dict(model), model.state_dict(), dtype=model.dtype)


def logits(model, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        output = model(ids)
    return output if isinstance(output, torch.Tensor) else output.logits


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_the_reference_in_eager_mode(variant):
    model = reference(variant)
    port = port_of(model)
    for ids in sequences(model):
        theirs = logits(model, ids)
        assert error(logits(port, ids), theirs) <= bound(variant, theirs)


# The reference writes these two out, operation by operation, where we call torch's own.
SPELT_OUT = ("gpt_neox gelu_new", "gpt_neox gelu_fast")


@pytest.mark.parametrize(
    "variant", [v for v, (name, _) in VARIANTS.items() if name == "gpt_neox" and v not in SPELT_OUT]
)
def test_gpt_neox_equals_sdpa_to_the_last_bit(variant):
    model = reference(variant, attention="sdpa")
    port = port_of(model)
    for ids in sequences(model):
        assert torch.equal(logits(port, ids), logits(model, ids))


def test_gpt_j_turns_the_whole_head_where_rotary_dim_is_null():
    # The reference can be built this way with one head only: with more, its table does not fit its heads.
    model = reference("gptj", n_head=1, rotary_dim=84)
    config = hf_dict(model) | {"rotary_dim": None}
    port = archport.from_state_dict(config, model.state_dict())
    assert port.config.rotary_width == 84
    assert error(logits(port, sequences(model)[0]), logits(model, sequences(model)[0])) <= 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_is_as_close_to_float64_as_the_reference_is(variant):
    model = reference(variant)
    port, ids = port_of(model), sequences(model)[0]
    drawn = torch.Generator().manual_seed(1)
    texts = [ids, *(torch.randint(model.config.vocab_size, ids.shape, generator=drawn) for _ in range(5))]
    exact_model = copy.deepcopy(model).double()
    for module in exact_model.modules():
        module.reorder_and_upcast_attn = False  # rounds to float32 on purpose, and refuses float64
    ours, theirs, exact = (torch.stack([logits(one, ids) for ids in texts]) for one in (port, model, exact_model))
    ulps = 8 * torch.finfo(torch.float32).eps * exact.abs().max().item()
    # The largest error of each text, on average, for that of one is chance.
    largest = [(one - exact).abs().flatten(1).amax(1).mean() for one in (ours, theirs)]
    assert largest[0] <= 1.2 * largest[1] + ulps
    assert (ours - exact).square().mean().sqrt() <= 1.3 * (theirs - exact).square().mean().sqrt()


# Both for one model of each architecture, one of them for its variants.
ROUNDED = [
    (variant, dtype)
    for at, (variant, (name, _)) in enumerate(VARIANTS.items())
    for dtype in (HALF if variant == name or name not in FAMILIES else HALF[at % 2 :][:1])
]


@pytest.mark.parametrize(("variant", "dtype"), ROUNDED, ids=str)
def test_half_precision_rounds_no_more_than_the_reference(variant, dtype):
    errors = []
    for seed in range(3 if variant.partition(" ")[0] in FAMILIES else 1):
        model = reference(variant, seed=seed)
        exact = logits(model, ids := sequences(model)[0])
        # Not .half() on the reference: that would round its rotary tables, which from_pretrained does not.
        half = with_attention(model, "eager")
        for parameter in half.parameters():
            parameter.data = parameter.data.to(dtype)
        port = archport.from_state_dict(hf_dict(model), half.state_dict(), dtype=dtype)
        errors.append([(logits(one, ids) - exact).abs() for one in (port, half)])
    ours, theirs = (torch.cat(several) for several in zip(*errors, strict=True))
    if variant.partition(" ")[0] not in FAMILIES:
        assert ours.max() <= 1.5 * theirs.max()
    # The largest of few errors is chance where a softmax is steep, and the mean where rounding chooses another expert.
    usual = torch.median if any(isinstance(module, Experts) for module in port.modules()) else torch.mean
    assert usual(ours) <= 1.1 * usual(theirs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_equal_the_reference(variant):
    model = reference(variant)
    port, ids = port_of(model), sequences(model)[0]
    weight = torch.linspace(-1, 1, model.config.vocab_size)
    for one in (model, port):
        output = one(ids)
        output = output if isinstance(output, torch.Tensor) else output.logits
        (output.log_softmax(-1) * weight).mean().backward()
    theirs = {name: parameter.grad for name, parameter in model.named_parameters()}
    translated = archport.from_state_dict(hf_dict(model), theirs)
    for (name, ours), expected in zip(port.named_parameters(), translated.parameters(), strict=True):
        grad = torch.zeros_like(ours) if ours.grad is None else ours.grad  # of an expert that no token chose
        assert error(grad, expected) <= 1e-5 * max(1.0, expected.abs().max().item()), name


@pytest.mark.parametrize("variant", [name for name in VARIANTS if " " not in name or "untied" in name])
def test_every_parameter_rolled_by_one_is_noticed(variant):
    model = reference(variant)
    port, ids = port_of(model), sequences(model)[0]
    right = logits(port, ids)
    for name, parameter in port.named_parameters():
        parameter.data = parameter.data.roll(1, dims=0)
        assert error(logits(port, ids), right) > 1e-3, f"{name} rolled by one row goes unnoticed"
        parameter.data = parameter.data.roll(-1, dims=0)
        if parameter.ndim == 2:
            parameter.data = parameter.data.roll(1, dims=1)
            assert error(logits(port, ids), right) > 1e-3, f"{name} rolled by one column goes unnoticed"
            parameter.data = parameter.data.roll(-1, dims=1)


RATES = {
    "gpt2": ("embd_pdrop", "resid_pdrop", "attn_pdrop"),
    "gptj": ("embd_pdrop", "resid_pdrop", "attn_pdrop"),
    "gpt_neox": ("hidden_dropout", "hidden_dropout", "attention_dropout"),
}


@pytest.mark.parametrize("name", RATES)
def test_dropout_of_embedding_and_residual_is_the_reference_s(name):
    embed, residual, attention = RATES[name]
    model = reference(name, **{embed: 0.25, residual: 0.25, attention: 0.0})
    port, ids = port_of(model), sequences(model)[0]
    still = logits(port, ids)
    results = []
    for one in (model.train(), port.train()):
        torch.manual_seed(7)  # same draws in the same order
        results.append(logits(one, ids))
    assert error(*results) <= 1e-5
    assert error(results[0], still) > 0.1
    assert error(logits(port.eval(), ids), still) == 0


@pytest.mark.parametrize("name", RATES)
def test_dropout_of_attention_acts_in_train_mode_only(name):
    embed, residual, attention = RATES[name]
    model = reference(name, **{embed: 0.0, residual: 0.0, attention: 0.25})
    port, ids = port_of(model), sequences(model)[0]
    still = logits(port, ids)
    # Fused attention draws in another order, so the distributions are compared: same mean, same spread.
    samples = []
    for one in (model.train(), port.train()):
        torch.manual_seed(7)
        samples.append(torch.stack([logits(one, ids[:1]) for _ in range(300)]))
    means, spreads = [s.mean(0) for s in samples], [s.std(0) for s in samples]
    assert spreads[1].min() > 0.01
    assert (means[0] - means[1]).abs().mean() < 0.1 * spreads[0].mean()
    assert (spreads[0].mean() / spreads[1].mean() - 1).abs() < 0.05
    assert error(logits(port.eval(), ids), still) == 0


@pytest.mark.parametrize("variant", A_THIRD)
def test_no_output_sees_a_later_token(variant):
    model = reference(variant)
    port, ids = port_of(model), sequences(model)[0]
    changed = ids.clone()
    cut = ids.shape[1] // 2
    changed[:, cut:] = (changed[:, cut:] + 1) % model.config.vocab_size
    # How many tokens an expert gets is no matter of causality, but products of other sizes round otherwise.
    rounding = 1e-5 if any(isinstance(module, Experts) for module in port.modules()) else 0
    assert error(logits(port, ids)[:, :cut], logits(port, changed)[:, :cut]) <= rounding
    assert error(logits(port, ids)[:, cut], logits(port, changed)[:, cut]) > rounding


# One for each way to give tokens their positions.
PLACED = ("gpt2", "gpt_neox", "gptj", "llama", "bloom", "falcon", "mpt", "gemma3_text", "phi3", "gpt_oss")


@pytest.mark.parametrize("name", [name for name in PLACED if name in VARIANTS])  # an older transformers lacks some
def test_four_thousand_tokens(name, monkeypatch):
    arch = architecture(name)
    model = references.loud(arch, {**arch.sizes, "context": 4096})
    ids = torch.randint(model.config.vocab_size, (1, 4096), generator=torch.Generator().manual_seed(1))
    ours, theirs = logits(port_of(model), ids), logits(model, ids)
    if error(ours, theirs) > 1e-5 * max(1.0, theirs.abs().max().item()):  # or the reference is not so near
        rounded = torch.Tensor.float  # which the reference calls on purpose, as before a softmax
        monkeypatch.setattr(torch.Tensor, "float", lambda self: self if self.dtype == torch.float64 else rounded(self))
        exact = logits(with_parameters(model, torch.float64), ids)
        assert error(ours, exact) <= 1.5 * error(theirs, exact)


def test_too_many_tokens_for_learned_positions_is_an_error_with_both_numbers():
    model = reference("gpt2")
    ids = torch.zeros(1, context(model) + 1, dtype=torch.long)
    with pytest.raises(ValueError, match=f"{context(model) + 1} tokens.* {context(model)} positions"):
        port_of(model)(ids)
