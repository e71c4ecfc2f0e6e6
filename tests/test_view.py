"""Trees, differences and explanations: what they say is what transformers' own model and files say."""

import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import archport
from archport.cli.views import app
from archport.errors import ConfigError, SourceError
from archport.layers import LinearScaling, Rotary
from archport.registry import architecture
from archport.translate.pattern import Row
from archport.view import reference_tree
from archport.view.aligned_trees import aligned, aligned_as_text
from archport.view.explaining import explain
from archport.view.fact_table import diff, facts
from archport.view.layouts import axes, layout
from archport.view.reference_tree import joined_rows
from archport.view.subjects import Subject, subject
from archport.view.tensor_differences import tensors
from archport.view.trees import every, folded, tree

from .commands import run
from .hub_server import REPO
from .references import FAMILIES, SIZES, VARIANTS, reference
from .test_hub import weights_sent

GOLDEN = Path(__file__).parent / "golden"
SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"
ARCHITECTURES = list(SIZES)
ROOTS = ("gpt2", "gpt_neox", "gptj", "llama")  # whose texts a person has looked at


@pytest.fixture
def tiny(tmp_path, request):
    """A folder for each root, and for the architecture of this test, by their names."""
    own = request.node.callspec.params.get("name") if hasattr(request.node, "callspec") else None
    for name in dict.fromkeys(filter(None, (*ROOTS, own))):
        reference(name).save_pretrained(tmp_path / name)
    return tmp_path


def golden(name, values):
    """Compare with a file that a person looked at; to change it, delete it and run this again, and look."""
    path = GOLDEN / name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(values)
        pytest.fail(f"{path} was not there; it is now: look at it, and run this again")
    assert values == path.read_text()


# --- text, as a person sees it ---


@pytest.mark.parametrize("name", ROOTS)
def test_the_text_of_a_tree(tiny, name):
    golden(f"tree_{name}.txt", run("tree", name, cwd=tiny).stdout)


@pytest.mark.parametrize("name", ROOTS)
def test_the_text_of_an_explanation(tiny, name):
    golden(f"explain_{name}.txt", run("explain", name, cwd=tiny).stdout)


@pytest.mark.parametrize("name", ROOTS)
def test_the_text_of_two_trees(tiny, name):
    golden(f"reference_tree_{name}.txt", run("tree", name, "--reference", cwd=tiny).stdout)


def test_the_text_of_a_difference(tiny):
    golden("diff.txt", run("diff", "gpt2", "gpt-j", "gpt-neox", "llama").stdout)
    golden("diff_tiny.txt", run("diff", *ROOTS, "--all", cwd=tiny).stdout)


# --- tree ---


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_tree_counts_what_transformers_counts(variant, tmp_path):
    model = reference(variant)
    model.save_pretrained(tmp_path)
    target = subject(tmp_path)
    rows = tree(target.model)
    assert sum(row["parameters"] for row in rows if row["depth"] == 1) == model.num_parameters()
    assert sum(row["share"] for row in rows if row["depth"] == 1) == pytest.approx(1)
    blocks = [row for row in rows if row["depth"] == 1 and row["module"].startswith("blocks.")]
    assert sum(row["count"] for row in blocks) == target.config.layers
    assert {row["depth"] for row in tree(target.model, depth=2)} == {1, 2}


