"""Training runs: what they learn, save, resume and refuse; the references are transformers' models and bare loops."""

import json
import math
import os
import pty
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

import archport
from archport import architectures
from archport.errors import AsideWarning, CheckpointError, ConfigError, TrainingError
from archport.port import DEMO
from archport.train import running, trainer
from archport.train import saves as saving
from archport.train.blocks import Shuffled
from archport.train.recipes import RECIPES
from archport.train.running import Told, run
from archport.train.saves import last_save, saves
from archport.train.settings import Settings
from archport.train.token_file import read_tokens, write_tokens
from archport.train.tokenizing import tokenised

from .commands import run as run_command

LINES = [f"The {n % 17}th line of {n % 5} verses says {'abcdefgh'[n % 8] * (n % 9)}." for n in range(400)]
TINY = {"width": 32, "layers": 2, "heads": 2}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("\n".join(LINES), "utf-8")
    return path


def settings(text: Path, out: Path, **changes) -> Settings:
    values = {"data": (str(text),), "out": str(out), "context": 16, "batch": 4, "steps": 6, "warmup": 2}
    values |= {"eval_every": 3, "save_every": 2, "tokenizer": "characters", "device": "cpu"}
    values |= {} if "source" in changes else {"arch": "gpt2", "sizes": TINY}
    return Settings(**values | changes)


def rates(folder: Path) -> list[float]:
    """The learning rate of each step."""
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()[1:]]
    return [float(row[3]) for row in rows if row[3]]


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    return {name: one.detach() for name, one in archport.load(folder).named_parameters()}


def one_line(error: BaseException) -> bool:
    return "\n" not in str(error) and len(str(error)) < 400


