"""Generation: the ids that transformers gives, whatever the cache, the batch or the stream; and text that is whole."""

import copy
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import archport
from archport import KVCache
from archport.errors import CheckpointError, ConfigError, GenerationError, SourceError
from archport.fast.linears import is_swapped
from archport.generation.prompts import end_ids
from archport.generation.sampling import Sampling
from archport.generation.text import encoded, pieces

from .commands import run
from .cpu import refusal, swapping
from .references import A_THIRD, FAMILIES, SIZES, context, hf_dict, reference

ARCHITECTURES = list(SIZES)
FIRST = [name for name in ARCHITECTURES if name not in FAMILIES]
SETTINGS = [
    {},
    {"temperature": 0.7, "top_k": 20},
    {"top_p": 0.8, "top_k": 0},
    {"min_p": 0.1, "repetition_penalty": 1.3},
    {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 0.8},
]


def port_of(model):
    return archport.from_state_dict(hf_dict(model), model.state_dict())


def prompts(model, rows=2, length=7):
    return torch.randint(0, model.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(3))


def theirs(model, ids, new, **options):
    """What transformers generates, never ending."""
    options = {"pad_token_id": 0, "eos_token_id": None, "max_new_tokens": new} | options
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options).tolist()


# --- the same ids as transformers ---


# All settings for the first three, one of them for each family: what draws knows nothing of families.
DRAWN = [
    (name, options)
    for at, name in enumerate(ARCHITECTURES)
    for options in (SETTINGS if name in FIRST else SETTINGS[at % len(SETTINGS) :][:1])
]


@pytest.mark.parametrize(("name", "options"), DRAWN, ids=str)
def test_one_seed_gives_the_ids_that_transformers_gives(name, options):
    new = 200 if name in FIRST else 60
    model = reference(name, context=new + 10)
    port, ids = port_of(model), prompts(model)
    torch.manual_seed(42)
    expected = theirs(model, ids, new, do_sample=True, num_return_sequences=3, **options)
    assert archport.generate(port, ids, max_new_tokens=new, samples=3, seed=42, end=[], **options) == expected


@pytest.mark.parametrize("variant", A_THIRD)
def test_greedy_ids_are_those_of_transformers(variant):
    model = reference(variant)
    port, ids = port_of(model), prompts(model)
    new = context(model) - ids.shape[-1] if variant in ARCHITECTURES else 12  # to the end, for one of each
    expected = theirs(model, ids, new, do_sample=False)
    assert archport.generate(port, ids, max_new_tokens=new, greedy=True, end=[]) == expected
    if variant in FIRST:
        assert archport.generate(port, ids, max_new_tokens=new, temperature=0, end=[]) == expected


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_end_by_themselves(name):
    model = reference(name)
    port, ids = port_of(model), prompts(model, rows=5)
    whole = theirs(model, ids, 20, do_sample=False)
    ends = [whole[0][10], whole[3][15]]
    ours = archport.generate(port, ids, max_new_tokens=20, greedy=True, end=ends)
    for row, full in zip(ours, whole, strict=True):
        at = next((i for i, token in enumerate(full) if i >= ids.shape[-1] and token in ends), len(full) - 1)
        assert row == full[: at + 1]


# --- cache ---


