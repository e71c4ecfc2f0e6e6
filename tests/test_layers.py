"""The parts by themselves: attention against plain arithmetic, what goes in, what stays tied, odd shapes."""

import copy
import io
import math
import pickle
import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import archport
from archport.errors import ConfigError
from archport.generation.cache import StaticCache
from archport.layers import (
    MLP,
    Attention,
    AttentionContext,
    Decoder,
    Embed,
    ParallelBlock,
    Rotary,
    SequentialBlock,
    initialise,
)
from archport.layers.context import of_pass
from archport.observing import observe

from .references import SIZES, hf_dict, loud, reference, sequences

ARCHITECTURES = list(SIZES)
VOCABULARY = {name: sizes["vocab_size"] for name, sizes in SIZES.items()}
WIDTH, HEADS, KV_HEADS, HEAD_WIDTH, VOCAB = 30, 6, 2, 8, 53


def port_of(model) -> Decoder:
    return archport.from_state_dict(hf_dict(model), model.state_dict(), dtype=model.dtype)


def error(a, b) -> float:
    assert a.shape == b.shape
    return (a.double() - b.double()).abs().max().item()


def causal(batch, seq) -> AttentionContext:
    return of_pass(batch, seq, torch.device("cpu"), positions=None, mask=None, cache=None)


def attention(**options) -> Attention:
    options = {"kv_heads": KV_HEADS, "head_width": HEAD_WIDTH, "rotary": Rotary(6, base=97.0)} | options
    norms = {"q_norm": nn.RMSNorm(HEAD_WIDTH, eps=1e-5), "k_norm": nn.LayerNorm(HEAD_WIDTH)}
    return Attention(WIDTH, HEADS, **norms, **options)


def grouped(layers=2, **options) -> Decoder:
    """A small decoder whose queries share keys and values in groups, put together by hand."""
    blocks = [
        ParallelBlock(
            norm_attn=nn.RMSNorm(WIDTH),
            attn=attention(**options),
            norm_mlp=nn.RMSNorm(WIDTH),
            mlp=MLP(WIDTH, 44, activation="relu"),
        )
        for _ in range(layers)
    ]
    model = Decoder(embed=Embed(VOCAB, WIDTH), blocks=blocks, norm=nn.RMSNorm(WIDTH), head=nn.Linear(WIDTH, VOCAB))
    model.config = archport.registry.architecture("gpt_neox").config_class(
        vocab_size=VOCAB, context=40, width=WIDTH, layers=layers, heads=HEADS
    )
    return loud(model).eval()


def fill(cache, model, ids, sizes):
    with torch.no_grad():
        return torch.cat([model(piece, cache=cache) for piece in ids.split(sizes, dim=1)], 1)


# --- attention in steps ---


def test_grouped_attention_is_repeated_keys_and_a_softmax():
    layer = loud(attention()).double()
    x = torch.randn(3, 9, WIDTH, dtype=torch.float64)
    # The rows of the projection, group by group: its queries, its key, its value.
    group = HEADS // KV_HEADS
    fused = F.linear(x, layer.qkv.weight, layer.qkv.bias).view(3, 9, KV_HEADS, group + 2, HEAD_WIDTH)
    q = layer.q_norm(fused[..., :group, :].reshape(3, 9, HEADS, HEAD_WIDTH)).transpose(1, 2)
    k = layer.k_norm(fused[..., group, :]).transpose(1, 2)
    v = fused[..., group + 1, :].transpose(1, 2)
    angles = torch.arange(9.0)[:, None] * 97.0 ** (-torch.arange(0, 6, 2).float() / 6)
    cos, sin = (torch.cat((part, part), -1).double() for part in (angles.cos(), angles.sin()))

    def turned(x):
        halves = torch.cat((-x[..., 3:6], x[..., :3]), -1)
        return torch.cat((x[..., :6] * cos + halves * sin, x[..., 6:]), -1)

    keys, values = (part.repeat_interleave(group, dim=1) for part in (turned(k), v))
    scores = turned(q) @ keys.mT / math.sqrt(HEAD_WIDTH)
    scores = scores.masked_fill(torch.ones(9, 9, dtype=torch.bool).triu(1), -torch.inf)
    heads = scores.softmax(-1) @ values
    expected = F.linear(heads.transpose(1, 2).reshape(3, 9, -1), layer.out.weight, layer.out.bias)

    context = replace(causal(3, 9), dtype=torch.float64)
    with torch.no_grad():
        assert error(layer(x, context), expected) <= 1e-12
        steps = layer.rotate(*layer.norm(*layer.project(x)[:2]), context)
        assert error(layer.attend_eagerly(*steps, v, context), heads) <= 1e-12
        assert error(layer.output_by_head(heads), expected) <= 1e-12
        assert error(layer.scores(*steps, context).softmax(-1), scores.softmax(-1)) <= 1e-12