def equal(a: Path, b: Path) -> bool:
    return (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


# What comes out


def test_a_run_leaves_a_folder_that_everyone_reads(text, tmp_path):
    told = []
    out = run(settings(text, tmp_path / "run"), told=Told(line=told.append))
    assert [path.name for path in saves(out)] == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert equal(out, out / "checkpoint-6")
    ids = torch.tensor([[1, 2, 3, 4]])
    for folder in (out, out / "checkpoint-4"):
        hf = AutoModelForCausalLM.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.decode(tokenizer(LINES[0])["input_ids"]) == LINES[0]
        with torch.no_grad():
            assert torch.allclose(hf(ids).logits, archport.load(folder)(ids), atol=1e-5)
    rows = [line.split(",") for line in (out / "log.csv").read_text().splitlines()]
    assert rows[0] == ["step", "loss", "eval_loss", "learning_rate", "grad_norm"]
    assert [int(row[0]) for row in rows[1:] if row[2]] == [0, 3, 6]
    assert [int(row[0]) for row in rows[1:] if row[1]] == [1, 2, 3, 4, 5, 6]
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    card = (out / "README.md").read_text()
    assert f"validation loss: {float(rows[-1][2]):.4f}" in card
    assert "`gpt2`" in card
    assert any("weight decay 0.1 on 10 matrices, none on 18 biases and norms" in line for line in told)


def test_the_config_names_the_tokenizers_end_of_a_text(text, tmp_path):
    for name, end in {"train:300": 299, "characters": None}.items():
        out = run(settings(text, tmp_path / name[:5], tokenizer=name, steps=1))
        hf = AutoModelForCausalLM.from_pretrained(out)
        assert (hf.config.eos_token_id, hf.generation_config.eos_token_id) == (end, end)
        assert AutoTokenizer.from_pretrained(out).eos_token_id == end


def test_older_saves_are_removed(text, tmp_path):
    out = run(settings(text, tmp_path / "run", save_every=1, keep=2))
    assert [path.name for path in saves(out)] == ["checkpoint-5", "checkpoint-6"]


MORE = pytest.mark.families
ARCHES = ["gpt2", pytest.param("gptj", marks=MORE), pytest.param("gpt_neox", marks=MORE), "llama"]


@pytest.mark.parametrize("arch", ARCHES)
def test_a_step_is_the_references_step(text, tmp_path, arch):
    """Same weights, batch, optimizer: parameter by parameter, as transformers' own model and torch make it."""
    sizes = TINY | dict(RECIPES["shakespeare_char"].sizes[arch]) | {"width": 32, "layers": 2, "heads": 2}
    how = settings(text, tmp_path / "run", arch=arch, sizes=sizes, steps=2, save_every=1, warmup=0, dropout=0.0)
    how = replace(how, accumulate=2, eval_every=2)
    torch.manual_seed(5)
    out = run(how)
    torch.manual_seed(0)
    data = Shuffled(read_tokens(out / "data.tokens").ids[: -_held(out)], 16, 16, 0)
    hf = AutoModelForCausalLM.from_pretrained(out / "checkpoint-1").train()
    matrices = [one for one in hf.parameters() if one.ndim >= 2]
    rest = [one for one in hf.parameters() if one.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    own = torch.load(out / "checkpoint-1/optimizer.pt", weights_only=True)
    assert [group["weight_decay"] for group in own["param_groups"]] == [0.1, 0.0]
    state = _moments(out / "checkpoint-1", own, hf, tmp_path)
    for one in (*matrices, *rest):
        optimizer.state[one] = state[one]
    lr = own["param_groups"][0]["lr"]
    for group in optimizer.param_groups:
        group["lr"] = lr
    for half in (range(8, 12), range(12, 16)):
        inputs = torch.stack([data[n]["input_ids"] for n in half])
        targets = torch.stack([data[n]["labels"] for n in half])
        (F.cross_entropy(hf(inputs).logits.flatten(0, 1), targets.flatten()) / 2).backward()
    nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
    optimizer.step()
    found = AutoModelForCausalLM.from_pretrained(out / "checkpoint-2").state_dict()
    for name, tensor in hf.state_dict().items():
        assert torch.allclose(tensor, found[name], atol=2e-6), name


def _held(out: Path) -> int:
    return max(int(len(read_tokens(out / "data.tokens").ids) * 0.1), 17)


def _moments(folder: Path, own: dict, hf: nn.Module, temporary: Path) -> dict:
    """Adam's state for each parameter of transformers' model: ours, exported as if they were weights."""
    names = [name for name, one in archport.load(folder).named_parameters() if one.ndim >= 2]
    names += [name for name, one in archport.load(folder).named_parameters() if one.ndim < 2]
    state = {one: {"step": own["state"][0]["step"].clone()} for one in hf.parameters()}
    for what in ("exp_avg", "exp_avg_sq"):
        model = archport.load(folder, copy=True)
        with torch.no_grad():
            for at, name in enumerate(names):
                model.get_parameter(name).copy_(own["state"][at][what])
        theirs = AutoModelForCausalLM.from_pretrained(archport.export(model, temporary / what))
        for one, moment in zip(hf.parameters(), theirs.parameters(), strict=True):
            state[one][what] = moment.detach()
    return state


def test_accumulating_is_the_large_batch(text, tmp_path):
    large = run(settings(text, tmp_path / "large", batch=8, dropout=0.0))
    small = run(settings(text, tmp_path / "small", batch=2, accumulate=4, dropout=0.0))
    for name, tensor in parameters(small).items():
        assert torch.allclose(tensor, parameters(large)[name], atol=1e-5), name


def test_options_do_what_they_say(text, tmp_path):
    plain = parameters(run(settings(text, tmp_path / "plain", dropout=0.1, steps=3)))
    for name, more in {"a": {"recompute": True}, "b": {"dtype": "bfloat16"}, "c": {"seed": 1}}.items():
        other = parameters(run(settings(text, tmp_path / name, dropout=0.1, steps=3, **more)))
        far = max(float((one - plain[name]).abs().max()) for name, one in other.items())
        assert far < 1e-6 if "recompute" in more else far > 1e-6
        assert {one.dtype for one in other.values()} == {torch.float32}


@pytest.mark.parametrize("arch", architectures())
def test_one_batch_is_learned_by_heart(tmp_path, arch):
    sizes = {"width": 64} if arch == "gpt_neo" else {"width": 64, "layers": 2}
    short = tmp_path / "short.txt"
    short.write_text("Sing goddess, the wrath of")  # a block of it, and what is held back
    steps = 400 if arch == "cohere" else 200  # whose logits are divided by 16
    how = settings(short, tmp_path / "run", arch=arch, sizes=sizes, context=12, steps=steps, lr=5e-3, dropout=0.0)
    how = replace(how, eval_every=steps, save_every=steps, held_back=0.4, schedule="constant", weight_decay=0.0)
    out = run(how)
    AutoModelForCausalLM.from_pretrained(out)
    last = [line.split(",") for line in (out / "log.csv").read_text().splitlines() if line.split(",")[1]][-1]
    assert float(last[1]) < 0.05


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_rises_and_falls_as_told(text, tmp_path, schedule):
    how = settings(text, tmp_path / "run", schedule=schedule, steps=8, warmup=3, lr=1e-2, save_every=8)
    out = run(replace(how, min_lr=2e-3, eval_every=8))
    found = rates(out)
    ways = {
        "cosine": lambda done: 2e-3 + (1e-2 - 2e-3) * (1 + math.cos(math.pi * done)) / 2,
        "linear": lambda done: 1e-2 * (1 - done),
        "constant": lambda _: 1e-2,
    }
    expected = [1e-2 * at / 3 if at < 3 else ways[schedule]((at - 3) / 5) for at in range(8)]
    assert found == pytest.approx(expected)


def test_the_share_that_is_held_back_is_never_trained_on(tmp_path, monkeypatch):
    seen: list[int] = []
    step = trainer.OurTrainer.training_step

    def watched(self, model, inputs, count=None):
        seen.extend(inputs["input_ids"].flatten().tolist() + inputs["labels"].flatten().tolist())
        return step(self, model, inputs, count)

    monkeypatch.setattr(trainer.OurTrainer, "training_step", watched)
    ends = tmp_path / "ends.txt"
    ends.write_text("ab" * 300 + "yz" * 200)  # 600 letters, then 400 others
    told = []
    run(settings(ends, tmp_path / "run", held_back=0.4, steps=20, save_every=20), told=Told(line=told.append))
    assert "600 tokens in 37 blocks to train on, 400 held back" in told
    assert set(seen) == {0, 1}


@pytest.mark.parametrize(
    ("batch", "accumulate", "said"), [(36, 1, False), (37, 1, True), (18, 2, False), (19, 2, True)]
)
def test_a_step_of_more_blocks_than_an_epoch_is_full_and_said(tmp_path, monkeypatch, batch, accumulate, said):
    taken, step = [], trainer.OurTrainer.training_step

    def watched(self, model, inputs, count=None):
        taken.append(len(inputs["input_ids"]))
        return step(self, model, inputs, count)

    monkeypatch.setattr(trainer.OurTrainer, "training_step", watched)
    letters = tmp_path / "letters.txt"
    letters.write_text("abcdefghij" * 100)  # 600 to train on: 37 blocks of 16, of which an epoch has one less
    told = []
    how = settings(letters, tmp_path / "run", batch=batch, accumulate=accumulate, held_back=0.4, steps=2)
    run(how, told=Told(line=told.append))
    assert taken == [batch] * accumulate * 2
    line = f"a step takes {batch * accumulate} blocks, more than the 36 of an epoch: some come more than once"
    assert (line in told) == said


@pytest.mark.families
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_a_compiled_model_trains_the_same(text, tmp_path):
    plain = parameters(run(settings(text, tmp_path / "plain", dropout=0.0, steps=3)))
    compiled = parameters(run(settings(text, tmp_path / "compiled", dropout=0.0, steps=3, compile=True)))
    assert all(torch.allclose(one, plain[name], atol=1e-5) for name, one in compiled.items())


def test_tensorboard_is_asked_for_before_anything_is_made(text, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "find_spec", lambda _: None)
    with pytest.raises(TrainingError, match="pip install tensorboard"):
        run(settings(text, tmp_path / "run", log_to="tensorboard"))
    assert not (tmp_path / "run").exists()


def test_train_mode_differs_by_dropout_alone(text, tmp_path):
    out = run(settings(text, tmp_path / "run", dropout=0.0))
    model, ids = archport.load(out), torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(model.train()(ids), model.eval()(ids))
    assert not [module for module in model.modules() if isinstance(module, nn.Dropout) and module.p]


# Where it begins


def test_a_checkpoint_goes_on_learning_and_comes_back(tmp_path):
    text = tmp_path / "new.txt"
    text.write_text("\n".join(LINES[:200]))
    out = run(settings(text, tmp_path / "run", source=str(DEMO), tokenizer=None, steps=12, lr=1e-3, context=32))
    losses = [line.split(",")[2] for line in (out / "log.csv").read_text().splitlines()[1:] if line.split(",")[2]]
    assert float(losses[-1]) < float(losses[0]) - 0.5
    for folder in (out, last_save(out)):  # with all files of its own tokenizer
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            assert (folder / name).read_text() == (DEMO / name).read_text(), name
    hf = AutoModelForCausalLM.from_pretrained(out).float().eval()
    ids = torch.tensor([[5, 17, 3, 29]])
    hf.save_pretrained(tmp_path / "again")
    with torch.no_grad():
        assert torch.allclose(archport.load(tmp_path / "again")(ids), hf(ids).logits, atol=1e-6 * 30)
    assert all(torch.equal(one, parameters(tmp_path / "again")[name]) for name, one in parameters(out).items())


def test_bundled_is_the_one_that_ships_inside_unless_a_folder_has_that_name(text, tmp_path, monkeypatch):
    how = {"tokenizer": None, "context": 32, "steps": 1}
    named = run(settings(text, tmp_path / "named", source="bundled", **how))
    assert equal(named, run(settings(text, tmp_path / "at its place", source=str(DEMO), **how)))
    assert (named / "tokenizer.json").read_text() == (DEMO / "tokenizer.json").read_text()
    run_command("tokens", str(text), "--tokenizer", "bundled", "--out", str(tmp_path / "ids"))
    words = ["train", "--from", "bundled", "--tokenizer", "bundled", "--data", str(tmp_path / "ids"), "--device", "cpu"]
    words += ["--context", "32", "--batch", "4", "--steps", "1", "--warmup", "2", "--out", str(tmp_path / "told")]
    run_command(*words)
    assert equal(named, tmp_path / "told")
    monkeypatch.chdir(tmp_path)
    Path("bundled").mkdir()
    with pytest.raises(archport.ArchportError, match=r"^bundled: .*found"):
        run(settings(text, tmp_path / "refused", source="bundled", **how))


def test_lora_trains_little_and_merges(tmp_path):
    text = tmp_path / "new.txt"
    text.write_text("\n".join(LINES[:200]))
    told = []
    how = settings(text, tmp_path / "run", source=str(DEMO), tokenizer=None, steps=4, lr=1e-2, context=32)
    out = run(replace(how, lora=2), told=Told(line=told.append))
    assert any(line.startswith("lora: 36,864 numbers") for line in told), told
    before, after = archport.load(), parameters(out)
    changed = {name for name, one in before.named_parameters() if not torch.equal(one.float(), after[name])}
    assert changed == {
        name for name in after if name.endswith(("qkv.weight", "out.weight", "up.weight", "down.weight"))
    }
    assert (out / "checkpoint-4/adapter").is_dir()
    assert not (out / "adapter").exists()
    AutoModelForCausalLM.from_pretrained(out / "checkpoint-4")
    written = json.loads((out / "config.json").read_text())
    assert (written["bos_token_id"], written["classifier_dropout"]) == (0, 0.1)  # as the base's own
    assert (out / "generation_config.json").is_file()
    adapted = archport.load(dtype="float32", adapter=out / "checkpoint-4/adapter")  # by PEFT itself
    assert all(torch.allclose(one, after[name], atol=1e-6) for name, one in adapted.named_parameters())
    # It goes on from the adapters, not from what they were merged into.
    half = run(replace(how, lora=2, out=str(tmp_path / "half"), steps=4))
    for path in saves(half)[1:]:
        for file in sorted(path.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        path.rmdir()
    run(replace(how, lora=2, out=str(half)), resume=True)
    assert equal(half, out)


def test_lora_adapts_experts_and_leaves_routers(text, tmp_path):
    base = run(settings(text, tmp_path / "base", arch="mixtral", sizes={"width": 32, "layers": 2}, steps=1))
    out = run(settings(text, tmp_path / "run", source=str(base), tokenizer=None, steps=2, lr=1e-2, lora=2))
    before, after = parameters(base), parameters(out)
    changed = {name.split(".", 2)[2] for name, one in before.items() if not torch.equal(one, after[name])}
    assert changed >= {"attn.qkv.weight", "attn.out.weight"}
    assert any("experts" in name for name in changed)
    assert not [name for name in changed if "router" in name or "norm" in name]


# Resuming


def test_a_run_that_goes_on_is_an_unbroken_run(text, tmp_path):
    whole = run(settings(text, tmp_path / "whole", dropout=0.1, steps=7, accumulate=2))
    broken = settings(text, tmp_path / "broken", dropout=0.1, steps=7, accumulate=2)
    with pytest.raises(KeyboardInterrupt):
        run(broken, told=Told(step=lambda progress: _interrupt(progress.step == 5)))
    assert [path.name for path in saves(tmp_path / "broken")] == ["checkpoint-2", "checkpoint-4"]
    out = run(broken, resume=True)
    assert equal(whole, out)
    for name in ("optimizer.pt", "scheduler.pt"):
        ours, theirs = (torch.load(path / "checkpoint-7" / name, weights_only=True) for path in (whole, out))
        assert _flat(ours) == _flat(theirs)
    assert (whole / "log.csv").read_text() == (out / "log.csv").read_text()
    validated = [line.split(",") for line in (out / "log.csv").read_text().splitlines()[1:]]
    assert [int(row[0]) for row in validated if row[2]] == [0, 3, 6, 7]  # and at the end, whatever is told


def _interrupt(now: bool) -> None:
    if now:
        raise KeyboardInterrupt


def _flat(value) -> list:
    if isinstance(value, dict):
        return [one for key in sorted(value, key=str) for one in [str(key), *_flat(value[key])]]
    if isinstance(value, list | tuple):
        return [one for part in value for one in _flat(part)]
    return value.tolist() if isinstance(value, torch.Tensor) and value.ndim else [str(value)]


RUN = """
import sys
from archport.train.running import run
from archport.train.settings import Settings
run(Settings(**eval(sys.argv[1])), resume=sys.argv[2] == "resume")
"""


def forked_runs(values: dict, *what: str) -> subprocess.CompletedProcess[str]:
    code = [sys.executable, "-m", "tests.forked_runs", repr(values), *what]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(code, capture_output=True, text=True, env=environment, check=False)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]


def test_two_processes_train_as_one_with_the_same_batch(text, tmp_path):
    how = settings(text, tmp_path / "one", batch=8, dropout=0.0, accumulate=2)
    values = {name: getattr(how, name) for name in how.__dataclass_fields__}
    out = run(how)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = tmp_path / "script.py"
    script.write_text(RUN)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    code = [*TORCHRUN, "--master-port", port, str(script), repr(values | {"out": str(tmp_path / "two")}), "begin"]
    done = subprocess.run(code, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert (tmp_path / "two/README.md").is_file(), done.stderr[-2000:]  # the last that is written
    assert "checkpoint-6" in {path.name for path in saves(tmp_path / "two")}
    assert (tmp_path / "two/checkpoint-6/rng_state_1.pth").is_file()
    one, two = (_losses(folder) for folder in (out, tmp_path / "two"))
    assert one.shape == two.shape
    assert torch.allclose(one, two, atol=1e-5)
    for name, tensor in parameters(tmp_path / "two").items():
        assert torch.allclose(tensor, parameters(out)[name], atol=1e-5), name


def _losses(folder: Path) -> torch.Tensor:
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()[1:]]
    return torch.tensor([[float(cell or 0) for cell in row[:3]] for row in rows])


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.families)])
def test_a_killed_run_goes_on_as_if_nothing_were(text, tmp_path, times):
    values = {"data": (str(text),), "arch": "gpt2", "sizes": TINY, "context": 16, "batch": 4, "steps": 120}
    values |= {"eval_every": 40, "save_every": 4, "tokenizer": "characters", "device": "cpu", "dropout": 0.1}
    done = forked_runs(values | {"out": str(tmp_path)}, "kill", str(times))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == times
    assert equal(tmp_path / "whole", tmp_path / "broken")
    assert (tmp_path / "whole/log.csv").read_text() == (tmp_path / "broken/log.csv").read_text()


