"""tools/gpu_check.sh, tried on a CPU with tiny shapes: what it writes, and what it says where something is wrong."""

import copy
import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from importlib import util
from pathlib import Path

import pytest
import torch

from archport.parity import judging

ROOT = Path(__file__).parents[1]
TINY = ("--device", "cpu", "--tiny")


def check(*words: object, python_path: object = "") -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(python_path), "OMP_NUM_THREADS": "1"}
    command = [ROOT / "tools/gpu_check.sh", *map(str, words)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What a whole run has written."""
    out = tmp_path_factory.mktemp("gpu") / "new"
    done = check("--out", out, *TINY, "--architectures", "gpt2", "gpt-neox")
    assert done.returncode == 0, done.stdout + done.stderr + (out / "log.txt").read_text()
    return out


@pytest.mark.families
def test_every_part_is_run_and_written(folder):
    results = json.loads((folder / "gpu.json").read_text())
    parts = results["parts"]
    assert {name: part["outcome"] for name, part in parts.items()} == dict.fromkeys(
        ("parity", "decode", "load", "train", "compiled"), "done"
    )
    assert {"torch", "transformers", "date"} <= results["machine"].keys()
    assert [row["architecture"] for row in parts["parity"]["rows"]] == ["gpt2", "gpt_neox"]
    for row in parts["parity"]["rows"]:
        assert all(row[dtype].startswith("ok, ") for dtype in ("float32", "bfloat16", "float16"))
    for name in ("decode", "load", "train"):
        assert all(isinstance(row["times as fast"], float) for row in parts[name]["rows"])
    assert parts["decode"]["rows"][0]["of the copy bandwidth"].endswith("GB/s")
    assert parts["load"]["rows"][0]["archport, host memory / weights"] > 0
    assert "not on a CPU" in parts["compiled"]["rows"][0].values()


@pytest.mark.families
def test_the_page_has_a_table_for_each_part(folder):
    page = (folder / "gpu.md").read_text()
    assert page.startswith("`tools/gpu_check.sh --out")
    assert "| gpt_neox | ok, " in page
    assert "| compiled | done | " in page
    tables = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) == 6
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["gpu.json", "gpu.md", "log.txt"]


def test_a_part_that_runs_out_of_its_time_is_a_line_and_the_next_is_tried(tmp_path):
    done = check("--out", tmp_path, *TINY, "--parts", "parity", "train", "--minutes", 0.1)
    assert done.returncode == 1
    page = (tmp_path / "gpu.md").read_text()
    assert re.search(r"^\| parity \| failed: (ran out of its .* s|no time was left for it) \| ", page, re.M)
    assert "| train | failed: no time was left for it | " in page


def test_a_part_that_is_killed_says_so(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["", "--out", str(tmp_path)])
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}/src:{ROOT}/benchmarks")
    assert tool.in_process(tmp_path / "log.txt", "parity", 0.2) == "failed: ran out of its 0.2 s"
    assert tool.in_process(tmp_path / "log.txt", "parity", 60) == "failed: ended with status 1, see log.txt"
    assert "gpu.json" in (tmp_path / "log.txt").read_text()


@pytest.fixture
def tool(monkeypatch):
    """The tool as a module, beside the benchmarks."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = util.spec_from_file_location("gpu_check", ROOT / "tools/gpu_check.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parity_of_two(_):
    """Rows that are as in the docstring of a part, of which one fails."""
    yield {"architecture": "first"}, lambda: {"float32": "ok"}
    yield {"architecture": "second"}, lambda: sys.exit("logits are | off\nby much")
    raise RuntimeError("no more")


@pytest.mark.parametrize("rows", [2, 3])
def test_what_was_measured_before_a_failure_is_kept(tool, tmp_path, monkeypatch, rows):
    import gpu

    part = parity_of_two if rows == 3 else lambda way: (row for _, row in zip("ab", parity_of_two(way), strict=False))
    part.__doc__ = "Two rows."
    monkeypatch.setattr(gpu, "parity", part)
    tool.write(tmp_path, {"command": "", "machine": {}, "parts": {"parity": {"outcome": "running", "rows": []}}})
    options = Namespace(out=tmp_path, part="parity", device="cpu", tiny=True, architectures=[])
    assert tool.run_part(options) == 1
    [part] = tool.read(tmp_path)["parts"].values()
    assert part["outcome"] == ("failed: RuntimeError: no more" if rows == 3 else "failed: 1 of 2 rows")
    assert part["rows"][0] == {"architecture": "first", "float32": "ok"}
    assert "| second |  | logits are \\| off ... by much |" in (tmp_path / "gpu.md").read_text()


@pytest.mark.usefixtures("tool")
def test_an_architecture_that_is_not_the_reference_fails(monkeypatch):
    import gpu

    def compare(port, *more):
        port = copy.deepcopy(port)  # which shares its tensors with the reference
        port.norm.weight.data *= 1.01
        return judging.compare(port, *more)

    monkeypatch.setattr(gpu, "compare", compare)
    row = gpu.same_model("gpt2", "cpu")
    assert "FAILS" in row["float32"]
    assert "NOT the same model" in row["failed"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--device", "tpu"), "--device: found 'tpu', expected cuda or cpu"),
        (("--device", "cpu"), "--device cpu: expected with --tiny"),
        ((*TINY, "--minutes", 0), "--minutes: found 0, expected more than 0"),
        ((*TINY, "--architectures", "gpt2", "gpt9"), "found 'gpt9', archport builds bloom, "),
        ((*TINY, "--out", ROOT / "README.md" / "out"), "--out: cannot write to "),
    ],
)
def test_bad_input_is_one_line(tmp_path, words, says):
    done = check("--out", tmp_path, *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_no_gpu_is_one_line(tmp_path):
    done = check("--out", tmp_path)
    assert done.returncode == 2
    assert "finds no GPU, expected one" in done.stderr


def test_libraries_that_are_too_old_or_not_there_are_one_line(tool, tmp_path, monkeypatch):
    (tmp_path / "transformers-4.9.0.dist-info").mkdir()
    (tmp_path / "transformers-4.9.0.dist-info/METADATA").write_text("Name: transformers\nVersion: 4.9.0\n")
    done = check("--out", tmp_path, *TINY, python_path=tmp_path)
    assert (done.returncode, done.stderr) == (2, "found transformers 4.9.0, expected 5.17 or later\n")
    monkeypatch.setattr(tool, "find_spec", lambda name: None if name == "einops" else name)
    assert tool.missing_libraries().startswith("found no einops for ")