@pytest.mark.parametrize("variant", A_THIRD)
def test_cached_equals_uncached_at_every_split(variant):
    model = reference(variant)
    port = port_of(model)
    length = context(model)
    ids = torch.randint(0, model.config.vocab_size, (2, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids).logits
        scale = expected.abs().max()
        for bounds in ([1], [7], [length - 1], range(7, length, 5), range(1, length)):
            cache = KVCache(port, batch=2)
            ends = [0, *bounds, length]
            parts = [port(ids[:, a:b], cache=cache) for a, b in pairwise(ends)]
            assert cache.length == length
            assert (torch.cat(parts, dim=1) - expected).abs().max() <= 1e-5 * scale


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_cropped_and_a_forked_cache(name):
    model = reference(name)
    port = port_of(model)
    a, b = (
        torch.randint(0, model.config.vocab_size, (1, 12), generator=torch.Generator().manual_seed(n)) for n in (1, 2)
    )
    with torch.no_grad():
        cache = KVCache(port, capacity=30)
        port(a, cache=cache)
        both = cache.fork(2)
        cache.crop(5)
        again = port(b[:, :4], cache=cache)
        assert torch.allclose(again, model(torch.cat((a[:, :5], b[:, :4]), 1)).logits[:, 5:], atol=1e-4)
        two = torch.cat((b[:, :6], b[:, 6:]))
        after = port(two, cache=both)  # the fork kept what the original forgot
        assert torch.allclose(after, model(torch.cat((a.expand(2, -1), two), 1)).logits[:, 12:], atol=1e-4)
    assert (
        both.bytes
        == 2 * cache.bytes
        == 2 * 2 * 4 * 30 * sum(one.attn.kv_heads * one.attn.head_width for one in port.blocks)
    )
    assert repr(cache) == f"KVCache(9 of 30 tokens, 1 rows, {cache.bytes:,} bytes)"


def test_a_cache_that_is_full_or_does_not_fit():
    port = port_of(reference("gpt_neox")).requires_grad_(False)
    cache = KVCache(port, capacity=4)
    with pytest.raises(ValueError, match="1 rows and 5 tokens do not fit into a cache of 1 rows and 4 tokens"):
        port(torch.zeros(1, 5, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match="2 rows and 1 tokens do not fit"):
        port(torch.zeros(2, 1, dtype=torch.long), cache=cache)
    assert cache.length == 0
    with pytest.raises(ValueError, match="3 tokens to keep, expected 0 to 0"):
        cache.crop(3)
    with pytest.raises(ValueError, match="False tokens to keep, expected 0 to 0"):
        cache.crop(False)
    for wrong in ({"batch": 0}, {"capacity": -1}):
        with pytest.raises(ValueError, match="expected a whole number from 1"):
            KVCache(port, **wrong)
    with pytest.raises(ValueError, match="copies: found 0, expected a whole number from 1"):
        cache.fork(0)
    other = port_of(reference("gptj")).requires_grad_(False)
    port(torch.zeros(1, 1, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match=r"6 heads of 14 in float32 do not fit into a cache made for 4 heads of 24"):
        other(torch.zeros(1, 1, dtype=torch.long), cache=cache)
    learned = port_of(reference("gpt2"))
    with pytest.raises(ValueError, match="position 37, but this model has learned 37, from 0 on"):
        learned(torch.zeros(1, 2, dtype=torch.long), positions=torch.tensor([0, 37]))
    with pytest.raises(ValueError, match="has learned 37 positions"):
        KVCache(port_of(reference("gpt2")), capacity=38)
    with pytest.raises(ValueError, match="a cache keeps no gradients: use it inside"):
        port.requires_grad_(True)(torch.zeros(1, 3, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match=r"a mask of shape \(1, 2\), expected \(1, 3\)"):
        port(torch.zeros(1, 3, dtype=torch.long), mask=torch.ones(1, 2))


# --- compiled ---


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside of torch
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("name", [*FIRST, *ARCHITECTURES[len(FIRST) :: 9]])
def test_compiled_steps_give_the_same_ids(name):
    model = reference(name)
    port, ids = port_of(model), prompts(model)
    expected = theirs(model, ids, 12, do_sample=False, num_return_sequences=1)
    assert archport.generate(port, ids, max_new_tokens=12, greedy=True, end=[], compiled=True) == expected
    unequal = [ids[0].tolist(), ids[1, :3].tolist()]
    options = {"max_new_tokens": 40, "samples": 2, "seed": 3, "slide": True, "end": []}
    assert archport.generate(port, unequal, compiled=True, **options) == archport.generate(port, unequal, **options)


@pytest.mark.families  # which makes torch.compile import all it has
def test_no_compiler_is_one_line(tmp_path):
    words = ["generate", "--prompt", "x", "--compile", "--max-new-tokens", "2"]
    where = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    [line] = run(*words, code=1, env=where).stderr.splitlines()
    assert line.startswith("archport: torch.compile cannot compile a step here: InvalidCxxCompiler: No working C++")


def test_stand_ins_cannot_be_compiled():
    port = archport.load(dtype="float32", linears="packed")
    with pytest.raises(GenerationError, match="cannot read direct, packed or quantised linear maps"):
        archport.generate(port, [1, 2], compiled=True)


def test_an_observed_model_cannot_be_compiled():
    port = port_of(reference("gpt_neox"))
    with (
        archport.observe(port, "blocks.*"),
        pytest.raises(GenerationError, match="a compiled step cannot be observed: leave one of the two out"),
    ):
        archport.stream(port, [1, 2], compiled=True)  # before the first token


# --- batches ---


@pytest.mark.parametrize("variant", A_THIRD)
def test_a_row_of_a_padded_batch_is_the_row_alone(variant):
    model = reference(variant)
    port = port_of(model)
    lengths = (9, 1, 4, 9, 6)
    rows = [prompts(model, rows=5, length=9)[i, :n].tolist() for i, n in enumerate(lengths)]
    batch = torch.tensor([[0] * (9 - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (9 - len(row)) + [True] * len(row) for row in rows])
    with torch.no_grad():
        batched = port(batch, mask=mask)
        for row, logits in zip(rows, batched, strict=True):
            expected = model(torch.tensor([row])).logits[0]
            assert (logits[9 - len(row) :] - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert torch.isfinite(batched).all()  # padding too
    ours = archport.generate(port, rows, max_new_tokens=20, greedy=True, end=[])
    assert ours == [theirs(model, torch.tensor([row]), 20, do_sample=False)[0] for row in rows]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_setting_counts_padding_as_a_token(name):
    port = port_of(reference(name))
    rows = [[5, 6, 7, 8, 9, 10, 11], [3], [0, 4]]
    how = {"max_new_tokens": 12, "greedy": True, "repetition_penalty": 1.7, "end": []}
    assert archport.generate(port, rows, **how) == [archport.generate(port, row, **how)[0] for row in rows]


def test_rows_that_slide_together_never_see_padding():
    port = port_of(reference("gpt_neox"))
    context = port.config.context
    short = list(range(1, 9))
    rows = [list(range(20)), short]
    [_, slid] = archport.generate(port, rows, max_new_tokens=context, greedy=True, slide=True, end=[])
    at = context  # length of the longest row when it slides first, so 12 less of this one
    window = slid[: at - 12 + 1][-(3 * context // 4) :]
    with torch.no_grad():
        assert slid[at - 12 + 1] == port(torch.tensor([window]))[0, -1].argmax()


def test_positions_and_masks_may_be_given():
    model = reference("gpt2")
    port = port_of(model)
    ids = prompts(model)
    positions = torch.tensor([[3, 4, 5, 9, 10, 11, 12], [0, 1, 2, 3, 4, 5, 6]])
    with torch.no_grad():
        expected = model(ids, position_ids=positions).logits
        assert torch.allclose(port(ids, positions=positions), expected, atol=1e-4)
        assert torch.equal(port(ids, mask=torch.ones_like(ids)), port(ids, mask=torch.ones(2, 7, dtype=torch.bool)))


# --- streams and text ---


@pytest.fixture(scope="module")
def bundled():
    return archport.load(dtype=torch.float32), archport.tokenizer()


def test_a_stream_is_what_generate_gives(bundled):
    model, tokenizer = bundled
    ids = tokenizer.encode("def __init__(self").ids
    rest = archport.generate(model, ids, max_new_tokens=40, seed=7)[0][len(ids) :]
    assert list(archport.stream(model, ids, max_new_tokens=40, seed=7)) == rest
    assert "".join(pieces(rest, tokenizer)) == tokenizer.decode(rest)
    assert not model.training


TEXTS = st.text(alphabet="aé漢🙂 \n'x", max_size=30)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.lists(TEXTS.filter(bool).map(lambda text: text[:4]), max_size=2))
def test_pieces_are_whole_characters_and_end_before_a_stop_string(bundled, text, stops):
    tokenizer = bundled[1]
    parts = list(pieces(tokenizer.encode(text).ids, tokenizer, stops))
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    stop = max((stop for stop in stops if ends and text[: ends[0]].endswith(stop)), key=len, default="")
    cut = ends[0] - len(stop) if ends else len(text)
    assert "".join(parts) == text[:cut]
    assert all(parts)


def test_a_character_that_never_becomes_whole_is_shown_as_broken(bundled):
    tokenizer = bundled[1]
    ids = tokenizer.encode("a🙂").ids
    assert len(ids) > 3
    assert "".join(pieces(ids[:-1], tokenizer)) == tokenizer.decode(ids[:-1])


def test_the_tokenizer_from_vocab_and_merges(shared, tmp_path):
    folder = next(path.parent for path in (shared / "tokenizers").rglob("merges.txt"))
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    tokenizer = archport.tokenizer(tmp_path)
    text = "Hello, I'm a language model,  and 漢字 🙂\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    if (folder / "tokenizer.json").is_file():
        assert tokenizer.encode(text).ids == archport.tokenizer(folder).encode(text).ids


def test_a_folder_without_a_tokenizer(tmp_path):
    reference("gpt2").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"no tokenizer found, expected tokenizer\.json, vocab\.json and merges"):
        archport.tokenizer(tmp_path)
    with pytest.raises(SourceError, match="came from no folder"):
        archport.tokenizer(port_of(reference("gpt2")))


def test_the_tokenizer_of_a_repository_comes_without_weights(hub, at, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    from archport.files.source import companions

    folder = companions("ns/name", **at)
    assert (folder / "tokenizer.json").is_file()
    assert not hub.asked("*.safetensors")


# --- choosing ---


def test_draws_follow_the_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0, -3.0]]).expand(20_000, -1)
    for options, kept in (
        ({}, 6),
        ({"top_k": 3}, 3),
        ({"top_p": 0.9}, 3),
        ({"min_p": 0.1}, 3),
        ({"temperature": 2.0}, 6),
    ):
        generator = torch.Generator().manual_seed(0)
        tokens = Sampling(**options)(logits, torch.zeros(20_000, 1, dtype=torch.long), generator)
        count = tokens.bincount(minlength=6).double()
        expected = (logits[0].double() / options.get("temperature", 1.0)).softmax(-1)
        expected[kept:] = 0
        expected *= 20_000 / expected.sum()
        chi_square = ((count - expected)[:kept].square() / expected[:kept]).sum().item()
        assert count[kept:].sum() == 0
        assert chi_square < {6: 20.5, 3: 13.8}[kept]  # one in a thousand


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.1, 3),
    st.integers(0, 200),
    st.floats(0.05, 1),
    st.floats(0, 1),
    st.floats(0.5, 2),
    st.integers(0, 2**31),
)
def test_any_settings_choose_as_transformers_does(temperature, top_k, top_p, min_p, penalty, seed):
    model = reference("gpt_neox")
    port, ids = port_of(model), prompts(model)
    options = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": penalty,
    }
    torch.manual_seed(seed)
    expected = theirs(model, ids, 6, do_sample=True, **options)
    assert archport.generate(port, ids, max_new_tokens=6, seed=seed, end=[], **options) == expected


def test_ids_past_the_tokenizer_are_never_chosen():
    port = port_of(reference("gpt_neox"))
    with torch.no_grad():
        port.head.weight[100:] *= 50  # whatever is likeliest, it is here
    rows = archport.generate(port, [1, 2, 3], samples=20, max_new_tokens=10, seed=0, end=[], vocabulary=100)
    assert max(token for row in rows for token in row) < 100
    with archport.observe(port, "logits") as values:
        assert archport.generate(port, [1, 2, 3], max_new_tokens=3, seed=0, end=[], vocabulary=100)
    assert len(values.passes("logits")) == 3
    assert all(torch.isfinite(logits).all() for logits in values.passes("logits"))  # as the model computed them
    whole = archport.generate(port, [1], max_new_tokens=9, seed=0, end=[])
    assert archport.generate(port, [1], max_new_tokens=9, seed=0, end=[], vocabulary=10**6) == whole


@pytest.mark.parametrize(
    ("written", "configured", "expected"),
    [
        (5, 7, {5}),
        ([5, 6], None, {5, 6}),
        (None, 7, set()),
        ("absent", 7, {7}),
        ("absent", [7, 8], {7, 8}),
        ("absent", None, set()),
    ],
)
def test_the_ids_that_end_a_text(tmp_path, written, configured, expected):
    reference("gpt2").save_pretrained(tmp_path)
    hf = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(hf | {"eos_token_id": configured}))
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    if written != "absent":
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": written}))
    assert end_ids(archport.load(tmp_path)) == expected