def test_a_save_that_is_removed_is_never_half_there(text, tmp_path, monkeypatch):
    out = run(settings(text, tmp_path / "run", steps=6, save_every=2))
    monkeypatch.setattr(saving.shutil, "rmtree", lambda *_, **__: None)  # killed before anything is gone
    saving.remove_old(out, 1)
    assert saves(out) == [out / "checkpoint-6"]


def test_a_half_written_save_is_never_picked_up(text, tmp_path):
    out = run(settings(text, tmp_path / "run", steps=2))
    (out / ".partial/checkpoint-4").mkdir(parents=True)
    (out / ".partial/checkpoint-4/config.json").write_text("{")
    (out / "checkpoint-x").mkdir()
    assert last_save(out) == out / "checkpoint-2"
    run(settings(text, out, steps=4), resume=True, changed=True)
    assert not (out / ".partial").exists()


# What goes wrong


def test_other_settings_are_listed_and_refused(text, tmp_path, monkeypatch):
    out = run(settings(text, tmp_path / "run", steps=2))
    with pytest.raises(TrainingError, match=r"steps was 2, is 4; lr was 0.001, is 0.01: go on as it began") as error:
        run(settings(text, out, steps=4, lr=1e-2), resume=True)
    assert one_line(error.value)
    used, step = [], trainer.OurTrainer.training_step

    def watched(self, *inputs):
        used.append(self.optimizer.param_groups[0]["lr"])
        return step(self, *inputs)

    monkeypatch.setattr(trainer.OurTrainer, "training_step", watched)
    run(settings(text, out, steps=4, lr=1e-2, schedule="constant", weight_decay=0.0), resume=True, changed=True)
    assert last_save(out) == out / "checkpoint-4"
    assert rates(out) == pytest.approx([0, 5e-4, 1e-2, 1e-2])  # from then on what was told, and not what was saved
    assert used == pytest.approx([1e-2, 1e-2])
    state = torch.load(out / "checkpoint-4/optimizer.pt", weights_only=True)
    assert {group["weight_decay"] for group in state["param_groups"]} == {0.0}
    with pytest.raises(TrainingError, match="steps: found 3, but 4 are done"):
        run(settings(text, out, steps=3), resume=True, changed=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"arch": "gptj"},
        {"arch": None, "sizes": {}, "source": str(DEMO)},
        {"sizes": TINY | {"width": 64}},
        {"tokenizer": "bytes"},
        {"context": 8},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_makes_it_another_run_is_refused_and_nothing_is_written(text, tmp_path, changes):
    out = run(settings(text, tmp_path / "run", steps=2))
    before = (out / "training.json").read_text()
    with pytest.raises(TrainingError, match=r"was .*, is .*: that is another run, in another folder") as error:
        run(replace(settings(text, out, steps=2), **changes), resume=True, changed=True)
    assert one_line(error.value)
    assert (out / "training.json").read_text() == before


