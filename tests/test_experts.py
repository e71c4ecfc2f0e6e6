"""Each mixture of experts against the reference's own block: numbers, gradients, rounding, odd routes, compiled."""

import copy

import pytest
import torch
from torch import nn
from transformers import Dots1Config, GptOssConfig, MixtralConfig, OlmoeConfig, Qwen2MoeConfig, Qwen3MoeConfig
from transformers.models.dots1.modeling_dots1 import Dots1MoE
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from archport.errors import ConfigError
from archport.layers.experts import (
    ChosenSoftmaxRouter,
    ClampedGatedMLP,
    Experts,
    NormalisedRouter,
    SharedExpert,
    SigmoidRouter,
    SoftmaxRouter,
    UncastNormalisedRouter,
)
from archport.layers.mlp import GatedMLP

WIDTH, MLP, EXPERTS, TOP, SHARED = 24, 20, 12, 3, 28
SIZES = {"hidden_size": WIDTH, "num_experts_per_tok": TOP, "num_local_experts": EXPERTS, "num_experts": EXPERTS}


def gated(mlp_width=MLP) -> GatedMLP:
    return GatedMLP(WIDTH, mlp_width, activation="silu")


# A family: the reference's block, its config and fields, and what stands there in ours.
FAMILIES = {
    "mixtral": (
        MixtralSparseMoeBlock,
        MixtralConfig(**SIZES, intermediate_size=MLP),
        lambda: (UncastNormalisedRouter(WIDTH, EXPERTS, top=TOP), gated, None),
    ),
    "olmoe": (
        OlmoeSparseMoeBlock,
        OlmoeConfig(**SIZES, intermediate_size=MLP, norm_topk_prob=False),
        lambda: (SoftmaxRouter(WIDTH, EXPERTS, top=TOP), gated, None),
    ),
    "olmoe normalised": (
        OlmoeSparseMoeBlock,
        OlmoeConfig(**SIZES, intermediate_size=MLP, norm_topk_prob=True),
        lambda: (NormalisedRouter(WIDTH, EXPERTS, top=TOP), gated, None),
    ),
    "qwen3_moe": (
        Qwen3MoeSparseMoeBlock,
        Qwen3MoeConfig(**SIZES, moe_intermediate_size=MLP, norm_topk_prob=True),
        lambda: (NormalisedRouter(WIDTH, EXPERTS, top=TOP), gated, None),
    ),
    "gpt_oss": (
        GptOssMLP,
        GptOssConfig(**SIZES, intermediate_size=MLP, swiglu_limit=2.0, swiglu_alpha=1.9),
        lambda: (
            ChosenSoftmaxRouter(WIDTH, EXPERTS, top=TOP, bias=True),
            lambda: ClampedGatedMLP(WIDTH, MLP, alpha=1.9, limit=2.0),
            None,
        ),
    ),
    "qwen2_moe": (
        Qwen2MoeSparseMoeBlock,
        Qwen2MoeConfig(**SIZES, moe_intermediate_size=MLP, shared_expert_intermediate_size=SHARED),
        lambda: (SoftmaxRouter(WIDTH, EXPERTS, top=TOP), gated, SharedExpert(WIDTH, gated(SHARED))),
    ),
    "dots1": (
        Dots1MoE,
        Dots1Config(
            **SIZES | {"num_local_experts": EXPERTS},
            n_routed_experts=EXPERTS,
            moe_intermediate_size=MLP,
            n_shared_experts=2,
            n_group=4,
            topk_group=2,
            norm_topk_prob=True,
            routed_scaling_factor=2.5,
        ),
        lambda: (
            SigmoidRouter(WIDTH, EXPERTS, top=TOP, groups=4, top_groups=2, scale=2.5),
            gated,
            gated(2 * MLP),
        ),
    ),
}


def copy_mlp(ours, theirs) -> None:
    for name in ("gate", "up", "down"):
        getattr(ours, name).weight.copy_(getattr(theirs, f"{name}_proj").weight)


def both(family: str, dtype=torch.float32, seed=0) -> tuple[nn.Module, Experts]:
    """The reference's block with loud weights, and ours with the same."""
    block, config, parts = FAMILIES[family]
    config = copy.deepcopy(config)
    config._experts_implementation = "eager"
    theirs = block(config)
    torch.manual_seed(seed)
    for tensor in (*theirs.parameters(), *theirs.buffers()):
        nn.init.normal_(tensor, std=0.3)
    router, expert, shared = parts()
    ours = Experts(router, [expert() for _ in range(EXPERTS)], shared)
    scorer, stacked = theirs.router if family == "gpt_oss" else theirs.gate, theirs.experts
    with torch.no_grad():
        router.score.weight.copy_(scorer.weight)
        for index, own in enumerate(ours.experts):
            gate_up, down = stacked.gate_up_proj[index], stacked.down_proj[index]
            if family == "gpt_oss":
                own.gate.bias.copy_(stacked.gate_up_proj_bias[index, ::2])
                own.up.bias.copy_(stacked.gate_up_proj_bias[index, 1::2])
                own.down.bias.copy_(stacked.down_proj_bias[index])
                gate_up, down = torch.cat((gate_up.T[::2], gate_up.T[1::2])), down.T
            own.gate.weight.copy_(gate_up[:MLP])
            own.up.weight.copy_(gate_up[MLP:])
            own.down.weight.copy_(down)
        if family == "gpt_oss":
            router.score.bias.copy_(scorer.bias)
        if family == "qwen2_moe":
            copy_mlp(shared.mlp, theirs.shared_expert)
            shared.gate.weight.copy_(theirs.shared_expert_gate.weight)
        if family == "dots1":
            copy_mlp(shared, theirs.shared_experts)
            router.preference.copy_(scorer.e_score_correction_bias)
    return theirs.to(dtype).eval(), ours.to(dtype).eval()


