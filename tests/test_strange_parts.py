"""A plugin decoder of parts that archport has never seen goes through every command: no traceback, nothing untrue."""

import copy
import re

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import archport
from archport.cli import checkpoints, parity, texts, views  # noqa: F401  # each adds its commands
from archport.cli.app import app
from archport.errors import ConfigError
from archport.parity import references
from archport.registry import architecture

from . import strange as plugin

OWN_CLASSES = ("Evener", "Mixer", "Gated", "Stage")
# What is true of a GPT-2 and not of this decoder.
UNTRUE = (
    "LayerNorm", "Layer Normalization", "mean 0", "learned bias", "GELU", "ReLU", "bends", "one product",
    "learned position", "4 x 60", "sequential residual", "parallel residual", "head by head",
    "6 heads of 10 numbers", "1e-05",
)  # fmt: skip


@pytest.fixture(scope="module")
def name():
    with plugin.registered() as registered:
        yield registered


@pytest.fixture(scope="module")
def reference(name):
    return references.loud(architecture(name), plugin.SIZES)


@pytest.fixture(scope="module")
def folder(reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("strange")
    reference.save_pretrained(folder)
    return folder


@pytest.fixture
def model(folder):
    return archport.load(folder)


IDS = torch.tensor([[1, 5, 112, 0, 7, 7, 33, 2]])


def assert_close(ours, theirs):
    assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, theirs.abs().max())


def output(*words, code=0):
    """What a command prints; it ends with this exit code and not in a traceback."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert int(result.exit_code) == code, result.output
    return result.output


def test_load_forward_and_export(model, reference, tmp_path):
    with torch.no_grad():
        assert_close(model(IDS), reference(IDS).logits)
    archport.export(model, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    states = reference.state_dict(), again.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_generate_and_score(model, reference):
    options = {"attention_mask": torch.ones_like(IDS), "eos_token_id": None, "pad_token_id": 0}
    theirs = reference.generate(IDS, max_new_tokens=20, do_sample=False, **options)
    assert archport.generate(model, IDS, max_new_tokens=20, greedy=True, end=[]) == theirs.tolist()
    with torch.no_grad():
        loss = reference(IDS, labels=IDS).loss.item()
    assert archport.score(model, IDS).loss == pytest.approx(loss, rel=1e-5)
    rows = archport.generate(model, [[1, 5, 112], [9]], max_new_tokens=5, greedy=True, end=[])
    alone = archport.generate(model, [9], max_new_tokens=5, greedy=True, end=[])
    assert rows[1] == alone[0]


def test_build_draws_every_parameter(name):
    model = archport.build(name, plugin.SIZES)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert torch.equal(model.norm.gain, torch.ones(60))  # as its own module draws it
    assert torch.isfinite(model(IDS)).all()


def test_observe(model, reference):
    names = [site.name for site in archport.sites(model)]
    assert {"embed", "blocks.0", "blocks.2.after", "blocks.1.mixer", "blocks.1.gated", "norm", "logits"} <= set(names)
    assert not [name for name in names if name.endswith(("probabilities", "scores", "heads"))]
    with archport.observe(model, "blocks.*", "blocks.*.after", "norm", "logits") as values, torch.no_grad():
        logits = model(IDS)
    with torch.no_grad():
        states = reference(IDS, output_hidden_states=True).hidden_states
    for number in range(3):
        assert_close(values[f"blocks.{number}"], states[number])
    assert_close(values["norm"], states[-1])
    assert torch.equal(values["logits"], logits)
    silent = copy.deepcopy(reference)
    with torch.no_grad():
        silent.model.layers[1].mlp.down_proj.weight.zero_()
        expected = silent(IDS).logits
        with archport.observe(model, edit={"blocks.1.gated": torch.zeros_like}):
            assert_close(model(IDS), expected)
    with (
        pytest.raises(ConfigError, match=r"blocks\.1\.attn\.probabilities"),
        archport.observe(model, "blocks.1.attn.probabilities"),
    ):
        pass


def test_verify_names_the_place_of_a_mistake(folder, name, monkeypatch):
    assert "the same model" in output("verify", folder)
    assert output("verify", name).count("the same model") == 1 + len(plugin.VARIANTS)
    monkeypatch.setattr(plugin.Gated, "forward", lambda self, x: self.back(self.bend(self.both(x).chunk(2, -1)[1])))
    text = output("verify", folder, code=1)
    assert "NOT the same model" in text
    assert re.search(r"^blocks\.0\.gated(\.back)?: ", text, re.M), text


def test_faults_say_what_they_cover(name):
    text = output("faults", name)
    coverage = re.search(r"(\d+) of (\d+) faults can exist here; no fault covers: (.*)", text)
    assert coverage, text
    assert int(coverage[1]) < int(coverage[2])
    assert all(kind in coverage[3] for kind in OWN_CLASSES)
    assert "Embedding" not in coverage[3]


OF_BOTH = ("explain", "tree", "tree --reference", "diff", "page")
CALLS = [(command, of) for command in OF_BOTH for of in ("folder", "name")]


@pytest.mark.parametrize(("command", "of"), [*CALLS, ("build", "name"), ("load --explain", "folder")])
def test_what_is_said_of_it_is_true(request, command, of, tmp_path):
    source = request.getfixturevalue(of)
    command, *options = command.split()
    if command == "page":
        options = ["--output", tmp_path / "page.html"]
    text = output(command, source, *options, *([source] if command == "diff" else []))
    if command == "page":
        text = (tmp_path / "page.html").read_text()
    assert not [phrase for phrase in UNTRUE if phrase in text]
    if command == "explain":
        assert all(f"no description of {kind} yet" in text for kind in OWN_CLASSES)
    if command in ("tree", "page", "build"):
        assert all(kind in text for kind in OWN_CLASSES)


def test_beside_another_architecture(folder, tmp_path):
    rows = [line for line in output("diff", folder, "gpt2").splitlines() if "not known" in line]
    assert rows  # what nobody has described is said to be unknown, not left to look like a difference
    output("page", folder, "gpt2", "--output", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "no description of Mixer yet" in page


@pytest.mark.parametrize("kind", ["weights blocks.1.mixer.offer.weight", "spectrum"])
def test_plots(folder, tmp_path, kind):
    output("plot", folder, *kind.split(), "--output", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_a_plot_of_what_it_has_not_is_one_line(folder, tmp_path):
    with pytest.raises(ConfigError, match="layer 0 has no attention probabilities to observe"):
        output("plot", folder, "attention", "--output", tmp_path / "plot.png")
    with pytest.raises(ConfigError, match="has rotary positions, which are angles and not learned"):
        output("plot", folder, "positions", "--output", tmp_path / "plot.png")