# --- the end of the context ---


def test_learned_positions_end():
    port = port_of(reference("gpt2"))
    with pytest.raises(
        GenerationError, match=r"prompt 30 \+ 10 new > context 37, the positions this model has learned"
    ):
        archport.stream(port, range(30), max_new_tokens=10)  # before the first token
    assert len(archport.generate(port, range(30), max_new_tokens=7, end=[])[0]) == 37


def test_rotary_models_continue_with_a_warning():
    model = reference("gpt_neox")
    port = port_of(model)
    length = context(model)
    with pytest.warns(UserWarning, match="past the length this model was trained on"):
        rows = archport.generate(port, range(20), max_new_tokens=length, greedy=True, end=[])
    assert rows == theirs(model, torch.arange(20)[None], length, do_sample=False)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sliding_forgets_the_oldest(name):
    model = reference(name)
    port = port_of(model)
    length = context(model)
    row = archport.generate(port, range(5), max_new_tokens=4 * length, greedy=True, slide=True, end=[])[0]
    assert len(row) == 5 + 4 * length
    window: list[int] = row[:5]
    for token in row[5:]:  # greedy, by the reference, with a window that loses a quarter whenever it is full
        with torch.no_grad():
            logits = model(torch.tensor([window])).logits[0, -1]
        assert logits[token] >= logits.max() - 1e-4
        window = [*window, token]
        window = window[-(3 * length // 4) :] if len(window) > length else window
    rows = archport.generate(port, [list(range(5)), [7]], max_new_tokens=2 * length, greedy=True, slide=True, end=[])
    assert rows[0] == row[: 5 + 2 * length]


def test_ten_thousand_tokens_take_no_more_memory_than_a_thousand():
    sizes = {
        "vocab_size": 50,
        "context": 64,
        "width": 128,
        "layers": 2,
        "heads": 2,
    }  # a cache is 131 kB, and 560 are made
    port = archport.build("gpt2", sizes)
    tokens = archport.stream(port, [1], max_new_tokens=10_000, slide=True, seed=0, end=[])
    for _ in range(1000):
        next(tokens)
    process = psutil.Process()
    before = process.memory_info().rss
    assert sum(1 for _ in tokens) == 9000
    assert process.memory_info().rss - before < 20e6


# --- bad input ---


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.5], "prompt 0: found token 1.5, expected ids from 0 to 112"),
        ([[1], 2], r"prompt 0: found token \[1\], expected ids"),
        ([True], "found token True"),
        (torch.tensor(3), r"found a Tensor of shape \(\), expected ids"),
        ("def", "found a str of shape"),
        (7, "found a int of shape"),
    ],
)
def test_prompts_that_are_none(given, message):
    with pytest.raises(GenerationError, match=message):
        archport.generate(port_of(reference("gpt_neox")), given)


