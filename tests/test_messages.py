"""What strangers send: every hostile, broken or half-downloaded file gives its own message, and nothing else happens.

MESSAGES is the table of all messages for folders; those of the Hub follow it. `{folder}` is the checkpoint's folder.
"""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import archport
from archport.errors import (
    ArchportError,
    AsideWarning,
    CheckpointError,
    ExportError,
    MappingError,
    NotFiniteWarning,
    SourceError,
)
from archport.files.safetensors_file import DTYPES, read_headers

from . import fuzz
from .commands import run
from .hub_server import REPO
from .messages import HUB, MESSAGES, WPE, WTE, Evil, config, pickled, weights
from .references import reference

ANY = list(DTYPES.values())
SECONDS = 10  # much more than any refusal takes, much less than what a hostile file could cost


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A good checkpoint: config.json and model.safetensors of a small GPT-2."""
    folder = tmp_path_factory.mktemp("good")
    reference("gpt2").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(checkpoint, tmp_path) -> Path:
    """A copy of it, to be damaged."""
    copy = tmp_path / "checkpoint"
    copy.mkdir()
    for name in ("config.json", "model.safetensors"):
        (copy / name).write_bytes((checkpoint / name).read_bytes())
    return copy


@pytest.mark.parametrize("case", MESSAGES)
def test_every_message_says_what_was_found(case, folder, monkeypatch):
    damage, expected = MESSAGES[case]
    monkeypatch.chdir(folder.parent)
    damage(folder)
    before = everything(folder.parent)
    start = time.monotonic()
    with pytest.raises(ArchportError) as caught:
        archport.load(folder)
    assert time.monotonic() - start < SECONDS
    message = str(caught.value)
    assert message == expected.format(folder=folder).replace(f"{folder}/..", str(folder.parent))
    assert len(message.splitlines()) <= 3
    assert ("found" in message and "expected" in message) or "missing" in message or "builds" in message
    assert everything(folder.parent) == before  # nothing ran, nothing was written


def everything(folder: Path) -> list[tuple[str, int]]:
    """All files below a folder with their sizes."""
    return sorted((str(path), path.lstat().st_size) for path in folder.rglob("*"))


@pytest.mark.parametrize("case", ["header: 90 MB", "pickle: code", "config: a list", "index: a shard missing"])
def test_the_command_says_the_same_and_no_more(case, folder):
    damage, expected = MESSAGES[case]
    damage(folder)
    done = run("load", str(folder), code=1)
    assert done.stdout == ""
    assert done.stderr == f"archport: {expected.format(folder=folder)}\n"


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_a_pickle_cut_anywhere(container, folder):
    pickled(load_file(folder / "model.safetensors"), _use_new_zipfile_serialization=container == "zip")(folder)
    whole = (folder / "pytorch_model.bin").read_bytes()
    for size in [0, 1, 7, 64, 200, *range(1000, len(whole), len(whole) // 40)]:
        (folder / "pytorch_model.bin").write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: ") as caught:
            archport.load(folder)
        assert "\n" not in str(caught.value)


def test_safetensors_are_preferred_so_that_a_pickle_beside_them_is_not_opened(folder):
    torch.save({WTE: Evil()}, folder / "pytorch_model.bin")
    archport.load(folder)


def test_remote_code_is_not_looked_at(folder):
    config(auto_map={"AutoModelForCausalLM": "evil.Model"})(folder)
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.warns(
        AsideWarning, match=r"config\.json: auto_map: found code for the model, evil\.Model, which archport"
    ):
        assert type(archport.load(folder)) is archport.Decoder


def test_links_inside_the_folder_and_inside_the_cache_are_followed(folder, tmp_path):
    (folder / "weights").mkdir()
    (folder / "model.safetensors").rename(folder / "weights" / "file")
    (folder / "model.safetensors").symlink_to("weights/file")
    archport.load(folder)
    snapshot = tmp_path / "models--a--b" / "snapshots" / "commit"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    for number, name in enumerate(("config.json", "model.safetensors")):
        (folder / name).resolve().rename(tmp_path / "models--a--b" / "blobs" / str(number))
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    archport.load(snapshot)
    (tmp_path / "models--a--b" / "blobs" / "1").rename(tmp_path / "elsewhere")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../../elsewhere")
    with pytest.raises(CheckpointError, match="found a link to"):
        archport.load(snapshot)


def test_an_export_does_not_take_a_linked_companion_along(folder, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (folder / "tokenizer.json").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: found a link to"):
        archport.export(archport.load(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(path.name for path in fuzz.CRASHES.glob("*")))
def test_inputs_that_once_broke_a_promise(name, tmp_path):
    target = fuzz.TARGETS[name.partition("-")[0]]
    fuzz.held_to_promises(target, tmp_path)((fuzz.CRASHES / name).read_bytes())


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_good_inputs_and_small_changes_of_them_keep_the_promises(target, tmp_path):
    """A short run without atheris; the long one is ``python -m tests.fuzz``."""
    run = fuzz.held_to_promises(fuzz.TARGETS[target], tmp_path)
    dice = random.Random(0)
    for good in fuzz.seeds()[target]:
        run(good)
        for _ in range(200):
            raw = bytearray(good)
            for _ in range(dice.randint(1, 4)):
                raw[dice.randrange(len(raw))] = dice.randrange(256)
            run(bytes(raw))


NUMBERS = st.integers(-1, 9) | st.sampled_from([1 << 31, 1 << 62, 1 << 63, 1 << 64, 2.0, True, None])
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "U8", "BOOL", "F4", "", 1]),
        "shape": st.lists(NUMBERS, max_size=3) | st.none(),
        "data_offsets": st.lists(NUMBERS, min_size=1, max_size=3) | st.just([0, 4]) | st.just([4, 8]),
    }
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(max_size=3), ENTRIES, max_size=3), st.integers(0, 40))
def test_every_header_that_is_accepted_is_what_safetensors_reads(tmp_path_factory, entries, size):
    path = tmp_path_factory.mktemp("header") / "model.safetensors"
    raw = json.dumps(entries).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(size))
    try:
        headers = read_headers(path)
    except CheckpointError:
        return
    with safe_open(path, "pt") as theirs:
        assert {key: theirs.get_slice(key).get_shape() for key in theirs.keys()} == {  # noqa: SIM118
            key: list(header.shape) for key, header in headers.items()
        }


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=5), st.tuples(st.lists(st.integers(0, 4), max_size=4), st.sampled_from(ANY))))
def test_every_file_that_safetensors_writes_is_accepted(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("header") / "model.safetensors"
    save_file({key: torch.zeros(shape, dtype=dtype) for key, (shape, dtype) in tensors.items() if key}, path)
    assert {key: (list(h.shape), h.dtype) for key, h in read_headers(path).items()} == {
        key: value for key, value in tensors.items() if key
    }


# --- weights that are not finite ---


def spoil(state: dict[str, torch.Tensor]) -> None:
    state["transformer.h.1.attn.c_attn.weight"][3, 4] = float("nan")
    state["transformer.ln_f.bias"][1] = float("inf")


def test_weights_that_are_not_finite_load_and_are_named(folder):
    weights(spoil)(folder)
    with pytest.warns(NotFiniteWarning) as warned:
        archport.load(folder)
    assert warned[0].message.names == ("blocks.1.attn.qkv.weight",)  # the only one of them that is copied
    for more in ({"check_finite": True}, {"dtype": torch.bfloat16}, {"check_finite": True, "copy": True}):
        with pytest.warns(NotFiniteWarning) as warned:
            archport.load(folder, **more)
        assert warned[0].message.names == ("blocks.1.attn.qkv.weight", "norm.bias")
    done = run("load", str(folder), "--check-finite")
    assert "NOT FINITE  NaN or infinity in blocks.1.attn.qkv.weight, norm.bias" in done.stdout
    assert "NaN" not in run("load", "--check-finite").stdout


def test_a_cast_that_overflows_is_named(folder):
    weights(lambda state: state[WPE].fill_(1e5))(folder)  # type: ignore[arg-type, return-value]
    with pytest.warns(NotFiniteWarning, match=r"embed\.positions\.weight"):
        archport.load(folder, dtype=torch.float16)


# --- mapped files that change ---


@pytest.mark.parametrize("container", ["safetensors", "zip", "legacy"])
def test_a_copied_load_does_not_care_what_becomes_of_the_file(container, folder):
    expected = {name: tensor.clone() for name, tensor in archport.load(folder).state_dict().items()}
    if container != "safetensors":
        pickled(load_file(folder / "model.safetensors"), _use_new_zipfile_serialization=container == "zip")(folder)
    model = archport.load(folder, copy=True)
    file = next(path for path in folder.iterdir() if path.suffix in (".bin", ".safetensors"))
    with file.open("r+b") as opened:
        opened.truncate(0)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


# --- the Hub, on loopback ---


def refused(kind: type[ArchportError], at: Any, **more: Any) -> str:
    outside = everything(Path(at["cache_dir"]).parent)
    start = time.monotonic()
    with pytest.raises(kind) as caught:
        archport.load(REPO, **at, **more)
    assert time.monotonic() - start < SECONDS
    assert len(str(caught.value).splitlines()) == 1
    inside = str(at["cache_dir"])
    assert [one for one in everything(Path(at["cache_dir"]).parent) if not one[0].startswith(inside)] == outside
    return str(caught.value)


@pytest.mark.parametrize("answer", HUB)
def test_every_answer_of_the_hub_is_one_line(answer, hub, at):
    fault, expected = HUB[answer]
    hub.fail(**fault | {"times": float("inf")})
    assert expected in refused(ArchportError, at)  # type: ignore[arg-type]


def test_a_silent_server_is_given_up_in_time(hub, at, monkeypatch):
    monkeypatch.setattr("archport.files.hub.repository.TIMEOUT", 0.3)
    hub.fail("*", seconds=2, times=float("inf"))
    assert "tried 3 times, no usable answer" in refused(SourceError, at)


def test_a_server_that_is_gone_is_noticed_at_once(hub, at):
    hub.stop()
    assert "try later, or --offline if it is in the cache" in refused(SourceError, at)


FULL_DISK = """
import resource, signal, sys
import archport
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
archport.{what}
"""


def limited(what: str) -> str:
    """The error of a command that may write no file above 2000 bytes."""
    code = f"try:\n{FULL_DISK.format(what=what)}\nexcept archport.errors.ArchportError as error: print(error)"
    code = code.replace("\n", "\n ", FULL_DISK.count("\n"))
    words = [sys.executable, "-c", code]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_disk_that_is_full_while_downloading(hub, at):
    message = limited(f"load({REPO!r}, endpoint={hub.url!r}, cache_dir={str(at['cache_dir'])!r})")
    assert "the cache cannot be used" in message
    assert "File too large" in message
    assert len(message.splitlines()) == 1
    assert archport.load(REPO, **at)  # and goes on where there is room


def test_a_flipped_byte_in_the_cache_is_found_offline(hub, at):
    archport.load(REPO, check_hash=True, **at)
    blob = next(Path(at["cache_dir"]).rglob("model.safetensors")).resolve()
    raw = bytearray(blob.read_bytes())
    raw[-1] ^= 1
    blob.write_bytes(raw)
    hub.stop()
    archport.load(REPO, offline=True, **at)
    with pytest.raises(CheckpointError, match=f"hash to [0-9a-f]{{64}}, expected {blob.name}: delete it and fetch it"):
        archport.load(REPO, offline=True, check_hash=True, **at)


def test_a_folder_has_no_hashes_to_compare_with(folder):
    with pytest.raises(CheckpointError, match="has no hash to compare with, expected a file of the Hub's cache"):
        archport.load(folder, check_hash=True)


# --- export ---


def test_export_to_a_folder_that_holds_something(folder):
    with pytest.raises(ExportError, match="exists already, expected a new or an empty folder"):
        archport.export(archport.load(), folder)
    with pytest.raises(ExportError, match="is a file, expected a folder"):
        archport.export(archport.load(), folder / "config.json")
    with pytest.raises(ExportError, match="cannot be written"):
        archport.export(archport.load(), folder / "config.json" / "below")


def test_export_to_a_disk_that_is_full(tmp_path, monkeypatch):
    message = limited(f"export(archport.load(), {str(tmp_path / 'out')!r})")
    assert "cannot be written" in message
    assert "File too large" in message
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ExportError, match=r"out: found 1000 bytes free, expected \d+ for the weights alone"):
        archport.export(archport.load(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import archport, os, signal, safetensors.torch, sys
write = safetensors.torch.save_file
def save_file(*words, **options):
    write(*words, **options)
    os.kill(os.getpid(), signal.SIGKILL)
safetensors.torch.save_file = save_file
archport.export(archport.load(), sys.argv[1])
"""


