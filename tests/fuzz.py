"""Coverage-guided fuzzing of everything that reads a stranger's bytes: ``python -m tests.fuzz --runs 20000``.

Only ArchportError may come out, within 2 seconds and 200 MB. Needs the extra `fuzz`. An input that breaks a promise is
kept under tests/crashes, which test_messages replays. The last target, `folders`, is not guided: each of its runs loads
a folder put together at random, by archport and by transformers.
"""

import argparse
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

SECONDS, BYTES = 2, 200 << 20
CRASHES = Path(__file__).parent / "crashes"


def config(raw: bytes, folder: Path) -> None:
    """A config.json, for the architecture it names or else for every one; what is accepted is built and written."""
    from archport.errors import ArchportError
    from archport.files.strict_json import read_json
    from archport.registry import architecture, architectures, skeleton
    from archport.translate.fields import read_config, write_config

    (folder / "config.json").write_bytes(raw)
    hf = read_json(folder / "config.json", 1 << 20)
    named = hf.get("model_type")
    for name in [named] if isinstance(named, str) else architectures():
        arch = architecture(name)
        try:
            cfg, _ = read_config(arch.table, arch.config_class, hf, "config.json")
        except ArchportError:
            continue
        skeleton(arch, cfg)
        write_config(arch.table, cfg, arch.name, hf)


def index(raw: bytes, folder: Path) -> None:
    """A model.safetensors.index.json, beside two shards."""
    import torch

    from archport.files.header import Header
    from archport.files.shards import check_index, read_index

    header = Header((1,), torch.float32)
    path = folder / "model.safetensors.index.json"
    path.write_bytes(raw)
    check_index(read_index(path), {"a.safetensors": {"x": header, "y": header}, "b.safetensors": {"z": header}}, path)


def header(raw: bytes, folder: Path) -> None:
    """A model.safetensors, as it is and as the header of one; what is accepted is read."""
    _read(folder / "model.safetensors", raw, headed(raw))


def container(raw: bytes, folder: Path) -> None:
    """A pytorch_model.bin, as it is and as the pickle of a sound container; what is accepted is read."""
    _read(folder / "pytorch_model.bin", raw, zipped(raw))


def _read(path: Path, *contents: bytes) -> None:
    """All tensors of a file that holds one content after another."""
    from archport.errors import ArchportError
    from archport.files.checkpoint import open_weights

    for content in contents:
        path.write_bytes(content)
        with suppress(ArchportError):
            file = open_weights(path)
            for key in file.headers:
                file.tensor(key, own=True)


def headed(entries: bytes) -> bytes:
    """A safetensors file with this header."""
    return len(entries).to_bytes(8, "little") + entries + bytes(64)