@pytest.mark.parametrize(
    ("odd", "labels"),
    [
        ([5], ["blocks.0-4, 6-11", "blocks.5"]),
        (range(1, 12, 2), ["blocks.0, 2, .., 10", "blocks.1, 3, .., 11"]),
        ([2, 5, 8, 11], ["blocks.0-1, 3-4, .., 9-10", "blocks.2, 5, .., 11"]),
    ],
)
def test_blocks_are_folded_by_their_insides(odd, labels):
    target = subject("gpt2")
    for layer in odd:
        target.model.blocks[layer].mlp.up = torch.nn.Linear(768, 3072, bias=False, device="meta")
    rows = [row for row in tree(target.model) if row["depth"] == 1]
    assert [row["module"] for row in rows] == ["embed", *labels, "norm", "head"]
    assert [row["count"] for row in rows][1:3] == [12 - len(odd), len(odd)]
    assert [line.path for line in folded(target.model) if line.path in list(line.paths)[1:]] == []
    names = {
        name
        for name, _ in target.model.named_modules()
        if not isinstance(target.model.get_submodule(name), torch.nn.ModuleList)
    }
    assert sorted(path for line in folded(target.model) for path in line.paths) == sorted(names - {""})


@pytest.mark.parametrize("source", ["checkpoint", "architecture"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_module_of_the_reference_is_joined_or_shown_alone(tiny, name, source):
    rows = joined_rows(subject(tiny / name if source == "checkpoint" else name))
    several = re.compile(r"\.(\d+)(?:-\d+)?(?:, (?:\.\.|\d+(?:-\d+)?))*(?=\.|$)")
    shown = {several.sub(r".\1", path) for row in rows for path in _paths(row["theirs"])}
    uneven = [(row["path"], row["join"]) for row in rows if row["theirs"] and row["module"] and row["join"] != "="]
    assert uneven == [], uneven
    model = reference(name)
    with_tensors = {path for path, module in model.named_modules() if list(module.parameters(recurse=False))}
    first = min(path for path in shown if re.search(r"\.\d+$", path))  # block; those unlike it have rows of their own
    with_tensors = {path for path in with_tensors if not re.search(r"\.\d+\.", path) or path.startswith(f"{first}.")}
    if name not in FAMILIES or source == "checkpoint":  # a published model may have other parts than the tiny one
        assert {path for path in with_tensors if not re.search(r"experts\.[1-9]", path)} <= shown
        leaves = {path for path, module in model.named_modules() if not list(module.children())}
        leaves = {path for path in leaves if not re.search(r"\.[12]\.", path)}
        assert leaves <= shown if name in FAMILIES else leaves == shown & leaves
    alone = {row["theirs"] or row["path"] for row in rows if row["join"] == "-"}
    if name == "gpt_neox":
        assert not alone  # each has a partner, activation, dropout and rotary too
    without = {"attn_dropout", "attention_dropout", "dropout", "resid_dropout", "rotary"}  # functions or buffers there
    without |= {"mask", "finish", "activation", "act_fn", "act", "rotary_emb"}
    assert {path.rpartition(".")[2] for path in alone} <= without


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("length", [37, 2048])
def test_angles_are_held_against_a_table_of_sines_and_cosines(length, dtype):
    angles = torch.arange(length).double()[:, None] * 10000.0 ** -(torch.arange(0, 8, 2).double() / 8)
    theirs = SimpleNamespace(embed_positions=torch.cat((angles.sin(), angles.cos()), dim=-1).to(dtype))
    assert reference_tree.does_the_same(Rotary(8), theirs)
    for wrong in (Rotary(8, base=9000), Rotary(8, scaling=LinearScaling(1.1)), Rotary(10)):
        assert not reference_tree.does_the_same(wrong, theirs)
    theirs.embed_positions = theirs.embed_positions.roll(4, dims=-1)
    assert not reference_tree.does_the_same(Rotary(8), theirs)


def _paths(theirs):
    first, *more = theirs.split(" + ")
    return [first, *(f"{first.rpartition('.')[0]}.{name}" for name in more)]


def spoil(monkeypatch, name):
    """Let a load get one number of a parameter wrong."""
    load = reference_tree.port.load

    def spoilt(*words, **options):
        model = load(*words, **options)
        with torch.no_grad():
            model.get_parameter(name)[0, 0] += 1
        return model

    monkeypatch.setattr(reference_tree.port, "load", spoilt)


def test_a_join_whose_numbers_differ_is_marked(tiny, monkeypatch):
    target = subject(tiny / "gpt2")
    weights = dict(target.architecture.table.weights)
    one, other = "blocks.{n}.norm_attn.*", "blocks.{n}.norm_mlp.*"
    weights[one], weights[other] = weights[other], weights[one]
    wrong = replace(target.architecture, table=replace(target.architecture.table, weights=weights))
    rows = {row["path"]: row for row in joined_rows(replace(target, architecture=wrong)) if row["path"]}
    assert rows["blocks.0.norm_attn"]["join"] == rows["blocks.0.norm_mlp"]["join"] == rows["blocks.0"]["join"] == "!"
    assert rows["blocks.0.attn.qkv"]["join"] == rows["norm"]["join"] == "="
    spoil(monkeypatch, "blocks.2.attn.qkv.weight")
    rows = {row["path"]: row for row in joined_rows(target) if row["path"]}
    assert rows["blocks.0.attn.qkv"]["join"] == "!"  # of three blocks that are folded one is wrong
    assert rows["blocks.0.attn.out"]["join"] == "="


def test_what_has_no_numbers_is_compared_by_what_it_does(tiny):
    model = reference("gpt2")
    config = model.config
    config.activation_function, config.resid_pdrop = "relu", 0.25
    model.save_pretrained(tiny / "relu")
    rows = {row["path"]: row for row in joined_rows(subject(tiny / "relu")) if row["path"]}
    assert rows["blocks.0.mlp.activation"]["their_kind"] == "ReLU"
    assert {rows[f"blocks.0.{part}"]["join"] for part in ("mlp.activation", "attn.dropout", "mlp.dropout")} == {"="}
    assert isinstance(model.transformer.h[0].mlp.act, torch.nn.Module)
    ours = subject("gpt2").model.blocks[0].mlp
    assert not reference_tree.does_the_same(torch.nn.GELU(), torch.nn.GELU(approximate="tanh"))
    assert not reference_tree.does_the_same(torch.nn.Dropout(0.1), torch.nn.Dropout(0.2))
    neox = reference("gpt_neox")
    assert reference_tree.does_the_same(Rotary(12, base=9973), neox.gpt_neox.rotary_emb)
    assert not reference_tree.does_the_same(Rotary(12, base=10000), neox.gpt_neox.rotary_emb)
    assert reference_tree.does_the_same(ours.activation, reference("gpt2").transformer.h[0].mlp.act)


def test_layers_of_several_types_are_told_apart(tiny, monkeypatch):
    weights = load_file(tiny / "gpt2" / "model.safetensors")
    weights = {key: t.half() if ".h.1.mlp." in key else t for key, t in weights.items()}
    weights["transformer.h.2.ln_1.bias"][3] = torch.nan
    save_file(weights, tiny / "gpt2" / "model.safetensors", {"format": "pt"})
    target = subject(tiny / "gpt2")
    rows = {row["path"]: row for row in joined_rows(target) if row["path"]}
    assert rows["blocks.1.mlp.up"]["dtype"] == "float16"
    assert rows["blocks.1"]["dtype"] == "float32 + float16"
    assert rows["blocks.1.mlp.up"]["theirs"] == "transformer.h.0-2.mlp.c_fc"
    assert {row["join"] for row in rows.values()} == {"=", ""}  # a NaN is the same NaN in both
    values = {(fact.part, fact.what): fact.value for fact in facts(target)}
    assert values["sizes", "weights"] == "float32 and float16"
    [row] = explain(target, "mlp.up")
    assert (row["path"], row["count"]) == ("blocks.{n}.mlp.up", 3)
    spoil(monkeypatch, "blocks.1.mlp.up.weight")
    pair = reference_tree.joined(target)
    assert [pair.marks[f"blocks.{layer}.mlp.up"] for layer in (0, 1)] == ["=", "!"]  # 0 stands for 2 too
    assert pair.their_marks["transformer.h.0.mlp.c_fc"] == "!"


def test_a_look_at_a_repository_downloads_no_weights(hub, folders, tmp_path, monkeypatch):
    hub.add("ns/large", folders["large"])
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert "2 x ParallelBlock" in run("tree", "ns/large").stdout
    assert "compared on a tiny model" in run("tree", "ns/large", "--reference").stdout
    for words, text in (
        (["sound"], "found 'sound'"),
        (["positions"], "has rotary positions"),
        (["weights", "wte"], "found 'wte'"),
        (["attention", "--layer", "99"], "found 99, expected 0 to 1"),
    ):
        assert text in run("plot", "ns/large", *words, "-o", "a.png", cwd=tmp_path, code=1).stderr
    assert "gpt_neox.embed_in.weight" in run("explain", "ns/large").stdout
    assert "vocabulary" in run("diff", "ns/large", "gpt-neox").stdout
    run("page", "ns/large", "-o", "page.html", cwd=tmp_path)
    assert "nothing to draw, its weights were not fetched" in (tmp_path / "page.html").read_text()
    for name in ("norm.weight", "final_layer_norm.weight"):  # ours, and the checkpoint's
        run("plot", "ns/large", "weights", name, "-o", f"{name}.png", cwd=tmp_path)
    asked = hub.asked("*.safetensors")
    assert all(request.range for request in asked)
    headers = [request for request in asked if request.range == "bytes=0-100000"]  # as huggingface_hub asks for them
    assert len(headers) == 10
    norm = archport.load(folders["large"]).norm.weight
    assert sum(request.sent for request in asked if request not in headers) == 2 * (8 + norm.nbytes)


# --- two trees ---


@pytest.mark.parametrize("other", ROOTS)
@pytest.mark.parametrize("one", ["gpt2", "gemma2", "mixtral"])
def test_two_trees_keep_every_line_of_both_in_order_and_pair_the_same_parts(one, other):
    models = [subject(one), subject(other)]
    rows = aligned(*models)
    for model, mine in zip(models, zip(*(row["rows"] for row in rows), strict=True), strict=True):
        assert [row for row in mine if row] == tree(model.model)
    both = [row["rows"] for row in rows if None not in row["rows"]]
    assert all(every(a["path"]) == every(b["path"]) for a, b in both)
    parts = [{every(row["path"]) for row in tree(model.model)} for model in models]
    assert {every(a["path"]) for a, _ in both} == parts[0] & parts[1]
    assert all(row["same"] for row in rows) == (one == other)


def test_of_two_trees_what_is_not_the_same_is_so_in_all_that_holds_it():
    other = subject("gpt2")
    for block in other.model.blocks:
        block.mlp.activation = torch.nn.ReLU()
    rows = aligned(subject("gpt2"), other)
    odd = {every(row["rows"][0]["path"]) for row in rows if not row["same"]}
    assert odd == {"blocks.{n}", "blocks.{n}.mlp", "blocks.{n}.mlp.activation"}
    assert [row for row in rows if row["rows"][0]["depth"] == 1] == aligned(subject("gpt2"), other, depth=1)
    text = [aligned_as_text(row)["same"] for row in rows]
    assert text.count("") == 3
    assert text.count("=") == len(rows) - 3


def test_two_trees_of_one_name_are_told_apart_and_have_no_reference(tiny):
    lines = run("tree", "gpt2", "gpt2", cwd=tiny).stdout.splitlines()
    assert lines[2].split() == ["module", "gpt2", "parameters", "gpt2", "(2)", "parameters"]
    assert run("tree", "gpt2", "llama", "--reference", code=2).stdout == ""


# --- diff ---


def test_facts_are_those_of_the_configs():
    values = {
        name: {(fact.part, fact.what): fact.value for fact in facts(subject(name))}
        for name in ("gpt2", "gptj", "gpt_neox")
    }
    assert values["gpt2"]["positions", "kind"] == "learned"
    assert values["gptj"]["positions", "rotary pairs"] == "2i and 2i + 1"
    assert values["gpt_neox"]["positions", "rotary pairs"] == "i and i + width / 2"
    assert values["gptj"]["attention", "biases"] == "no"
    assert values["gptj"]["head", "bias"] == "yes"
    assert values["gpt2"]["head", "weight"] == "the token embedding, used twice"
    assert values["gpt2"]["sizes", "parameters"] == "124,439,808"


def test_what_differs_and_what_is_the_same(tiny):
    rows = diff([subject(tiny / "gpt2"), subject(tiny / "gpt_neox"), subject(tiny / "gpt2")])
    by = {(row["part"], row["what"]): row for row in rows}
    assert by["positions", "kind"]["values"] == ["learned", "rotary", "learned"]
    assert by["positions", "rotary width"]["values"] == ["-", "12 of 24 of each head", "-"]
    assert not by["positions", "kind"]["same"]
    assert by["mlp", "biases"]["same"]
    with pytest.raises(SourceError, match="found 1 model, expected two or more"):
        diff([subject()])


def test_tensors_that_differ_by_how_much(tmp_path):
    reference("gpt2").save_pretrained(tmp_path / "one")
    reference("gpt2", seed=1).save_pretrained(tmp_path / "other")
    reference("gpt2", n_layer=2).save_pretrained(tmp_path / "short")
    one, other = (subject(tmp_path / name, headers_only=False) for name in ("one", "other"))
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    rows = {row["tensor"]: row for row in tensors(one, other)}
    for ours, theirs in (("embed.tokens.weight", "transformer.wte.weight"), ("norm.bias", "transformer.ln_f.bias")):
        apart = a[theirs] - b[theirs]
        assert rows[ours]["largest"] == apart.abs().max().item()
        assert rows[ours]["relative"] == pytest.approx((apart.norm() / a[theirs].norm()).item())
    assert all(row["same"] for row in tensors(one, one))
    missing = {row["tensor"]: row["shapes"] for row in tensors(one, subject(tmp_path / "short", headers_only=False))}
    assert missing["blocks.2.norm_mlp.bias"] == [[60], None]
    reference("gptj").save_pretrained(tmp_path / "gptj")
    assert list(tensors(one, subject(tmp_path / "gptj", headers_only=False))) == []
    assert list(tensors(one, subject("gpt2"))) == []
    text = run("diff", "one", "other", cwd=tmp_path).stdout
    assert "40 of 40 tensors differ" in text
    assert "and 20 more: --all" in text


def test_two_revisions_of_a_repository(hub, folders, tmp_path, monkeypatch):
    hub.add(REPO, folders["step3000"], "step3000")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    names = (REPO, f"{REPO}@step3000")
    assert "tensors differ" not in run("diff", *names).stdout
    assert weights_sent(hub) < 2 * 101_000
    values = json.loads(run("diff", *names, "--weights", "--json").stdout)
    assert values["models"][1] == f"{REPO}@step3000"
    a, b = (load_file(folders[name] / "model.safetensors")["gpt_neox.embed_in.weight"] for name in ("main", "step3000"))
    [row] = [row for row in values["tensors"] if row["tensor"] == "embed.tokens.weight"]
    assert row["largest"] == (a - b).abs().max().item() > 0


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "divided by sqrt(head width)"),
        ({"scale_attn_weights": False}, "not divided by sqrt(head width)"),
        ({"scale_attn_by_inverse_layer_idx": True}, "divided by sqrt(head width) and by layer + 1"),
    ],
)
def test_what_is_done_to_the_scores(tmp_path, settings, text):
    reference("gpt2", **settings).save_pretrained(tmp_path)
    target = subject(tmp_path)
    assert {(fact.part, fact.what): fact.value for fact in facts(target)}["attention", "scores"] == text
    assert (
        f"turn the scores, {text}, into weights"
        in explain(target, "c_attn")[0]["text"] + explain(target, "attn")[1]["text"]
    )