def test_prompts_as_arrays_are_prompts():
    port = port_of(reference("gpt_neox"))
    expected = archport.generate(port, [1, 2], seed=0)
    array = torch.tensor([1, 2]).numpy()
    for prompt in (array, list(array), [torch.tensor([1, 2])], torch.tensor([[1, 2]])):
        assert archport.generate(port, prompt, seed=0) == expected


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", "hot"),
        ("temperature", 1e-45),
        ("repetition_penalty", 1e-40),
        ("top_p", None),
        ("top_k", True),
        ("end", 5),
        ("end", ["a"]),
        ("seed", "a"),
        ("seed", 1 << 70),
        ("vocabulary", 0),
        ("vocabulary", -5),
        ("slide", "x"),
        ("compiled", None),
        ("until", 3),
        ("ban", 3),
    ],
)
def test_options_that_are_none(option, value):
    with pytest.raises(ConfigError, match=f"{option}: found .*, expected "):
        archport.generate(port_of(reference("gpt_neox")), [1], **{option: value})


def test_a_model_that_is_not_finite_has_no_score():
    port = port_of(reference("gpt_neox"))
    with torch.no_grad():
        port.blocks[1].mlp.up.weight[0, 0] = torch.nan
    with pytest.raises(GenerationError, match=r"blocks\.1\.mlp\.up makes .* in float32: its weights may not be finite"):
        archport.score(port, [1, 2, 3])


