"""Plots: what is drawn is the tensor, or what transformers computes; and what cannot be drawn is one line."""

import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import archport
from archport.cli.views import app
from archport.errors import ConfigError, ExportError, SourceError
from archport.files.write import whole_file
from archport.view import drawing
from archport.view.drawing import LETTERS, SIGNED, strongest
from archport.view.measured import probabilities, stream_norms
from archport.view.plotting import KINDS, PROMPT, check, draw, drawn, save
from archport.view.selecting import tensor
from archport.view.subjects import subject

from .commands import run
from .references import SIZES, reference, sequences

ARCHITECTURES = list(SIZES)


@pytest.fixture
def gpt2(tmp_path):
    reference("gpt2").save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


@pytest.fixture
def talking(tmp_path):
    """A GPT-2 with the tokenizer of the bundled checkpoint, and transformers' model of it."""
    return result(tmp_path / "talking")


def result(folder, **sizes):
    model = reference("gpt2", vocab_size=2048, **sizes)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(archport.__file__).parent / "demo" / name, folder)
    return folder, model


def edited(folder, change):
    """The folder, its tensors changed."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return subject(folder, headers_only=False)


def images(figure):
    return [torch.from_numpy(image.get_array().data) for axes in figure.axes for image in axes.images]


def title(figure):
    return figure.get_suptitle().replace("\n", " ")


def pixels(figure, grey=False):
    image = Image.open(BytesIO(drawn(figure, ".png")))
    return np.asarray(image.convert("L" if grey else "RGB"))


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_positions_are_the_tensor_as_an_image_and_three_curves(gpt2):
    weight = load_file(gpt2 / "model.safetensors")["transformer.wpe.weight"]
    figure = draw(subject(gpt2, headers_only=False), "positions")
    assert torch.equal(images(figure)[0], weight)
    columns = strongest(weight)
    assert len(columns) == 3
    assert min(weight.var(0)[columns]) >= sorted(weight.var(0))[-3]
    for line, column in zip(figure.axes[1].lines, columns, strict=True):
        assert torch.equal(torch.from_numpy(line.get_ydata()), weight[:, column])
    assert f"{gpt2}: embed.positions.weight, 37 x 60" in title(figure)
    assert figure.axes[0].get_ylabel() == figure.axes[1].get_xlabel() == "position"
    low, high = figure.axes[0].images[0].get_clim()
    assert low == -high < 0


@pytest.mark.parametrize(
    ("name", "key"), [("embed.tokens.weight", "transformer.wte.weight"), ("norm.bias", "transformer.ln_f.bias")]
)
def test_weights_are_the_tensor(gpt2, name, key):
    figure = draw(subject(gpt2, headers_only=False), "weights", name=name)
    weight = load_file(gpt2 / "model.safetensors")[key]
    drawn = images(figure)[0] if weight.ndim > 1 else torch.from_numpy(figure.axes[0].lines[0].get_ydata())
    assert torch.equal(drawn, weight)
    assert name in title(figure)


def test_a_block_of_a_weight_keeps_its_place(gpt2):
    target = subject(gpt2, headers_only=False)
    weight = load_file(gpt2 / "model.safetensors")["transformer.wte.weight"]
    figure = draw(target, "weights", name="embed.tokens.weight[5:9, 40:]")
    assert torch.equal(images(figure)[0], weight[5:9, 40:])
    assert figure.axes[0].images[0].get_extent() == [39.5, 59.5, 8.5, 4.5]
    assert "embed.tokens.weight[5:9, 40:60], 4 x 20" in title(figure)
    bias = load_file(gpt2 / "model.safetensors")["transformer.ln_f.bias"]
    [drawn] = draw(target, "weights", name="norm.bias[7:12]").axes[0].lines
    assert drawn.get_ydata().tolist() == bias[7:12].tolist()
    assert list(drawn.get_xdata()) == [7, 8, 9, 10, 11]
    for block in ("[5:9]", "[9:5, :]", "[0:9, 0:61]", "[a, b]", "[1, 2]", "[]", "[", f"[0:{'9' * 5000}, :]"):
        with pytest.raises(
            ConfigError, match=r"plot: weights: found the block .*, expected one within \[0:\d+, 0:60\]"
        ):
            draw(target, "weights", name=f"embed.tokens.weight{block}")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_key_means_the_tensor_of_the_file_as_it_lies_there_and_our_name_ours(tmp_path, name):
    reference(name).save_pretrained(tmp_path)
    target, model = subject(tmp_path, headers_only=False), archport.load(tmp_path)
    file, table, ours = (
        load_file(tmp_path / "model.safetensors"),
        target.architecture.table,
        dict(model.named_parameters()),
    )
    for key, weight in file.items():
        for spelling in {key, key.removeprefix(table.prefix)} - ours.keys():
            block = ", ".join(f"{size // 3}:" for size in weight.shape)
            whole, part = (tensor(target.plan, spelling + end) for end in ("", f"[{block}]"))
            assert (whole.name, whole.title) == (key, key)
            assert torch.equal(whole.read(target.plan), weight)
            assert torch.equal(part.read(target.plan), weight[tuple(slice(size // 3, None) for size in weight.shape)])
    for name, parameter in ours.items():
        assert torch.equal(tensor(target.plan, name).read(target.plan), parameter)


def test_a_block_under_the_checkpoints_name_is_the_one_a_lecture_shows(gpt2):
    weight = load_file(gpt2 / "model.safetensors")["transformer.h.1.attn.c_attn.weight"]
    target = subject(gpt2, headers_only=False)
    for key in ("h.1.attn.c_attn.weight", "transformer.h.1.attn.c_attn.weight"):
        figure = draw(target, "weights", name=f"{key}[:30,:50]")
        assert torch.equal(images(figure)[0], weight[:30, :50])
        assert "transformer.h.1.attn.c_attn.weight[0:30, 0:50], 30 x 50" in title(figure)
        assert (figure.axes[0].get_ylabel(), figure.axes[0].get_xlabel()) == ("in", "out")
    with pytest.raises(ConfigError, match=r"found the block \[:99,:99\], expected one within \[0:60, 0:180\]"):
        draw(target, "weights", name="h.1.attn.c_attn.weight[:99,:99]")


def test_a_tensor_of_three_axes_is_not_drawn(tmp_path):
    reference("gpt_oss").save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=r"found model\.layers\.0\.mlp\.experts\.down_proj with 3 axes, expected 1 or 2"
    ):
        check(subject(tmp_path), "weights", name="model.layers.0.mlp.experts.down_proj")


def test_columns_of_positions_that_are_chosen(gpt2):
    weight = load_file(gpt2 / "model.safetensors")["transformer.wpe.weight"]
    target = subject(gpt2, headers_only=False)
    chosen = [59, 0, 7, 8, 9, 10, 11, 12]
    figure = draw(target, "positions", columns=chosen)
    for line, column in zip(figure.axes[1].lines, chosen, strict=True):
        assert line.get_label() == f"element {column}"
        assert torch.equal(torch.from_numpy(line.get_ydata()), weight[:, column])
    pixels(figure)
    for wrong in ([60], [-1], [], [True], [1.5], "12"):
        with pytest.raises(ConfigError, match=r"^plot: columns: found \[.*\], expected numbers from 0 to 59$"):
            check(target, "positions", columns=wrong)


def test_names_and_tokens_are_no_formulas(tmp_path):
    folder = tmp_path / "a $\\frac{1}{2}$ $\\frac{$ b"
    reference("gpt2").save_pretrained(folder)
    figure = draw(subject(folder, headers_only=False), "positions")
    save(figure, tmp_path / "a.svg")
    assert f"{folder.name}: embed.positions.weight" in title(figure)
    broken = draw(subject(headers_only=False), "attention", prompt="$\\frac{ $ \\")
    save(broken, tmp_path / "b.svg")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_attention_and_norms_are_those_of_transformers(name):
    model = reference(name)
    port = archport.from_state_dict(model.config, model.state_dict())
    ids = sequences(model)[0][:1]
    with torch.no_grad():
        result = model(ids, output_attentions=True, output_hidden_states=True)
    for layer, expected in enumerate(result.attentions):
        assert torch.allclose(probabilities(port, ids, layer), expected[0], atol=1e-5)
    norms = torch.stack([state[0].norm(dim=-1) for state in result.hidden_states[:-1]])  # the last is behind the norm
    assert torch.allclose(stream_norms(port, ids)[:-1], norms, rtol=1e-4)


@pytest.mark.parametrize("layer", [None, 2])
def test_what_is_drawn_of_attention_is_that_of_transformers(talking, layer):
    folder, model = talking
    prompt = "def f(x): $1 é 日\n"
    figure = draw(subject(folder, headers_only=False), "attention", layer=layer, prompt=prompt)
    tokenizer = archport.tokenizer(folder)
    ids = tokenizer.encode(prompt).ids
    with torch.no_grad():
        expected = model(torch.tensor([ids]), output_attentions=True).attentions[layer or 0][0]
    target = images(figure)
    assert len(target) == len(expected) == 5
    for head, image in enumerate(target):
        assert torch.allclose(image, expected[head], atol=1e-5)
        assert figure.axes[head].get_title() == f"head {head}"
        assert figure.axes[head].images[0].get_clim() == (0, 1)
        for axis in (figure.axes[head].xaxis, figure.axes[head].yaxis):
            assert list(axis.get_ticklocs()) == list(range(len(ids)))
            words = [tokenizer.decode([token]).replace(" ", "\u2423").replace("\n", "\\n") for token in ids]
            pieces = [tokenizer.id_to_token(token) for token in ids]
            whole = [piece if "\ufffd" in word else word for word, piece in zip(words, pieces, strict=True)]
            assert labels(axis) == whole
            assert whole != words
    assert f"{folder}: attention of layer {layer or 0}, 5 heads, {len(ids)} tokens " in title(figure)
    assert figure.get_suptitle().endswith("\ndef f(x): $1 é \\u65e5\\n")
    pixels(figure)


def test_what_is_drawn_of_norms_is_that_of_transformers(talking):
    folder, model = talking
    figure = draw(subject(folder, headers_only=False), "norms", prompt="def f(x): return x")
    ids = archport.tokenizer(folder).encode("def f(x): return x").ids
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    norms = torch.stack([state[0].norm(dim=-1) for state in states[:-1]])  # the last is behind the norm
    axes = figure.axes[0]
    [curve], [band] = axes.lines, axes.collections
    assert list(curve.get_xdata()) == [0, 1, 2, 3]
    assert torch.allclose(torch.from_numpy(curve.get_ydata())[:-1], norms.median(-1).values, rtol=1e-4)
    edges = band.get_paths()[0].vertices
    for layer, row in enumerate(norms):
        ends = edges[edges[:, 0] == layer, 1]
        assert ends.min() == pytest.approx(row.min().item(), rel=1e-4)
        assert ends.max() == pytest.approx(row.max().item(), rel=1e-4)
    assert axes.get_yscale() == "log"
    assert all(tick == round(tick) for tick in axes.get_xticks())
    assert f"{folder}: residual stream, {len(ids)} tokens, width 60" in title(figure)


def test_what_is_drawn_of_spectra_are_the_singular_values_of_the_file(tmp_path):
    folder, _ = result(tmp_path / "deep", n_layer=9)
    figure = draw(subject(folder, headers_only=False), "spectrum")
    file = load_file(folder / "model.safetensors")
    theirs = {"attn.qkv": "attn.c_attn", "attn.out": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
    sizes = ("180 x 60", "60 x 60", "104 x 60", "60 x 104")
    for axes, (ours, key), size in zip(figure.axes, theirs.items(), sizes, strict=True):
        assert axes.get_title() == f"{ours}, {size}"
        assert axes.get_yscale() == "log"
        assert len(axes.lines) == 9
        for layer, line in enumerate(axes.lines):
            values = torch.linalg.svdvals(file[f"transformer.h.{layer}.{key}.weight"])
            assert torch.allclose(torch.from_numpy(line.get_ydata()), values, rtol=1e-4)
            assert line.get_label() == f"layer {layer}"
        assert all(a.get_linestyle() != b.get_linestyle() for a, b in pairwise(axes.lines))
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert (named[0], named[-1], len(named)) == ("layer 0", "layer 8", 7)
    assert title(figure) == f"{folder}: singular values of the matrices of 9 layers"


def test_the_bundled_checkpoint_in_every_way_it_can_be_drawn():
    target = subject(headers_only=False)
    spectrum = draw(target, "spectrum")
    weight = archport.load().blocks[3].mlp.up.weight.detach().float()
    line = torch.from_numpy(spectrum.axes[2].lines[3].get_ydata())
    assert torch.allclose(line, torch.linalg.svdvals(weight), rtol=1e-4)
    assert "14 tokens, width 192 def __init__" in title(draw(target, "norms"))
    assert "layer 0, 6 heads, 14 tokens" in title(draw(target, "attention"))


def test_what_is_asked_for_is_looked_at_before_any_weight_is_there(talking):
    folder, _ = talking
    whole, bundled = subject(folder), subject()
    target = replace(whole, plan=replace(whole.plan, checkpoint=replace(whole.plan.checkpoint, files={})))
    assert not target.at_hand
    for kind in KINDS:
        check(target, kind, name="embed.tokens.weight[3:9, :]" if kind == "weights" else None)
    check(target, "attention", layer=2, prompt="")
    check(target, "norms", prompt="a")
    wrong = {
        "plot: kind: found 'sound', expected positions, weights, attention, spectrum, norms": (target, "sound", {}),
        "plot: weights: found no name, expected that of a tensor, as embed.tokens.weight": (target, "weights", {}),
        "plot: weights: found 'wpe', expected": (target, "weights", {"name": "wpe"}),
        "plot: weights: found the block": (target, "weights", {"name": "norm.bias[0:61]"}),
        "plot: layer: found 3, expected 0 to 2": (target, "attention", {"layer": 3}),
        "plot: layer: found -1, expected 0 to 2": (target, "attention", {"layer": -1}),
        "plot: layer: found 0, but norms has none: it is for attention": (target, "norms", {"layer": 0}),
        "plot: prompt: found 'a', but spectrum has none: it is for attention and norms": (
            target,
            "spectrum",
            {"prompt": "a"},
        ),
        "plot: name: found 'a', but positions has none: it is for weights": (target, "positions", {"name": "a"}),
        "plot: columns: found [1], but norms has none: it is for positions": (target, "norms", {"columns": [1]}),
        "plot: columns: found 1, expected a Sequence": (target, "positions", {"columns": 1}),
        "plot: columns: found [1, 60], expected numbers from 0 to 59": (target, "positions", {"columns": [1, 60]}),
        "plot: layer: found '1', expected a int": (target, "attention", {"layer": "1"}),
        "plot: layer: found True, expected a int": (target, "attention", {"layer": True}),
        "plot: prompt: found b'a', expected a str": (target, "norms", {"prompt": b"a"}),
        "plot: positions: the bundled demo has rotary positions, which are angles": (bundled, "positions", {}),
    }
    for message, (what, kind, options) in wrong.items():
        for look in (check, draw):
            with pytest.raises(ConfigError) as error:
                look(what, kind, **options)
            assert str(error.value).startswith(message)
            assert "\n" not in str(error.value)
    with pytest.raises(SourceError, match="an architecture has no weights to draw"):
        check(subject("gpt2"), KINDS[0])
    with pytest.raises(SourceError, match="its weights were not fetched"):
        draw(target, "spectrum")


def test_prompts_as_long_as_the_context_and_no_longer(talking):
    folder, _ = talking
    target = subject(folder, headers_only=False)
    tokenizer = archport.tokenizer(folder)
    assert len(tokenizer.encode("W" * 37).ids) == 37
    for kind in ("attention", "norms"):
        assert "37 tokens" in title(draw(target, kind, prompt="W" * 37))
        with pytest.raises(ConfigError, match=r"^plot: prompt: found 38 tokens, expected at most 37$"):
            draw(target, kind, prompt="W" * 38)
        with pytest.raises(ConfigError, match=r"^plot: prompt: found 1 tokens, expected at least 2$"):
            draw(target, kind, prompt="W")


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite(talking, odd):
    folder, _ = talking
    key = "transformer.h.1.attn.c_attn.weight"
    before = load_file(folder / "model.safetensors")["transformer.wpe.weight"]

    def spoil(tensors):
        tensors[key][3, 4] = odd
        tensors["transformer.wpe.weight"][5, 7:10] = odd
        tensors["transformer.ln_f.bias"][:2] = odd

    target = edited(folder, spoil)
    figure = draw(target, "positions")
    before[5, 7:10] = 0
    [image] = figure.axes[0].images
    assert image.get_array().mask.sum() == 3
    assert image.get_array().mask[5, 7:10].all()
    assert image.get_clim()[1] == pytest.approx(before.abs().flatten().sort().values[-2].item())
    assert title(figure).endswith("embed.positions.weight, 37 x 60; 3 not finite, white")
    assert tuple(image.cmap.get_bad()) == (1, 1, 1, 1)
    assert [line.get_label() for line in figure.axes[1].lines] == [f"element {one}" for one in strongest(before)]
    shown = pixels(figure)
    column, row = figure.axes[0].transData.transform((7, 5)) * 150 / figure.dpi
    assert tuple(shown[len(shown) - int(row), int(column)]) == (255, 255, 255)
    assert title(draw(target, "weights", name="norm.bias")).endswith("norm.bias, 60; 2 not finite")
    where = "plot: spectrum: blocks.1.attn.qkv.weight: found 1 of 10,800 numbers not finite, expected none"
    with pytest.raises(ConfigError, match=f"^{where}$"):
        draw(target, "spectrum")
    with pytest.raises(ConfigError, match=r"^plot: norms: found numbers in the embedding that are not finite"):
        draw(target, "norms")
    for layer in range(3):
        with pytest.raises(ConfigError, match=f"^plot: attention: found numbers in layer {layer} that are not finite"):
            draw(target, "attention", layer=layer)


def test_streams_that_are_finite_at_first(talking):
    folder, _ = talking
    target = edited(folder, lambda tensors: tensors["transformer.h.1.mlp.c_fc.bias"].fill_(torch.inf))
    assert images(draw(target, "attention", layer=1))
    with pytest.raises(ConfigError, match=r"^plot: attention: found numbers in layer 2 that are not finite"):
        draw(target, "attention", layer=2)
    with pytest.raises(ConfigError, match=r"^plot: norms: found numbers after 2 layers that are not finite"):
        draw(target, "norms")


def test_zeros_and_nothing_finite(talking, tmp_path):
    folder, _ = talking
    target = edited(folder, lambda tensors: [tensor.zero_() for tensor in tensors.values()])
    for kind in KINDS:
        figure = draw(target, kind, name="embed.tokens.weight" if kind == "weights" else None)
        pixels(figure)
        if kind in ("spectrum", "norms"):
            assert all(axes.get_yscale() == "linear" for axes in figure.axes)
            assert all(axes.get_ylim()[0] < 0 < axes.get_ylim()[1] for axes in figure.axes)
    folder, _ = result(tmp_path / "again")
    figure = draw(edited(folder, lambda tensors: tensors["transformer.h.1.attn.c_proj.weight"].zero_()), "spectrum")
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "log", "log"]
    target = edited(folder, lambda tensors: tensors["transformer.wpe.weight"].fill_(torch.nan))
    assert "2,220 not finite" in title(draw(target, "positions"))
    pixels(draw(target, "positions"))


def test_long_prompts_keep_their_heads(tmp_path):
    folder, _ = result(tmp_path / "long", n_positions=512)
    prompt = "W" * 500
    figure = draw(subject(folder, headers_only=False), "attention", prompt=prompt)
    shown = pixels(figure, grey=True)
    for axes in figure.axes[:5]:
        assert 30 <= len(axes.get_xticks()) == len(axes.get_yticks()) <= 40
        assert len(labels(axes.xaxis)) == len(axes.get_xticks())
        box = axes.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
        assert min(box.width, box.height) > 2.5
        # White is less than half of what lies below the diagonal: something is seen.
        left, low, right, top = (int(150 * edge) for edge in box.extents)
        square = np.asarray(Image.fromarray(shown[len(shown) - top : len(shown) - low, left:right]).resize((400, 400)))
        assert (square[np.tril_indices(400, -8)] < 255).mean() > 0.5
        ticks = [label.get_window_extent() for label in axes.get_yticklabels()]
        assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(ticks))
    assert "500 tokens, one in 13 named" in title(figure)
    clipped = figure.get_suptitle().split("\n")[-1]
    assert clipped.removesuffix("\N{HORIZONTAL ELLIPSIS}") in prompt[:120]
    assert clipped.endswith("W\N{HORIZONTAL ELLIPSIS}")


def test_labels_are_short_and_in_letters_the_font_has():
    words = ["日本語", "\U0001fae8", "x" * 40, "a b\u202e", "$x$", "日", "é"]
    figure = drawing.attention("模型", 0, torch.eye(len(words))[None], words, "")
    pixels(figure)
    shown = labels(figure.axes[0].xaxis)
    assert shown == labels(figure.axes[0].yaxis)
    assert shown[0] == "\\u65e5\N{HORIZONTAL ELLIPSIS}"
    assert shown[1] == "\\U0001fae8"
    assert shown[2] == "x" * (LETTERS - 1) + "\N{HORIZONTAL ELLIPSIS}"
    assert shown[3:] == ["a\u2423b\\u202e", "$x$", "\\u65e5", "é"]
    assert title(figure).startswith("\\u6a21\\u578b: attention")


@pytest.mark.parametrize("heads", [1, 5])
@pytest.mark.parametrize("letter", ["i", "W", "日"])
def test_titles_fit(heads, letter, tmp_path):
    folder, _ = result(tmp_path / "model", n_head=heads)
    target = replace(subject(folder, headers_only=False), name="begin" + letter * 230 + "/end")
    for kind in ("attention", "norms"):
        figure = draw(target, kind)
        figure.draw_without_rendering()
        box, whole = figure._suptitle.get_window_extent(), figure.bbox
        assert whole.x0 < box.x0 < box.x1 < whole.x1
        assert box.y1 <= whole.y1
        assert all(box.y0 >= axes.get_tightbbox().y1 for axes in figure.axes if axes.axison)
        assert "/end: " in title(figure)
        assert "begin" not in title(figure)
        assert figure.get_suptitle().endswith(f"\n{PROMPT}")
        figure = draw(target, kind, prompt=letter * 12)
        figure.draw_without_rendering()
        assert whole.x0 < figure._suptitle.get_window_extent().x0
        shown = figure.get_suptitle().split("\n")[-1].removesuffix("\N{HORIZONTAL ELLIPSIS}")
        assert ("\\u65e5" if letter == "日" else letter) * 12 in (shown, shown + "\\u65e5" * (12 - shown.count("\\")))


def test_the_sign_is_seen_in_grey():
    colours = colormaps[SIGNED](np.linspace(0, 1, 101))[:, :3]
    lightness = colours @ (0.299, 0.587, 0.114)
    assert (np.diff(lightness) > 0).all()
    assert lightness[-1] < 0.9  # than which what is not finite is lighter


def test_every_image_of_weights_is_in_that_map(gpt2):
    target = subject(gpt2, headers_only=False)
    for figure in (draw(target, "positions"), draw(target, "weights", name="blocks.0.mlp.up.weight")):
        [image] = figure.axes[0].images
        low, high = image.get_clim()
        assert image.cmap.name == SIGNED
        assert low == -high < 0


def test_axes_say_what_they_are(gpt2):
    target = subject(gpt2, headers_only=False)
    expected = {
        "embed.tokens.weight": ("token", "element"),
        "embed.positions.weight": ("position", "element"),
        "embed.tokens.weight[3:5, :]": ("token", "element"),
        "blocks.0.mlp.up.weight": ("out", "in"),
        "norm.bias": ("value", "element"),
    }
    for name, (down, across) in expected.items():
        axes = draw(target, "weights", name=name).axes[0]
        assert (axes.get_ylabel(), axes.get_xlabel()) == (down, across)


def test_a_lone_row_of_a_large_image_is_seen_and_cells_of_a_small_one_are_whole(talking):
    folder, _ = talking

    def quiet(tensors):
        tensors["transformer.wte.weight"].normal_(0, 1e-3)
        tensors["transformer.wte.weight"][[301, 1020, 1501]] = 1.0
        tensors["transformer.wte.weight"][[400, 1111, 1777]] = torch.nan

    target = edited(folder, quiet)
    figure = draw(target, "weights", name="embed.tokens.weight")
    shown = pixels(figure).astype(int)
    column = shown[:, int(figure.axes[0].transData.transform((30, 0))[0] * 150 / figure.dpi)]
    height = len(shown)

    def near(row):
        at = height - int(figure.axes[0].transData.transform((0, row))[1] * 150 / figure.dpi)
        return column[at - 3 : at + 4]

    background = near(700)[3]
    for row in (301, 1020, 1501):
        assert abs(near(row) - background).max() > 20
    for row in (400, 1111, 1777):
        assert (near(row) == 255).all(-1).any()
    small = draw(target, "weights", name="blocks.0.attn.out.weight")
    assert small.axes[0].images[0].get_interpolation() == "nearest"


def test_names_as_the_checkpoint_has_them(gpt2):
    target = subject(gpt2, headers_only=False)
    file = load_file(gpt2 / "model.safetensors")
    figure = draw(target, "weights", name="blocks.1.mlp.up.weight")
    assert torch.equal(images(figure)[0], file["transformer.h.1.mlp.c_fc.weight"].T)
    assert "blocks.1.mlp.up.weight, 104 x 60" in title(figure)
    [drawn] = draw(target, "weights", name="h.1.mlp.c_fc.bias[3:9]").axes[0].lines
    assert drawn.get_ydata().tolist() == file["transformer.h.1.mlp.c_fc.bias"][3:9].tolist()
    messages = {
        "blocks.0.attn.c_attn": "the nearest are blocks.0.attn.qkv.bias, blocks.0.attn.qkv.weight, ",
        "Embed.tokens.weight": "the nearest are embed.tokens.weight, ",
        "blocks.9.mlp.up.weight": r"the nearest are blocks.\d.mlp.up.weight, blocks.\d.mlp.up.weight, ",
        "blocks.1.attn.qkv.wieght": "the nearest are blocks.1.attn.qkv.weight, ",
        "head.weight": "which is tied: expected embed.tokens.weight",
        "lm_head.weight": "which is tied: expected embed.tokens.weight",
    }
    for name, message in messages.items():
        with pytest.raises(ConfigError, match=f"^plot: weights: found '{name}', .*{message}"):
            check(target, "weights", name=name)
    for name in ("", None):
        with pytest.raises(ConfigError, match="found no name, expected that of a tensor"):
            check(target, "weights", name=name)


def test_a_head_that_the_file_has_though_the_config_ties_it(gpt2):
    target = edited(gpt2, lambda tensors: tensors.update({"lm_head.weight": torch.ones(131, 60)}))
    assert torch.equal(images(draw(target, "weights", name="head.weight"))[0], torch.ones(131, 60))
    assert torch.equal(images(draw(target, "weights", name="lm_head.weight"))[0], torch.ones(131, 60))
    check(subject(gpt2), "weights", name="lm_head.weight")
    embedding = load_file(gpt2 / "model.safetensors")["transformer.wte.weight"]
    target = edited(gpt2, lambda tensors: tensors.update({"lm_head.weight": embedding}))
    with pytest.raises(ConfigError, match=r"found 'head\.weight', which is tied: expected embed\.tokens"):
        draw(target, "weights", name="head.weight")


def test_from_python_a_figure_is_what_the_command_writes(talking, tmp_path):
    from matplotlib.figure import Figure

    folder, _ = talking
    for words, options in {
        ("attention", "--layer", "1", "--prompt", "a b"): {"layer": 1, "prompt": "a b"},
        ("positions", "--columns", "3, 5,50"): {"columns": [3, 5, 50]},
        ("weights", "h.1.attn.c_attn.weight[:9,:9]"): {"name": "h.1.attn.c_attn.weight[:9, :9]"},
    }.items():
        figure = archport.plot(folder, words[0], **options)
        assert isinstance(figure, Figure)
        done = CliRunner().invoke(app, ["plot", str(folder), *words, "-o", str(tmp_path / "a.svg"), "--force"])
        assert done.exit_code == 0, done.output
        assert (tmp_path / "a.svg").read_bytes() == drawn(figure, ".svg")
    assert CliRunner().invoke(app, ["plot", str(folder), "positions", "--columns", "1;2"]).exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("sound",),
        ("weights", "wpe"),
        ("spectrum", "--layer", "1"),
        ("attention", "--layer", "9"),
        ("norms", "--prompt", "W"),
    ],
    ids=" ".join,
)
def test_arguments_are_looked_at_before_the_output_file(talking, tmp_path, words):
    (tmp_path / "a.png").write_bytes(b"old")
    done = CliRunner().invoke(app, ["plot", str(talking[0]), *words, "-o", str(tmp_path / "a.png")])
    assert isinstance(done.exception, ConfigError)
    done = CliRunner().invoke(app, ["plot", str(talking[0]), "norms", "-o", str(tmp_path / "a.png")])
    assert isinstance(done.exception, ExportError)
    assert (tmp_path / "a.png").read_bytes() == b"old"


@contextmanager
def files_of_at_most(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path):
    whole_file(tmp_path / "a.png", b"old")
    with files_of_at_most(1 << 20), pytest.raises(ExportError, match=r"a\.png: cannot be written: File too large"):
        whole_file(tmp_path / "a.png", bytes(1 << 21))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.png": b"old"}


def test_files(tmp_path, gpt2):
    figure = draw(subject(gpt2, headers_only=False), "positions")
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
    words = ("plot", "bundled", "attention", "--layer", "2", "--prompt", "a b", "-o", "p.png")
    assert run(*words, cwd=tmp_path).stdout.startswith("p.png  ")


def test_without_matplotlib_is_one_line(tmp_path):
    code = (
        "import sys; sys.modules['matplotlib'] = sys.modules['matplotlib.figure'] = None; import archport.cli as c; "
        f"sys.argv = ['archport', 'plot', 'bundled', 'attention', '-o', {str(tmp_path / 'a.png')!r}]; c.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "archport: drawing needs matplotlib: pip install 'archport[plot]'\n"