@pytest.mark.parametrize("kv_heads", [1, 2, 3, 6])
def test_cached_fused_and_eager_attention_agree_however_the_heads_are_grouped(kv_heads):
    model = grouped(kv_heads=kv_heads).double()
    ids = torch.randint(0, VOCAB, (2, 11))
    names = [f"blocks.{n}.attn.probabilities" for n in range(2)]
    with torch.no_grad():
        whole = model(ids)
        with observe(model, *names):
            assert error(model(ids), whole) <= 1e-12
    cache = archport.KVCache(model, batch=2, capacity=11)
    assert error(fill(cache, model, ids, (5, 1, 3, 1, 1)), whole) <= 1e-12
    assert cache.layers[0].keys.shape == (2, kv_heads, 11, HEAD_WIDTH)
    assert cache.bytes == 2 * 2 * (2 * kv_heads * 11 * HEAD_WIDTH) * 8
    cache = archport.KVCache(model, batch=2, capacity=11)
    with observe(model, *names):
        assert error(fill(cache, model, ids, (5, 1, 3, 1, 1)), whole) <= 1e-12


@pytest.mark.parametrize("kv_heads", [0, 4, 7, -1])
def test_heads_that_do_not_divide_into_groups_are_refused(kv_heads):
    with pytest.raises(ConfigError, match=f"found {kv_heads}, expected a divisor of 6 heads"):
        Attention(WIDTH, HEADS, kv_heads=kv_heads)


def test_keys_are_found_by_their_places_not_by_how_many_there_are():
    """A static cache returns more keys than tokens: places say which of them a query's own is."""
    model = grouped().double()
    ids = torch.randint(0, VOCAB, (2, 9))
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, :3] = False
    for padding in (None, mask):
        with torch.no_grad():
            whole = model(ids, mask=None if padding is None else padding[:, :9])
            names = [f"blocks.{n}.attn.{what}" for n in range(2) for what in ("probabilities", "heads")]
            for observed in ((), names):
                cache = archport.KVCache(model, batch=2, capacity=12)
                model(ids[:, :6], mask=None if padding is None else padding[:, :6], cache=cache)
                static = StaticCache(cache)
                with observe(model, *observed) as values:
                    for at in range(6, 9):
                        last = model.next_logits(ids[:, at : at + 1], mask=padding, cache=static)
                        assert error(last, whole[:, at].float()) <= 1e-6
            probabilities = values["blocks.1.attn.probabilities"]
        assert probabilities.shape == (2, HEADS, 1, 12)
        assert not probabilities[..., 9:].any()
        assert (probabilities[0, ..., :9] > 0).all()
        assert not (probabilities[1, ..., :3].any() and padding is not None)


def test_without_a_mask_and_not_causal_every_key_is_visible():
    layer = attention().double()
    x = torch.randn(1, 5, WIDTH, dtype=torch.float64)
    context = replace(causal(1, 5), dtype=torch.float64, causal=False)
    assert context.visible.all()
    assert context.visible.shape == (1, 1, 5, 5)
    q, k, v = layer.project(x)
    assert error(layer.attend_eagerly(q, k, v, context), layer.attend(q, k, v, context)) <= 1e-12
    assert torch.equal(causal(1, 5).visible[0, 0], torch.ones(5, 5, dtype=torch.bool).tril())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_padding_sees_itself_or_it_would_become_nan_and_spread(name, dtype):
    model = port_of(reference(name)).to(dtype)
    ids = torch.randint(0, 100, (2, 7))
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]]).bool()
    with torch.no_grad(), observe(model, "blocks.*", "blocks.*.attn.probabilities") as values:
        eager = model(ids, mask=mask)
    assert torch.isfinite(eager).all()
    assert all(torch.isfinite(values[site]).all() for site in values)
    with torch.no_grad():
        assert torch.isfinite(model(ids, mask=mask)).all()


def test_layers_that_share_a_rotary_share_its_angles():
    calls = []

    class Counting(Rotary):
        def forward(self, positions, dtype):
            calls.append(positions)
            return super().forward(positions, dtype)

    shared, other = Counting(6), Counting(4)
    model = grouped(layers=3, rotary=shared)
    model.blocks[1].attn.rotary = other
    model.blocks[2].attn.rotary = None
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))
    assert len(calls) == 2
    model(torch.tensor([[1, 2, 3]]))
    assert len(calls) == 4


