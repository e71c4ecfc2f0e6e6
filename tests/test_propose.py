"""propose: what a decoder does is read by running it, written in our parts, and proved; what is not known is a hole."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from archport import from_state_dict, registry
from archport.errors import SourceError
from archport.layers import Window
from archport.proposing import propose
from archport.proposing.apart import apart
from archport.proposing.own_class import of_class
from archport.proposing.proposal import subject_of
from archport.proposing.rounding import rounding_as
from archport.proposing.subject import ids_of, run, vocab_of
from archport.proposing.tracing import in_full
from archport.proposing.transformers_class import of_transformers
from archport.proposing.unreached import unreached
from archport.proposing.varying import Use, reading, result

from .commands import run as run_command
from .references import reference

FAST = ("gpt2", "gpt_neox", "llama", "gemma2", "falcon", "olmo2")
# Others that are read completely, ported by hand or not.
MORE = (
    *("arcee", "bloom", "codegen", "cohere", "gemma", "glm"),
    *("gpt_oss", "gptj", "granite", "mistral", "mixtral", "mpt", "olmo", "olmoe"),
    *("phi", "qwen2", "qwen3", "qwen3_moe", "seed_oss", "starcoder2"),
    *("bert_generation", "biogpt", "dots1", "exaone4", "gpt_neo", "granite_swa", "nemotron", "openai_gpt"),
)
# What a file has to say, of a kind each: and what it must not.
WRITTEN = {
    "aria_text": ('"experts_per_token": "moe_topk"', "2 * cfg.mlp_width"),
    "bart": ('"model.decoder.layers.{n}.encoder_attn.k_proj.*": "no pass reads it"', '"layers": "decoder_layers"'),
    "bert": ("    is_decoder: bool = False\n", 'ignored={"cls.predictions.decoder.bias": "the same tensor as'),
    "cwm": ('written={"bos_token_id": 0}', "windows = cfg.windows()"),
    "electra": ('"head.*": "generator_lm_head.*"', '"head.weight": "embed.tokens.weight"'),
    "gemma3_text": ("cfg.rope_parameters_sliding_attention_rope_theta", "Rotary(cfg.head_width,"),
    "glm4_moe": ("if layer < cfg.first_k_dense_replace:", "first_k_dense_replace: int = bounded("),
    "opt": ("word_embed_proj_dim: int = derived(lambda cfg: cfg.width)", "if self.word_embed_proj_dim != self.width:"),
    "phi3": ('if one["rotary_scaling"] == "longrope"', 'if self.rotary_scaling not in ("default", "longrope"):'),
    "qwen2_moe": ("shared=SharedExpert(", '"decoder_sparse_step": "decoder_sparse_step"'),
    "roberta": ("CountedEmbed(", "context: int = derived(lambda cfg: cfg.position_rows - cfg.padding - 1)"),
    "smollm3": ("no_rope_layers: tuple[Literal[0, 1], ...]", "cfg.no_rope_layers[layer]"),
}
NANO = "docs/examples/nano.py:GPT"


@pytest.fixture(scope="module")
def nano():
    return propose(NANO, kills=False)


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.families) for name in MORE)])
def test_a_program_makes_the_numbers_of_the_module_on_other_ids(name):
    subject = of_transformers(name)
    found = reading(subject)
    assert found.program.takes == found.shapes.keys()
    ids = ids_of(vocab_of(found.module), seed=9, batch=3, seq=23)
    with torch.no_grad(), in_full():
        theirs = run(found.module, ids)
    assert (found.program.make()(ids) - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize(
    "name",
    [
        *("gpt2", "llama", "gemma2", "olmo2"),
        *(
            pytest.param(name, marks=pytest.mark.families)
            for name in ("gemma3_text", "gpt_neox", "gpt_oss", "gptj", "granite", "mistral", "olmo", "olmoe", "phi")
        ),
    ],
)
def test_parts_that_only_round_differently_are_those_that_a_person_chose(name):
    subject, arch = of_transformers(name), registry.architecture(name)
    found = reading(subject)
    read = rounding_as(subject, found)(found.program).make()
    by_hand = registry.skeleton(arch, arch.config_class(**arch.sizes))
    kinds = [{type(one) for one in model.modules()} - {Window} for model in (read, by_hand)]
    assert kinds[0] == kinds[1]


def test_a_module_of_one_s_own_is_proved_and_written(nano, tmp_path):
    assert nano.ok, nano.proof.faults
    assert str(nano).startswith(f"gpt: {NANO}\n")
    paths = nano.write(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == ["models/gpt.py", "mappings/gpt.py"]
    with pytest.raises(SourceError, match="is there already"):
        nano.write(tmp_path)
    for words in (["format", "--check", "--diff"], ["check", "--select", "E,F,I"]):
        ruff = [sys.executable, "-m", "ruff", words[0], "--line-length", "120", *words[1:], str(tmp_path)]
        done = subprocess.run(ruff, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stdout + done.stderr
    listed = run_command("--plugin", str(tmp_path), "models", "--json")
    assert '"gpt"' in listed.stdout


def test_what_is_written_loads_the_weights_of_the_module_and_is_it(nano, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    nano.write(tmp_path)
    registry.register_folder(tmp_path)
    subject = of_class(NANO)
    for changes in ({}, {"bias": True}, {"n_layer": 3, "n_embd": 60}):
        module = subject.module(changes, seed=5)
        port = from_state_dict({"model_type": "gpt", **subject.config, **changes}, module.state_dict())
        ids = ids_of(vocab_of(module), seed=9, batch=3, seq=23)
        with torch.no_grad():
            theirs = run(module, ids)
            assert (port(ids) - theirs).abs().max() < 1e-9 * theirs.abs().max()


def test_a_folder_is_the_decoder_of_its_config_with_what_that_says_but_the_sizes(tmp_path):
    reference("llama", attention_bias=True, tie_word_embeddings=True).config.save_pretrained(tmp_path)
    settings = reading(subject_of(str(tmp_path))).program.settings()
    assert settings["blocks.0.attn.bias"] is settings["tied"] is True
    assert settings["embed.width"] == 48
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SourceError, match=r"config\.json: found no model_type, expected that of a decoder"):
        subject_of(str(tmp_path))


@pytest.mark.parametrize("broken", ["models/other.py", "mappings/other.py"])
def test_of_a_folder_with_a_broken_file_nothing_is_added(nano, broken, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    nano.write(tmp_path)
    for room in ("models", "mappings"):
        (tmp_path / room / "other.py").write_text((tmp_path / room / "gpt.py").read_text())
    (tmp_path / broken).write_text("import nothing_of_this_name")
    with pytest.raises(SourceError, match=f"{broken}: ModuleNotFoundError"):
        registry.register_folder(tmp_path)
    (tmp_path / broken).unlink()
    if broken.startswith("mappings"):
        with pytest.raises(SourceError, match=f"{broken}: no such file"):
            registry.register_folder(tmp_path)
    assert not registry._registered


def test_what_is_not_proved_is_written_as_a_draft_alone_and_says_so(nano, tmp_path):
    doubted = replace(nano, proof=replace(nano.proof, dead=("wpe.weight",)))
    assert not doubted.ok
    assert "NOT proved: wpe.weight: no gradient reaches it in any probe" in str(doubted)
    with pytest.raises(SourceError, match=r"gpt: not written: wpe\.weight: no gradient reaches it"):
        doubted.write(tmp_path)
    assert not [*tmp_path.iterdir()]
    for path in doubted.write(tmp_path, draft=True):
        assert path.read_text().startswith('"""DRAFT, not proved: ')