def test_what_may_change_changes_nothing(text, tmp_path):
    out = run(settings(text, tmp_path / "run", steps=2))
    run(settings(text, out, steps=2, eval_every=1, keep=9), resume=True)


@pytest.mark.parametrize("there", ["run", "files", "file"])
def test_a_folder_that_is_there_is_left_alone(text, tmp_path, there):
    out = tmp_path / "run"
    if there == "run":
        run(settings(text, out, steps=2))
    elif there == "files":
        out.mkdir()
        (out / "letter.txt").write_text("dear")
    else:
        out.write_text("dear")
    with pytest.raises(TrainingError, match="--resume" if there == "run" else "new folder"):
        run(settings(text, out, steps=2))


def test_a_loss_that_is_no_number_stops_the_run(text, tmp_path, monkeypatch):
    step = trainer.OurTrainer.training_step

    def broken(self, model, inputs, count=None):
        if self.state.global_step == 4:
            with torch.no_grad():
                self.decoder.blocks[1].mlp.up.weight[0, 0] = math.inf
        return step(self, model, inputs, count)

    monkeypatch.setattr(trainer.OurTrainer, "training_step", broken)
    with pytest.raises(TrainingError, match=r"^step 5: the loss is nan: .*blocks\.1\.mlp\.up.*checkpoint-4$"):
        run(settings(text, tmp_path / "run"))
    assert all(one.isfinite().all() for one in parameters(last_save(tmp_path / "run")).values())


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_gradients_that_are_no_numbers_stop_the_run(text, tmp_path, monkeypatch, clip):
    step = trainer.OurTrainer.training_step

    def broken(self, model, inputs, count=None):
        found = step(self, model, inputs, count)
        if self.state.global_step == 2:
            self.decoder.blocks[0].attn.out.weight.grad[0, 0] = math.nan
        return found

    monkeypatch.setattr(trainer.OurTrainer, "training_step", broken)
    with pytest.raises(TrainingError, match=r"^step 3: the gradients .*blocks\.0\.attn\.out\.weight.*checkpoint-2$"):
        run(settings(text, tmp_path / "run", clip=clip))