@pytest.mark.parametrize(("tokens", "text"), [(100, "100 tokens, 31 rows that none selects"), (140, "9 without a row")])
def test_a_vocabulary_and_its_tokenizer(tmp_path, tokens, text):
    from tokenizers import Tokenizer, models

    reference("gpt2").save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    Tokenizer(models.WordLevel({str(n): n for n in range(tokens)}, unk_token="0")).save(
        str(tmp_path / "tokenizer.json")
    )
    values = {(fact.part, fact.what): fact.value for fact in facts(subject(tmp_path))}
    assert text in values["vocabulary", "tokenizer"]


# --- explain ---


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_tensor_is_explained_under_its_key(tiny, name):
    rows = explain(subject(tiny / name))
    keys = {key for row in rows for tensor in row["tensors"] for key in tensor["keys"]}
    table = architecture(name).table
    held = {table.aliases.get(key, key) for key in load_file(tiny / name / "model.safetensors")}
    expected = {re.sub(r"\.\d+\.", ".{n}.", key, count=1) for key in held}
    expected = {re.sub(r"experts\.\d+\.", "experts.{e}.", key) for key in expected}
    assert expected <= keys <= expected | {"lm_head.weight"}
    assert all(row["text"] for row in rows if "dropout" not in row["path"])


@pytest.mark.parametrize("pattern", ["qkv", "blocks.2.attn.qkv", "transformer.h.1.attn.c_attn.weight", "*c_attn*"])
def test_patterns_of_ours_and_of_theirs(pattern):
    assert [row["path"] for row in explain(subject("gpt2"), pattern)] == ["blocks.{n}.attn.qkv"]