class Branching(nn.Module):
    """A module of which a probe runs a part."""

    def forward(self, x):
        if x.ndim > 2:
            return x.flatten(1)
        return x * 2

    def never_called(self):
        return None


def test_lines_that_no_probe_runs_are_listed():
    module = Branching()
    assert unreached(module, lambda: module(torch.zeros(2, 2))) == ["Branching.forward: return x.flatten(1)"]
    assert unreached(module, lambda: module(torch.zeros(2, 2, 2))) == ["Branching.forward: return x * 2"]
    assert unreached(module, lambda: (module(torch.zeros(2, 2)), module(torch.zeros(2, 2, 2)))) == []
    patched = type("Patched", (Branching,), {"forward": lambda _, x: x})()
    assert unreached(patched, lambda: patched(torch.zeros(2, 2))) == []


@pytest.mark.parametrize(
    ("name", "theirs", "path", "way"),
    [
        ("gemma2", "query_pre_attn_scalar", "blocks.0.attn.scale", "{}**-0.5"),
        ("granite", "residual_multiplier", "blocks.1.scale", "{}"),
        ("granite", "logits_scaling", "finish.scale", "1 / {}"),
    ],
)
@pytest.mark.families
def test_a_field_is_what_it_does_to_the_settings_of_parts(name, theirs, path, way):
    subject = of_transformers(name)
    used = result(subject, reading(subject), theirs, 3)
    assert isinstance(used, Use)
    assert used.ways[path] == way


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["diff", NANO, "gpt2"], "the same: embedding token vectors, positions kind, residual wiring"),
        (["tree", NANO], "blocks.0-1"),
        (["explain", NANO, "attn"], "h.{n}.attn.c_attn.weight"),
        (["explain", "arcee", "mlp"], "model.layers.{n}.mlp.up_proj.weight"),
    ],
    ids=str,
)
def test_what_archport_does_not_have_is_looked_at_as_it_is_read(words, said):
    assert said in run_command(*words).stdout


