"""A person's own code in styles and with mistakes that a stranger brought: rows, sizes, bad input."""

import json
import warnings
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import archport
from archport.errors import ArchportError, MappingError, SourceError
from archport.foreign.tiny import tiny
from archport.parity.by_name import verify_by_name
from archport.registry import architecture

from .styles import STYLES, Style, changed

LLAMA, NANO = STYLES["llama_separate"], STYLES["gpt2_nano"]


@cache
def reference(variant: str) -> nn.Module:
    return next(style for style in STYLES.values() if style.variant == variant).reference()


def command(*words: str):
    from archport.cli import modules, parity  # noqa: F401  # each adds its commands
    from archport.cli.app import app

    return CliRunner().invoke(app, words)


def written(folder: Path, style: Style, *changes: tuple[str, str]) -> str:
    """A style's code with changes, in a file, by the name of its model."""
    code = style.path.read_text()
    for old, new in changes:
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    (folder / "mine.py").write_text(code)
    return f"{folder}/mine.py:{style.build.__name__}"


# --- keys and values in one map, beside queries ---

KEYS_AND_VALUES = {
    "llama_separate": [
        ("        self.wk = nn.Linear(args.dim, self.n_kv_heads * self.head_dim, bias=False)\n", ""),
        ("self.wv = nn.Linear(args.dim, self.n_kv", "self.wkv = nn.Linear(args.dim, 2 * self.n_kv"),
        ("xk = self.wk(x)", "xk, xv = self.wkv(x).chunk(2, -1)\n        xk = xk"),
        ("xv = self.wv(x).view", "xv = xv.reshape"),
        ("xk = xk.view", "xk = xk.reshape"),
    ],
    "gpt2_nano": [
        ("self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)",
         "self.q, self.kv = (nn.Linear(config.n_embd, many * config.n_embd) for many in (1, 2))"),
        ("q, k, v = self.c_attn(x).split(C, dim=2)", "q, (k, v) = self.q(x), self.kv(x).chunk(2, -1)"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS_AND_VALUES)
def test_keys_and_values_may_be_fused_beside_queries(name, tmp_path):
    own = written(tmp_path, STYLES[name], *KEYS_AND_VALUES[name])
    report = verify_by_name(own, like=STYLES[name].like)  # its rows are found, it is filled by them and read by them
    assert report.ok, str(report)
    assert not report.problems
    assert "kv" in command("rows", own, "--like", STYLES[name].like).stdout


# --- sizes: what code asks for has the values of the tests, so that no bug hides behind a default ---


def test_a_bug_that_only_shows_with_grouped_heads_is_found(tmp_path):
    tiled = (
        "x[:, :, :, None, :].expand(bs, slen, n_kv_heads, n_rep,",
        "x[:, :, None].expand(bs, slen, n_rep, n_kv_heads,",
    )
    mlp = ("FeedForward(args.dim, args.hidden_dim)", "FeedForward(args.dim, 4 * args.dim)")
    report = verify_by_name(written(tmp_path, LLAMA, tiled), like="llama")
    assert not report.ok
    assert "take turns among the queries" in report.fault.words
    report = verify_by_name(written(tmp_path, LLAMA, tiled, mlp), like="llama")  # which asks for all but one
    assert not report.ok


def test_what_code_never_asks_for_is_in_the_verdict(tmp_path):
    """A base of its own is right for some checkpoints, so that it is no bug, and no proof for others."""
    own = written(tmp_path, LLAMA, ("args.head_dim, args.rope_theta", "args.head_dim, 10000.0"))
    report = verify_by_name(own, like="llama")
    assert report.ok, str(report)
    assert report.where == ("rotary_base is 10000.0",)
    assert "where rotary_base is 10000.0: it asks for none of these" in report.verdict
    assert report.to_dict()["where"] == ["rotary_base is 10000.0"]
    own = written(tmp_path, LLAMA, ("args.head_dim, args.rope_theta", "args.head_dim, args.rope_theta and 10000.0"))
    report = verify_by_name(own, like="llama")
    assert not report.ok
    assert "rotary's base is 10000" in report.fault.words


def test_code_that_asks_for_a_size_and_has_another_is_not_the_same(tmp_path):
    mlp = ("FeedForward(args.dim, args.hidden_dim)", "FeedForward(args.dim, args.hidden_dim and 11 * args.dim // 4)")
    report = verify_by_name(written(tmp_path, LLAMA, mlp), like="llama")
    assert not report.ok
    assert any("mlp" in one or "no rows" in one for one in report.problems)


@pytest.mark.parametrize("base", ["5000", "10000"])
def test_of_a_bug_the_rows_are_those_that_come_nearest(base, tmp_path):
    """With v, k and q in an order, and under names, that say nothing, and a number that no fault knows."""
    apart = ("self.q, self.k, self.v, self.o", "self.a, self.b, self.c, self.o")
    own = written(tmp_path, STYLES["gptj_neighbours"], apart, ("(self.q, self.k, self.v)", "(self.c, self.b, self.a)"),
                  ("10000", base))  # fmt: skip
    rows = tiny(own, architecture("gptj")).rows
    cell = rows["blocks.{n}.attn.qkv.weight"]
    assert [key.split(".")[-2] for key in cell.keys] == ["c", "b", "a"]
    assert bool(rows.unsettled) == (base != "10000")


# --- bad input ---

NET = f"{NANO.path}:{NANO.build.__name__}"


def nano() -> tuple[nn.Module, nn.Module]:
    hf = reference("gpt2")
    return NANO.made(hf), hf


BAD = {
    "rows a list": ({"rows": [1]}, "found a list, expected a mapping of our names"),
    "a row that is None": ({"rows": dict(NANO.rows) | {"norm.bias": None}}, "'norm.bias': found None, expected a row"),
    "a row too many": (
        {"rows": dict(NANO.rows) | {"norm.biass": "x"}},
        r"norm.biass: a row for none .*; nearest: norm",
    ),
    "no function": (
        {"rows": NANO.rows, "forward": 3},
        "forward: found a int, expected a function of the module and ids",
    ),
    "another function": ({"rows": NANO.rows, "forward": lambda m: m}, "expected a function of the module and ids"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_one_message_wherever_they_are_given(case, tmp_path):
    given, words = BAD[case]
    mine, hf = nano()
    hf.save_pretrained(tmp_path / "hf")
    for call in (
        lambda: archport.verify(mine, reference=hf, **given),
        lambda: archport.fill(mine, hf, **given),
        lambda: verify_by_name(NET, tmp_path / "hf", **given),
        lambda: verify_by_name(NET, like="gpt2", **given),
    ):
        with pytest.raises((MappingError, SourceError), match=words):
            call()


def test_a_module_of_another_kind_makes_a_report_and_no_error():
    hf = reference("gpt2")
    few, many = (NANO.made(reference_of(layers)) for layers in (1, 4))
    report = archport.verify(few, reference=hf)
    assert not report.ok
    assert f"h: found 1 block, expected {hf.config.n_layer}" in str(report)
    assert f"h: found 4 blocks, expected {hf.config.n_layer}" in str(archport.verify(many, reference=hf))
    more, _ = nano()
    archport.fill(more, hf, NANO.rows)
    more.temperature = nn.Parameter(torch.ones(1))
    report = archport.verify(more, reference=hf)
    assert report.ok
    assert "temperature" in str(report)
    report = archport.verify(NANO.made(hf), reference=reference("llama"))
    assert not report.ok
    assert "no rows were found" in report.verdict


def reference_of(layers: int):
    return NANO.reference(n_layer=layers)


def test_rows_that_are_not_settled_fill_nothing_but_as_a_plain_dict():
    style = changed(NANO, "* (1.0 / math.sqrt(k.size(-1)))", "")
    hf = reference("gpt2")
    module = style.made(hf)
    rows = archport.find_rows(module, hf)
    assert rows.unsettled
    with pytest.raises(MappingError, match="its code may differ"):
        archport.fill(module, hf, rows)
    archport.fill(module, hf, dict(rows))


def test_the_command_says_what_it_was_given(tmp_path):
    (tmp_path / "own.py").write_text(
        "from torch import nn\nx = 3\n"
        "def nothing_asked():\n    return nn.Embedding(7, 5)\n"
        "def of_words(n_vocab, ctx_len, d_model, depth, n_heads):\n"
        "    assert depth == 3\n    return nn.Embedding(n_vocab, d_model)\n"
        "def unknown(vocab_size, hidden_sise):\n    return nn.Embedding(vocab_size, 5)\n"
        "def tokens(config, tokenizer):\n    return nn.Embedding(7, 5)\n"
        "ROWS = {'embed.tokens.weight': 'nope'}\n"
    )
    for name, words in {
        "x": "own.py:x: found a int, expected a class or function",
        "nothing_asked": "never asks for vocab_size, width, layers, so give a SOURCE of the sizes that it has",
        "of_words": "no tensor of the module is like it",
        "unknown": "asks for hidden_sise; nearest: hidden_size, of which",
        "tokens": "asks for tokenizer, of which the sizes of a model have none",
    }.items():
        done = command("rows", f"{tmp_path}/own.py:{name}", "--like", "llama")
        assert words in str(done.exception), name
    assert "is a folder, expected a file" in str(command("rows", f"{tmp_path}:GPT", "--like", "llama").exception)
    for words in (("rows", NET), ("verify", "--module", NET)):
        done = command(*words, "--like", "gtp2")
        assert done.exit_code == 2
        assert "--like gtp2" in done.stderr
        assert "nearest: gpt2" in done.stderr


def test_all_faults_are_printed_the_misspelt_first(tmp_path, monkeypatch, capsys):
    from archport.cli import main

    monkeypatch.setattr("gc.freeze", lambda: None)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    (tmp_path / "own.py").write_text("ROWS = {'embed.tokens.weight': 'nope', ':x:': 'y'}\n")
    monkeypatch.setattr(
        "sys.argv", ["archport", "verify", "--module", NET, "--like", "gpt2", "--rows", f"{tmp_path}/own.py:ROWS"]
    )
    with pytest.raises(SystemExit):
        main()
    lines = capsys.readouterr().err.splitlines()
    assert ":x:" in lines[1]  # and no emoji
    assert "nope: " in lines[2]
    assert len(lines) > 30
    assert "see faults" not in "".join(lines)


def test_a_module_without_arguments_is_verified_against_a_checkpoint_of_its_sizes(tmp_path):
    hf = reference("gpt2")
    hf.save_pretrained(tmp_path / "hf")
    code = NANO.path.read_text()
    sizes = {name: getattr(hf.config, name) for name in ("vocab_size", "n_embd", "n_layer", "n_head")}
    sizes |= {"block_size": hf.config.n_positions, "mlp_width": hf.config.n_inner or 4 * hf.config.n_embd}
    sizes |= {"norm_eps": hf.config.layer_norm_epsilon, "dropout": 0.0}
    made = f"{NANO.build.__name__}(SimpleNamespace(**{json.dumps(sizes)}))"
    (tmp_path / "own.py").write_text(
        f"{code}\n\nfrom types import SimpleNamespace\n\ndef build():\n    return {made}\n"
    )
    assert verify_by_name(f"{tmp_path}/own.py:build", tmp_path / "hf").ok
    with pytest.raises(ArchportError, match="so give a SOURCE of the sizes that it has"):
        verify_by_name(f"{tmp_path}/own.py:build", like="gpt2")