def test_a_context_is_compiled_copied_and_pickled():
    model = grouped()
    ids = torch.randint(0, VOCAB, (2, 5))
    with torch.no_grad():
        expected = model(ids)
        assert error(torch.compile(model, fullgraph=True, backend="eager")(ids), expected) <= 1e-5
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(ids), expected)
        file = io.BytesIO()
        torch.save(model, file)
        assert torch.equal(torch.load(io.BytesIO(file.getvalue()), weights_only=False)(ids), expected)
    context = causal(2, 5)
    context.rotated(torch.zeros(2, 1, 5, 8), model.blocks[0].attn.rotary)
    assert len(copy.deepcopy(context).rotations) == 1


class WindowedBlock(SequentialBlock):
    """Its attention sees three tokens; what differs from other layers is the context it hands on."""

    def forward(self, x, context):
        near = torch.arange(context.keys) > context.places[:, None] - 3
        return super().forward(x, replace(context, mask=context.visible & near, causal=False))


def test_a_block_may_give_its_attention_another_mask():
    model = grouped().double()
    parts = dict(model.blocks[0].named_children())
    model.blocks[0] = WindowedBlock(**parts)
    ids = torch.randint(0, VOCAB, (2, 9))
    with torch.no_grad():
        whole = model(ids)
        with observe(model, "blocks.*.attn.probabilities") as values:
            assert error(model(ids), whole) <= 1e-12
    window = torch.ones(9, 9, dtype=torch.bool).tril().triu(-2)
    assert torch.equal(values["blocks.0.attn.probabilities"] > 0, window.expand(2, HEADS, 9, 9))
    assert torch.equal(values["blocks.1.attn.probabilities"] > 0, torch.ones_like(window).tril().expand(2, HEADS, 9, 9))
    cache = archport.KVCache(model, batch=2, capacity=9)
    assert error(fill(cache, model, ids, (5, 1, 2, 1)), whole) <= 1e-12


# --- what goes in ---


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_ids_at_both_ends_of_the_vocabulary_and_past_them(name):
    model = port_of(reference(name))
    last = VOCABULARY[name] - 1
    with torch.no_grad():
        assert torch.isfinite(model(torch.tensor([[0, last]]))).all()
    for token in (-1, last + 1, 10**9):
        with pytest.raises(ValueError, match=f"token {token}, but this model has learned {last + 1}, from 0 on"):
            model(torch.tensor([[1, token]]))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_ids_of_32_bits_are_right_and_other_types_an_error(name):
    model = port_of(reference(name))
    ids = torch.tensor([[5, 7, 11]])
    with torch.no_grad():
        assert torch.equal(model(ids.int()), model(ids))
        assert torch.equal(model.next_logits(ids.int()), model.next_logits(ids))
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.bool, torch.float32, torch.complex64):
        message = f"ids: found {str(dtype).removeprefix('torch.')}, expected int64 or int32"
        for call in (model, model.stream, model.next_logits):
            with pytest.raises(ValueError, match=message):
                call(ids.to(dtype))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1, 2, 3]], r"ids: found a list, expected a tensor \(batch, seq\)"),
        ("text", "ids: found a str, expected a tensor"),
        (torch.tensor([1, 2]), r"ids of shape \(2,\), expected \(batch, seq\)"),
        (torch.zeros(1, 2, 3, dtype=torch.long), r"ids of shape \(1, 2, 3\), expected \(batch, seq\)"),
        (None, "give ids or inputs_embeds, one of the two"),
    ],
    ids=["list", "text", "one axis", "three axes", "nothing"],
)
def test_what_are_no_ids_is_one_clear_error(ids, message):
    model = grouped()
    for call in (model, model.stream, model.next_logits):
        with pytest.raises(ValueError, match=message):
            call(ids)