def output(block, x):
    y = block(x)
    return y[0] if isinstance(y, tuple) else y


def inputs(*shape, dtype=torch.float32, seed=1):
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


def error(a, b) -> float:
    assert a.shape == b.shape
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item() if b.numel() else 0.0


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-14)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_reference_with_its_gradients(family, dtype, tolerance):
    theirs, ours = both(family, dtype)
    x = inputs(3, 17, dtype=dtype)
    mine, reference = x.clone().requires_grad_(), x.clone().requires_grad_()
    outputs = output(ours, mine), output(theirs, reference)
    assert outputs[0].dtype == dtype
    assert error(*outputs) < tolerance
    for y in outputs:
        (y * inputs(3, 17, dtype=dtype, seed=2)).sum().backward()
    scorer = theirs.router if family == "gpt_oss" else theirs.gate
    assert error(mine.grad, reference.grad) < 5 * tolerance
    assert error(ours.router.score.weight.grad, scorer.weight.grad) < 5 * tolerance
    down = theirs.experts.down_proj.grad
    down = down.mT if family == "gpt_oss" else down
    own = (expert.down.weight for expert in ours.experts)  # without a gradient where no token came
    assert error(torch.stack([torch.zeros_like(w) if w.grad is None else w.grad for w in own]), down) < 5 * tolerance


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_rounds_as_the_reference_does(family, dtype):
    errors, equal = torch.zeros(2), []
    for seed in range(4):
        theirs, ours = both(family, dtype, seed)
        x = inputs(2, 31, dtype=dtype, seed=seed)
        exact, _ = both(family, dtype, seed)
        with torch.no_grad():
            y = output(exact.double(), x.double())
            rounded = output(ours, x), output(theirs, x)
            errors += torch.tensor([(one.double() - y).square().mean().sqrt() for one in rounded])
            equal.append(torch.eq(*rounded).float().mean().item())
    if family == "gpt_oss":  # whose reference rounds once more before it adds a bias
        assert errors[0] <= errors[1]
    else:
        assert min(equal) > 0.99


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (0, 3), (2, 0)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_takes_few_tokens_and_none(family, shape):
    theirs, ours = both(family)
    x = inputs(*shape)
    y = output(ours, x)
    assert y.shape == x.shape
    assert not y.numel() or error(y, output(theirs, x)) < 2e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_equals_its_rows_and_leaves_its_input_as_it_was(family):
    _, ours = both(family)
    x = inputs(4, 9)
    before = x.clone()
    y = ours(x)
    assert torch.equal(x, before)
    assert error(y, torch.cat([ours(row[None]) for row in x])) < 2e-6
    assert error(y, ours(x.transpose(0, 1)).transpose(0, 1)) < 2e-6  # not contiguous


class Fixed(nn.Module):
    """A router that gives what it was made with."""

    def __init__(self, weights, chosen) -> None:
        super().__init__()
        self.weights, self.chosen = weights, chosen

    def forward(self, tokens):  # noqa: ARG002
        return self.weights, self.chosen


@pytest.mark.parametrize(
    "chosen", [[[7]] * 6, [[0, 7]] * 6, [[3, 1], [1, 2], [5, 3], [7, 0], [0, 1], [4, 5]]], ids=["one", "two", "many"]
)
def test_runs_the_chosen_experts_once_each_on_their_tokens_alone(chosen):
    chosen = torch.tensor(chosen)
    weights = inputs(2, 3).flatten(0, 1)[:, : chosen.shape[1]]
    experts = Experts(Fixed(weights, chosen), [gated() for _ in range(8)])
    seen = {}
    for index, expert in enumerate(experts.experts):
        expert.register_forward_hook(lambda _, args, __, index=index: seen.setdefault(index, []).append(len(args[0])))
    x = inputs(2, 3, seed=3)
    y = experts(x)
    counts = chosen.flatten().bincount().tolist()
    assert seen == {index: [count] for index, count in enumerate(counts) if count}
    tokens = x.flatten(0, 1)
    rows = zip(tokens, weights, chosen.tolist(), strict=True)
    expected = [sum(w * experts.experts[e](row) for w, e in zip(ws, es, strict=True)) for row, ws, es in rows]
    assert error(y.flatten(0, 1), torch.stack(expected)) < 2e-6


def test_is_compiled_once_whatever_the_routes():
    _, ours = both("qwen2_moe")
    compiled = torch.compile(nn.Sequential(nn.Identity(), ours), dynamic=False, backend="eager")
    with torch.no_grad():
        compiled(inputs(3, 1))
        with torch.compiler.set_stance("fail_on_recompile"):
            for seed in range(12):
                x = inputs(3, 1, seed=seed)
                assert error(compiled(x), ours(x)) < 2e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_is_described_on_meta(family):
    with torch.device("meta"):
        router, expert, shared = FAMILIES[family][2]()
        experts = Experts(router, [expert() for _ in range(EXPERTS)], shared)
    assert all(tensor.is_meta for tensor in experts.state_dict().values())
    assert f"top={TOP}" in repr(experts)


@pytest.mark.parametrize("top", [0, EXPERTS + 1])
def test_refuses_to_choose_more_experts_than_there_are(top):
    with pytest.raises(ConfigError, match=f"found {top}, expected 1 to {EXPERTS}"):
        SoftmaxRouter(WIDTH, EXPERTS, top=top)
