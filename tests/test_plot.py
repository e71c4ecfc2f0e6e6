"""Plots: what is drawn is the tensor, or what transformers computes; and what cannot be drawn is one line."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import archport
from archport.errors import ConfigError, ExportError, SourceError
from archport.view.plot import KINDS, plot, probabilities, save, stream_norms, strongest
from archport.view.subject import subject

from .references import SIZES, reference, sequences
from .test_cli import run

ARCHITECTURES = list(SIZES)


@pytest.fixture
def gpt2(tmp_path):
    reference("gpt2").save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def images(figure):
    return [torch.from_numpy(image.get_array().data) for axes in figure.axes for image in axes.images]


def test_positions_are_the_tensor_as_an_image_and_three_curves(gpt2):
    weight = load_file(gpt2 / "model.safetensors")["transformer.wpe.weight"]
    figure = plot(subject(gpt2, headers_only=False), "positions")
    assert torch.equal(images(figure)[0], weight)
    columns = strongest(weight)
    assert len(columns) == 3
    assert min(weight.var(0)[columns]) >= sorted(weight.var(0))[-3]
    for line, column in zip(figure.axes[1].lines, columns, strict=True):
        assert torch.equal(torch.from_numpy(line.get_ydata()), weight[:, column])
    assert f"{gpt2}: embed.positions.weight, 37 x 60" in figure.get_suptitle()
    assert figure.axes[0].get_ylabel() == figure.axes[1].get_xlabel() == "position"
    low, high = figure.axes[0].images[0].get_clim()
    assert low == -high < 0


@pytest.mark.parametrize(
    ("name", "key"), [("embed.tokens.weight", "transformer.wte.weight"), ("norm.bias", "transformer.ln_f.bias")]
)
def test_weights_are_the_tensor(gpt2, name, key):
    figure = plot(subject(gpt2, headers_only=False), "weights", name=name)
    weight = load_file(gpt2 / "model.safetensors")[key]
    drawn = images(figure)[0] if weight.ndim > 1 else torch.from_numpy(figure.axes[0].lines[0].get_ydata())
    assert torch.equal(drawn, weight)
    assert name in figure.get_suptitle()


def test_a_block_of_a_weight_keeps_its_place(gpt2):
    seen = subject(gpt2, headers_only=False)
    weight = load_file(gpt2 / "model.safetensors")["transformer.wte.weight"]
    figure = plot(seen, "weights", name="embed.tokens.weight[5:9, 40:]")
    assert torch.equal(images(figure)[0], weight[5:9, 40:])
    assert figure.axes[0].images[0].get_extent() == [39.5, 59.5, 8.5, 4.5]
    assert "embed.tokens.weight[5:9, 40:], 4 x 20" in figure.get_suptitle()
    bias = load_file(gpt2 / "model.safetensors")["transformer.ln_f.bias"]
    [drawn] = plot(seen, "weights", name="norm.bias[7:12]").axes[0].lines
    assert drawn.get_ydata().tolist() == bias[7:12].tolist()
    assert list(drawn.get_xdata()) == [7, 8, 9, 10, 11]
    for block in ("[5:9]", "[9:5, :]", "[0:9, 0:61]", "[a, b]", "[1, 2]", "[]", "["):
        with pytest.raises(ConfigError, match=r"weights: found the block .*, expected one within \[0:\d+, 0:60\]"):
            plot(seen, "weights", name=f"embed.tokens.weight{block}")


def test_names_and_tokens_are_no_formulas(tmp_path):
    folder = tmp_path / "a $\\frac{1}{2}$ b"
    reference("gpt2").save_pretrained(folder)
    figure = plot(subject(folder, headers_only=False), "positions")
    save(figure, tmp_path / "a.svg")
    assert figure.get_suptitle().startswith(str(folder))
    broken = plot(subject(headers_only=False), "attention", prompt="$\\frac{ $ \\")
    save(broken, tmp_path / "b.svg")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_attention_and_norms_are_those_of_transformers(name):
    model = reference(name)
    port = archport.from_state_dict(model.config, model.state_dict())
    ids = sequences(model)[0][:1]
    with torch.no_grad():
        made = model(ids, output_attentions=True, output_hidden_states=True)
    for layer, expected in enumerate(made.attentions):
        assert torch.allclose(probabilities(port, ids, layer), expected[0], atol=1e-5)
    norms = torch.stack([state[0].norm(dim=-1) for state in made.hidden_states[:-1]])  # the last is behind the norm
    assert torch.allclose(stream_norms(port, ids)[:-1], norms, rtol=1e-4)


def test_the_bundled_checkpoint_in_every_way_it_can_be_drawn():
    seen = subject(headers_only=False)
    attention = plot(seen, "attention", layer=2, prompt="def f(x): $1")
    assert len(images(attention)) == 6
    assert all(torch.allclose(image.sum(-1), torch.ones(len(image)), atol=1e-5) for image in images(attention))
    spectrum = plot(seen, "spectrum")
    weight = archport.load().blocks[3].mlp.up.weight.detach().float()
    drawn = torch.from_numpy(spectrum.axes[2].lines[3].get_ydata())
    assert torch.allclose(drawn, torch.linalg.svdvals(weight), rtol=1e-4)
    assert "14 tokens, width 192" in plot(seen, "norms").get_suptitle()


def test_files(tmp_path, gpt2):
    figure = plot(subject(gpt2, headers_only=False), "positions")
    for name, begin in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml")):
        save(figure, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begin)
        with pytest.raises(ExportError, match="is there already: choose another name, or --force"):
            save(figure, tmp_path / name)
        save(figure, tmp_path / name, force=True)
    with pytest.raises(ExportError, match=r"a\.gif: expected a name ending in \.png or \.svg"):
        save(figure, tmp_path / "a.gif")
    with pytest.raises(ExportError, match="cannot be written"):
        save(figure, tmp_path / "nowhere" / "a.png")
    assert run("plot", "gpt2", "positions", "-o", "p.png", cwd=tmp_path).stdout.startswith("p.png  ")


def test_what_cannot_be_drawn(gpt2):
    seen = subject(gpt2, headers_only=False)
    with pytest.raises(ConfigError, match="plot: found 'sound', expected positions, weights"):
        plot(seen, "sound")
    with pytest.raises(ConfigError, match="found 'wte', expected the name of a tensor; the nearest are"):
        plot(seen, "weights", name="wte")
    with pytest.raises(ConfigError, match="has rotary positions, which are angles and not learned; weights, attention"):
        plot(subject(headers_only=False), "positions")
    with pytest.raises(ConfigError, match="layer: found 6, expected 0 to 5"):
        plot(subject(headers_only=False), "attention", layer=6)
    with pytest.raises(ConfigError, match="prompt: found 0 tokens, expected at least 2"):
        plot(subject(headers_only=False), "attention", prompt="")
    with pytest.raises(SourceError, match="an architecture has no weights to draw"):
        plot(subject("gpt2"), KINDS[0])


def test_without_matplotlib_is_one_line(tmp_path):
    code = (
        "import sys; sys.modules['matplotlib'] = sys.modules['matplotlib.figure'] = None; import archport.cli as c; "
        f"sys.argv = ['archport', 'plot', 'bundled', 'norms', '-o', {str(tmp_path / 'a.png')!r}]; c.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "archport: drawing needs matplotlib: pip install 'archport[plot]'\n"