def test_a_full_disk_costs_a_save_and_nothing_else(text, tmp_path):
    how = settings(text, tmp_path)
    done = forked_runs({name: getattr(how, name) for name in how.__dataclass_fields__}, "full")
    assert done.returncode == 0, done.stderr
    assert "step 4: not saved: " in done.stderr
    assert "checkpoint-2" in done.stderr
    out = tmp_path / "broken"
    assert [path.name for path in saves(out)] == ["checkpoint-2", "checkpoint-6"]
    assert not (out / ".partial").exists()
    assert equal(out, tmp_path / "whole")


def test_tokens_of_another_tokenizer_are_refused(text, tmp_path):
    demo = archport.tokenizer()
    tokens = write_tokens(tmp_path / "ids", tokenised([text], demo), demo)
    how = {"source": str(DEMO), "steps": 2}
    run(settings(tokens.path, tmp_path / "good", tokenizer=str(DEMO), **how))
    out = run(settings(text, tmp_path / "other", steps=2))
    with pytest.raises(TrainingError, match="made with another tokenizer"):
        run(settings(tokens.path, tmp_path / "bad", tokenizer=str(out), **how))
    with pytest.raises(TrainingError, match="expected texts to make a tokenizer of"):
        run(settings(tokens.path, tmp_path / "made"))
    with pytest.warns(AsideWarning, match="the saves have none"):
        run(settings(tokens.path, tmp_path / "none", tokenizer=None, steps=2))
    with pytest.raises(TrainingError, match="ids: found a file of tokens beside other data, expected it alone"):
        run(settings(text, tmp_path / "both", data=(str(text), str(tokens.path))))
    tokens.path.write_bytes(tokens.path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"ids: found no file of token ids .*file not fully covered"):
        run(settings(tokens.path, tmp_path / "cut", **how))


