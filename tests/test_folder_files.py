"""Folders as people have them, file by file: what transformers makes of each, or one line that says why not."""

import copy
import inspect
import json
import random
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from safetensors.torch import load_file, save_file
from torch.nn.parallel import DistributedDataParallel
from typer.testing import CliRunner

import archport
from archport.errors import ArchportError, AsideWarning, CheckpointError, ExportError, SourceError
from archport.files import write
from archport.view.subjects import subject

from .commands import run
from .references import pretrained, reference

WTE, MASK = "transformer.wte.weight", "transformer.h.0.attn.bias"


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    """A good checkpoint of a small GPT-2."""
    folder = tmp_path_factory.mktemp("whole")
    reference("gpt2").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(whole, tmp_path / "folder")


@pytest.fixture
def state(whole) -> dict[str, torch.Tensor]:
    """Its tensors."""
    return load_file(whole / "model.safetensors")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        output = model(torch.tensor([[1, 5, 130, 0, 7]]))
    return output if isinstance(output, torch.Tensor) else output.logits


def same_as_theirs(folder: Path, **options: Any) -> list[str]:
    """The notes of a load that makes the model that transformers makes."""
    plan = archport.plan(folder, **options)
    theirs = pretrained(folder, torch.float32, **{key: options[key] for key in options if key == "variant"})
    if plan.notes:
        with pytest.warns(AsideWarning):
            port = archport.load(folder, **options)
    else:
        port = archport.load(folder, **options)
    assert (logits(port.float()) - logits(theirs)).abs().max() < 1e-5
    return list(plan.notes)


def said(*words: str) -> str:
    """What a command prints, run in this process."""
    from archport.cli import checkpoints, parity, texts, views  # noqa: F401  # each adds its commands
    from archport.cli.app import app

    return CliRunner().invoke(app, words, catch_exceptions=False).stdout