def test_a_tokenizer_with_gaps_and_one_that_is_too_large(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    reference("gpt2").save_pretrained(tmp_path)
    for largest in (130, 131):
        tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": largest}, unk_token="a"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
        if largest == 130:
            words = (
                "generate",
                str(tmp_path),
                "--prompt",
                "a b",
                "--top-k",
                "0",
                "--max-new-tokens",
                "20",
                "--samples",
                "9",
            )
            ids = json.loads(run(*words, "--seed", "0", "--json").stdout)["ids"]
            assert max(max(row) for row in ids) > 100
        else:
            run("generate", str(tmp_path), "--prompt", "a")  # which does not need the token
            message = run("generate", str(tmp_path), "--prompt", "a b", code=1).stderr
            assert "the tokenizer has id 131 for 'b', the model has ids up to 130" in message


def test_an_end_that_is_no_id_is_said(tmp_path):
    reference("gpt2").save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    port = archport.load(tmp_path)
    with pytest.warns(UserWarning, match=r"eos_token_id: found \['</s>'\], expected whole numbers: not used"):
        assert end_ids(port) == set()
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [5, 131, -1]}')
    assert end_ids(archport.load(tmp_path)) == {5}


OPENED: list[object] | None = None  # files, while a test counts them


def _count(event, words):
    if OPENED is not None and event == "open":
        OPENED.append(words[0])