def test_another_tokenizer_than_the_checkpoint_s_is_said(text, tmp_path):
    demo = archport.tokenizer()
    how = {"source": "bundled", "context": 32, "steps": 1}
    vocabulary = demo.get_vocab()
    copied = shutil.copytree(DEMO, tmp_path / "copied")  # the same one, elsewhere
    run(settings(text, tmp_path / "same", tokenizer=str(copied), **how))
    # One whose tokens are all known, but two have changed places.
    own = json.loads((copied / "tokenizer.json").read_text())
    first, second = [token for token in own["model"]["vocab"] if len(token) == 1][:2]
    own["model"]["vocab"] |= {first: vocabulary[second], second: vocabulary[first]}
    (copied / "tokenizer.json").write_text(json.dumps(own))
    run_command("tokens", str(text), "--tokenizer", str(copied), "--out", str(tmp_path / "ids"))
    for number, data in enumerate((text, tmp_path / "ids")):
        line = f"--tokenizer {copied}: 2 of its {len(vocabulary):,} tokens have another id, or none, in that of bundled"
        with pytest.warns(AsideWarning, match=f"^{re.escape(line)}") as said:
            run(settings(data, tmp_path / f"changed {number}", tokenizer=str(copied), **how))
        assert len(said) == 1
        assert one_line(said[0].message)
    for name in ("bytes", "train:300"):
        with pytest.warns(AsideWarning, match=rf"^--tokenizer {name}: \d+ of its \d+ tokens have another id"):
            run(settings(text, tmp_path / name, tokenizer=name, **how))
    # Where no tokenizer lies beside the checkpoint, there is nothing to compare with.
    for path in copied.glob("tokenizer*"):
        path.unlink()
    run(settings(text, tmp_path / "none", tokenizer="bytes", **how | {"source": str(copied)}))