def refusal(folder: Path, kind: type[ArchportError] = CheckpointError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        archport.load(folder, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# --- shards ---


class Shards:
    """The tensors of a folder in shards, with an index, to be changed before they are written."""

    def __init__(self, state: dict[str, torch.Tensor], count: int, ending: str, dice: random.Random) -> None:
        stem = "model" if ending == "safetensors" else "pytorch_model"
        self.names = [f"{stem}-{n + 1:05}-of-{count:05}.{ending}" for n in range(count)]
        self.stale = f"{stem}-{count + 1:05}-of-{count + 1:05}.{ending}"
        self.index = f"{stem}.{ending}.index.json"
        self.held: dict[str, dict[str, torch.Tensor]] = {name: {} for name in self.names}
        for at, key in enumerate(state):  # none is left empty
            self.held[self.names[at] if at < count else dice.choice(self.names)][key] = state[key]
        self.listed = {key: name for name in self.names for key in self.held[name]}

    def write(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        for name, tensors in self.held.items():
            if name.endswith(".bin"):
                torch.save(tensors, folder / name)
            else:
                save_file(tensors, folder / name, {"format": "pt"})
        index = {"metadata": {"total_size": 1}, "weight_map": self.listed}
        (folder / self.index).write_text(json.dumps(index))


def stale_shard(shards: Shards, _: random.Random) -> str:
    shards.held[shards.stale] = {WTE: torch.ones(1)}
    return f"{shards.stale} is not listed, left aside"


def listed_mask(shards: Shards, _: random.Random) -> str:
    shards.listed[MASK] = shards.names[0]
    return f"{MASK} is listed, but in no shard"


def twice(shards: Shards, dice: random.Random) -> str:
    key = dice.choice([*shards.listed])
    first = next(name for name in shards.names if key in shards.held[name])
    other = dice.choice([name for name in shards.names if name != first])
    shards.held[other][key] = shards.held[first][key].clone()
    return f"{key} is in two shards, with equal bytes"


def elsewhere(shards: Shards, dice: random.Random) -> str:
    key = dice.choice([*shards.listed])
    shards.listed[key] = next(name for name in shards.names if key not in shards.held[name])
    return f"{key} is in another shard than listed, read from there"


def unlisted(shards: Shards, dice: random.Random) -> str:
    name = dice.choice([name for name in shards.names if len(shards.held[name]) > 1])
    key = dice.choice([*shards.held[name]])
    shards.listed.pop(key)
    return f"{key} is not listed, read from the shard that has it"


EDITS: tuple[Callable[[Shards, random.Random], str], ...] = (stale_shard, listed_mask, twice, elsewhere, unlisted)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_index_that_is_not_exact_loads_as_in_transformers_and_says_so(edit, ending, folder, state):
    dice = random.Random(0)
    shards = Shards(state, 3, ending, dice)
    note = edit(shards, dice)
    shards.write(folder)
    assert same_as_theirs(folder) == [f"{folder / shards.index}: {note}"]


def test_several_edits_of_an_index_at_once(whole, state, tmp_path):
    for seed in range(8):
        dice = random.Random(seed)
        folder = shutil.copytree(whole, tmp_path / str(seed))
        shards = Shards(state, dice.randint(2, 5), dice.choice(["safetensors", "bin"]), dice)
        edits = dice.sample(EDITS, dice.randint(0, 3))
        kinds = {edit(shards, dice).partition(" is ")[2] for edit in edits}
        shards.write(folder)
        notes = same_as_theirs(folder)
        assert all(note.startswith(f"{folder / shards.index}: ") for note in notes)
        of_places = {"in another shard than listed, read from there", "not listed, read from the shard that has it"}
        for kind in kinds - of_places:  # which one edit may undo after another
            assert any(note.endswith(kind) for note in notes)


def test_a_tensor_in_two_shards_with_other_values_is_refused(folder, state):
    shards = Shards(state, 2, "safetensors", random.Random(1))
    first, other = shards.names if WTE in shards.held[shards.names[0]] else shards.names[::-1]
    shards.held[other][WTE] = shards.held[first][WTE].clone()
    shards.held[other][WTE][3, 4] += 1e-6
    shards.write(folder)
    message = refusal(folder)
    assert message.startswith(f"{folder / shards.index}: found {WTE} in {' and in '.join(shards.names)}")
    assert message.endswith("with other values, expected it in one: copy or save it again")


def test_a_missing_shard_of_one_s_own_is_to_be_saved_and_one_of_the_hub_fetched(folder, state, tmp_path):
    shards = Shards(state, 3, "safetensors", random.Random(1))
    shards.write(folder)
    (folder / shards.names[1]).unlink()
    assert refusal(folder).endswith(f"expected shards as listed, {shards.names[1]} is missing: copy or save it again")
    cached = tmp_path / "models--a--b" / "snapshots" / "commit"
    shutil.copytree(folder, cached)
    assert refusal(cached).endswith("is missing: delete it and fetch it again")


def test_shards_on_the_hub_say_what_is_not_exact(hub, at, folder, state):
    shards = Shards(state, 3, "safetensors", random.Random(2))
    twice(shards, random.Random(2))
    shards.write(folder)
    hub.add("ns/twice", folder)
    (note,) = archport.plan("ns/twice", **at).notes
    assert note.endswith("is in two shards, with equal headers")
    with pytest.warns(AsideWarning, match="in two shards, with equal bytes"):
        port = archport.load("ns/twice", **at)
    assert (logits(port) - logits(pretrained(folder, torch.float32))).abs().max() < 1e-5


# --- pickles ---

OTHERS = {"a number": 3, "a fraction": 0.5, "a text": "2", "nothing": None, "a list": [1, 2], "a dict": {"a": 1}}


def pickled(folder: Path, value: Any, **options: Any) -> Path:
    (folder / "model.safetensors").unlink(missing_ok=True)
    torch.save(value, folder / "pytorch_model.bin", **options)
    return folder / "pytorch_model.bin"


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("other", OTHERS)
def test_what_is_no_tensor_is_left_aside_as_in_transformers(other, zipped, folder, state):
    path = pickled(folder, {"step": OTHERS[other], **state}, _use_new_zipfile_serialization=zipped)
    kind = type(OTHERS[other]).__name__
    assert same_as_theirs(folder) == [f"{path}: left aside 'step' ({kind}), no part of the weights"]


def test_tensors_within_what_is_left_aside_are_not_read(folder, state):
    path = pickled(folder, {**state, "model": {WTE: torch.ones(131, 60)}})
    assert same_as_theirs(folder) == [f"{path}: left aside 'model' (dict), no part of the weights"]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("key", ["model", "state_dict", "module", "model_state_dict"])
def test_one_wrapping_key_is_taken_off(key, zipped, whole, folder, state):
    beside = {"epoch": 3, "optimizer": {"lr": 0.1, "moments": [torch.ones(2)]}, "iteration": torch.tensor(5)}
    for more in ({}, beside):
        path = pickled(folder, {key: state, **more}, _use_new_zipfile_serialization=zipped)
        aside = " and left aside 'epoch' (int), 'optimizer' (dict), 'iteration' (Tensor), no part of the weights"
        with pytest.warns(AsideWarning) as warned:
            port = archport.load(folder)
        expected = f"{path}: took the tensors out of {key!r}, which they lie under{aside if more else ''}"
        assert [str(one.message) for one in warned] == [expected]
        assert torch.equal(logits(port), logits(archport.load(whole)))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert json.loads(said("load", str(folder), "--json"))["notes"] == [expected]


def test_two_wrapping_keys_are_one_line(folder, state):
    pickled(folder, {"model": state, "module": state})
    assert "found tensors under 'model' and 'module', expected them under one key" in refusal(folder)


@pytest.mark.parametrize("wrapped", [lambda state: {"module": {"model": state}}, lambda state: {"net": state}])
def test_tensors_under_keys_that_nobody_knows_are_to_be_saved_alone(wrapped, folder, state):
    pickled(folder, wrapped(state))
    assert re.search(r"expected names and dense tensors: save what '(module|net)' holds alone", refusal(folder))


def test_a_pickle_that_holds_itself_is_one_line(folder):
    value: dict[str, Any] = {"step": 1}
    value["model"] = value
    pickled(folder, value)
    assert "found 'step' (int), 'model' (dict), expected names and dense tensors" in refusal(folder)


# --- variants ---


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("shard", ["5GB", "60KB"])
def test_a_variant_is_taken_as_transformers_takes_it_and_else_named(shard, safe, tmp_path, state, hub, at):
    folder = tmp_path / "folder"
    reference("gpt2", seed=3).save_pretrained(folder, variant="fp16", max_shard_size=shard)
    if not safe:
        if shard != "5GB":
            pytest.skip("transformers no longer writes these")
        torch.save(load_file(folder / "model.fp16.safetensors"), folder / "pytorch_model.fp16.bin")
        (folder / "model.fp16.safetensors").unlink()
    assert "(a variant: take it by --variant fp16, variant='fp16')" in refusal(folder)
    assert same_as_theirs(folder, variant="fp16") == []
    assert archport.verify(folder, variant="fp16", quick=True).ok
    hub.add("ns/variant", folder)
    if safe:
        assert archport.plan("ns/variant", variant="fp16", **at).steps == archport.plan(folder, variant="fp16").steps
    assert torch.equal(
        logits(archport.load("ns/variant", variant="fp16", **at)), logits(archport.load(folder, variant="fp16"))
    )
    save_file(state, folder / "model.safetensors", {"format": "pt"})  # beside which it is another model
    assert same_as_theirs(folder, variant="fp16") == same_as_theirs(folder) == []
    assert not torch.equal(logits(archport.load(folder)), logits(archport.load(folder, variant="fp16")))


def test_a_variant_that_is_not_there_says_what_is(folder):
    expected = "expected model.fp16.safetensors or model.safetensors.index.fp16.json or pytorch_model.fp16.bin"
    message = f"{expected}; found model.safetensors (without a variant: ask for none)"
    assert refusal(folder, variant="fp16").endswith(message)
    for wrong in ("../model", "", "a/b", 3):
        assert "expected a name, as fp16" in refusal(folder, SourceError, variant=wrong)


def test_weights_that_the_config_names_are_not_passed_over(folder):
    hf = json.loads((folder / "config.json").read_text()) | {"transformers_weights": "other.safetensors"}
    (folder / "config.json").write_text(json.dumps(hf))
    assert "transformers_weights: found 'other.safetensors', expected none: rename that to" in refusal(folder)


# --- no weights ---

LYING = {
    "a.gguf": "GGUF",
    "flax_model.msgpack": "Flax",
    "tf_model.h5": "TensorFlow",
    "model.ckpt.index": "TensorFlow",
    "model.onnx": "ONNX",
    "rust_model.ot": "rust-bert",
    "model.safetensors.incomplete": "fetch it again",
    "model.fp16.safetensors": "--variant fp16",
    "pytorch_model.bf16-00001-of-00002.bin": "--variant bf16",
    "model-00001-of-00002.safetensors": "without the index",
    "pytorch_model-00001-of-00002.bin": "without the index",
    "zero_to_fp32.py": "DeepSpeed",
    "mp_rank_00_model_states.pt": "DeepSpeed",
    "global_step500": "DeepSpeed",
    "pytorch_model_fsdp_0": "FSDP",
    "ckpt.pt": "nanoGPT",
    "consolidated.00.pth": "another library",
    "checkpoint-500": "Trainer",
    "weights.safetensors": "another name",
}


WHOLE = ("model.fp16.safetensors", "ckpt.pt", "weights.safetensors")  # which may be named themselves


@pytest.mark.parametrize("name", LYING)
def test_no_weights_says_what_lies_there_instead(name, folder, hub, at):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"x")
    if name not in WHOLE:
        assert f"{folder / name}: a file (" in refusal(folder / name, SourceError)
    for kept in (True, False)[: 1 if name == "ckpt.pt" else 2]:  # with and without a config.json
        if not kept:
            (folder / "config.json").unlink()
        hub.add("ns/other", folder)
        for source, more in ((folder, {}), ("ns/other", at)):
            message = refusal(source, **more)
            assert message.partition(" found, " if kept or more else ": not found, ")[1]
            assert re.search(rf"; found {re.escape(name)} \(.*{LYING[name]}.*\)$", message)


def test_what_is_no_checkpoint_is_not_offered(folder):
    (folder / "model.safetensors").unlink()
    for name in ("README.md", "optimizer.pt", "training_args.bin", "rng_state.pth", "tokenizer.json"):
        (folder / name).write_bytes(b"x")
    assert refusal(folder).endswith("expected model.safetensors or model.safetensors.index.json or pytorch_model.bin")


# --- links ---


@pytest.fixture
def linked(tmp_path) -> Path:
    """A folder whose files are links to where a tool keeps them, as of DVC, git-annex and older downloads."""
    folder = tmp_path / "linked"
    store = tmp_path / "store"
    store.mkdir()
    shutil.copytree(Path(archport.__file__).parent / "demo", folder)
    for number, path in enumerate(sorted(folder.glob("*.*"))):
        path.rename(store / f"{number}")
        path.symlink_to(store / f"{number}")
    return folder


def exported(folder: Path, **options: Any) -> Any:
    target = archport.export(archport.load(folder, **options), folder.parent / "out")
    assert {path.name for path in folder.iterdir()} - {"README.md"} <= {path.name for path in target.iterdir()}
    assert not any(path.is_symlink() for path in target.iterdir())


DOORS: dict[str, Callable[..., Any]] = {
    "load": archport.load,
    "plan": archport.plan,
    "tokenizer": archport.tokenizer,
    "the model's tokenizer": lambda folder, **options: archport.tokenizer(archport.load(folder, **options)),
    "subject": subject,
    "verify": lambda folder, **options: archport.verify(folder, quick=True, **options),
    "export": exported,
}


@pytest.mark.parametrize("door", DOORS)
def test_links_out_of_the_folder_are_followed_where_that_is_allowed(door, linked):
    with pytest.raises(
        CheckpointError, match=r"expected a file inside its folder: copy it there, or allow links"
    ) as no:
        DOORS[door](linked)
    assert "--follow-links, follow_links=True" in str(no.value)
    DOORS[door](linked, follow_links=True)


def test_a_linked_checkpoint_is_the_same_model(linked):
    linked_model, own = archport.load(linked, follow_links=True), archport.load()
    assert all(torch.equal(a, b) for a, b in zip(linked_model.parameters(), own.parameters(), strict=True))


def test_every_command_that_opens_a_source_has_the_same_options():
    from archport.cli import checkpoints, parity, texts, views  # noqa: F401
    from archport.cli.app import app

    options = {
        command.callback.__name__: inspect.signature(command.callback).parameters for command in app.registered_commands
    }
    opening = {name: one for name, one in options.items() if "offline" in one}
    assert {
        "load",
        "export",
        "verify",
        "generate",
        "score",
        "tree",
        "diff",
        "explain",
        "plot",
        "page",
    } <= opening.keys()
    for name, one in opening.items():
        assert {"variant", "follow_links"} <= one.keys(), name


@pytest.mark.parametrize("words", [["load"], ["generate", "--prompt", "def f(", "--max-new-tokens", "2"], ["explain"]])
def test_commands_follow_links(words, linked):
    command, *options = words
    with pytest.raises(CheckpointError, match="--follow-links"):
        said(command, str(linked), *options)
    assert said(command, str(linked), *options, "--follow-links")


# --- a folder or an architecture ---


def test_a_folder_beside_the_architecture_of_its_name_is_taken_and_said(folder, tmp_path, monkeypatch):
    folder.rename(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(AsideWarning, match="gpt2: took the folder here, not the architecture of that name"):
        assert subject("gpt2").plan is not None
    assert subject("gpt-2").plan is None
    (tmp_path / "gptj").touch()  # no folder, so nothing that a model is read from
    assert subject("gptj").plan is None
    for words in (["diff", "gpt2", "gptj"], ["verify", "gpt2", "--quick"]):
        with pytest.warns(AsideWarning, match="gpt2: took the folder here"):
            assert "131" in said(*words) or words[0] == "verify"
    done = run("tree", "gpt2", cwd=tmp_path)
    assert done.stderr == "archport: gpt2: took the folder here, not the architecture of that name\n"


# --- offline ---


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_what_keeps_us_offline_is_said(name, at, monkeypatch):
    for one in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(one, raising=False)
    once = "ns/none: not in the cache: run once without offline"
    assert refusal("ns/none", SourceError, offline=True, **at) == once
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for more in ({}, {"offline": True}):
        message = refusal("ns/none", SourceError, **more, **at)
        assert message == f"ns/none: not in the cache: run once without {name}, which is set"


# --- export ---


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_export_by_force_replaces_a_checkpoint(folder, tmp_path):
    bundled = archport.load()
    before = names(tmp_path)
    with pytest.raises(ExportError, match=r"exists already.*--force \(force=True\)"):
        archport.export(bundled, folder)
    archport.export(bundled, folder, force=True, max_shard_size="2MB")
    assert torch.equal(archport.load(folder).embed.tokens.weight, bundled.embed.tokens.weight)
    assert "model.safetensors" not in names(folder)
    archport.export(archport.load(folder), folder, force=True)  # over the very files that it is mapped from
    assert torch.equal(archport.load(folder).embed.tokens.weight, bundled.embed.tokens.weight)
    assert [name for name in names(folder) if name.startswith("model")] == ["model.safetensors"]
    assert names(tmp_path) == before
    for name in ("notes.md", "model.fp16.safetensors", "model.card.json"):
        (folder / name).write_text("precious")
        with pytest.raises(ExportError, match=rf"found {re.escape(name)}, which no export writes and which would be"):
            archport.export(bundled, folder, force=True)
        assert (folder / name).read_text() == "precious"
        (folder / name).unlink()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("fails", ["save_file", "rename"])
def test_what_was_there_stays_until_the_new_one_is_whole(fails, folder, monkeypatch, tmp_path):
    before, beside = contents(folder), names(tmp_path)
    if fails == "save_file":

        def full(*_: Any, **__: Any) -> None:
            assert contents(folder) == before
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("safetensors.torch.save_file", full)
    else:
        rename = Path.rename

        def refuse(self: Path, target: Path) -> Path:
            if "partial" in self.name:
                raise OSError(5, "Input/output error")
            return rename(self, target)

        monkeypatch.setattr(write.Path, "rename", refuse)
    with pytest.raises(ExportError, match="cannot be written"):
        archport.export(archport.load(), folder, force=True)
    monkeypatch.undo()
    assert contents(folder) == before
    assert names(tmp_path) == beside


def test_the_command_exports_by_force_and_looks_before_it_loads(folder, tmp_path):
    with pytest.raises(ExportError, match=f"{folder}: exists already"):
        said("export", str(tmp_path / "none"), str(folder))
    other = str(Path(archport.__file__).parent / "demo")
    assert str(folder / "model.safetensors") in said("export", other, str(folder), "--force")
    assert archport.load(folder).architecture == "gpt_neox"
    (tmp_path / "bare").mkdir()
    reference("gpt2").save_pretrained(tmp_path / "bare")
    said("export", str(tmp_path / "bare"), str(tmp_path / "out"), "--tokenizer", other)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == Path(other, "tokenizer.json").read_bytes()


@pytest.fixture
def alone(tmp_path) -> Iterator[None]:
    """A process group of one."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def compiled_blocks(model: Any) -> Any:
    """As accelerate compiles regions."""
    for at, block in enumerate(model.blocks):
        model.blocks[at] = torch.compile(block, backend="eager")
    return model


WRAPPED: dict[str, Callable[[Any], Any]] = {
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "blocks compiled": compiled_blocks,
    "DistributedDataParallel": DistributedDataParallel,
    "DistributedDataParallel, compiled": lambda model: torch.compile(DistributedDataParallel(model), backend="eager"),
    "DataParallel": torch.nn.DataParallel,
}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("wrap", WRAPPED)
def test_what_a_model_is_wrapped_in_to_train_is_taken_off(wrap, folder, tmp_path):
    model = archport.load(folder, copy=True)
    archport.export(WRAPPED[wrap](copy.deepcopy(model)), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(archport.export(model, tmp_path / "plain"))


def test_accelerate_prepared_models_are_exported(folder, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = archport.load(folder, copy=True)
    prepared = accelerate.Accelerator(cpu=True, mixed_precision="bf16").prepare(copy.deepcopy(model))
    archport.export(prepared, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(archport.export(model, tmp_path / "plain"))


def test_another_module_is_no_model_however_it_is_wrapped(tmp_path):
    with pytest.raises(ExportError, match="found a DataParallel and PosixPath, expected a Decoder"):
        archport.export(torch.nn.DataParallel(torch.nn.Linear(2, 2)), tmp_path / "out")


def test_a_model_on_meta_is_one_line(tmp_path):
    with pytest.raises(ExportError, match=r"^76 of 76 parameters are on meta and have no values, expected"):
        archport.export(archport.load(device="meta"), tmp_path / "out")


def test_a_tokenizer_given_goes_before_that_of_the_origin(folder, tmp_path):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    demo = Path(archport.__file__).parent / "demo"
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(demo / "tokenizer.json"), eos_token="<|endoftext|>")
    (folder / "vocab.json").write_text("of the origin")
    (folder / "generation_config.json").write_text('{"top_k": 3}')
    model = archport.load(folder)
    text = "def __init__(self, name):"
    for at, given in enumerate((theirs, archport.tokenizer(), demo, str(demo))):
        out = archport.export(model, tmp_path / str(at), tokenizer=given)
        assert AutoTokenizer.from_pretrained(out).encode(text) == theirs.encode(text)
        assert archport.tokenizer(out).encode(text).ids == theirs.encode(text)
        assert not (out / "vocab.json").exists()
        assert (out / "generation_config.json").read_text() == '{"top_k": 3}'
    for wrong, message in ((3, "found a int, expected one of transformers"), (tmp_path, "no tokenizer found to take")):
        with pytest.raises(ExportError, match=message):
            archport.export(model, tmp_path / "out", tokenizer=wrong)
    assert not (tmp_path / "out").exists()
