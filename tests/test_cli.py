"""The command line, run as a person runs it: in processes of their own."""

import importlib.metadata
import json

import pytest
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import archport
from archport.cli.views import app

from .commands import run
from .references import reference


def test_load_without_a_source_loads_the_bundled_checkpoint():
    done = run("load")
    assert done.stderr == ""
    for line in (
        "gpt_neox: 6 layers, width 192, 6 heads of 32, rotary 8 of 32 in halves, parallel residual, untied head",
        "76 mapped, 0 missing, 0 unexplained, 0 ignored",
        "6.9 MB used in place, 0 bytes copied",
        "3,456,000 in float16",
        "def __init__( -> 'self'",
        "archport load --explain",
    ):
        assert line in done.stdout


def test_load_as_json():
    facts = json.loads(run("load", "--json", "--explain", "--dtype", "float32").stdout)
    assert facts["mapped"] == len(facts["key_table"]) == 76
    assert facts["bytes_copied"] == 4 * facts["parameters"] == 4 * 3456000
    assert facts["dtype"] == "float32"
    assert facts["next_tokens"][0][0] == "self"


def test_explain_prints_a_row_a_tensor(tmp_path):
    reference("gpt2").save_pretrained(tmp_path)
    lines = run("load", str(tmp_path), "--explain").stdout.splitlines()
    assert lines[0].split() == ["ours", "shape", "theirs", "how"]
    for row in (
        "blocks.0.attn.qkv.weight (180, 60) transformer.h.0.attn.c_attn.weight "
        "rearranged: ... ([group k v] kv dim) -> (kv [group k v] dim) ...",
        "blocks.2.mlp.down.weight (60, 104) transformer.h.2.mlp.c_proj.weight "
        "in place, transposed: ... width -> width ...",
        "norm.bias (60,) transformer.ln_f.bias in place",
    ):
        assert row in [" ".join(line.split()) for line in lines]


def test_dry_run_reads_no_weights(tmp_path):
    reference("gptj").save_pretrained(tmp_path)
    facts = json.loads(run("load", str(tmp_path), "--dry-run", "--json").stdout)
    assert facts["seconds"] is None
    assert facts["mapped"] == len(archport.plan(tmp_path).mapped)


def test_export_writes_what_transformers_loads(tmp_path):
    reference("gpt2").save_pretrained(tmp_path / "theirs")
    done = run(
        "export", str(tmp_path / "theirs"), str(tmp_path / "ours"), "--dtype", "bfloat16", "--max-shard-size", "30KB"
    )
    assert "model-00001-of-" in done.stdout
    _, report = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    assert "exists already" in run("export", str(tmp_path / "theirs"), str(tmp_path / "ours"), code=1).stderr


def test_build_prints_the_tree_and_the_count():
    done = run("build", "gpt-neox", "--set", "layers=3", "--set", "parallel=false")
    assert "3 x SequentialBlock" in done.stdout
    model = archport.build(
        "gpt-neox", {"vocab_size": 50432, "context": 2048, "width": 6144, "heads": 64, "layers": 3}, device="meta"
    )
    assert f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters" in done.stdout


def test_build_from_a_config_file(tmp_path):
    reference("gptj").save_pretrained(tmp_path)
    assert "width 84, 6 heads of 14" in run("build", "gpt-j", "--config", str(tmp_path / "config.json")).stdout


def test_models_lists_published_sizes():
    rows = {row["ARCH"]: row for row in json.loads(run("models", "--json").stdout)}
    assert rows.keys() == set(archport.architectures())
    assert rows["llama"]["parts"] == "rotary positions; RMSNorm; gated MLP with silu; sequential residual"
    parts = {
        "falcon": "ALiBi positions; ",
        "olmo": "rotary positions; LayerNorm; ",
        "mixtral": "rotary positions; grouped",
    }
    assert {name: rows[name]["parts"][: len(start)] for name, start in parts.items()} == parts  # of the first published
    of_llama = json.loads(run("models", "llama", "--json").stdout)
    assert len({row["sizes"] for row in of_llama}) == len(of_llama)
    assert "in halves with Llama3, 8 times, " in of_llama[2]["sizes"]
    of_neox = {row["model"]: row for row in json.loads(run("models", "gpt-neox", "--json").stdout)}
    assert rows["gpt_neox"]["published"] == len(of_neox)
    assert of_neox["EleutherAI/pythia-70m"]["parameters"] == 70426624
    assert "70,426,624" in run("models", "gpt_neox").stdout


def test_the_version_and_the_short_way_to_help():
    assert run("--version").stdout == f"archport {archport.__version__}\n"
    assert importlib.metadata.version("archport") == archport.__version__
    for command in ([], ["tree"], ["plot"]):
        short, long = (CliRunner().invoke(app, [*command, option]).stdout for option in ("-h", "--help"))
        assert "-h, --help" in short
        assert short == long


WRONG = {
    "no such folder": (["load", "./nothing"], 1, "archport: ./nothing: no such folder, expected a folder or a Hub id"),
    "unknown architecture": (["build", "llamma"], 1, "found 'llamma', archport builds bloom, "),
    "unknown size": (["build", "gpt2", "--set", "layer=3"], 1, "layer: no such field; nearest: layers"),
    "dtype": (["load", "--dtype", "int8"], 1, "dtype: found 'int8', expected float32"),
    "setting": (["build", "gpt2", "--set", "layers"], 2, "expected NAME=VALUE"),
    "two configs": (["build", "gpt2", "--set", "layers=1", "--config", "x.json"], 2, "not both"),
    "option": (["load", "--bogus"], 2, "No such option"),
    "device": (["load", "--device", "toaster"], 1, "device: found 'toaster'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_on_stderr(case):
    words, code, message = WRONG[case]
    done = run(*words, code=code)
    assert message in done.stderr
    assert done.stdout == ""