def test_generating_opens_no_file(tmp_path, monkeypatch):
    reference("gpt2").save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 5}')
    port = archport.load(tmp_path)
    with torch.no_grad():
        port.embed.tokens.weight[5] *= 100  # which is its head, too
    options = {"samples": 8, "max_new_tokens": 20, "seed": 0}
    archport.generate(port, [1], **options)  # what it imports late is there now
    sys.addaudithook(_count)  # for good
    opened: list[object] = []
    monkeypatch.setitem(globals(), "OPENED", opened)
    (tmp_path / "generation_config.json").read_text()
    assert opened.pop() == str(tmp_path / "generation_config.json")  # such a file is counted
    shutil.rmtree(tmp_path)
    opened.clear()
    rows = archport.generate(port, [1], **options)
    assert opened == []
    assert {row[-1] for row in rows if len(row) < 21} == {5}


def test_top_p_keeps_the_likeliest_however_small():
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    assert Sampling(top_p=1e-9)(logits, torch.zeros(1, 1, dtype=torch.long)).tolist() == [1]


def test_bad_input_is_one_line():
    port = port_of(reference("gpt2"))
    for ids, message in (
        ([], "prompt 0 is empty"),
        ([[1], []], "prompt 1 is empty"),
        ([131], "found token 131, expected ids from 0 to 130"),
    ):
        with pytest.raises(GenerationError, match=message):
            archport.generate(port, ids)
    with pytest.raises(GenerationError, match="found token -1"):
        archport.generate(port, torch.tensor([[-1]]))
    with pytest.raises(GenerationError, match="a stream continues one prompt, once"):
        archport.stream(port, [1], samples=2)
    bad = {"temperature": [-1, math.nan, math.inf], "top_k": [-1, 1.5], "top_p": [0, 1.1, math.nan], "min_p": [-0.1, 2]}
    bad |= {"repetition_penalty": [0, -1, math.inf], "samples": [0, 1.5], "max_new_tokens": [0, -3]}
    for name, values in bad.items():
        for value in values:
            with pytest.raises(ConfigError, match=f"{name}: found {value!r}"):
                archport.generate(port, [1], **{name: value})


@pytest.mark.filterwarnings("ignore:prompt 2")
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("new", [10**10, 10**17, 10**30])  # too much for the memory, for torch, for an integer
def test_a_cache_for_which_there_is_no_memory_is_one_line(new, samples):
    port = port_of(reference("llama"))
    cache = archport.KVCache(port, capacity=8)
    with torch.no_grad():
        port(torch.tensor([[1] * 8]), cache=cache)
    needed = cache.bytes // 8 * (2 + new - 1) * samples
    end = f"would take {needed:,} bytes, more than can be had here"
    message = f"^max_new_tokens: found {new}, for which the cache {end}$"
    with pytest.raises(GenerationError, match=message):
        archport.generate(port, [1, 2], max_new_tokens=new, samples=samples)
    large = archport.KVCache(port, batch=samples, capacity=new + 1)
    with torch.no_grad(), pytest.raises(ValueError, match=f"^a cache of {samples} rows and {new + 1:,} tokens {end}$"):
        port(torch.tensor([[1, 2]] * samples), cache=large)


def test_numbers_that_are_not_finite_stop_with_the_place():
    port = port_of(reference("gpt_neox")).half()
    with torch.no_grad():
        port.blocks[1].mlp.up.bias += 60000
        port.blocks[1].mlp.down.weight.abs_()
    with pytest.raises(
        GenerationError, match=r"blocks\.1\.mlp\.down makes numbers that are not finite in float16: load it in"
    ):
        archport.generate(port, [1, 2, 3])


def test_a_model_in_training_is_left_in_training():
    port = port_of(reference("gpt2")).train()
    assert archport.generate(port, [1, 2], max_new_tokens=5, greedy=True) == archport.generate(
        copy.deepcopy(port).eval(), [1, 2], max_new_tokens=5, greedy=True
    )
    assert port.training


