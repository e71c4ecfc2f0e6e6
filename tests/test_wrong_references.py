"""Wrong references: classes of transformers that compute something else in one place are not read as the right ones."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from math import log
from typing import Any
from unittest import mock

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from archport.layers import (
    Alibi,
    ChosenSoftmaxRouter,
    LogitScale,
    NormedLastAttention,
    ParallelBlock,
    RMSNorm,
    Rotary,
    SequentialBlock,
    SigmoidRouter,
    Window,
)
from archport.proposing.part import Program
from archport.proposing.proposal import subject_of
from archport.proposing.reading import Hole
from archport.proposing.subject import TINY, Subject, ids_of, run, vocab_of
from archport.proposing.tracing import in_full
from archport.proposing.varying import Reading, reading

from .references import OLD

pytestmark = pytest.mark.skipif(OLD, reason="changes methods and functions by the names of transformers 5")

GONE = "gone"  # a setting that the right program has


@dataclass(frozen=True)
class Wrong:
    """A wrong reference: in what class of transformers, in which of its modules, which step becomes another.

    `where` is the class or the name of the modules, `step` a method of these, or a function of their file, and `change`
    is called in its place, with the right one before its arguments. `says` are settings of the program that is to be
    read, by where they are; none where no parts of ours make what it computes.
    """

    base: str
    where: str
    change: Callable[..., Any]
    step: str = "forward"
    says: dict[str, Any] | None = None
    fast: bool = False  # so that it is in the default run


# --- what becomes another step ---


def after(change: Callable[[Any], Any]) -> Callable[..., Any]:
    """What the step gives, changed."""
    return lambda right, *args, **more: change(right(*args, **more))


def weighing(weigh: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """Attention with other probabilities of scores (batch, heads, seq, keys), minus infinity where none looks."""

    def attend(_: Any, __: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float, **___: Any) -> Any:
        k, v = (one.repeat_interleave(q.shape[1] // one.shape[1], 1) for one in (k, v))
        scores = (q @ k.mT * scaling).masked_fill(mask < -1, -torch.inf)
        return (weigh(scores) @ v).transpose(1, 2), None

    return attend


def hiding(hidden: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    """Attention in which a query at one place does not look at a key at another, (seq, keys)."""

    def weigh(scores: Tensor) -> Tensor:
        key = torch.arange(scores.shape[-1])
        return scores.masked_fill(hidden(key[:, None], key), -torch.inf).softmax(-1)

    return weighing(weigh)


def scaled_by(scale: float) -> Callable[..., Any]:
    """Attention with another scale."""
    return lambda right, *args, **more: right(*args, **{**more, "scaling": scale})


def of_first_head(scores: Tensor) -> Tensor:
    places = torch.arange(scores.shape[-1])
    far = places < places[:, None] - 6
    return scores.masked_fill(far & (torch.arange(scores.shape[1]) == 0)[:, None, None], -torch.inf).softmax(-1)


def best_keys(scores: Tensor) -> Tensor:
    least = scores.topk(min(12, scores.shape[-1])).values[..., -1:]
    return scores.masked_fill(scores < least, -torch.inf).softmax(-1)


def likely_keys(scores: Tensor) -> Tensor:
    least = scores.amax(-1, keepdim=True) - log(1e4)
    return scores.masked_fill(scores < least, -torch.inf).softmax(-1)


def by_length(scores: Tensor) -> Tensor:
    seen = torch.arange(1, scores.shape[-1] + 1)[:, None].double()
    return (scores * (seen.log() / log(20)).clamp(min=1)).softmax(-1)


def one_more(scores: Tensor) -> Tensor:
    return torch.cat([scores, torch.zeros_like(scores[..., :1])], -1).softmax(-1)[..., :-1]


def next_one_too(right: Any, module: Any, q: Any, k: Any, v: Any, mask: Tensor, **more: Any) -> Any:
    ahead = torch.ones(mask.shape[-2:], dtype=torch.bool).tril(1)
    return right(module, q, k, v, mask.masked_fill(ahead, 0), **more)


def values_turned(right: Any, module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, **more: Any) -> Any:
    turn = Rotary(v.shape[-1]).double()(torch.arange(v.shape[-2]), torch.float64)
    return right(module, q, k, turn(v), mask, **more)


def exchanged_roles(right: Any, module: Any, q: Tensor, k: Tensor, *rest: Any, **more: Any) -> Any:
    return right(module, k, q, *rest, **more)


def rms(x: Tensor, eps: float, count: int | None = None) -> Tensor:
    return x / (x.square().sum(-1, keepdim=True) / (count or x.shape[-1]) + eps).sqrt()


def eps_outside(_: Any, norm: Any, x: Tensor) -> Tensor:
    return norm.weight * x / (x.square().mean(-1, keepdim=True).sqrt() + norm.variance_epsilon)


def layer_norm(_: Any, norm: Any, x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return rms(x, norm.eps, x.shape[-1] - 1) * norm.weight + norm.bias


def by_head(_: Any, norm: Any, x: Tensor) -> Tensor:
    return norm.weight * rms(x.unflatten(-1, (4, -1)), norm.variance_epsilon).flatten(-2)


def keys_ahead(right: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    q, k = right(q, k, cos, sin)
    return q, right(k, k, cos[:, 1:2], sin[:, 1:2])[0]


def base_off(_: Any, rotary: Any, x: Tensor, position_ids: Tensor) -> Any:
    angles = position_ids[..., None] * rotary.inv_freq.double() ** (log(10100) / log(10000))
    angles = torch.cat([angles, angles], -1)
    return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def neighbours(_: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    cos, sin = (one[:, None].chunk(2, -1)[0].repeat_interleave(2, -1) for one in (cos, sin))

    def turned(x: Tensor) -> Tensor:
        x, rest = x.split([cos.shape[-1], x.shape[-1] - cos.shape[-1]], -1)
        across = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        return torch.cat([x * cos + across * sin, rest], -1)

    return turned(q), turned(k)


def halves(_: Any, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    sin, cos = (torch.cat([one, one], -1)[:, :, None] for one in (sin, cos))
    one, other = x.chunk(2, -1)
    return x * cos + torch.cat([-other, one], -1) * sin


def heads_rolled(right: Any, linear: Any, x: Tensor) -> Tensor:
    return right(linear, x).unflatten(-1, (4, -1)).roll(1, -1).flatten(-2)


def gate_and_up_exchanged(_: Any, mlp: Any, x: Tensor) -> Tensor:
    return mlp.down_proj(mlp.gate_proj(x) * mlp.act_fn(mlp.up_proj(x)))


def sigmoid_gate(_: Any, mlp: Any, x: Tensor) -> Tensor:
    return mlp.down_proj(mlp.gate_proj(x).sigmoid() * mlp.up_proj(x))


def exact_gelu(_: Any, mlp: Any, x: Tensor) -> Tensor:
    return mlp.c_proj(F.gelu(mlp.c_fc(x)))


def stream_normed(_: Any, layer: Any, x: Tensor, **more: Any) -> Tensor:
    x = layer.input_layernorm(x)
    x = layer.post_attention_layernorm(x + layer.self_attn(hidden_states=x, **more)[0])
    return x + layer.mlp(x)


def beside(_: Any, layer: Any, x: Tensor, cache: Any, mask: Tensor, *__: Any, **___: Any) -> Tensor:
    return x + layer.attn(layer.ln_1(x), cache, mask)[0] + layer.mlp(layer.ln_2(x))


def one_after_the_other(right: Any, layer: Any, *args: Any, **more: Any) -> Any:
    with mock.patch.object(layer, "use_parallel_residual", False):
        return right(layer, *args, **more)


def norms_before(_: Any, layer: Any, x: Tensor, **more: Any) -> Tensor:
    x = x + layer.self_attn(hidden_states=layer.post_attention_layernorm(x), **more)[0]
    return x + layer.mlp(layer.post_feedforward_layernorm(x))


def mlp_of_stream(_: Any, layer: Any, x: Tensor, **more: Any) -> Tensor:
    return x + layer.attn(hidden_states=layer.ln_1(x), **more)[0] + layer.mlp(x)


def mlp_of_attention(_: Any, layer: Any, x: Tensor, **more: Any) -> Any:
    added, weights = layer.self_attention(layer.input_layernorm(x), **more)
    return x + added + layer.mlp(added), weights


def attention_scaled_alone(_: Any, layer: Any, x: Tensor, **more: Any) -> Tensor:
    x = x + layer.self_attn(hidden_states=layer.input_layernorm(x), **more)[0] * layer.residual_multiplier
    return x + layer.mlp(layer.post_attention_layernorm(x))


def norm_of_sum(_: Any, layer: Any, x: Tensor, **more: Any) -> Tensor:
    x = layer.post_attention_layernorm(x + layer.self_attn(hidden_states=layer.input_layernorm(x), **more)[0])
    return x + layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(x)))


def layers_exchanged(right: Any, model: Any, *args: Any, **more: Any) -> Any:
    layers = model.layers
    model.layers = nn.ModuleList(reversed(layers))
    try:
        return right(model, *args, **more)
    finally:
        model.layers = layers


def types_exchanged(right: Any, model: Any, *args: Any, **more: Any) -> Any:
    with mock.patch.object(model.config, "layer_types", model.config.layer_types[::-1]):
        return right(model, *args, **more)


def wider(by: int) -> Callable[..., Any]:
    """A mask whose window is larger than the config says."""

    def masked(right: Any, *, config: Any, **more: Any) -> Tensor:
        with mock.patch.object(config, "sliding_window", config.sliding_window + by):
            return right(config=config, **more)

    return masked


def windowed(right: Any, **more: Any) -> Tensor:
    mask = right(**more)
    return mask.masked_fill(~torch.ones_like(mask, dtype=torch.bool).triu(-6), torch.finfo(mask.dtype).min)


def first_always_seen(right: Any, **more: Any) -> Tensor:
    mask = right(**more).clone()
    mask[..., 0] = 0
    return mask


def without_cap(_: Any, model: Any, input_ids: Tensor, **more: Any) -> Any:
    out = model.model(input_ids, **more)
    out.logits = model.lm_head(out[0])
    return out


def capped_before_scale(right: Any, module: Any, *args: Any, scaling: float, **more: Any) -> Any:
    cap = module.attn_logit_softcapping
    attend = weighing(lambda scores: ((scores / scaling / cap).tanh() * cap * scaling).softmax(-1))
    return attend(right, module, *args, scaling=scaling, **more)


def norms_last(_: Any, attention: Any, hidden_states: Tensor, position_embeddings: Any, **more: Any) -> Any:
    maps = attention.q_proj, attention.k_proj, attention.v_proj
    q, k, v = (one(hidden_states).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for one in maps)
    home = sys.modules[transformers.Qwen3ForCausalLM.__module__]
    q, k = home.apply_rotary_pos_emb(q, k, *position_embeddings)
    mask = more["attention_mask"]
    mixed = home.eager_attention_forward(
        attention, attention.q_norm(q), attention.k_norm(k), v, mask, attention.scaling
    )
    return attention.o_proj(mixed[0].flatten(-2)), None


def keys_normed_as_queries(right: Any, attention: Any, *args: Any, **more: Any) -> Any:
    with mock.patch.dict(attention._modules, {"k_norm": attention.q_norm}):
        return right(attention, *args, **more)


def other_normalisation(right: Any, router: Any, *args: Any) -> Any:
    with mock.patch.object(router, "norm_topk_prob", not router.norm_topk_prob):
        return right(router, *args)


def sigmoids(_: Any, router: Any, x: Tensor) -> Any:
    scores = F.linear(x, router.weight)
    weights, chosen = scores.sigmoid().topk(router.top_k)
    return scores, weights / weights.sum(-1, keepdim=True), chosen


def weights_exchanged(right: Any, router: Any, x: Tensor) -> Any:
    scores, weights, chosen = right(router, x)
    return scores, weights.flip(-1), chosen


def not_clamped(_: Any, experts: Any, both: Tensor) -> Tensor:
    gate, up = both[..., ::2], both[..., 1::2]
    return (up + 1) * gate * (gate * experts.alpha).sigmoid()


def not_raised(_: Any, experts: Any, both: Tensor) -> Tensor:
    gate, up = both[..., ::2].clamp(max=experts.limit), both[..., 1::2].clamp(-experts.limit, experts.limit)
    return up * gate * (gate * experts.alpha).sigmoid()


def bias_left_out(_: Any, linear: Any, x: Tensor) -> Tensor:
    return F.linear(x, linear.weight)


def tiled(_: Any, x: Tensor, times: int) -> Tensor:
    return x.repeat(1, times, 1, 1)


def in_both(path: str, value: Any) -> dict[str, Any]:
    """A setting of every layer."""
    return {f"blocks.{at}.{path}": value for at in range(TINY["layers"])}


LLAMA, GPT2, NEOX, GEMMA2 = "LlamaForCausalLM", "GPT2LMHeadModel", "GPTNeoXForCausalLM", "Gemma2ForCausalLM"
QWEN3, MOE, GPT_OSS = "Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "GptOssForCausalLM"
OLMO2, BLOOM, MISTRAL, PHI = "Olmo2ForCausalLM", "BloomForCausalLM", "MistralForCausalLM", "PhiForCausalLM"
GPTJ, GRANITE = "GPTJForCausalLM", "GraniteForCausalLM"
ATTEND, ROTATE, WINDOW = "eager_attention_forward", "apply_rotary_pos_emb", "create_sliding_window_causal_mask"
WRONG = {
    # norms
    "norm twice as loud": Wrong(LLAMA, "LlamaRMSNorm", after(lambda y: y * 2)),
    "norm with a constant": Wrong(LLAMA, "LlamaRMSNorm", after(lambda y: y + 1e-3)),
    "epsilon outside the root": Wrong(LLAMA, "LlamaRMSNorm", eps_outside),
    "another epsilon in the last norm": Wrong(
        LLAMA, "model.norm", lambda _, norm, x: norm.weight * rms(x, 1e-5), says={"norm.eps": 1e-5}
    ),
    "epsilon outside the last root": Wrong(LLAMA, "model.norm", eps_outside, fast=True),
    "mean square over one less": Wrong(LLAMA, "LlamaRMSNorm", lambda _, m, x: m.weight * rms(x, 1e-6, x.shape[-1] - 1)),
    "unbiased variance": Wrong(GPT2, "LayerNorm", layer_norm, fast=True),
    "no mean taken off": Wrong(
        "CohereForCausalLM",
        "CohereLayerNorm",
        lambda _, norm, x: norm.weight * rms(x, norm.variance_epsilon),
        says=in_both("norm", RMSNorm),
    ),
    "weights of norms not raised by one": Wrong(
        GEMMA2,
        "Gemma2RMSNorm",
        lambda _, norm, x: norm.weight * rms(x, norm.eps),
        says=in_both("norm_mlp_out", RMSNorm),
    ),
    "queries normed head by head": Wrong(OLMO2, "model.layers.0.self_attn.q_norm", by_head),
    "keys normed as queries": Wrong(QWEN3, "Qwen3Attention", keys_normed_as_queries),
    "norms after positions": Wrong(QWEN3, "Qwen3Attention", norms_last, says=in_both("attn", NormedLastAttention)),
    "no last norm": Wrong(GPT2, "transformer.ln_f", lambda _, __, x: x),
    # positions
    "values turned": Wrong(LLAMA, "LlamaAttention", values_turned, ATTEND),
    "queries turned alone": Wrong(
        LLAMA, "LlamaAttention", lambda right, q, k, *angles: (right(q, k, *angles)[0], k), ROTATE, fast=True
    ),
    "keys a position ahead": Wrong(LLAMA, "LlamaAttention", keys_ahead, ROTATE),
    "rotary base off by one in a hundred": Wrong(LLAMA, "LlamaRotaryEmbedding", base_off),
    "angles a little off": Wrong(LLAMA, "LlamaRotaryEmbedding", after(lambda y: (y[0], y[1] * 1.0001))),
    "neighbours turned": Wrong(
        NEOX, "GPTNeoXAttention", neighbours, ROTATE, says=in_both("attn.rotary.pairing", "neighbours")
    ),
    "halves turned": Wrong(GPTJ, "GPTJAttention", halves, ROTATE, says=in_both("attn.rotary.pairing", "halves")),
    "other part of a query turned": Wrong(PHI, "model.layers.0.self_attn.q_proj", heads_rolled),
    "positions from one": Wrong(
        GPT2, "transformer.wpe", lambda right, m, ids: right(m, ids + 1), says={"embed.offset": 1, "embed.context": 95}
    ),
    "positions up to twenty": Wrong(GPT2, "transformer.wpe", lambda right, m, ids: right(m, ids.clamp(max=20))),
    "slopes in another order": Wrong(BLOOM, "BloomModel", after(lambda y: y.flip(0)), "_get_alibi_slopes"),
    "distance twice as dear": Wrong(
        BLOOM,
        "BloomModel",
        after(lambda y: y * 2),
        "_get_alibi_slopes",
        says=in_both("attn.mask", Alibi) | in_both("attn.mask.factor", 2),
    ),
    "distance and a window": Wrong(BLOOM, "BloomModel", windowed, "create_causal_mask"),
    # attention
    "attention halved": Wrong(LLAMA, "LlamaAttention", after(lambda y: (y[0] / 2, *y[1:]))),
    "scores not scaled": Wrong(LLAMA, "LlamaAttention", scaled_by(1), ATTEND, says=in_both("attn.scale", 1)),
    "scores scaled by one less": Wrong(
        LLAMA, "LlamaAttention", scaled_by(9**-0.5), ATTEND, says=in_both("attn.scale", 1 / 3)
    ),
    "one more in the softmax": Wrong(LLAMA, "LlamaAttention", weighing(one_more), ATTEND),
    "next one seen": Wrong(LLAMA, "LlamaAttention", next_one_too, ATTEND),
    "itself not seen": Wrong(LLAMA, "LlamaAttention", hiding(lambda q, k: (q == k) & (q > 0)), ATTEND),
    "third does not see second": Wrong(LLAMA, "LlamaAttention", hiding(lambda q, k: (q == 2) & (k == 1)), ATTEND),
    "first head sees a window": Wrong(LLAMA, "LlamaAttention", weighing(of_first_head), ATTEND, fast=True),
    "best keys seen alone": Wrong(LLAMA, "LlamaAttention", weighing(best_keys), ATTEND),
    "likely keys seen alone": Wrong(LLAMA, "LlamaAttention", weighing(likely_keys), ATTEND),
    "scores up to thirty": Wrong(LLAMA, "LlamaAttention", weighing(lambda s: s.clamp(max=30).softmax(-1)), ATTEND),
    "values up to eight": Wrong("OlmoForCausalLM", "model.layers.1.self_attn.v_proj", after(lambda y: y.clamp(-8, 8))),
    "window past twenty": Wrong(LLAMA, "LlamaAttention", hiding(lambda q, k: k <= q - 20), ATTEND, fast=True),
    "scores louder past twenty": Wrong(LLAMA, "LlamaAttention", weighing(by_length), ATTEND),
    "kv heads tiled": Wrong(LLAMA, "LlamaAttention", tiled, "repeat_kv"),
    "heads in another order": Wrong(LLAMA, "LlamaAttention", after(lambda y: (y[0].flip(2), y[1])), ATTEND),
    "queries and keys exchanged": Wrong(GPT2, "GPT2Attention", exchanged_roles, ATTEND, says={}),
    "bias of keys left out": Wrong(PHI, "model.layers.1.self_attn.k_proj", bias_left_out),
    "window larger": Wrong(MISTRAL, "MistralModel", wider(1), WINDOW, says=in_both("attn.mask.size", 8), fast=True),
    "window smaller": Wrong(MISTRAL, "MistralModel", wider(-1), WINDOW, says=in_both("attn.mask.size", 6)),
    "first one always seen": Wrong(MISTRAL, "MistralModel", first_always_seen, WINDOW),
    "windows in the other layers": Wrong(
        GEMMA2, "Gemma2Model", types_exchanged, says={"blocks.0.attn.mask": GONE, "blocks.1.attn.mask": Window}
    ),
    "capped before scaled": Wrong(GEMMA2, "Gemma2Attention", capped_before_scale, ATTEND),
    "sinks take nothing": Wrong(GPT_OSS, "GptOssAttention", weighing(lambda s: s.softmax(-1)), ATTEND),
    # MLPs and experts
    "MLP bent": Wrong(LLAMA, "LlamaMLP", after(torch.tanh)),
    "MLP a little louder": Wrong(LLAMA, "LlamaMLP", after(lambda y: y * 1.001)),
    "gate and up exchanged": Wrong(LLAMA, "LlamaMLP", gate_and_up_exchanged, says={}),
    "gate of sigmoids": Wrong(LLAMA, "LlamaMLP", sigmoid_gate),
    "GELU without tanh": Wrong(GPT2, "GPT2MLP", exact_gelu, says=in_both("mlp.activation", "gelu")),
    "dropout always": Wrong(GPT2, "GPT2MLP", after(lambda y: F.dropout(y, 0.1, True))),
    "last MLP skipped": Wrong(LLAMA, "model.layers.1.mlp", after(torch.zeros_like)),
    "router normalised otherwise": Wrong(
        MOE, "Qwen3MoeTopKRouter", other_normalisation, says=in_both("mlp.router", ChosenSoftmaxRouter)
    ),
    "router of sigmoids": Wrong(MOE, "Qwen3MoeTopKRouter", sigmoids, says=in_both("mlp.router", SigmoidRouter)),
    "weights of experts exchanged": Wrong(MOE, "Qwen3MoeTopKRouter", weights_exchanged),
    "experts not clamped": Wrong(GPT_OSS, "GptOssExperts", not_clamped, "_apply_gate", fast=True),
    "experts not raised by one": Wrong(GPT_OSS, "GptOssExperts", not_raised, "_apply_gate"),
    # the stream
    "stream shifted": Wrong(LLAMA, "LlamaDecoderLayer", after(lambda y: y.roll(1, -1))),
    "stream is what is normed": Wrong(LLAMA, "LlamaDecoderLayer", stream_normed, says={}),
    "layers exchanged": Wrong(LLAMA, "LlamaModel", layers_exchanged, says={}, fast=True),
    "beside each other": Wrong(GPT2, "GPT2Block", beside, says={"blocks.0": ParallelBlock, "blocks.1": ParallelBlock}),
    "one after the other": Wrong(NEOX, "GPTNeoXLayer", one_after_the_other, says={"blocks.0": SequentialBlock}),
    "norms before": Wrong(OLMO2, "Olmo2DecoderLayer", norms_before, says={"blocks.0": SequentialBlock}),
    "MLP of the stream": Wrong(GPTJ, "GPTJBlock", mlp_of_stream),
    "MLP of attention": Wrong("FalconForCausalLM", "FalconDecoderLayer", mlp_of_attention),
    "attention scaled alone": Wrong(GRANITE, "GraniteDecoderLayer", attention_scaled_alone),
    "norm of a sum": Wrong(GEMMA2, "Gemma2DecoderLayer", norm_of_sum),
    # ids and logits
    "one id without a vector": Wrong(
        LLAMA, "model.embed_tokens", lambda right, m, ids: right(m, ids) * (ids != 78)[..., None]
    ),
    "embeddings scaled by a rounded root": Wrong(
        GEMMA2, "model.embed_tokens", lambda _, m, ids: F.embedding(ids, m.weight) * 7, says={"embed.scale": 7}
    ),
    "logits not capped": Wrong(GEMMA2, "", without_cap, says={"finish": GONE}),
    "logits a little louder": Wrong(
        LLAMA, "lm_head", after(lambda y: y * 1.001), says={"finish": LogitScale, "finish.scale": 1.001}
    ),
    "logits multiplied": Wrong(GRANITE, "lm_head", after(lambda y: y * 0.7**2), says={"finish.scale": 0.7}),
    "logits bent": Wrong(LLAMA, "lm_head", after(torch.sin)),
    "logarithms of probabilities": Wrong(LLAMA, "lm_head", after(lambda y: y.log_softmax(-1))),
}


def changed(kind: type, wrong: Wrong) -> type:
    """A class of modules, one step of which is another."""
    if hasattr(kind, wrong.step):
        right = getattr(kind, wrong.step)

        def step(*args: Any, **more: Any) -> Any:
            return wrong.change(right, *args, **more)

        return type(kind.__name__, (kind,), {wrong.step: step})
    home = sys.modules[kind.__module__]

    def forward(*args: Any, **more: Any) -> Any:
        with mock.patch.object(home, wrong.step, partial(wrong.change, getattr(home, wrong.step))):
            return kind.forward(*args, **more)

    return type(kind.__name__, (kind,), {"forward": forward})


def made(wrong: Wrong) -> Subject:
    """A wrong reference, to be read."""
    right = getattr(transformers, wrong.base)

    class WrongForCausalLM(right):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            for name, module in self.named_modules():
                if wrong.where in (name, type(module).__name__):
                    module.__class__ = changed(type(module), wrong)

    return subject_of(WrongForCausalLM)


@cache
def subject_of_right(base: str) -> Subject:
    """The right class of transformers."""
    return subject_of(getattr(transformers, base))


@cache
def read(base: str) -> Reading:
    """The right class, as it is read."""
    return reading(subject_of_right(base))


def apart(one: Tensor, other: Tensor) -> float:
    """How far logits are apart, in parts of the largest."""
    return float((one - other).abs().max() / other.abs().max())


def neat(setting: Any) -> Any:
    """A setting without the rounding of one that was solved for."""
    return float(f"{setting:.6g}") if isinstance(setting, int | float) else setting


@torch.no_grad()
def computed(module: nn.Module, ids: Tensor) -> Tensor:
    """The logits of a reference in float64."""
    with in_full():
        return run(module, ids)


def both(one: Subject, other: Subject) -> Iterator[list[Tensor]]:
    """The logits of two references of every id, and those with weights that are twice as loud, where limits show."""
    ids = torch.arange(2 * 90).view(2, -1) % TINY["vocab_size"]
    for times in (1, 2):
        modules = [subject.module() for subject in (one, other)]
        for weight in (weight for module in modules for weight in module.parameters()):
            weight.data *= times
        yield [computed(module, ids) for module in modules]


def weights(program: Program) -> dict[str, Tensor]:
    """The weights of a program by our names."""
    return dict(program.make().named_parameters(remove_duplicate=False))


def same(one: Program, other: Program) -> bool:
    """Whether two programs have the same settings, and the same weights in the same places."""
    a, b = weights(one), weights(other)
    return one.settings() == other.settings() and a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


@torch.no_grad()
def with_weights_of(other: nn.Module, program: Program, module: nn.Module) -> nn.Module:
    """The decoder of a program of a module, each of its numbers that of the same place in another module."""
    numbers = (torch.cat([one.flatten() for one in (*m.parameters(), *m.buffers())]) for m in (module, other))
    (known, places), theirs = next(numbers).sort(), next(numbers)
    model = program.make()
    for weight in model.parameters():
        at = torch.searchsorted(known, weight).clamp(max=len(known) - 1)
        weight.copy_(torch.where(known[at] == weight, theirs[places[at]], 0))  # of biases that there are not: zeros
    return model


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if one.fast else pytest.mark.families) for name, one in WRONG.items()]
)
def test_a_wrong_reference_is_another_program_or_a_hole(name):
    wrong = WRONG[name]
    right, subject = read(wrong.base), made(wrong)
    assert any(apart(*logits) > 1e-9 for logits in both(subject, subject_of_right(wrong.base)))  # it is wrong, indeed
    try:
        found = reading(subject)
    except Hole:
        assert wrong.says is None
        return
    if found.shapes.keys() - found.program.takes:  # parameters that no part has are a hole, too
        assert wrong.says is None
        return
    assert wrong.says is not None
    assert not same(found.program, right.program)
    settings = found.program.settings()
    assert {path: neat(settings.get(path, GONE)) for path in wrong.says} == {p: neat(v) for p, v in wrong.says.items()}
    other, ids = subject.module(seed=5), ids_of(vocab_of(found.module), seed=9, batch=3, seq=23)
    with torch.no_grad():
        assert apart(with_weights_of(other, found.program, found.module)(ids), computed(other, ids)) < 1e-5
