"""Several processes compute or train one model: real ones, under torchrun. Oracle: transformers in eager mode."""

import json
import os
import re
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed.checkpoint as dcp
from filelock import FileLock
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from typer.testing import CliRunner

import archport
from archport import parallel
from archport.cli import plans, texts  # noqa: F401  # each adds its commands
from archport.cli.app import app
from archport.errors import ArchportError, ConfigError, GenerationError
from archport.layers import Alibi, Attention, Window
from archport.loading import execute
from archport.parallel.cutting import children, pieces
from archport.parallel.parts import share_out
from archport.parallel.ranks import Ranks
from archport.registry import architecture, skeleton

from . import ranks as processes
from .parallel_models import names, reference, sizes, under_torchrun
from .references import FAMILIES

# What differs between architectures when they are cut: learned positions, rotary, groups, slopes, norms across heads.
SAMPLE = ["gpt2", "gptj", "gpt_neox", "llama", "bloom", "olmo2", "gpt_oss", "cohere qk_norm"]
SAMPLE = [name for name in SAMPLE if name in names()]
# A tied head and another, by archport's loss and by torch's, with the blocks' own weights and those across their file.
TRAINED = {"gpt2": "loss", "llama": "logits", "gpt_neox": "loss"}


def written(name: str, folder: Path):
    """A checkpoint of transformers, and what it says of some tokens."""
    model = reference(name)
    folder = folder / name.replace(" ", "_")
    model.save_pretrained(folder)
    ids = torch.randint(0, model.config.vocab_size, (2, 19), generator=torch.Generator().manual_seed(1))
    torch.save(ids, folder / "ids.pt")
    with torch.no_grad():
        return str(folder), ids, model(ids).logits