# --- score ---


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("stride", [None, 1, 10, "context"])
def test_a_score_is_the_reference_s_loss_in_windows(name, stride):
    model = reference(name)
    length = context(model)
    ids = torch.randint(0, model.config.vocab_size, (3 * length + 5,), generator=torch.Generator().manual_seed(0))
    step = length if stride == "context" else stride
    result = archport.score(port_of(model), ids, stride=step)
    expected: dict[int, float] = {}
    with torch.no_grad():
        for start in range(0, len(ids) - 1, step or length // 2):
            given, following = ids[:-1][start : start + length], ids[1:][start : start + length]
            losses = torch.nn.functional.cross_entropy(model(given[None]).logits[0], following, reduction="none")
            for at, loss in enumerate(losses.tolist(), start + 1):
                expected.setdefault(at, loss)  # as the first window that holds it scores it
    assert list(expected) == list(range(1, len(ids)))
    assert result.losses == pytest.approx(list(expected.values()), abs=1e-4)
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert result.bits_per_byte(100) == pytest.approx(sum(result.losses) / math.log(2) / 100)


def test_a_score_of_a_long_text_is_shown_in_a_line(bundled):
    model, tokenizer = bundled
    result = archport.score(model, tokenizer.encode("def f(x): return x\n" * 500).ids)
    assert len(result.losses) > 2000
    figures = [f"{len(result.losses):,}", f"{result.loss:.4f}", f"{result.perplexity:.4f}"]
    assert repr(result) == "Score({} tokens: loss {}, perplexity {})".format(*figures)
    assert all(f">{figure}</td>" in result._repr_html_() for figure in figures)
    assert len(result._repr_html_()) < 2000


def test_banned_ids_never_follow():
    port = port_of(reference("gpt_neox"))
    row = archport.generate(port, [1, 2], max_new_tokens=30, seed=0, end=[], ban=set)[0]  # nothing comes twice
    assert len(row) == len(set(row)) == 32
    with pytest.raises(GenerationError, match="no token may follow: all are banned"):
        archport.generate(port, [1], ban=lambda _: range(113))


def test_a_short_text_is_scored_as_the_reference_does():
    model = reference("gpt2")
    ids = prompts(model, rows=1, length=20)
    with torch.no_grad():
        expected = model(ids, labels=ids).loss.item()
    assert archport.score(port_of(model), ids[0]).loss == pytest.approx(expected, abs=1e-5)
    with pytest.raises(GenerationError, match="found 1 text of 1 token, expected one of at least 2"):
        archport.score(port_of(model), [1])
    with pytest.raises(ConfigError, match="stride: found 0, expected a whole number from 1 to 37"):
        archport.score(port_of(model), [1, 2], stride=0)


# --- the command line ---


def test_the_commands(tmp_path, bundled):
    words = ["--prompt", "def __init__(self", "--seed", "42"]
    several = run("generate", *words, "--samples", "3").stdout.split("\n---\n")
    assert len(several) == 3
    assert all(one.startswith("def __init__(self") for one in several)
    streamed, whole = run("generate", *words).stdout, run("generate", *words, "--no-stream").stdout
    assert streamed == whole == json.loads(run("generate", *words, "--json").stdout)["texts"][0] + "\n"
    (tmp_path / "prompt").write_text("def __init__(self")
    assert run("generate", "--prompt-file", str(tmp_path / "prompt"), "--seed", "42").stdout == streamed
    assert run("generate", *words, "--stop", "\n").stdout.count("\n") == 1
    stopped = json.loads(run("generate", *words, "--samples", "2", "--stop", "e", "--json").stdout)
    for text, ids in zip(stopped["texts"], stopped["ids"], strict=True):
        new = bundled[1].decode(ids[5:])
        assert "e" not in text.removeprefix("def __init__(self")
        assert "e" in bundled[1].decode(ids[-1:]) or len(ids) == 35, new
    facts = json.loads(run("score", str(tmp_path / "prompt"), "--json").stdout)
    ids = encoded(bundled[1], "def __init__(self")
    assert [token["id"] for token in facts["per_token"]] == ids
    assert facts["bytes"] == 17
    assert facts["bits_per_byte"] == pytest.approx(facts["loss"] * (len(ids) - 1) / math.log(2) / 17)
    done, message = run("score", str(tmp_path / "prompt"), "--quantize", "int4", "--json"), refusal("int4")
    rounded = json.loads(done.stdout)
    assert rounded["unrounded_perplexity"] == facts["perplexity"]
    assert (rounded["perplexity"] == facts["perplexity"]) == (message is not None)
    assert done.stderr == ("" if message is None else f"archport: {message}\n")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "give --prompt or --prompt-file"),
        (["--prompt", "x", "--prompt-file", "y"], 2, "give --prompt or --prompt-file"),
        (["--prompt", "x", "--compile", "--quantize", "int8"], 2, "--compile and --quantize do not go together"),
        (["--prompt", "x", "--quantize", "int2"], 2, "'int2' is not one of 'int8', 'int4'"),
        (["--prompt", "x", "--stop", ""], 2, "--stop: found an empty text, which is everywhere"),
        (["--prompt", "x", "--seed", "-1"], 1, "seed: found -1, expected a whole number from 0, below 2^63"),
        (["--prompt", "x", "--device", "meta"], 1, "the model is on meta and has no weights"),
        (["--prompt", "x", "--temperature", "-1"], 1, "temperature: found -1.0, expected 0 or a number from 1e-06"),
        (["--prompt", "x", "--top-p", "0"], 1, "top_p: found 0.0, expected a number above 0, at most 1"),
        (["--prompt", "x", "--samples", "0"], 1, "samples: found 0, expected a whole number from 1"),
        (
            ["--prompt", "x", "--max-new-tokens", "9" * 20, "--no-stream"],
            1,
            f"max_new_tokens: found {'9' * 20}, for which",
        ),
        (["--prompt-file", "nowhere"], 1, "nowhere: cannot be read: No such file"),
    ],
)
def test_wrong_words_are_one_line(words, code, message):
    done = run("generate", *words, code=code)
    assert done.stdout == ""
    assert message in done.stderr


