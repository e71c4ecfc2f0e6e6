"""Parts of one's own: tried where none of ours does what a decoder does, and written into its files."""

import os
import re
import time
from pathlib import Path

import pytest
import torch

from archport import registry
from archport.errors import SourceError
from archport.foreign.rows import Rows
from archport.proposing import propose
from archport.proposing.apart import apart
from archport.proposing.own_part import assignments
from archport.proposing.proposal import subject_of
from archport.proposing.proving import proof_of
from archport.proposing.transformers_class import of_transformers
from archport.proposing.writing import executed

from .commands import run

PARTS = """
import torch
from torch import nn


class TanhMLP(nn.Module):
    def __init__(self, width: int, mlp_width: int, bias: bool = False) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.up, self.down = nn.Linear(width, mlp_width, bias=bias), nn.Linear(mlp_width, width, bias=bias)

    def forward(self, x):
        return self.gain * self.down(self.up(x).tanh())


class Other(TanhMLP):
    def forward(self, x):
        return super().forward(x) * 2


class Unlike(TanhMLP):
    def __init__(self, width: int) -> None:
        super().__init__(width, 61)


class Asking(TanhMLP):
    def __init__(self, width: int, temperature: float) -> None:
        super().__init__(width, 8)


function = TanhMLP.forward
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A file of parts, and a model that has one of them, in a folder that is the current one."""
    nano = Path("docs/examples/nano.py").read_text()
    line = 'self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))'
    assert line in nano
    nano = nano.replace(line, "self.dropout(self.c_proj(torch.tanh(self.c_fc(x))) * self.gain)")
    gain = "        self.gain = nn.Parameter(torch.ones(config.n_embd))\n        self.c_fc ="
    (tmp_path / "my_model.py").write_text(nano.replace("        self.c_fc =", gain))
    (tmp_path / "my_parts.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    return tmp_path


def test_a_part_of_one_s_own_is_verified_at_the_hole_and_the_rest_goes_on(folder):
    without = propose("my_model.py:GPT", kills=False)
    assert not without.ok
    assert without.holes[0].startswith("blocks.0.mlp: ")
    found = propose("my_model.py:GPT", parts=["my_parts.py:Other", "my_parts.py:TanhMLP"], kills=False)
    assert found.ok, found.proof.faults
    assert "TanhMLP" in found.parts
    found.write("out")
    assert "from my_parts import TanhMLP\n" in (folder / "out/models/gpt.py").read_text()
    assert (folder / "out/my_parts.py").read_text() == PARTS
    assert "TanhMLP" in run("--plugin", str(folder / "out"), "tree", "gpt", "--depth", "3").stdout


def test_tensors_are_tried_for_a_part_by_shape_and_none_of_them_twice():
    shapes = {"a": (3,), "b": (3,), "c": (4, 3), "d": (5, 3), "e": (3, 5)}
    module = {name: torch.zeros(shape) for name, shape in shapes.items()}
    own = {"gain": torch.zeros(3), "shift": torch.zeros(3), "up": torch.zeros(5, 3)}
    found = {tuple(name for name, _ in one.values()) for one in assignments(module, own)}
    assert found == {(gain, shift, up) for gain, shift in ("ab", "ba") for up in "de"}  # "e" transposed
    assert all(value.shape == own[name].shape for one in assignments(module, own) for name, (_, value) in one.items())


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("Other", r"blocks\.0\.mlp: .*; my_parts\.py:Other: makes something else"),
        ("Unlike", r"my_parts\.py:Unlike: no tensor is shaped as its up\.weight \(61, 48\)"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_part_that_is_not_the_module_s_is_a_hole_that_says_why(part, said):
    found = propose("my_model.py:GPT", parts=[f"my_parts.py:{part}"], kills=False)
    assert not found.files
    assert not found.ok
    assert re.search(said, found.holes[0]), found.holes


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("Asking", "asks for temperature, of which the config says nothing"),
        ("function", "found a function, expected a class of torch.nn.Module"),
        ("Nothing", "has no Nothing"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_is_no_part_is_one_line(part, said):
    with pytest.raises(SourceError, match=said):
        propose("my_model.py:GPT", parts=[f"my_parts.py:{part}"])


@pytest.mark.families
def test_a_number_that_is_a_tiny_size_is_no_proof():
    found = propose("llama", kills=False)
    assert found.ok, found.proof.faults
    model, mapping = (text for _, text in found.files)
    assert "GatedMLP(cfg.width, cfg.mlp_width," in model
    wrong = executed("llama", model.replace("GatedMLP(cfg.width, cfg.mlp_width,", "GatedMLP(cfg.width, 88,"), mapping)
    with pytest.raises(RuntimeError, match="size"):
        proof_of(of_transformers("llama"), found.abstract, wrong, Rows(wrong.table.weights), kills=False)


def test_a_config_of_tiny_sizes_is_taken_as_it_is(tmp_path):
    file = tmp_path / "tiny.json"
    file.write_text('{"hidden_size": 96, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 30}')
    with pytest.raises(SourceError, match=r"found [\d,]+ parameters at tiny sizes, expected up to 3,000,000"):
        subject_of("llama", config=file)  # a Llama's own vocab_size
    file.write_text(file.read_text().replace("}", ', "vocab_size": 61}'))
    config = subject_of("llama", config=file).config
    assert [config[name] for name in ("hidden_size", "num_hidden_layers", "intermediate_size")] == [96, 1, 30]


def test_a_class_in_memory_is_its_own_subject():
    from transformers import LlamaForCausalLM

    class Mine(LlamaForCausalLM):
        pass

    subject = subject_of(Mine)
    assert (subject.name, subject.source, subject.model_type) == ("Mine", "Mine", None)
    assert isinstance(subject.module(), Mine)


# --- a process of its own ---


def ends(how, told):
    os.write(1, b"what somebody's code says")
    os.write(2, b"and what it complains of")
    told("begun")
    if how == "aborts":
        os.abort()
    if how == "hangs":
        time.sleep(600)
    if how == "eats":
        return torch.ones(1 << 40)
    return how


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("aborts", "was ended by signal 6"),
        ("hangs", "stopped after 12 seconds"),
        ("eats", "ran out of 2 GB of memory"),
    ],
)
def test_a_reference_that_crashes_hangs_or_eats_is_a_line(how, said, capfd):
    stages = []
    with pytest.raises(SourceError, match=said):
        apart(ends, {"how": how}, seconds=12, gigabytes=2, told=stages.append)
    assert stages == ["begun"]
    assert capfd.readouterr().out == ""


def test_what_is_given_comes_back_and_nothing_is_printed(capfd):
    assert apart(ends, {"how": "well"}, seconds=60, gigabytes=2, told=lambda _: None) == "well"
    assert capfd.readouterr() == ("", "")