def check_logits(made, said: list[dict]) -> None:
    """Every rank says what transformers and one process say, whole and through the cache, and goes on with one text."""
    for folder, ids, theirs in made:
        one, ranks = archport.load(folder), [rank["logits"][folder] for rank in said]
        first, *others = ranks
        with torch.no_grad():
            alone = one(ids)
        limit = 1e-5 * theirs.abs().max()
        assert (first["logits"] - theirs).abs().max() <= limit, folder
        assert (first["logits"] - alone).abs().max() <= limit, folder
        assert (first["cached"] - theirs[:, -3:]).abs().max() <= limit, folder
        assert first["greedy"] == archport.generate(one, ids[:, :5], max_new_tokens=4, greedy=True)
        assert first["score"] == pytest.approx(archport.score(one, ids[0].tolist()).loss, rel=1e-5)
        for other in others:
            assert torch.equal(other["logits"], first["logits"]), folder
            assert (other["greedy"], other["drawn"]) == (first["greedy"], first["drawn"]), folder
        assert {rank["kv_heads"] for rank in ranks} == {one.config.kv_heads // len(ranks)}
        assert "token 113, but this model has learned 113" in first["outside"]
        for name, parameter in one.named_parameters():
            own = sum(torch.Size(rank["own"][name]).numel() for rank in ranks)
            assert own in (parameter.numel(), len(ranks) * parameter.numel())


class Started(NamedTuple):
    """What two processes were given, and what each of them said."""

    made: list
    large: list[str]
    trained: dict[str, str]
    saved: Path
    said: list[dict]


@pytest.fixture(scope="session")
def started(tmp_path_factory) -> Started:
    """All that two processes do in the default run, as each start takes seconds; once, whoever runs the tests."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with FileLock(root / "parallel.lock"):
        if not (root / "parallel.pt").exists():
            torch.save(_start(root / "parallel"), root / "parallel.pt")
    return Started(*torch.load(root / "parallel.pt", weights_only=False))


def _start(root: Path) -> tuple:
    made = [written(name, root) for name in SAMPLE]
    trained = {
        name: str(archport.export(archport.build(name, sizes(name)), root / f"trained {name}")) for name in TRAINED
    }
    large = []
    for name, width, layers in (("gpt2", 64, 1), ("llama", 64, 1), ("gpt2", 512, 12), ("llama", 512, 12)):
        more = {"width": width, "layers": layers, "mlp_width": 4 * width, "head_width": width // 8}
        model = archport.build(name, sizes(name) | {"vocab_size": 8000} | more)
        large.append(str(archport.export(model, root / f"{name} {width}")))
    saved = root / "saved"
    jobs = {"peak": {"folders": large, "dtype": "float32"}, "logits": [folder for folder, *_ in made]}
    jobs["steps"] = {"folders": [[folder, TRAINED[name]] for name, folder in trained.items()], "saved": str(saved)}
    return made, large, trained, saved, under_torchrun(2, root / "out", **jobs)


def test_two_processes_say_what_transformers_says(started):
    check_logits(started.made, started.said)


def at_once(which: list[str], ranks: int, tmp_path: Path) -> None:
    made = [written(name, tmp_path) for name in which]
    check_logits(made, under_torchrun(ranks, tmp_path / "out", logits=[folder for folder, *_ in made]))


@pytest.mark.families
def test_two_processes_say_what_transformers_says_for_every_architecture(tmp_path):
    at_once(names(), 2, tmp_path)


@pytest.mark.families
def test_four_processes_say_what_transformers_says(tmp_path):
    at_once([name for name in [*SAMPLE, "codegen", "mpt", "falcon alibi"] if name in names()], 4, tmp_path)


# --- reading ---


def of_rank(planned, rank: int, count: int):
    return execute(planned, cut=partial(share_out, ranks=Ranks(rank, count)))


def check_pieces(folder: Path, count: int, dtype: str) -> None:
    planned = archport.plan(folder, dtype=dtype)
    whole = dict(archport.load(folder, dtype=dtype).named_parameters())
    for rank in range(count):
        own = Ranks(rank, count)
        cut, model = pieces(skeleton(planned.architecture, planned.config), own), of_rank(planned, rank, count)
        assert model.head.weight is model.embed.tokens.weight or not model.tied
        for name, parameter in model.named_parameters():
            piece = cut.get(name)
            expected = (
                whole[name] if piece is None else whole[name].narrow(piece.axis, piece.start, piece.stop - piece.start)
            )
            assert torch.equal(parameter, expected), f"{name} of rank {rank} of {count}"


@pytest.mark.parametrize("name", names())
def test_the_pieces_of_all_ranks_are_the_whole(name, tmp_path):
    reference(name).save_pretrained(tmp_path)
    for count, dtype in ((1, "float32"), (2, "bfloat16"), (4, "float32")):
        check_pieces(tmp_path, count, dtype)


@pytest.mark.parametrize("count", [3, 6])
def test_a_piece_may_lie_across_the_axes_of_the_file(count, tmp_path):
    # CodeGen's rows go by four shards of three heads: a rank's part of them begins inside one and ends in the next.
    archport.export(archport.build("codegen", sizes("codegen") | {"heads": 12, "width": 144}), tmp_path)
    check_pieces(tmp_path, count, "float32")


def test_a_format_s_own_layout_is_cut_too(tmp_path):
    like = sizes("gpt2") | {"mlp_width": None, "norm_eps": 1e-5, "activation": "gelu"}
    archport.export(archport.build("gpt2", like), tmp_path / "ckpt.pt", format="nanogpt")
    check_pieces(tmp_path / "ckpt.pt", 4, "float32")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the most memory of a process")
def test_each_process_holds_its_part_and_no_more(started):
    for folder in started.large[2:]:
        whole = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
        for one in started.said:
            assert one["peak"][folder]["own"] <= 0.51 * whole
            assert one["peak"][folder]["grown"] <= 0.65 * whole


@pytest.mark.parametrize("name", names())
def test_a_tied_head_is_tied_again_when_both_are_cut(name):
    arch = architecture(name.partition(" ")[0])
    model = skeleton(arch, arch.config_class(**sizes(name)))
    share_out(model, Ranks(1, 2))
    assert (model.head.weight is model.embed.tokens.weight) == model.tied


# --- what can be shared, and what cannot ---


def model_of(name: str = "llama", **fields):
    arch = architecture(name)
    return skeleton(arch, arch.config_class(**sizes(name) | fields))


@pytest.mark.parametrize("name", sorted({*FAMILIES, "gpt2", "gptj", "gpt_neox"}))
def test_every_architecture_says_how_all_of_its_large_weights_are_cut(name):
    model = model_of(name)
    cut = pieces(model, Ranks(0, 2))
    rest = [name for name, parameter in model.named_parameters() if parameter.ndim > 1 and name not in cut]
    assert all(re.search(r"positions|project|router", name) for name in rest), rest


def test_a_number_that_does_not_divide_names_those_that_do():
    with pytest.raises(ConfigError, match=r"ranks: found 3, expected 1, 2 or 4: each has a whole share of kv_heads 4$"):
        children(model_of(), 3)
    with pytest.raises(ConfigError, match=r"found 2, expected 1: each has a whole share of kv_heads 1$"):
        children(model_of(kv_heads=1), 2)


class OwnScores(Attention):
    def scores(self, q, k, context):
        return super().scores(q, k, context) - 1


class OwnScoresBelow(OwnScores):
    pass


class OwnWindow(Window):
    def forward(self, context):
        return super().forward(context)


class ThreeMaps(Attention):
    sharding = Attention.sharding

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        del self.qkv


class Strange(nn.Module):
    def forward(self, x):
        return x.softmax(-1)


def strange(model, part: nn.Module, at: str):
    owner, _, name = at.rpartition(".")
    setattr(model.get_submodule(owner), name, part)
    return model


STRANGE = {
    r"blocks.0.attn: OwnScores has its own scores, expected a sharding of its own beside": (
        "blocks.0.attn",
        OwnScores(96, 8, kv_heads=4),
    ),
    r"blocks.0.attn: OwnScoresBelow has its own scores, expected": ("blocks.0.attn", OwnScoresBelow(96, 8, kv_heads=4)),
    r"blocks.2.attn.mask: found a OwnWindow, expected a part that says": ("blocks.2.attn.mask", OwnWindow(3)),
    r"blocks.0.attn.qkv: found none, expected a Linear": ("blocks.0.attn", ThreeMaps(96, 8, kv_heads=4)),
    r"blocks.1.mlp.activation: found a Strange, expected a part that says by its sharding": (
        "blocks.1.mlp.activation",
        Strange(),
    ),
    r"blocks.1.attn.q_norm: found a Strange, expected a part that says": ("blocks.1.attn.q_norm", Strange()),
    r"blocks.1.mlp.down: found a Sequential, expected a Linear": (
        "blocks.1.mlp.down",
        nn.Sequential(nn.Linear(102, 96)),
    ),
}


@pytest.mark.parametrize("message", STRANGE)
def test_a_part_that_does_not_say_how_it_is_cut_is_refused_by_name(message):
    at, part = STRANGE[message]
    model = strange(model_of(), part, at)
    with pytest.raises(ConfigError, match=message):
        share_out(model, Ranks(0, 2))
    assert model.blocks[2].attn.heads == 8  # nothing was changed


def test_a_part_that_says_nothing_stands_whole_where_it_meets_the_stream_alone():
    own = nn.Sequential(nn.Linear(96, 200), nn.GELU(), nn.Linear(200, 96))
    cut = share_out(strange(model_of(), own, "blocks.0.mlp"), Ranks(0, 2))
    assert not any(name.startswith("blocks.0.mlp") for name in cut)


def test_slopes_and_norms_of_heads_are_those_of_the_rank_s_own():
    model = model_of("bloom")
    alibi = model.blocks[0].attn.mask
    whole = alibi.slopes(torch.device("cpu"))
    share_out(model, Ranks(1, 2))
    assert isinstance(alibi, Alibi)
    assert torch.equal(alibi.slopes(torch.device("cpu")), whole[4:])
    assert model.blocks[0].attn.mask is model.blocks[2].attn.mask


def test_a_part_of_a_model_is_not_exported(tmp_path):
    archport.export(archport.build("llama", sizes("llama")), tmp_path / "whole")
    model = parallel.inference.loaded(archport.plan(tmp_path / "whole"), Ranks(0, 1), "cpu")
    model.ranks = 2
    acts = [lambda: archport.export(model, tmp_path / "part"), lambda: archport.verify(model), model.hf_state_dict]
    for act in [*acts, lambda: archport.sites(model)]:
        with pytest.raises(ArchportError, match="found a part of the model in this process"):
            act()
    with pytest.raises(GenerationError, match="a step that other processes share is not compiled"):
        archport.generate(model, [1], compiled=True)
    assert not (tmp_path / "part").exists()


def test_one_process_needs_no_torchrun_and_gives_the_same(tmp_path):
    archport.export(archport.build("llama", sizes("llama")), tmp_path / "whole")
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(parallel.load(tmp_path / "whole")(ids), archport.load(tmp_path / "whole")(ids))


WRONG = {
    "shard: found 3, expected a Decoder": lambda: parallel.shard(3),
    "ranks: found one process, expected those of a group: torchrun --nproc-per-node 2": lambda: parallel.shard(
        archport.load()
    ),
    "mesh: found none, expected one for a model on meta": lambda: parallel.shard(model_of()),
    "device: found 'cuda:0', which cannot be used here": lambda: parallel.load(device="cuda"),
    "device: found 'nonsense', which cannot be used here": lambda: parallel.load(device="nonsense"),
    "mesh: found 3, expected a DeviceMesh": lambda: parallel.load(mesh=3),
    "plan: found a int, expected what archport.plan gives": lambda: parallel.budget(3, 2),
    "ranks: found 0, expected a whole number from 1": lambda: parallel.budget(archport.plan(), 0),
    "ranks: found 4, expected 1, 2, 3 or 6": lambda: parallel.budget(archport.plan(), 4),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_value_is_one_line(message, monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError) as caught:
        WRONG[message]()
    assert message.split(": ", 1)[1] in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("function", "keyword"), [("load", "offlinee"), ("shard", "meshh"), ("budget", "rankss")])
def test_a_misspelt_keyword_names_the_one_that_was_meant(function, keyword):
    with pytest.raises(TypeError, match=f"Did you mean {keyword[:-1]!r}"):
        getattr(parallel, function)(**{keyword: None})


# --- planning ---


def test_a_plan_says_what_each_process_holds(tmp_path):
    archport.export(archport.build("llama", sizes("llama")), tmp_path)
    planned = archport.plan(tmp_path)
    for count in (1, 2, 4):
        made = [sum(one.nbytes for one in of_rank(planned, rank, count).parameters()) for rank in range(count)]
        one = parallel.budget(planned, count)
        assert one.weights == max(made)
        cfg = planned.config
        assert one.cache == 2 * cfg.kv_heads // count * cfg.head_width * cfg.layers * cfg.context * 4
        assert one.total == one.weights + one.cache
    norms = (2 * planned.config.layers + 1) * planned.config.width * 4
    assert parallel.budget(planned, 2).whole == norms


def said(*words: str):
    result = CliRunner().invoke(app, ["plan", *words])
    if isinstance(result.exception, ArchportError):
        raise result.exception
    return result.output


def test_the_command_plans_for_numbers_that_work_or_are_asked_for():
    facts = json.loads(said("--json"))
    assert [row["ranks"] for row in facts["ranks"]] == [1, 2, 3, 6]
    assert facts["ranks"][0]["weights"] == 2 * facts["parameters"]
    one = parallel.budget(archport.plan(), 3)
    assert facts["ranks"][2] == {
        "ranks": 3,
        "heads": 2,
        "kv_heads": 2,
        "weights": one.weights,
        "whole_on_each": one.whole,
        "cache": one.cache,
        "total": one.total,
    }
    assert [row["ranks"] for row in json.loads(said("--tensor-parallel", "2", "--json"))["ranks"]] == [2]
    with pytest.raises(ConfigError, match="found 8, expected 1, 2, 3 or 6"):
        said("--tensor-parallel", "8")


def test_sizes_of_published_models_are_known_without_the_hub():
    text = said("EleutherAI/gpt-neox-20b", "--published", "--dtype", "float16")
    assert "20,554,567,680 in float16" in text
    with pytest.raises(ConfigError, match="published: found 'no/such', expected one of those that archport models"):
        said("no/such", "--published")


# --- the command line in several processes ---


def torchrun(count: int, *words: str) -> subprocess.CompletedProcess:
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    start += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "-m", "archport"]
    return subprocess.run([*start, *words], capture_output=True, text=True, timeout=300, check=False)


def test_generate_in_two_processes_prints_once_what_one_prints():
    words = ["generate", "--prompt", "def f(x):", "--greedy", "--max-new-tokens", "12"]
    alone = CliRunner().invoke(app, words).output
    assert torchrun(2, *words, "--tensor-parallel", "2").stdout == alone


def test_generate_without_torchrun_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["archport", "generate", "--prompt", "a b", "--tensor-parallel", "2"])
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(app, ["generate", "--prompt", "a b", "--tensor-parallel", "2"])
    assert result.exit_code == 2
    again = "torchrun --nproc-per-node 2 -m archport generate --prompt 'a b' --tensor-parallel 2"
    assert f"found 1 process, expected 2: {again}" in " ".join(result.output.replace("│", " ").split())
    for other in ("--compile", "--explain-speed"):
        result = CliRunner().invoke(app, ["generate", "--prompt", "a", "--tensor-parallel", "2", other])
        assert "--tensor-parallel goes with none of" in " ".join(result.output.replace("│", " ").split())


# --- training ---


@pytest.mark.parametrize("name", TRAINED)
def test_shared_out_state_trains_as_one_process_does_and_is_saved_for_any_number(name, started):
    folder = started.trained[name]
    one, ranks = archport.load(folder, copy=True), [rank["steps"][folder] for rank in started.said]
    ids = processes.batch(one, 0)
    alone = processes.train(one, 20, by=TRAINED[name])
    assert means_of(ranks, "losses") == pytest.approx(alone, abs=1e-5)
    # Adam makes whole steps of gradients that are rounding alone, so weights agree as far as float64 does.
    exact = archport.load(folder, copy=True, dtype=torch.float64)
    alone = processes.train(exact, 20, by=TRAINED[name])
    assert means_of(ranks, "exact_losses") == pytest.approx(alone, abs=1e-9)
    with torch.no_grad():
        expected = exact(ids)
    assert (ranks[0]["exact_logits"] - expected).abs().max() <= 1e-9 * expected.abs().max()
    assert all(rank["tied"] == one.tied for rank in ranks)
    assert all(rank["own"] <= 0.52 * one.num_parameters() for rank in ranks)
    assert "found a part of the model in this process" in ranks[0]["export"]
    assert "found a part of it in this process already" in ranks[0]["again"]
    again = reloaded(folder, f"{started.saved}/{Path(folder).name}")
    with torch.no_grad():
        assert torch.equal(again(ids), ranks[0]["logits"])


def means_of(ranks: list[dict], what: str) -> list[float]:
    """Of each step what the ranks have on average."""
    return [sum(pair) / len(ranks) for pair in zip(*(rank[what] for rank in ranks), strict=True)]


def reloaded(folder: str, saved: str):
    """What two processes saved, in one."""
    model = archport.load(folder, copy=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    state, moments = get_state_dict(model, optimiser)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.load({"model": state, "optimiser": moments}, checkpoint_id=saved)
    set_state_dict(model, optimiser, model_state_dict=state, optim_state_dict=moments)
    return model