@pytest.mark.families
def test_qwen3_is_proposed_again_and_verified(tmp_path):
    made = run_command(
        "propose", "qwen3", "--name", "qwen3_again", "--out", tmp_path, "--no-kills", code=0, seconds=600
    )
    assert "proved " in made.stdout
    assert "1 required (use_sliding_window)" in made.stdout
    assert "hole" not in made.stdout
    done = run_command("--plugin", str(tmp_path), "verify", "qwen3_again", seconds=600)
    assert "qwen3_again: the same model as transformers (eager) in float32" in done.stdout


@pytest.mark.families
@pytest.mark.parametrize("name", WRITTEN)
def test_a_decoder_of_each_kind_is_proved_as_files_that_say_what_it_is(name):
    found = propose(name, kills=False)
    assert found.ok, [*found.holes, *(found.proof.faults if found.proof else [])]
    text = "\n".join(one for _, one in found.files)
    for said in WRITTEN[name]:
        assert said in text, text


@pytest.mark.families
def test_the_same_decoder_is_written_as_the_same_text():
    code = (
        "from archport.proposing.proposal import subject_of; from archport.proposing.varying import reading\n"
        "from archport.proposing.writing import written\n"
        "subject = subject_of('opt'); print(written(subject, reading(subject), 'opt')[1])"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


def test_a_hole_is_a_line_and_nothing_is_written(tmp_path):
    done = run_command("propose", "diffllama", "--out", str(tmp_path / "out"), "--no-kills", code=1)
    hole = next(line for line in done.stdout.splitlines() if line.startswith("hole"))
    assert hole in Path("docs/proposing.md").read_text()
    assert not (tmp_path / "out").exists()
    as_json = json.loads(run_command("propose", "diffllama", "--no-kills", "--json", code=1).stdout)
    assert as_json["proved"] is False
    assert as_json["holes"]


def raising(error, told):
    told("begun")
    raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("shape '[-1, 4]' is invalid"), r"^RuntimeError: shape '\[-1, 4\]' is invalid$"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "^ran out of 8 GB of memory"),
        (MemoryError(), "^ran out of 8 GB of memory"),
        (SystemExit(3), "ended with code 3"),
    ],
    ids=["RuntimeError", "of torch for memory", "MemoryError", "SystemExit"],
)
def test_whatever_ends_what_is_read_is_a_line(error, said):
    stages = []
    with pytest.raises(SourceError, match=said):
        apart(raising, {"error": error}, seconds=120, gigabytes=8, told=stages.append)
    assert stages == ["begun"]


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (1, ["propose", "no_such_model"], "has no causal decoder of this model_type"),
        (1, ["propose", "my_model.py:GPT"], "no such file"),
        (2, ["propose", NANO, "--draft"], "--draft: expected --out FOLDER beside it"),
        (2, ["propose", NANO, "--prove-only", "--out", "x"], "--prove-only writes nothing"),
        (2, ["--plugin", "docs", "models"], "found no models/NAME.py, expected models/ and mappings/"),
    ],
    ids=str,
)
def test_wrong_words_are_one_line(code, words, said):
    done = run_command(*words, code=code)
    assert said in " ".join(done.stderr.replace("│", " ").split())


# --- decoders of plain torch code, put together at random ---