def test_an_export_that_was_killed_leaves_the_target_and_is_cleared_up_by_the_next(tmp_path):
    target = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    assert len(list(tmp_path.iterdir())) == 2  # the half-made folder and its lock
    (tmp_path / ".another.partial-0").mkdir()  # of another target: not ours to remove
    archport.export(archport.load(), target)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".another.partial-0", "out"]


BOTH = """
import archport, sys, torch
for number in range(4):
    try:
        archport.export(archport.load(), f"{sys.argv[1]}/{number}")
    except archport.errors.ExportError as error:
        assert "exists already" in str(error) or "not empty" in str(error), error
    model = archport.load(f"{sys.argv[1]}/{number}")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), archport.load().parameters()))
"""


def test_two_processes_that_export_to_the_same_targets_at_once(tmp_path):
    words = [sys.executable, "-c", BOTH, str(tmp_path)]
    running = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in running:
        _, message = process.communicate(timeout=120)
        assert process.returncode == 0, message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]


def test_two_processes_that_load_from_the_hub_at_once(hub, at):
    code = f"import archport; archport.load({REPO!r}, endpoint={hub.url!r}, cache_dir={str(at['cache_dir'])!r})"
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert len(list(Path(at["cache_dir"]).rglob("*.incomplete"))) == 0