OPTIONS = {
    "temperature": 0.7,
    "top_k": 7,
    "top_p": 0.8,
    "min_p": 0.05,
    "repetition_penalty": 1.4,
    "max_new_tokens": 9,
    "seed": 3,
}


@pytest.mark.parametrize("name", [*OPTIONS, "greedy", "all"])
def test_options_of_the_command_line_reach_the_model(bundled, name):
    model, tokenizer = archport.load(), bundled[1]
    chosen = {"seed": 1} | (
        {"greedy": True} if name == "greedy" else OPTIONS if name == "all" else {name: OPTIONS[name]}
    )
    words = [f"--{one.replace('_', '-')}" + ("" if value is True else f"={value}") for one, value in chosen.items()]
    ours = json.loads(run("generate", "--prompt", "def f(x):", *words, "--json").stdout)["ids"]
    ids = encoded(tokenizer, "def f(x):")
    assert ours == archport.generate(model, ids, vocabulary=tokenizer.get_vocab_size(), **chosen)
    assert name in ("seed", "top_k") or ours != archport.generate(model, ids, seed=1)


def test_quantize_reaches_the_model(bundled):
    ids = encoded(bundled[1], "def f(x):")
    done = run("generate", "--prompt", "def f(x):", "--greedy", "--quantize", "int4", "--json")
    message = refusal("int4")
    assert done.stderr == ("" if message is None else f"archport: {message}\n")
    with swapping("int4") as can:
        model = archport.load(linears="int4")
    assert is_swapped(model) == can == (message is None)
    assert json.loads(done.stdout)["ids"] == archport.generate(model, ids, greedy=True)
    if not can:
        assert json.loads(done.stdout)["ids"] == archport.generate(archport.load(), ids, greedy=True)


def test_a_prompt_that_is_not_utf8_and_one_that_is_empty(tmp_path):
    (tmp_path / "prompt").write_bytes(b"a\xffb")
    message = run("generate", "--prompt-file", str(tmp_path / "prompt"), code=1).stderr
    assert "found a byte at 1 that is not UTF-8, expected a text" in message
    folder = tmp_path / "model"
    archport.export(archport.load(), folder)
    hf = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(hf | {"bos_token_id": None}))
    assert (
        "the prompt is empty and gpt_neox has no token that begins a text"
        in run("generate", str(folder), "--prompt", "", code=1).stderr
    )


def test_an_interrupt_leaves_what_was_written():
    words = [
        sys.executable,
        "-m",
        "archport",
        "generate",
        "--prompt",
        "def",
        "--max-new-tokens",
        "100000",
        "--slide",
        "--greedy",
    ]
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what a shell's background job ignores
    )
    assert process.stdout.read(20).startswith(b"def")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    rest, message = process.communicate(timeout=30)
    assert process.returncode == 130
    assert len(rest) > 1
    assert rest.endswith(b"\n")
    assert message == b""


def test_a_stream_leaves_the_model_as_it_was_between_two_tokens():
    sizes = {"vocab_size": 97, "context": 32, "width": 24, "layers": 2, "heads": 3, "residual_dropout": 0.5}
    model = archport.build("gpt2", sizes).train()
    options = {"greedy": True, "max_new_tokens": 12, "end": []}
    alone = list(archport.stream(model, [1, 2], **options))
    first, second = (archport.stream(model, [1, 2], **options) for _ in range(2))
    tokens = [next(second)]
    assert next(first) == tokens[0]
    assert all(module.training for module in model.modules())
    assert list(first) == alone[1:]
    assert tokens + list(second) == alone
    assert all(module.training for module in model.modules())