def test_what_are_no_vectors_is_one_clear_error():
    model, vectors = grouped(), torch.zeros(1, 3, WIDTH)
    with pytest.raises(ValueError, match="one of the two"):
        model(torch.tensor([[1]]), inputs_embeds=vectors)
    with pytest.raises(ValueError, match=r"inputs_embeds of shape \(3, 30\), expected \(batch, seq, width\)"):
        model(inputs_embeds=vectors[0])
    with pytest.raises(ValueError, match="inputs_embeds: found int64, expected a floating-point type"):
        model(inputs_embeds=vectors.long())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_tokens_have_no_logits_and_no_next_token(name):
    model = port_of(reference(name))
    for shape in ((1, 0), (3, 0), (0, 4), (0, 0)):
        ids = torch.zeros(shape, dtype=torch.long)
        for mask in (None, torch.ones(shape, dtype=torch.bool)):
            with torch.no_grad():
                assert model(ids, mask=mask).shape == (*shape, VOCABULARY[name])
            if not shape[1]:
                with pytest.raises(ValueError, match="no tokens"):
                    model.next_logits(ids, mask=mask)
    cache = archport.KVCache(model, batch=1, capacity=5)
    with torch.no_grad():
        model(torch.tensor([[1, 2]]), cache=cache)
        assert model(torch.zeros(1, 0, dtype=torch.long), cache=cache).shape == (1, 0, VOCABULARY[name])
        assert cache.length == 2
        assert error(model(torch.tensor([[3]]), cache=cache)[:, -1], model(torch.tensor([[1, 2, 3]]))[:, -1]) <= 1e-4


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_next_logits_are_the_last_of_a_pass(name):
    model = port_of(reference(name))
    ids = torch.randint(0, 100, (3, 8))
    mask = torch.ones_like(ids).bool()
    mask[1, :3], mask[2, :7] = False, False
    with torch.no_grad():
        for padding in (None, mask):
            expected = model(ids, mask=padding)[:, -1]
            assert error(model.next_logits(ids, mask=padding), expected) <= 1e-5
            cache = archport.KVCache(model, batch=3, capacity=8)
            model.next_logits(ids[:, :6], mask=None if padding is None else padding[:, :6], cache=cache)
            assert error(model.next_logits(ids[:, 6:], mask=padding, cache=cache), expected) <= 2e-5
        half = copy.deepcopy(model).bfloat16()
        assert half.next_logits(ids).dtype == torch.float32
        assert torch.equal(half.next_logits(ids), half(ids)[:, -1].float())


# --- tied heads ---


@pytest.mark.parametrize("name", ["gpt2", "gptj tied", "gpt_neox tied"])
def test_a_tied_head_stays_tied(name):
    original = copy.deepcopy(port_of(reference(name)))

    def tied(model) -> bool:
        return model.head.weight is model.embed.tokens.weight

    assert tied(original)
    moves = {
        "to_empty": lambda model: model.to_empty(device="cpu"),
        "to dtype": lambda model: model.to(torch.float64),
        "to meta": lambda model: model.to("meta"),
        "double": lambda model: model.double(),
        "half": lambda model: model.half(),
        "bfloat16": lambda model: model.bfloat16(),
        "share_memory": lambda model: model.share_memory(),
        "deepcopy": copy.deepcopy,
        "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    }
    for how, move in moves.items():
        moved = move(copy.deepcopy(original))
        assert tied(moved), how
        assert len(list(moved.parameters())) == len(list(original.parameters())), how
    names = {key for key, _ in original.named_parameters()}
    assert "head.weight" not in names
    overwriting = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        assert tied(copy.deepcopy(original).double())
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwriting)


def test_what_is_not_tied_stays_untied():
    for model in (port_of(reference("gpt_neox")), port_of(reference("gpt2 untied"))):
        empty = copy.deepcopy(model).to_empty(device="cpu")
        assert empty.head.weight is not empty.embed.tokens.weight
    model = copy.deepcopy(port_of(reference("gpt2")))
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())  # as somebody who trains the head alone
    assert model.double().head.weight is not model.embed.tokens.weight


# --- parts that are absent ---


@pytest.mark.parametrize("norm", [nn.Identity(), nn.LayerNorm(WIDTH, elementwise_affine=False)], ids=repr)
def test_a_norm_without_weights_caches_generates_and_scores(norm):
    model = grouped()
    model.norm = norm
    ids = torch.randint(0, VOCAB, (1, 9))
    with torch.no_grad():
        whole = model(ids)
    cache = archport.KVCache(model, capacity=9)
    assert error(fill(cache, model, ids, (4, 1, 4)), whole) <= 1e-4
    tokens = ids[0].tolist()
    rows = archport.generate(model, tokens, max_new_tokens=3, greedy=True, end=[])
    for at in range(9, 12):
        with torch.no_grad():
            assert rows[0][at] == int(model(torch.tensor([rows[0][:at]]))[0, -1].argmax())
    losses = F.cross_entropy(whole[0, :-1].double(), ids[0, 1:], reduction="none")
    assert archport.score(model, tokens, stride=40).losses == pytest.approx(losses.tolist(), abs=1e-4)
    initialise(model, std=0.02, residual_std=0.01)
    assert torch.isfinite(model(ids)).all()