class Plain(nn.Module):
    """A decoder whose parameters, norms, wiring, activations and layouts are drawn by a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        dice = torch.Generator().manual_seed(seed)

        def one_of(*options):
            return options[int(torch.randint(len(options), (1,), generator=dice))]

        self.heads, self.width, self.count = one_of(2, 3, 4), one_of(24, 36, 48), 2
        self.norm, self.wiring = one_of("layer", "root"), one_of("before", "after", "beside", "shared")
        self.fused, self.gated, self.learned = one_of(True, False), one_of(True, False), one_of(True, False)
        self.activate = one_of(torch.relu, nn.functional.silu, nn.functional.gelu)
        self.scale, self.eps = one_of(1.0, 0.37, None), one_of(1e-5, 1e-6)
        self.p = nn.ParameterDict()
        width, mlp = self.width, one_of(52, 68)
        shapes = {"t": (139, width), "h": (139, width), "n": (width,)} | ({"o": (40, width)} if self.learned else {})
        for at in range(self.count):
            shapes |= {f"a{at}": (width,), f"b{at}": (width,), f"d{at}": (width, width), f"u{at}": (mlp, width)}
            shapes |= {f"w{at}": (width, mlp)} | ({f"g{at}": (mlp, width)} if self.gated else {})
            three = {f"f{at}": (3 * width, width)} if self.fused else {f"{x}{at}": (width, width) for x in "qkv"}
            shapes |= three
        for name, shape in shapes.items():
            self.p[name] = nn.Parameter(torch.empty(shape))

    def normed(self, x, name):
        if self.norm == "layer":
            return nn.functional.layer_norm(x, x.shape[-1:], self.p[name], None, self.eps)
        return x * (x * x).mean(-1, keepdim=True).add(self.eps).rsqrt() * self.p[name]

    def attention(self, x, at):
        if self.fused:
            q, k, v = torch.einsum("bsw,ow->bso", x, self.p[f"f{at}"]).chunk(3, -1)
        else:
            q, k, v = (x @ self.p[f"{name}{at}"].T for name in "qkv")
        q, k, v = (one.reshape(*one.shape[:2], self.heads, -1).permute(0, 2, 1, 3) for one in (q, k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return mixed.permute(0, 2, 1, 3).flatten(2) @ self.p[f"d{at}"].T

    def mlp(self, x, at):
        hidden = x @ self.p[f"u{at}"].T
        hidden = self.activate(x @ self.p[f"g{at}"].T) * hidden if self.gated else self.activate(hidden)
        return hidden @ self.p[f"w{at}"].T

    def forward(self, ids):
        x = self.p["t"][ids] + (self.p["o"][: ids.shape[1]] if self.learned else 0)
        for at in range(self.count):
            if self.wiring == "before":
                x = x + self.attention(self.normed(x, f"a{at}"), at)
                x = x + self.mlp(self.normed(x, f"b{at}"), at)
            elif self.wiring == "after":
                x = x + self.normed(self.attention(x, at), f"a{at}")
                x = x + self.normed(self.mlp(x, at), f"b{at}")
            elif self.wiring == "beside":
                x = x + self.attention(self.normed(x, f"a{at}"), at) + self.mlp(self.normed(x, f"b{at}"), at)
            else:
                y = self.normed(x, f"a{at}")
                x = x + self.attention(y, at) + self.mlp(y, at) * self.p[f"b{at}"].new_ones(())
        return self.normed(x, "n") @ self.p["h"].T


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.families) for seed in range(3, 20))])
def test_a_decoder_of_plain_code_put_together_at_random_is_explained(seed, monkeypatch):
    subject = of_class_made_by(monkeypatch, lambda: Plain(seed))
    found = reading(subject)
    spare = {f"p.b{at}" for at in range(2)} if subject.make({}).wiring == "shared" else set()
    assert found.shapes.keys() - found.program.takes == spare
    ids = ids_of(139, seed=9, batch=3, seq=23)
    with torch.no_grad():
        theirs = found.module(ids)
    assert (found.program.make()(ids) - theirs).abs().max() < 1e-6 * theirs.abs().max()


def of_class_made_by(monkeypatch, make):
    from archport.proposing import own_class

    monkeypatch.setattr(own_class, "imported", lambda _: Plain)
    monkeypatch.setattr(own_class, "made", lambda *_: make())
    return of_class("here:Plain")