def zipped(pickle: bytes) -> bytes:
    """A container as torch writes it, around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", pickle)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/data/0", bytes(64))
    return buffer.getvalue()


TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    "config": config,
    "index": index,
    "header": header,
    "container": container,
}


SLOWER = 20  # times, a run of folders


def folders(runs: int) -> None:
    """Folders put together at random, of every variant, equal on both sides or refused."""
    import transformers

    from .folders import check
    from .references import VARIANTS

    transformers.logging.set_verbosity_error()
    for number in range(runs):
        dice = random.Random(f"fuzz {number}")
        with tempfile.TemporaryDirectory() as root:
            check(dice.choice(list(VARIANTS)), dice, Path(root))


def seeds() -> dict[str, list[bytes]]:
    """Good inputs to start from."""
    import torch
    from safetensors.torch import save

    from .references import SIZES, hf_dict, reference

    state = {"x": torch.ones(2, 2), "y": torch.ones(24, dtype=torch.float16)}  # 64 bytes, as the targets add
    containers = []
    for zip_container in (True, False):
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=zip_container)
        containers.append(buffer.getvalue())
    with zipfile.ZipFile(io.BytesIO(containers[0])) as file:
        containers.append(file.read("archive/data.pkl"))
    whole = save(state)
    return {
        "config": [json.dumps(hf_dict(reference(name))).encode() for name in SIZES],
        "index": [
            json.dumps({"weight_map": {"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors"}}).encode()
        ],
        "header": [whole, whole[8 : 8 + int.from_bytes(whole[:8], "little")]],
        "container": containers,
    }


ODD = [None, True, False, 0, 1, -1, 2.5, 1e300, 1 << 31, 1 << 63, "", "x", "../x", [], {}, [1], [[]], {"a": 1}]


def changed(raw: bytes, dice: random.Random) -> bytes:
    """JSON with one of its values, keys or list elements replaced, removed or doubled; other bytes as they are."""
    start = 8 if raw[8:9] == b"{" else 0
    try:
        value = json.loads(raw[start:].rstrip(b"\0"))
        places = list(_places(value))
    except (ValueError, RecursionError):
        return raw
    if not places:
        return json.dumps(dice.choice(ODD)).encode()
    parent, place = dice.choice(places)
    match dice.randrange(4):
        case 0:
            del parent[place]
        case 1 if isinstance(parent, dict):
            parent[str(dice.choice(ODD))] = parent.pop(place)
        case 2 if isinstance(parent, list):
            parent.append(parent[place])
        case _:
            parent[place] = dice.choice(ODD)
    body = json.dumps(value).encode()
    return headed(body) if start else body


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys or positions."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for place, child in list(inside):
        yield value, place
        yield from _places(child)


def held_to_promises(target: Callable[[bytes, Path], None], folder: Path) -> Callable[[bytes], None]:
    """The target, with its time and memory watched and errors of ours taken for what they are: answers."""
    from archport.errors import ArchportError

    warnings.simplefilter("ignore")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def run(raw: bytes) -> None:
        start = time.monotonic()
        with suppress(ArchportError):
            target(raw, folder)
        assert time.monotonic() - start < SECONDS, "too slow"
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < BYTES, "too much memory"

    return run


def fuzz(name: str, runs: int) -> None:
    """Run one target in this process; libFuzzer ends it."""
    if name == "folders":
        folders(runs // SLOWER)
        return
    import atheris

    with atheris.instrument_imports(include=["archport"]):
        import archport.registry  # noqa: F401
    good = seeds()[name]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(good):
            (corpus / str(number)).write_bytes(seed)
        run = held_to_promises(TARGETS[name], Path(folder))
        for seed in good:
            run(seed)
        CRASHES.mkdir(exist_ok=True)
        words = [
            f"-runs={runs}",
            "-seed=1",
            "-max_len=4096",
            "-len_control=0",
            f"-artifact_prefix={CRASHES}/{name}-",
            str(corpus),
        ]

        def mutate(raw: bytes, longest: int, seed: int) -> bytes:
            dice = random.Random(seed)
            mutated = changed(raw, dice) if dice.random() < 0.7 else raw
            return bytes(mutated[:longest] if mutated != raw else atheris.Mutate(raw, longest))

        atheris.Setup([sys.argv[0], *words], run, custom_mutator=mutate)
        atheris.Fuzz()


def _ran(name: str, runs: int) -> tuple[subprocess.CompletedProcess[str], float]:
    """What became of a target in a process of its own, and how long it took."""
    start = time.monotonic()
    words = [sys.executable, "-m", "tests.fuzz", name, "--runs", str(runs)]
    return subprocess.run(words, capture_output=True, text=True, check=False), time.monotonic() - start


def main() -> None:
    """Fuzz one target, or each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", nargs="?", choices=[*TARGETS, "folders"])
    parser.add_argument("--runs", type=int, default=20_000)
    arguments = parser.parse_args()
    if arguments.target:
        fuzz(arguments.target, arguments.runs)
        return
    failed = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        names = (*TARGETS, "folders")
        for name, (done, seconds) in zip(names, pool.map(lambda name: _ran(name, arguments.runs), names), strict=True):
            verdict = "clean" if done.returncode == 0 else "BROKEN"
            print(f"{name}: {arguments.runs} runs, {verdict}, {seconds:.0f} s", flush=True)
            if done.returncode:
                failed.append(name)
                print(done.stderr[-3000:])
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