def test_attention_without_bias_norms_or_rotary_needs_none():
    layer = Attention(WIDTH, HEADS, head_width=7, bias=False)
    assert set(layer.state_dict()) == {"qkv.weight", "out.weight"}
    assert layer.qkv.weight.shape == (3 * HEADS * 7, WIDTH)
    x = torch.randn(2, 4, WIDTH)
    heads = layer.attend(*layer.project(x), causal(2, 4))
    assert error(layer.output(heads), layer.output_by_head(heads)) <= 1e-5
    assert "kv_heads" not in repr(layer)
    assert "kv_heads=2" in repr(attention())


def test_dropout_acts_on_what_attention_adds_in_train_mode_only():
    layer = Attention(WIDTH, HEADS, head_width=HEAD_WIDTH, dropout=0.5)
    x = torch.randn(2, 4, WIDTH)
    assert (layer.train()(x, causal(2, 4)) == 0).float().mean() > 0.3
    assert (layer.eval()(x, causal(2, 4)) != 0).all()


def test_score_dropout_acts_alike_in_both_ways_to_attend():
    layer = Attention(WIDTH, HEADS, head_width=HEAD_WIDTH, score_dropout=0.999999).train()
    q, k, v = layer.project(torch.randn(2, 4, WIDTH))
    assert not layer.attend(q, k, v, causal(2, 4)).any()
    assert not layer.attend_eagerly(q, k, v, causal(2, 4)).any()
    layer.eval()
    assert error(layer.attend(q, k, v, causal(2, 4)), layer.attend_eagerly(q, k, v, causal(2, 4))) <= 1e-5


# --- rotary widths that are odd ---


@pytest.mark.parametrize("fraction", [0.125, 0.21, 0.3, 0.46, 0.8, 1.0])
@pytest.mark.parametrize("parallel", [True, False])
def test_gpt_neox_turns_an_odd_width_as_the_reference_does(fraction, parallel):
    model = reference("gpt_neox", rotary_pct=fraction, use_parallel_residual=parallel)
    port = port_of(model)
    ids = sequences(model)[0]
    with torch.no_grad():
        assert error(port(ids), model(ids).logits) <= 1e-5
    cache = archport.KVCache(port, batch=len(ids), capacity=ids.shape[1])
    assert error(fill(cache, port, ids, (7, 1, ids.shape[1] - 8)), port(ids).detach()) <= 1e-4


def test_a_sequential_block_is_two_residual_branches():
    block = SequentialBlock(
        norm_attn=nn.LayerNorm(WIDTH),
        attn=attention(),
        norm_mlp=nn.LayerNorm(WIDTH),
        mlp=MLP(WIDTH, 44, activation="gelu"),
    )
    x, context = torch.randn(2, 5, WIDTH), causal(2, 5)
    between = x + block.attn(block.norm_attn(x), context)
    assert torch.equal(block(x, context), between + block.mlp(block.norm_mlp(between)))


def test_a_mask_of_numbers_is_refused():
    model = port_of(reference("gpt2"))
    ids = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="a mask of floating-point numbers, expected true for tokens"):
        model(ids, mask=torch.tensor([[-torch.inf, 0.0, 0.0, 0.0]]))
    with torch.no_grad():
        whole, true = torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.bool)
        assert torch.equal(model(ids, mask=whole), model(ids, mask=true))


@pytest.mark.parametrize("kind", [list, tuple, lambda ones: ones.numpy()], ids=["list", "tuple", "ndarray"])
@pytest.mark.parametrize(
    ("name", "wanted"),
    [("mask", "a tensor (batch, cached + seq)"), ("positions", "a tensor (seq) or (batch, seq)")],
)
def test_masks_and_positions_that_are_no_tensors_are_refused(name, wanted, kind):
    given = kind(torch.ones(1, 4, dtype=torch.long))
    words = f"{name}: found a {type(given).__name__}, expected {wanted}"
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        port_of(reference("gpt2"))(torch.ones(1, 4, dtype=torch.long), **{name: given})


def test_a_cache_of_a_model_with_other_layers_is_refused():
    model = port_of(reference("gpt2"))
    cache = archport.KVCache(archport.load())
    with pytest.raises(ValueError, match="a cache of 6 layers, but this model has 3"), torch.no_grad():
        model(torch.ones(1, 4, dtype=torch.long), cache=cache)