def test_a_pattern_that_names_nothing_gets_the_nearest_names():
    with pytest.raises(
        ConfigError, match=r"pattern: found 'blocks.0.attn.qvk', which names nothing here; the nearest are"
    ) as info:
        explain(subject("gpt2"), "blocks.0.attn.qvk")
    assert "blocks.{n}.attn.qkv" in str(info.value)


def test_keys_are_those_of_the_file(tmp_path):
    model = reference("gpt2")
    model.transformer.save_pretrained(tmp_path)  # the body alone: no prefix
    [row] = explain(subject(tmp_path), "c_attn")
    assert row["tensors"][0]["keys"] == ["h.{n}.attn.c_attn.weight"]
    assert explain(subject(tmp_path), "transformer.h.0.attn.c_attn.weight") == [row]
    assert [row["path"] for row in explain(subject("gpt-neox"), "lm_head")] == ["head"]
    assert [row["path"] for row in explain(subject("gpt-neox"), "rotary_emb")] == ["blocks.{n}.attn.rotary"]


def test_papers_are_those_of_what_is_there(tmp_path):
    reference("gpt2", activation_function="relu", tie_word_embeddings=False).save_pretrained(tmp_path)
    assert "ReLU" in explain(subject(tmp_path), "activation")[0]["source"]
    assert explain(subject(tmp_path), "embed.tokens")[0]["source"] == ""
    assert "1608.05859" in explain(subject("gpt2"), "embed.tokens")[0]["source"]


