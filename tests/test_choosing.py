"""Which way to multiply is chosen on this machine, and what is said of it."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import archport
from archport import loading
from archport.cli import texts
from archport.cli.app import app
from archport.fast import choosing
from archport.fast.choosing import ASKING, PROMPT, Path, chosen, measured
from archport.fast.cpu import cpu
from archport.fast.direct import DirectLinear
from archport.fast.linears import KINDS, stand_in_for, swap
from archport.fast.packed import PackedLinear

from .commands import run
from .cpu import CPU


def path(packing, one, many, fast_one, fast_many):
    """A path that was not measured: seconds of packing, and of one row and a prompt in either way."""
    plain, fast = {1: one, PROMPT: many}, {1: fast_one, PROMPT: fast_many}
    return Path("packed", torch.float32, PackedLinear, "", packing, plain, fast)


@pytest.mark.parametrize(
    ("figures", "prompt", "tokens", "pays", "words"),
    [
        ((10, 2, 64, 1, 64), 0, 20, True, "paid back by 12 tokens"),
        ((10, 2, 64, 1, 64), 0, 10, False, "paid back by 12 tokens"),
        ((10, 2, 64, 1, 64), 10_000, 20, False, "paid back by 12 tokens"),  # where the prompt takes all of the time
        ((10, 2, 64, 2, 16), 1000, 0, True, "paid back by a prompt of 15"),
        ((10, 2, 64, 2, 16), 0, 1000, False, "paid back by a prompt of 15"),
        ((10, 2, 64, 3, 65), 1000, 1000, False, "paid back by nothing"),  # slower than nn.Linear
        ((0, 2, 64, 1.95, 63), 1000, 1000, False, "paid back by nothing"),  # hardly faster
        ((10, 2, 64, 1, 16), 30, 30, True, "paid back by 12 tokens or a prompt of 15"),
    ],
)
def test_packing_pays_where_it_saves_more_than_it_takes(figures, prompt, tokens, pays, words):
    one = path(*figures)
    assert one.pays(prompt, tokens) == pays
    assert str(one).endswith(words)


@pytest.mark.parametrize(
    "slower", [["direct", "packed"], [None, "packed"], [None, "direct"], [None], ["direct"], ["packed"]], ids=str
)
def test_what_is_slower_here_than_a_plain_map_is_not_chosen(slower, monkeypatch):
    """Whatever this machine is like: the operators are the ones that it has, some made to take longer."""

    def delayed(run):
        def wait(*arguments):
            time.sleep(0.1)  # many times as long as the product
            return run(*arguments)

        return wait

    whole = {"direct": (DirectLinear, "multiply"), "packed": (PackedLinear, "multiply"), None: (nn.Linear, "forward")}
    for kind in slower:
        monkeypatch.setattr(*whole[kind], delayed(getattr(*whole[kind])))
    kind, why = chosen(torch.float32, CPU, 10**9, 0, 10**9)
    assert kind not in slower
    assert why.startswith(kind or "nn.Linear as it is")
    assert [line.split(":")[0] for line in why.splitlines()[1:]] == ["float32, direct", "float32, packed"]


@pytest.mark.parametrize(
    ("direct", "packed", "tokens", "expected"),
    [
        ((0, 2, 64, 1, 64), (10, 2, 64, 0.5, 64), 10, "direct"),  # packing is not paid back yet
        ((0, 2, 64, 1, 64), (10, 2, 64, 0.5, 64), 30, "packed"),
        ((0, 2, 64, 1, 64), (0, 2, 64, 0.99, 64), 30, "direct"),  # hardly faster than what is simpler
        ((0, 2, 64, 2, 64), (10, 2, 64, 1, 64), 30, "packed"),
        ((0, 2, 64, 2, 64), (10, 2, 64, 2, 64), 30, None),
    ],
)
def test_the_simplest_of_the_fastest_is_chosen(direct, packed, tokens, expected, monkeypatch):
    paths = {"direct": replace(path(*direct), kind="direct"), "packed": path(*packed)}
    monkeypatch.setattr(choosing, "measured", lambda kind, *_, **__: paths[kind])
    kind, why = chosen(torch.float32, CPU, 10**12, 0, tokens)
    assert kind == expected
    assert why.splitlines()[1:] == [str(one) for one in paths.values()]


@pytest.mark.parametrize("saves_by", [4, 1, 0.5])
@pytest.mark.parametrize("rows", [1, 2, 8, PROMPT, 1000])
def test_rows_that_are_decoded_together_are_counted(rows, saves_by, monkeypatch):
    """Where nn.Linear takes as long again for each row, and packed for each `saves_by` rows."""
    looked = []

    def measured(kind, dtype, rows, **_):
        looked.append(rows)
        plain = {count: float(count) for count in rows}
        fast = plain if kind == "direct" else {count: max(1, count / saves_by) for count in rows}
        return Path(kind, dtype, PackedLinear, "", 10.0 if kind == "packed" else 0.0, plain, fast)

    monkeypatch.setattr(choosing, "measured", measured)
    kind, why = chosen(torch.float32, CPU, 10**12, 0, 100, rows)
    pays = saves_by > 1 and rows > 1
    assert kind == ("packed" if pays else None)
    each = "" if rows == 1 else f" in each of {rows} rows"
    assert why.splitlines()[0] == f"{kind or 'nn.Linear as it is'}, for 100 tokens{each} after 0"
    assert ("paid back by nothing" in why.splitlines()[-1]) == (saves_by <= 1)
    assert all(min(rows, PROMPT) in one and max(one) <= PROMPT for one in looked)


def test_generate_asks_for_its_samples(monkeypatch):
    asked = []
    monkeypatch.setattr(texts, "chosen", lambda *given: asked.append(given[3:]) or (None, "because"))
    for samples in (1, 3):
        words = ["generate", "--prompt", "It was", "--max-new-tokens", "4", "--samples", str(samples)]
        assert CliRunner().invoke(app, words).exit_code == 0
    assert asked == [(6 // texts.LETTERS, 4, 1), (6 // texts.LETTERS, 4, 3)]


def test_score_takes_what_pays_for_its_text(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("It was a bright cold day in April, and the clocks were striking.")
    asked, swapped = [], []
    monkeypatch.setattr(texts, "chosen", lambda *given: asked.append(given[3:]) or ("direct", "because"))
    monkeypatch.setattr(loading, "swap", lambda model, kind, **how: swapped.append(kind) or swap(model, kind, **how))
    words = ["score", str(tmp_path / "text.txt"), "--dtype", "float32", "--json"]
    found = json.loads(CliRunner().invoke(app, words).stdout)
    assert (asked, swapped) == ([(64 // texts.LETTERS, 0, 1)], ["direct"])
    expected = archport.score(archport.load(dtype="float32"), [row["id"] for row in found["per_token"]])
    assert found["loss"] == pytest.approx(expected.loss, rel=1e-4)
    CliRunner().invoke(app, [*words, "--quantize", "int8"])
    assert len(asked) == 1  # what rounding costs is to be seen beside the plain model


def test_nothing_is_measured_where_nothing_can_pay(monkeypatch):
    asked = []
    monkeypatch.setattr(
        choosing, "measured", lambda kind, dtype, **_: asked.append(kind) or Path(kind, dtype, None, "not looked at")
    )
    for size, expected in ((0, []), (ASKING["direct"], ["direct"]), (ASKING["packed"], ["direct", "packed"])):
        assert chosen(torch.float32, CPU, int(size) // 40, 8, 38)[0] is None
        assert asked == expected[:-1]
        asked.clear()
        assert chosen(torch.float32, CPU, int(size) // 40, 8, 39)[0] is None
        assert asked == expected
        asked.clear()


def test_elsewhere_and_in_other_dtypes_linear_maps_stay_as_they_are():
    kind, why = chosen(torch.float32, torch.device("cuda"), 10**9, 100, 100)
    assert kind is None
    assert "float32, packed: nn.Linear as it is (the model is not on a CPU)" in why
    kind, why = chosen(torch.float64, CPU, 10**9, 100, 100)
    assert kind is None
    assert "nn.Linear as it is (float64 on this CPU:" in why


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_measured_is_what_a_model_gets(kind, dtype, monkeypatch):
    monkeypatch.setattr(choosing, "SIZE", 1 << 18)
    one = measured(kind, dtype)
    expected = stand_in_for(kind, dtype, CPU)
    if isinstance(expected, str):
        assert (one.stand_in, one.why) == (None, expected)
        return
    assert one.stand_in is expected
    assert one.stand_in.words in str(one)
    assert all(seconds > 0 for seconds in (one.packing, *one.plain.values(), *one.fast.values()))


def test_env_says_what_torch_says():
    facts = json.loads(run("env", "--json").stdout)
    assert facts["torch"] == torch.__version__
    assert facts["cpu"]["capability"] == torch.backends.cpu.get_cpu_capability()
    assert facts["cpu"]["bfloat16"] == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert facts["cpu"]["threads"] == 1  # as the environment of `run` says
    assert {(one["dtype"], one["kind"]) for one in facts["paths"]} == {
        (dtype, kind) for dtype in ("float32", "bfloat16", "float16") for kind in KINDS
    }
    for one in facts["paths"]:
        expected = stand_in_for(one["kind"], getattr(torch, one["dtype"]), CPU)
        assert one.get("stand_in") == (None if isinstance(expected, str) else expected.__name__)


def test_env_without_instructions_newer_than_avx2():
    less = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("no x86 CPU with AVX2")
    words = [sys.executable, "-m", "archport", "env", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | less)
    facts = json.loads(done.stdout)
    assert (facts["cpu"]["capability"], facts["cpu"]["bfloat16"], facts["cpu"]["float16"]) == ("AVX2", False, False)
    halves = {one["kind"]: one.get("stand_in") for one in facts["paths"] if one["dtype"] == "bfloat16"}
    if "fbgemm" in torch.backends.quantized.supported_engines:
        assert halves == {kind: classes[1].__name__ for kind, classes in KINDS.items()}


def test_more_threads_than_cores_are_said():
    cores = cpu().cores
    code = "import sys, torch; from archport.fast.cpu import cpu; torch.set_num_threads(int(sys.argv[1])); print(cpu())"
    for threads in (1, cores, cores + 1):
        words = [sys.executable, "-c", code, str(threads)]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert (f"too many: set OMP_NUM_THREADS={cores}" in said) == (threads > cores)


def by(kind):
    """How the bundled model is multiplied in a kind, in words."""
    found = stand_in_for(kind, torch.float16, CPU)
    return f"float16, {kind}: {f'nn.Linear as it is ({found})' if isinstance(found, str) else found.words}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--max-new-tokens", "40"],
            "nn.Linear as it is (nothing can pay for 40 tokens of a model of 6,912,000 bytes)",
        ),
        (
            ["--max-new-tokens", "40", "--samples", "3"],
            "(nothing can pay for 40 tokens in each of 3 rows of a model of 6,912,000 bytes)",
        ),
        (["--max-new-tokens", "2000", "--slide", "--stop", "e"], "packing is paid back by"),
        (["--max-new-tokens", "2", "--quantize", "int8"], "int8, as --quantize int8 asks"),
        *((["--max-new-tokens", "2", "--quantize", kind], by(kind)) for kind in ("int8", "int4")),
    ],
)
def test_generate_explains_its_speed_beside_the_text(words, expected):
    plain = run("generate", "--prompt", "It", "--greedy", *words)
    explained = run("generate", "--prompt", "It", "--greedy", "--explain-speed", *words)
    assert expected not in plain.stderr
    assert expected in explained.stderr
    assert torch.backends.cpu.get_cpu_capability() in explained.stderr
    assert explained.stdout.startswith("It")


@pytest.mark.parametrize("quantize", [[], ["--quantize", "int8"]], ids=["", "int8"])
@pytest.mark.parametrize(
    ("option", "value"), [("max-new-tokens", -5), ("samples", 0), ("top-p", 0.0), ("temperature", -1.0), ("seed", -1)]
)
def test_nothing_is_explained_of_options_that_cannot_be(option, value, quantize):
    words = ["--explain-speed", *quantize, f"--{option}={value}"]
    done = run("generate", "--prompt", "It", *words, code=1)
    name = option.replace("-", "_")
    [line] = done.stderr.splitlines()
    assert line.startswith("archport: ")
    assert f"{name}: found {value}, expected " in line
