"""docs/proposals.md is what tools/propose_all.py makes of docs/proposals.json, and that of results of any kind."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from tools.propose_all import KEPT, PAGE, STATUSES, cells, document, escaped, kept, page, row, steady

from archport.proposing import model_types, propose

ROOT = Path(__file__).parents[1]
HOW = {"transformers": "9.9", "kills": False, "seconds": 900.0, "gigabytes": 8.0}
VALUES = {
    "name": "x",
    "source": "x",
    "proved": True,
    "holes": [],
    "program": {},
    "parts": ["Embed", "Linear"],
    "fields": {"used": 9, "required": ["use_x"], "harmless": []},
    "faults": [],
    "dead": [],
    "missed": [],
    "never_varied": [],
    "kills": None,
    "seconds": 10.0,
    "lines": {"models/x.py": 70, "mappings/x.py": 50},
    "files": {"models/x.py": "a", "mappings/x.py": "b"},
}
MISSED = [f"X.forward: y = {number} | z" for number in range(5)]


def ran(peak: float = 0.5, **values) -> dict:
    return {**HOW, "values": {**VALUES, **values}, "peak": peak}


RESULTS = {
    "b_proved": ran(never_varied=["rope_theta"], missed=MISSED, seconds=20.0, peak=0.7),
    "a_proved": ran(),
    "c_faulty": ran(proved=False, faults=["x: NOT the same", "w: no gradient reaches it"], dead=["w"]),
    "d_hole": ran(proved=False, holes=["blocks.0: a | b, at 0x7f00aa"], parts=[], fields=None, lines={}, files={}),
    "e_none": {**HOW, "status": "no tiny config", "reason": "e_none: it wants <x>, see /home/me/lib/x.py"},
    "f_long": {**HOW, "status": "stopped", "reason": "stopped after 900 seconds"},
}


@pytest.fixture
def content():
    return document(RESULTS, 8, "9.9")


def test_each_type_has_a_row_and_each_status_its_count(content):
    assert [one["model_type"] for one in content["types"]] == sorted(RESULTS)
    assert {one["status"] for one in content["types"]} == STATUSES.keys()
    text = page(content)
    for line in (
        "**2 of 8 registered causal decoder types are proposed and proved**, with transformers 9.9.",
        "| proved | 2 | written in parts of archport, and all that was tried holds |",
        *(f"| {status} | 1 | {meaning} |" for status, meaning in STATUSES.items() if status != "proved"),
        "2 types have no result yet.",
        "A proof takes 15 seconds and 0.6 GB of memory, the medians of those that are proved.",
        "| `a_proved` | proved | 70 + 50 | Embed, Linear | - | - |",
        "| `b_proved` | proved | 70 + 50 | Embed, Linear | `rope_theta` | 5<br>"
        + "<br>".join(f"`X.forward: y = {number} \\| z`" for number in range(3))
        + " |",
        "| `c_faulty` | not proved | 70 + 50 | x: NOT the same; and 1 more | - | - |",
        "| `d_hole` | hole | - | blocks.0: a \\| b, at 0x... | - | - |",
        "| `e_none` | no tiny config | - | it wants \\<x>, see x.py | - | - |",
        "| `f_long` | stopped | - | stopped after 900 seconds | - | - |",
    ):
        assert line in text.splitlines(), line
    assert "planted" not in text
    assert "no result yet" not in page(document(RESULTS, 6, "9.9"))


def test_planted_bugs_are_counted_where_they_were_planted():
    results = {name: {**one, "kills": True} for name, one in RESULTS.items()}
    results["a_proved"] = {**ran(kills=[1200, 1200]), "kills": True}
    content = document(results, 6, "9.9")
    assert content["command"] == "python tools/propose_all.py --kills"
    assert "In 1 of them 1,200 bugs were planted, one at a time, and every one is named." in page(content)


def test_where_nothing_is_proved_there_are_no_medians():
    text = page(document({"f_long": RESULTS["f_long"]}, 1, "9.9"))
    assert "**0 of 1 registered" in text
    assert "medians" not in text


def test_a_row_is_the_same_however_long_it_took(content):
    slow = {name: {**one, "seconds": 1800.0} for name, one in RESULTS.items()}
    slow["a_proved"] = {**ran(seconds=99.0, peak=3.0), "seconds": 1800.0}
    again = document(slow, 8, "9.9")
    assert again["types"] == content["types"]
    assert again["measured"]["a_proved"] == {"seconds": 99.0, "gigabytes": 3.0}
    assert again["measured"].keys() == {"a_proved", "b_proved", "c_faulty", "d_hole"}
    assert again["command"] == "python tools/propose_all.py --seconds 1800"


def test_a_reason_is_a_line_of_which_markdown_makes_nothing():
    assert steady([]) == ""
    assert steady(["no\nblocks at 0xdeadbeef", "x", "y"]) == "no blocks at 0x...; and 2 more"
    assert steady(["in '/usr/lib/x.py', https://a.b/c/d, half/half"]) == "in 'x.py', https://a.b/c/d, half/half"
    assert len(steady(["word " * 100])) <= 300
    assert escaped("[a](b) | `c` *d* __init__ of num_layers") == (
        "\\[a\\](b) \\| \\`c\\` \\*d\\* \\_\\_init\\_\\_ of num_layers"
    )


def test_results_of_another_transformers_are_none(tmp_path):
    for name, release in (("a", "9.9"), ("b", "9.8")):
        (tmp_path / f"{name}.json").write_text(json.dumps(RESULTS["a_proved"] | {"transformers": release}))
    assert kept(tmp_path, "9.9").keys() == {"a"}


def test_a_proposal_gives_the_values_of_which_rows_are_made():
    found = propose("docs/examples/nano.py:GPT", kills=False)
    values = json.loads(json.dumps(found.values()))
    assert values.keys() == VALUES.keys()
    one = row("gpt", {**HOW, "values": values, "peak": 0.5})
    assert one["status"] == "proved"
    assert one["fields"] == {"used": 7, "required": []}
    lines = " + ".join(str(len(text.splitlines())) for _, text in found.files)
    assert cells(one)[2:4] == (lines, "PositionedEmbed, SequentialBlock, LayerNorm, Attention, MLP, Linear")


def test_what_was_run_stays_and_is_written(tmp_path):
    (tmp_path / "docs").mkdir()

    def tool(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "tools/propose_all.py"), *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert "found no results of transformers" in tool("--write").stderr
    assert "xyz: transformers" in tool("xyz").stderr
    assert "1 of 1: diffllama: hole\n" in tool("diffllama").stdout
    assert "1 of 1: llama: stopped\n" in tool("llama", "--seconds", "0.1").stdout
    done = tool("--write")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / PAGE).read_text()
    assert done.stdout == f"written: {KEPT}, {PAGE}: {text.split('**')[1]}\n"
    assert text == page(json.loads((tmp_path / KEPT).read_text()))
    assert f"**0 of {len(model_types())} registered causal decoder types" in text
    assert f"{len(model_types()) - 2} types have no result yet." in text
    assert "| `diffllama` | hole | - | blocks.0.attn: the module maps" in text
    assert "| `llama` | stopped | - | stopped after 0.1 seconds" in text


@pytest.mark.skipif(not (ROOT / KEPT).exists(), reason=f"{KEPT} is not there: make proposals writes it")
def test_the_page_is_what_the_tool_makes_of_the_results():
    content = json.loads((ROOT / KEPT).read_text())
    assert (ROOT / PAGE).read_text() == page(content), "python tools/propose_all.py --write writes it anew"
    if content["transformers"] == version("transformers"):
        named = [one["model_type"] for one in content["types"]]
        assert named == sorted(named)
        assert {*named} <= model_types().keys()
        left = len(model_types()) - len(named)
        assert (f"{left} types have no result yet" in page(content)) == (left > 0)