def test_a_layer_that_is_not_there_is_none():
    with pytest.raises(ConfigError, match=r"explain: pattern: found layer 99, expected 0 to 11"):
        explain(subject("gpt2"), "h.99.attn")


def test_the_tanh_in_gelu_is_as_close_as_the_text_says():
    x = torch.linspace(-10, 10, 100_001, dtype=torch.float64)
    gelu = torch.nn.functional.gelu
    apart = (gelu(x) - gelu(x, approximate="tanh")).abs().max()
    assert 0.0004 < apart < 0.0005
    assert "less than 0.0005" in explain(subject("gpt2"), "activation")[0]["text"]


Q, K, V = (f"{part}_proj.weight" for part in "qkv")
QKV = "(kv [group k v] dim)"
LAYOUTS = {  # a row, what ours are put together by, whether theirs is a matrix; what is said of it, and in short
    "as is": (Row(("a",), None), "", "as it is used", "(out, in)"),
    "GPT-2": (
        Row(("a",), f"... ([group k v] kv dim) -> {QKV} ..."),
        "head",
        "stored (in, out): transposed; columns are all queries, then keys, then values: regrouped head by head",
        "(in, out), all q, all k, all v",
    ),
    "GPT-NeoX": (
        Row(("a",), None),
        "head",
        "as it is used: head by head its query, key and value",
        "(out, in), q, k, v of each head",
    ),
    "Falcon": (
        Row(("a",), f"{QKV} ... -> {QKV} ..."),
        "group",
        "as it is used: group by group its queries, key and value",
        "(out, in), q, k, v of each group",
    ),
    "Llama": (
        Row((Q, K, V), f"{QKV} ... -> {QKV} ..."),
        "group",
        "3 weights, put together group by group",
        "3 weights, (out, in)",
    ),
    "Phi-3": (
        Row(("a", "a", "a"), f"{QKV} ... -> {QKV} ..."),
        "group",
        "all queries, then keys, then values: regrouped group by group",
        "(out, in), all q, all k, all v",
    ),
    "CodeGen": (
        Row(("a",), "(shard [q v k] head dim) ... -> (shard head [q k v] dim) ..."),
        "head",
        "in each shard all queries, then values, then keys: regrouped head by head",
        "(out, in), all q, all v, all k in each shard",
    ),
    "the gate of Phi-3": (
        Row(("a",), "([gate up] mlp) ... -> ([gate] mlp) ..."),
        "",
        "one weight of gate, up: the first part of its rows",
        "(out, in), gate and up in one",
    ),
    "an expert of GPT-OSS": (
        Row(("a",), "e=3 width (mlp [gate up]) -> ([up] mlp) width"),
        "",
        "one weight of all experts, this one's by its number; stored (in, out): transposed; one weight of gate, up: "
        "of every 2 columns the second",
        "(expert, in, out), gate and up in one",
    ),
}


