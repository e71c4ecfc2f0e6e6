"""The table of messages: how a checkpoint or an answer of the Hub is damaged, and the message it gets, word for word."""
# ruff: noqa: E501

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from archport import architectures

# --- ways to damage a folder ---


def config(**fields: Any) -> Callable[[Path], None]:
    """Other values in config.json."""

    def damage(folder: Path) -> None:
        hf = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(hf | fields))

    return damage


def content(name: str, data: bytes | str | None) -> Callable[[Path], None]:
    """A file with other bytes, or without the file."""

    def damage(folder: Path) -> None:
        if data is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)

    return damage


def header(entries: dict[str, Any] | bytes, data: int = 0) -> Callable[[Path], None]:
    """A safetensors file with this header over so many bytes."""
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return content("model.safetensors", len(raw).to_bytes(8, "little") + raw + bytes(data))


def entry(shape: Any, *offsets: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


def cut(size: int) -> Callable[[Path], None]:
    """The weights without their last bytes."""

    def damage(folder: Path) -> None:
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[:-size])

    return damage


def more(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"more")


def weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    """Other tensors."""

    def damage(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return damage


def sharded(change: Callable[[Path, dict[str, str]], None]) -> Callable[[Path], None]:
    """Two shards a and b, with their index changed."""

    def damage(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = sorted(state)
        halves = {A: names[:20], B: names[20:]}
        for name, keys in halves.items():
            save_file({key: state[key] for key in keys}, folder / name)
        weight_map = {key: name for name, keys in halves.items() for key in keys}
        change(folder, weight_map)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return damage


A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
WTE, WPE = "transformer.wte.weight", "transformer.wpe.weight"


def pickled(value: Any, **options: Any) -> Callable[[Path], None]:
    """A pytorch_model.bin in place of safetensors."""

    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        torch.save(value, folder / "pytorch_model.bin", **options)

    return damage


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


class Bomb:
    def __reduce__(self) -> Any:
        return bytearray, (1 << 40,)


def compressed(folder: Path) -> None:
    pickled({"transformer.wte.weight": torch.zeros(1 << 20)})(folder)
    plain = folder / "pytorch_model.bin"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(folder / "new", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    (folder / "new").rename(plain)


def zipped(pickle: bytes, **entries: bytes) -> Callable[[Path], None]:
    """A zip container around a pickle, with other entries of torch's."""

    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(container(pickle, **entries))

    return damage


def container(pickle: bytes, **entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a/data.pkl", pickle)
        for name, content in ({"byteorder": b"little", "version": b"3"} | entries).items():
            file.writestr(f"a/{name.replace('__', '/')}", content)
    return buffer.getvalue()


def rezipped(name: str, content: bytes) -> Callable[[Path], None]:
    """What torch writes, with one entry changed."""

    def damage(folder: Path) -> None:
        pickled({WTE: torch.ones(131, 60)})(folder)
        path = folder / "pytorch_model.bin"
        with zipfile.ZipFile(path) as old:
            entries = {entry: old.read(entry) for entry in old.namelist()}
        with zipfile.ZipFile(path, "w") as new:
            for entry, held in entries.items():
                new.writestr(entry, content if entry.endswith(name) else held)

    return damage


def two_directories(folder: Path) -> None:
    """A container that one reader takes for a sound one and another for a packed one."""
    (folder / "model.safetensors").unlink()
    first, second = container(b"\x80\x02}.\x80"), container(b"\x80\x02}.")
    (folder / "pytorch_model.bin").write_bytes(first + second)


LEGACY_CLAIM = (
    b"\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n"
    b"X\x01\0\0\x000X\x03\0\0\0cpu\x8a\x06" + (5 * 10**8).to_bytes(6, "little") + b"NtQK\0K\x01\x85K\x01\x85\x89"
    b"ccollections\nOrderedDict\n)RtRs."
)


def claims(folder: Path) -> None:
    """An older container of 365 bytes whose one storage claims two gigabytes."""
    (folder / "model.safetensors").unlink()
    order = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    before = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, order))
    after = pickle.dumps(["0"], 2) + (5 * 10**8).to_bytes(8, "little") + bytes(64)
    (folder / "pytorch_model.bin").write_bytes(before + LEGACY_CLAIM + after)


def linked(name: str, target: str, data: bytes | None = None) -> Callable[[Path], None]:
    """A link in place of a file, with its bytes or others outside of the folder."""

    def damage(folder: Path) -> None:
        outside = folder.parent / "outside"
        outside.write_bytes((folder / name).read_bytes() if data is None else data)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return damage


def pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def many_tensors(folder: Path) -> None:
    header(
        b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(60_000)) + b"}"
    )(folder)


C, W = "{folder}/config.json", "{folder}/model.safetensors"
G = "{folder}/generation_config.json"
INDEX, BIN = "{folder}/model.safetensors.index.json", "{folder}/pytorch_model.bin"
MESSAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    # config.json
    "no config": (content("config.json", None), C + ": not found, expected a file"),
    "config: a list": (content("config.json", "[]"), C + ": found a JSON list, expected an object"),
    "config: not JSON": (
        content("config.json", "{"),
        C + ": expected a JSON object, found something else at line 1, column 2: correct it or fetch it again",
    ),
    "config: not UTF-8": (
        content("config.json", b'{"a": "\xff"}'),
        C + ": expected a JSON object, found a byte at 7 that is not UTF-8: correct it or fetch it again",
    ),
    "config: a key twice": (
        content("config.json", '{"n_layer": 2, "n_layer": 3}'),
        C + ": expected a JSON object, found 'n_layer' twice: correct it or fetch it again",
    ),
    "config: 10 MB": (
        content("config.json", '{"a": "' + "x" * 10_000_000 + '"}'),
        C + ": found 10000009 bytes, expected at most 1048576 of JSON",
    ),
    "config: nested deeply": (
        content("config.json", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"),
        C + ": expected a JSON object, found brackets nested too deeply: correct it or fetch it again",
    ),
    "config: a number of 10,000 digits": (
        content("config.json", '{"n_layer": ' + "9" * 10_000 + "}"),
        C + ": expected a JSON object, found a number of thousands of digits: correct it or fetch it again",
    ),
    "config: a pipe": (pipe, C + ": found a pipe or a device, expected a file"),
    "config: an unknown model": (
        config(model_type="mamba"),
        C + f": model_type: found 'mamba', archport builds {', '.join(architectures())}",
    ),
    "config: 10^7 layers": (
        config(n_layer=10_000_000),
        C + ": n_layer: found 10000000, expected a whole number from 1 to 1024",
    ),
    "config: negative layers": (config(n_layer=-1), C + ": n_layer: found -1, expected a whole number from 1 to 1024"),
    "config: float layers": (config(n_layer=2.5), C + ": n_layer: found 2.5, expected a whole number from 1 to 1024"),
    "config: layers as a string": (
        config(n_layer="2"),
        C + ": n_layer: found '2', expected a whole number from 1 to 1024",
    ),
    "config: layers as a bool": (
        config(n_layer=True),
        C + ": n_layer: found True, expected a whole number from 1 to 1024",
    ),
    "config: eps NaN": (
        config(layer_norm_epsilon=float("nan")),
        C + ": layer_norm_epsilon: found nan, expected a positive number",
    ),
    "config: eps of 400 digits": (
        config(layer_norm_epsilon=10**400),
        C
        + ": layer_norm_epsilon: found 100000000000000000000000000000000000000000000000000000000000..., expected a positive number",
    ),
    "config: a megabyte for a size": (
        config(n_layer="x" * 900_000),
        C
        + ": n_layer: found 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..., expected a whole number from 1 to 1024",
    ),
    "config: a name that moves the cursor": (
        config(activation_function="\x1b[2Jgelu\nseconds 0"),
        C
        + ": activation_function: found '\\x1b[2Jgelu\\nseconds 0', archport builds gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu, silu, swish, quick_gelu, relu2, gelu_python, gelu_python_tanh, gelu_accurate",
    ),
    "config: a byte order mark": (
        content("config.json", b"\xef\xbb\xbf{}"),
        C + ": expected a JSON object, found a byte order mark before it: correct it or fetch it again",
    ),
    "config: a type of torch's that is none of weights": (
        config(dtype="float4_e2m1fn_x2", torch_dtype="float4_e2m1fn_x2"),
        C + ": dtype: found 'float4_e2m1fn_x2', expected float32, float16, bfloat16, float64",
    ),
    "config: heads do not divide the width": (
        config(n_head=7),
        C + ": n_head: found 7, expected a divisor of width 60",
    ),
    "config and weights disagree": (
        config(vocab_size=50304),
        "{folder}: 1 fault between checkpoint and model, nothing was loaded\n  transformer.wte.weight: found (131, 60), expected (50304, 60) for embed.tokens.weight (50304, 60)",
    ),
    # generation_config.json
    "generation config: not JSON": (
        content("generation_config.json", "</s>"),
        G + ": expected a JSON object, found something else at line 1, column 1: correct it or fetch it again",
    ),
    "generation config: a list": (
        content("generation_config.json", "[]"),
        G + ": found a JSON list, expected an object",
    ),
    "generation config: 10 MB": (
        content("generation_config.json", '{"a": "' + "x" * 10_000_000 + '"}'),
        G + ": found 10000009 bytes, expected at most 1048576 of JSON",
    ),
    "a link to a generation config outside": (
        linked("generation_config.json", "../outside", b"{}"),
        G
        + ": found a link to {folder}/../outside, expected a file inside its folder: copy it there, or allow links out of it by --follow-links, follow_links=True",
    ),
    # model.safetensors
    "no weights": (
        content("model.safetensors", None),
        "{folder}: no weights found, expected model.safetensors or model.safetensors.index.json or pytorch_model.bin",
    ),
    "weights: empty": (
        content("model.safetensors", b""),
        W + ": found an empty file (copy or save it again), expected a safetensors file",
    ),
    "weights: an LFS pointer": (
        content("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        W + ": found a git-lfs pointer (fetch the file itself with `git lfs pull`), expected a safetensors file",
    ),
    "weights: a web page": (
        content("model.safetensors", "<!doctype html><title>Log in</title>"),
        W + ": found a page of HTML or XML (fetch the file itself), expected a safetensors file",
    ),
    "weights: truncated": (
        cut(8),
        W + ": found 371080 bytes of tensors, expected 371088: truncated, copy or save it again",
    ),
    "weights: something after the last tensor": (
        more,
        W + ": found 371092 bytes of tensors, expected 371088: copy or save it again",
    ),
    "header: 90 MB": (header(b" " * 90_000_000), W + ": found a header of 90000000 bytes, expected at most 8388608"),
    "header: longer than the file": (
        content("model.safetensors", (1 << 62).to_bytes(8, "little") + b"{}"),
        W + ": found 10 bytes of something else, expected a safetensors file",
    ),
    "header: not JSON": (
        header(b"nope"),
        W + ": expected a safetensors header, found something else at line 1, column 1: copy or save it again",
    ),
    "header: a list": (header(b"[]"), W + ": found a JSON list for a header, expected an object"),
    "header: nested deeply": (
        header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        W + ": expected a safetensors header, found brackets nested too deeply: copy or save it again",
    ),
    "header: 60,000 tensors": (many_tensors, W + ": found 60000 tensors, expected at most 50000"),
    "header: a key twice": (
        header(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            4,
        ),
        W + ": expected a safetensors header, found 'a' twice: copy or save it again",
    ),
    "header: overlapping tensors": (
        header({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, 4),
        W + ": found tensors that overlap or leave gaps, expected one right after another",
    ),
    "header: a gap": (
        header({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, 12),
        W + ": found tensors that overlap or leave gaps, expected one right after another",
    ),
    "header: a million dims": (
        header({"a": entry([1] * 1_000_000, 0, 4)}, 4),
        W
        + ": tensor 'a': found shape [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,, expected at most 8 whole numbers",
    ),
    "header: a shape that overflows": (
        header({"a": entry([1 << 62, 1 << 62], 0, 4)}, 4),
        W
        + ": tensor 'a': found bytes [0, 4], expected 85070591730234615865843651857942052864 of them for F32 [4611686018427387904, 4611686018427387904]",
    ),
    "header: a negative dim": (
        header({"a": entry([-1], 0, 4)}, 4),
        W + ": tensor 'a': found shape [-1], expected at most 8 whole numbers",
    ),
    "header: a dim that is true": (
        header({"a": entry([True], 0, 4)}, 4),
        W + ": tensor 'a': found shape [True], expected at most 8 whole numbers",
    ),
    "header: offsets that go back": (
        header({"a": entry([1], 4, 0)}, 4),
        W + ": tensor 'a': found bytes [4, 0], expected 4 of them for F32 [1]",
    ),
    "header: a shape beyond its bytes": (
        header({"a": entry([10], 0, 4)}, 4),
        W + ": tensor 'a': found bytes [0, 4], expected 40 of them for F32 [10]",
    ),
    "header: an unknown type": (
        header({"a": entry([1], 0, 4, dtype="F4")}, 4),
        W
        + ": tensor 'a': found dtype 'F4', expected F64, F32, F16, BF16, F8_E4M3, F8_E5M2, I64, I32, I16, I8, U8, BOOL",
    ),
    "header: a name of a million letters": (
        header({"a" * 1_000_000: entry([1], 0, 4)}, 4),
        W + ": found a name of 1000000 letters, expected at most 500",
    ),
    "header: metadata that is a number": (
        header({"__metadata__": 5}),
        W + ": found metadata 5, expected names and texts",
    ),
    "header: an entry without shape": (
        header({"a": {"dtype": "F32"}}),
        W + ": tensor 'a': found {{'dtype': 'F32'}}, expected its dtype, shape and data_offsets",
    ),
    "a weight missing": (
        weights(lambda state: state.pop(WPE)),
        "{folder}: 1 fault between checkpoint and model, nothing was loaded\n  transformer.wpe.weight: missing, expected for embed.positions.weight (37, 60)",
    ),  # type: ignore[arg-type, return-value]
    # an index
    "index: no weight_map": (
        sharded(lambda _, w: w.clear()),
        INDEX + ": no weight_map found, expected an index of shards",
    ),
    "index: a folder above": (
        sharded(lambda _, w: w.update({WTE: "../x.safetensors"})),
        INDEX + ": found shard '../x.safetensors', expected the bare name of a .safetensors file",
    ),
    "index: an absolute path": (
        sharded(lambda _, w: w.update({WTE: "/etc/x.safetensors"})),
        INDEX + ": found shard '/etc/x.safetensors', expected the bare name of a .safetensors file",
    ),
    "index: another ending": (
        sharded(lambda _, w: w.update({WTE: "x.bin"})),
        INDEX + ": found shard 'x.bin', expected the bare name of a .safetensors file",
    ),
    "index: a shard missing": (
        sharded(lambda folder, _: (folder / B).unlink()),
        INDEX + ": expected shards as listed, model-00002-of-00002.safetensors is missing: copy or save it again",
    ),
    "index: a tensor in two shards": (
        sharded(lambda folder, _: save_file(load_file(folder / A) | {WTE: torch.ones(131, 60)}, folder / A)),
        INDEX
        + ": found transformer.wte.weight in model-00001-of-00002.safetensors and in model-00002-of-00002.safetensors, with other values, expected it in one: copy or save it again",
    ),
    "index: a key twice": (
        lambda folder: (
            content("model.safetensors.index.json", f'{{"weight_map": {{"a": "{A}", "a": "{B}"}}}}')(folder)
            or (folder / "model.safetensors").unlink()
        ),
        INDEX + ": expected a JSON object, found 'a' twice: correct it or fetch it again",
    ),
    # links
    "a link to weights outside": (
        linked("model.safetensors", "../outside"),
        W
        + ": found a link to {folder}/../outside, expected a file inside its folder: copy it there, or allow links out of it by --follow-links, follow_links=True",
    ),
    "a link to a config outside": (
        linked("config.json", "../outside"),
        C
        + ": found a link to {folder}/../outside, expected a file inside its folder: copy it there, or allow links out of it by --follow-links, follow_links=True",
    ),
    "a link in a circle": (
        linked("config.json", "config.json"),
        C + ": found something that leads nowhere (Too many levels of symbolic links), expected a file",
    ),
    "a link to nowhere": (
        linked("config.json", "nowhere"),
        C + ": found a link to nowhere, which is not there, expected a file: get that, as by git annex get or dvc pull",
    ),
    # pytorch_model.bin
    "pickle: code": (
        pickled({WTE: Evil()}),
        BIN
        + ": found a call of posix.mkdir, expected names and dense tensors only: it was not run; ask for safetensors",
    ),
    "pickle: code in the older container": (
        pickled({WTE: Evil()}, _use_new_zipfile_serialization=False),
        BIN
        + ": found a call of posix.mkdir, expected names and dense tensors only: it was not run; ask for safetensors",
    ),
    "pickle: a terabyte of zeros": (
        pickled({WTE: Bomb()}),
        BIN
        + ": found a call of __builtin__.bytearray, expected names and dense tensors only: it was not run; ask for safetensors",
    ),
    "pickle: compressed": (
        compressed,
        BIN + ": found 'pytorch_model/data.pkl' compressed or encrypted, expected it stored as it is",
    ),
    "pickle: 10^12 elements of one number": (
        pickled({WTE: torch.zeros(1).expand(1_000_000, 1_000_000)}),
        BIN + ": transformer.wte.weight: found 4 bytes, expected (1000000, 1000000) of 4000000000000 bytes",
    ),
    "pickle: the other byte order": (
        rezipped("byteorder", b"big"),
        BIN + ": found byte order b'big', expected little: convert it to safetensors",
    ),
    "pickle: an alignment of nothing": (
        rezipped(".storage_alignment", b"0"),
        BIN + ": found 32598 bytes of something else, expected a PyTorch checkpoint (a storage alignment that is none)",
    ),
    "pickle: tuples in tuples": (
        zipped(b"\x80\x02})" + b"\x85" * 900_000 + b"Ns."),
        BIN
        + ": found 900324 bytes of something else, expected a PyTorch checkpoint (a tuple of more than 10000 elements)",
    ),
    "pickle: tuples that double": (
        zipped(b"\x80\x02)q\x01" + b"h\x01h\x01\x86q\x01" * 60 + b"}h\x01Ns."),
        BIN
        + ": found 748 bytes of something else, expected a PyTorch checkpoint (a tuple of more than 10000 elements)",
    ),
    "pickle: two directories": (
        two_directories,
        BIN
        + ": found 643 bytes of something else, expected a PyTorch checkpoint (a zip container with something before or after its directory)",
    ),
    "pickle: half a storage": (
        rezipped("data/0", b"abc"),
        BIN + ": found 3 bytes of storage '0', expected 31440: copy or save it again",
    ),
    "pickle: more than the older container has": (claims, BIN + ": found 72 bytes, expected 2000000000 of tensors"),
    "pickle: a list": (
        pickled([torch.zeros(1)]),
        BIN + ": found something else, expected a dictionary of names and dense tensors",
    ),
    "pickle: a sparse tensor": (
        pickled({WTE: torch.eye(3).to_sparse()}),
        BIN
        + ": found a call of torch.Size, expected names and dense tensors only: it was not run; ask for safetensors",
    ),
    "pickle: empty": (
        lambda folder: content("pytorch_model.bin", b"")(folder) or (folder / "model.safetensors").unlink(),
        BIN + ": found an empty file (copy or save it again), expected a PyTorch checkpoint",
    ),
    "pickle: a web page": (
        lambda folder: content("pytorch_model.bin", "<html>")(folder) or (folder / "model.safetensors").unlink(),
        BIN + ": found a page of HTML or XML (fetch the file itself), expected a PyTorch checkpoint",
    ),
}

# What the server does, as fields of Fault, and a part of the message.
HUB: dict[str, tuple[dict[str, Any], str]] = {
    "401": ({"path": "*", "status": 401}, "the server refuses (401): log in"),
    "403": ({"path": "*", "status": 403}, "the server refuses (403): log in"),
    "403 gated": (
        {"path": "*/config.json", "status": 403, "headers": {"X-Error-Code": "GatedRepo"}},
        "gated: ask for access on its page, then log in",
    ),
    "404 repository": (
        {"path": "/api/*", "status": 404, "headers": {"X-Error-Code": "RepoNotFound"}},
        "no such repository on the Hub, or it is private",
    ),
    "404 revision": (
        {"path": "/api/*", "status": 404, "headers": {"X-Error-Code": "RevisionNotFound"}},
        "no such branch, tag or commit: check the revision",
    ),
    "404 file": (
        {"path": "*/config.json", "status": 404, "headers": {"X-Error-Code": "EntryNotFound"}},
        "a file is missing",
    ),
    "429": ({"path": "*", "status": 429}, "asks to slow down (429): try again in some minutes"),
    "500": ({"path": "*", "status": 500}, "tried 3 times, the server answers 500; try later, or --offline"),
    "503": ({"path": "*", "status": 503}, "tried 3 times, the server answers 503; try later, or --offline"),
    "redirects in a circle": (
        {"path": "*/config.json", "status": 302, "headers": {"Location": "/ns/name/resolve/main/config.json"}},
        "tried 3 times, no usable answer (TooManyRedirects",
    ),
    "a body that is always cut": ({"path": "*.safetensors", "method": "GET", "cut": True}, "try later"),
    "an ETag that leads out": (
        {"path": "*/config.json", "status": 200, "headers": {"ETag": '"../../../x"', "X-Repo-Commit": "c" * 40}},
        """the server answers with ETag '"../../../x"', which leads out of the cache: do not trust it""",
    ),
    "a linked ETag that leads out": (
        {
            "path": "*/config.json",
            "status": 200,
            "headers": {"X-Linked-ETag": "/etc/x", "ETag": '"a"', "X-Repo-Commit": "c" * 40},
        },
        "the server answers with X-Linked-ETag '/etc/x', which leads out of the cache",
    ),
    "a commit that leads out": (
        {"path": "*/config.json", "status": 200, "headers": {"ETag": '"a"', "X-Repo-Commit": "../../x"}},
        "the server answers with X-Repo-Commit '../../x', which leads out of the cache",
    ),
    "a body that is always empty": (
        {"path": "*.safetensors", "method": "GET", "status": 200},
        "tried 3 times, no usable answer (OSError: Consistency check failed",
    ),
}