def test_a_file_of_tokens_brings_the_tokenizer_that_was_made_with_it(text, tmp_path):
    for name in ("bytes", "train:300"):
        run_command("tokens", str(text), "--tokenizer", name, "--out", str(tmp_path / name))
        out = run(settings(tmp_path / name, tmp_path / f"{name} run", tokenizer=None, steps=2))
        own = AutoTokenizer.from_pretrained(out)
        assert own.decode(own("The 3rd line")["input_ids"]) == "The 3rd line"
    run(settings(tmp_path / "bytes", tmp_path / "named", tokenizer="bytes", steps=2))
    assert "is one of the texts" in run_command(
        "tokens", str(text), "--tokenizer", "bytes", "--out", str(text), "--force", code=2
    ).stderr  # fmt: skip
    assert text.read_text("utf-8") == "\n".join(LINES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch: found 0, expected a whole number from 1"),
        ({"steps": 2.5}, "steps: found 2.5"),
        ({"lr": -1.0}, "lr: found -1.0"),
        ({"lr": math.nan}, "lr: found nan"),
        ({"clip": math.inf}, "clip: found inf"),
        ({"dropout": 1.0}, "dropout: found 1.0"),
        ({"lr": "fast"}, "lr: found 'fast'"),
        ({"min_lr": -1.0}, "min_lr: found -1.0"),
        ({"min_lr": 1.0}, "min_lr: found 1.0, expected no more than lr, 0.001"),
        ({"seed": 1 << 32}, "seed: found 4294967296, expected a whole number below 4294967296"),
        ({"sample": ""}, "sample: found an empty text"),
        ({"dropout": -0.1}, "dropout: found -0.1, expected a number from 0"),
        ({"source": str(DEMO), "lora": 193, "tokenizer": None}, "a rank of 193, expected up to 192"),
        ({"tokenizer": "letters"}, "--tokenizer .*letters.*; others are bytes, characters, train:VOCAB"),
        ({"device": "cuda:1"}, "device: found 'cuda:1', expected auto or cpu"),
        ({"schedule": "square"}, "schedule: found 'square', expected cosine or linear or constant"),
        ({"dtype": "float16"}, "dtype: found 'float16'"),
        ({"data": ()}, "data: found none"),
        ({"arch": None}, "arch: expected --arch .* or --from"),
        ({"source": "x", "arch": "gpt2"}, "one of both"),
        ({"source": "x", "sizes": {"layers": 2}}, "sizes: found layers, but the sizes are those of --from x"),
        ({"lora": 4}, "lora: found no --from"),
        ({"sizes": TINY | {"layerz": 3}}, "layerz"),
        ({"sizes": TINY | {"context": 8}}, "blocks of 16, but a context of 8"),
        ({"sizes": TINY | {"vocab_size": 8}}, "expected ids below the model's vocab_size 8"),
        ({"source": str(DEMO), "context": 257, "tokenizer": None}, "expected up to 256"),
        ({"tokenizer": "train:12"}, "above 256"),
        ({"context": 20_000}, "expected 40,002 at least, for blocks of 20000"),
        ({"data": ("nowhere.txt",)}, "nowhere.txt: found no such file"),
    ],
)
def test_settings_that_cannot_be_are_one_line(text, tmp_path, changes, message):
    with pytest.raises((ConfigError, TrainingError, archport.ArchportError), match=message) as error:
        run(settings(text, tmp_path / "run", **changes))
    assert one_line(error.value)
    assert not (tmp_path / "run").exists()