@pytest.mark.parametrize(("row", "fused", "said", "short"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_in_words(row, fused, said, short):
    assert layout(row, fused=fused) == said
    assert axes(row, fused=fused) == short


def test_a_bias_has_no_columns():
    row = Row(("a",), f"... ([group k v] kv dim) -> {QKV} ...")
    assert layout(row, 1, fused="head") == "all queries, then keys, then values: regrouped head by head"


# --- all ---


def test_no_name_is_a_command_to_the_terminal(tiny):
    odd = "evil \x1b[31m \n [bold]x"
    (tiny / "gpt2").rename(tiny / odd)
    for words in (["tree", odd], ["diff", odd, "gptj"], ["explain", odd], ["tree", odd, "--reference"]):
        done = run(*words, cwd=tiny)
        assert "\x1b" not in done.stdout + done.stderr
    assert "evil \\x1b[31m \\n [bold]x" in run("diff", odd, "gptj", cwd=tiny).stdout
    assert "\x1b" not in run("tree", f"{odd}/nowhere", cwd=tiny, code=1).stderr


def printed_on_a_terminal(columns, *words):
    """What a command prints where somebody looks on, so many letters wide."""
    ours, theirs = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-m", "archport", *words],
        stdout=theirs,
        stderr=subprocess.STDOUT,
        env=os.environ | {"COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
    )
    os.close(theirs)
    pieces = []
    with suppress(OSError):  # as Linux says that the other end is closed
        while piece := os.read(ours, 1 << 16):
            pieces.append(piece)
    os.close(ours)
    assert done.wait() == 0
    return re.sub(r"\x1b\[\d*m", "", b"".join(pieces).decode()).splitlines()


def test_a_narrow_terminal_loses_columns_not_letters_and_says_which():
    head, _, columns, *rows, last = printed_on_a_terminal(60, "tree", "gpt2")
    assert head == "gpt2: 124,439,808 parameters"
    assert columns.split() == ["module", "kind"]
    assert last == "not shown, as the terminal is too narrow: shape, parameters, share, dtype"
    assert len(rows) == len(tree(subject("gpt2").model))
    assert "Linear, the weight of embed.tokens" in rows[-1]
    wide = printed_on_a_terminal(120, "tree", "gpt2")
    assert wide[2].split() == ["module", "kind", "shape", "parameters", "share", "dtype"]
    assert len(wide) == len(rows) + 3


@pytest.mark.parametrize("words", ["tree gpt2", "tree gpt2 llama", "diff gpt2 llama --all"])
def test_a_pipe_gets_every_column_and_no_blanks_at_the_end(words):
    plain, around = (
        CliRunner().invoke(app, words.split(), env=terminal, catch_exceptions=False).stdout
        for terminal in ({}, {"COLUMNS": "40", "FORCE_COLOR": "1"})
    )
    assert [line for line in plain.splitlines() if line != line.rstrip()] == []
    assert max(map(len, plain.splitlines())) > 80
    assert around == plain


COMMANDS = {
    "tree": ["tree {0}", "tree {0} --reference", "tree {0} --depth 1", "tree", "tree {0} gpt2"],
    "diff": ["diff {0} gpt-j gpt-neox", "diff {0} other/{0}", "diff {0} {0} --all"],
    "explain": ["explain {0}", "explain {0} embed.tokens"],
}


@pytest.mark.filterwarnings("ignore:.*took the folder here:archport.errors.AsideWarning")
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_as_its_schema_says(tiny, command, name, monkeypatch):
    monkeypatch.chdir(tiny)
    other = reference(name, seed=1)
    with torch.no_grad():
        other.lm_head.weight[0, 0] = torch.nan
    other.save_pretrained(tiny / "other" / name)
    schema = json.loads((SCHEMAS / f"{command}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for words in COMMANDS[command]:
        done = CliRunner().invoke(app, [*words.format(name).split(), "--json"], catch_exceptions=False)
        jsonschema.validate(json.loads(done.stdout, parse_constant=pytest.fail), schema)


def test_json_is_what_the_text_says(tiny):
    rows = json.loads(run("tree", "gpt2", "--json", cwd=tiny).stdout)["modules"]
    assert {"path", "module", "depth", "count", "kind", "shape", "parameters", "share", "dtype"} == set(rows[0])
    values = json.loads(run("diff", "gpt2", "gptj", "--json", cwd=tiny).stdout)
    assert values["models"] == ["gpt2", "gptj"]
    assert values["facts"] == diff([subject(tiny / "gpt2"), subject(tiny / "gptj")])
    assert json.loads(run("explain", "gpt2", "--json", cwd=tiny).stdout)["parts"] == explain(subject(tiny / "gpt2"))


def test_an_architecture_without_published_sizes():
    arch = architecture("gpt2")
    archport.register("nobody", config_class=arch.config_class, build=arch.build, table=arch.table)
    try:
        with pytest.raises(ConfigError, match="nobody has no published sizes here: give a folder or a Hub id"):
            subject("nobody")
    finally:
        from archport import registry

        del registry._registered["nobody"]
    assert isinstance(subject("gpt2"), Subject)


def test_wrong_words_are_one_line():
    assert "nowhere" in run("tree", "nowhere/at-all", "--offline", code=1).stderr
    assert "expected two or more" in run("diff", "gpt2", code=2).stderr
    assert "gpt3 is no architecture either: these are " in run("tree", "gpt3", code=1).stderr