def test_what_a_killed_export_left_is_told_from_what_looks_like_it(tmp_path):
    names = [".out", ".out.partial-0123", ".out.partial-" + "g" * 32, ".out2.partial-" + "0" * 32]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("precious")
    stale = tmp_path / (".out.partial-" + "0" * 32)
    stale.mkdir()
    archport.export(archport.load(), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "out"])


@pytest.mark.parametrize("name", ["n" * 200, "n" * 255, "n" * 300])
def test_targets_with_long_names(name, tmp_path):
    if len(name) < 256:
        archport.load(archport.export(archport.load(), tmp_path / name))
    else:
        with pytest.raises(ExportError, match="File name too long"):
            archport.export(archport.load(), tmp_path / name)
        assert list(tmp_path.iterdir()) == []


def test_targets_that_are_none(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    for model, target, message in (
        (archport.load(), tmp_path / "circle", "Symlink loop|cannot be written"),
        (archport.load(), None, "found a Decoder and NoneType, expected a Decoder and a folder"),
        (None, tmp_path / "out", "found a NoneType and PosixPath"),
    ):
        with pytest.raises(ExportError, match=message):
            archport.export(model, target)


@pytest.mark.parametrize("source", ["a" * 300, "./" + "a" * 300, "~nobodyx/y", 5, b"x", True, "a\0b"])
def test_sources_that_are_none(source):
    with pytest.raises(SourceError) as caught:
        archport.load(source, endpoint="http://127.0.0.1:9", offline=True)
    assert "\n" not in str(caught.value)


def test_pickles_without_checksums_load(folder):
    torch.serialization.set_crc32_options(False)
    try:
        pickled(load_file(folder / "model.safetensors"))(folder)
    finally:
        torch.serialization.set_crc32_options(True)
    archport.load(folder)


@pytest.mark.parametrize("protocol", [2, 3])
def test_pickles_of_either_protocol_load_without_a_warning(protocol, folder):
    pickled(load_file(folder / "model.safetensors"), pickle_protocol=protocol)(folder)
    archport.load(folder)


def test_a_cache_whose_blobs_lie_on_another_disk(at, tmp_path):
    archport.load(REPO, **at)
    blobs = next(Path(at["cache_dir"]).rglob("blobs"))
    blobs.rename(tmp_path / "disk")
    blobs.symlink_to(tmp_path / "disk")
    archport.load(REPO, **at)


def test_many_unknown_tensors_are_named_in_time(folder):
    config(n_layer=500)(folder)
    entries = {f"transformer.x{i}.foo": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_000)}
    raw = json.dumps(entries).encode()
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw)
    start = time.monotonic()
    with pytest.raises(MappingError) as caught:
        archport.load(folder)
    assert time.monotonic() - start < SECONDS
    assert len(str(caught.value).splitlines()) == 3
    assert len(caught.value.faults) > 20_000


def test_offsets_that_are_none_in_a_header_on_the_hub(hub, at, folder):
    hub.add("ns/odd", folder)
    for offsets in ([0], [], {"a": 1}, [0, "x"], [0, None], None):
        raw = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": offsets}}).encode()
        (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(4))
        with pytest.raises(CheckpointError):
            archport.plan("ns/odd", **at)


def test_an_answer_that_is_too_large_is_not_taken_in(hub, at):
    hub.fail(
        "*/config.json",
        status=200,
        headers={"ETag": '"a"', "X-Repo-Commit": "c" * 40, "Content-Length": str(9 * 10**8)},
    )
    message = refused(SourceError, at)
    assert (
        "the server answers with 900000000 bytes for /ns/name/resolve/main/config.json, expected at most 1048576"
        in message
    )


def test_names_of_a_config_do_not_reach_the_terminal_as_they_are(folder):
    config(**{"\x1b[2Jred": 1, "a\nseconds     0.001": 2, "\ud800": 3})(folder)
    done = run("load", str(folder))
    assert "\x1b" not in done.stdout
    assert r"\x1b[2Jred" in done.stdout
    assert sum(line.startswith("seconds") for line in done.stdout.splitlines()) == 1