def test_recipes_are_settings(text, tmp_path):
    for name, recipe in RECIPES.items():
        for arch in recipe.sizes or {None: {}}:
            source = {} if arch is None else {"arch": arch, "sizes": dict(recipe.sizes[arch])}
            how = Settings(data=(str(text),), out=str(tmp_path), **{**recipe.settings, **source})
            if arch is not None:
                model = archport.build(arch, {"vocab_size": 65, "context": how.context, **how.sizes})
                assert json.dumps(how.sizes), name
                assert model.num_parameters() > 100_000


def test_the_command_trains(text, tmp_path):
    words = ["train", "--arch", "gpt-neox", "--set", "layers=2", "--set", "width=32", "--data", str(text)]
    words += ["--steps", "4", "--context", "16", "--batch", "4", "--out", str(tmp_path / "run"), "--sample", "The"]
    done = run_command(*words)
    assert "validation" in done.stderr
    assert done.stdout.startswith("The")
    again = run_command(*words, code=1)
    assert again.stdout == ""
    assert again.stderr.startswith("archport: ")
    assert "--resume" in again.stderr
    # What it was told is there; on a terminal a line is written over and over.
    on = pty.openpty()
    words = ["train", "--out", str(tmp_path / "run"), "--resume", "--steps", "6", "--set", "width=32"]
    assert "steps was 4, is 6" in run_command(*words, code=1).stderr
    started = [sys.executable, "-m", "archport", *words, "--changed"]
    shown = subprocess.Popen(started, stdout=on[1], stderr=on[1], env=os.environ | {"HF_HUB_OFFLINE": "1"})
    os.close(on[1])
    told = _read_all(on[0])
    assert shown.wait() == 0, told
    assert re.search(r"step 6/6 .*tokens/s", told)
    assert "\x1b[" in told
    assert last_save(tmp_path / "run") == tmp_path / "run/checkpoint-6"
    assert run_command("generate", str(tmp_path / "run"), "--prompt", "The").stdout.startswith("The")
    assert archport.verify(tmp_path / "run").ok


def _read_all(terminal: int) -> str:
    text = b""
    try:
        while part := os.read(terminal, 1 << 16):
            text += part
    except OSError:  # how a terminal ends
        pass
    os.close(terminal)
    return text.decode()


def test_the_command_makes_tokens(text, tmp_path):
    words = ["tokens", str(text), "--tokenizer", "train:300", "--out", str(tmp_path / "ids")]
    run_command(*words)
    tokens = read_tokens(tmp_path / "ids")
    own = AutoTokenizer.from_pretrained(tmp_path / "ids-tokenizer")
    assert tokens.ids.tolist() == own(text.read_text("utf-8"))["input_ids"]
    assert "is there already" in run_command(*words, code=2).stderr
