"""What sharing a model among processes costs on this machine: a step of generation, and loading a rank's part.

Steps are those of a GPT-2 of 12 layers through the cache, one text, on one process and on two under torchrun: by the
plain collectives of `archport.parallel`, and by DTensor's `parallelize_module` over the same cuts. Logits must agree.

Loading is that of a checkpoint of published sizes in float16, a file of holes that takes no room on disk and is read
as zeros: rank 0 of so many, alone in a fresh process, with all the pages it needs yet to be read.
"""

import argparse
import json
import re
import struct
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from machine import memory, where
from torch import nn

import archport
from archport.files.header import Header
from archport.layers import Cut
from archport.loading import execute
from archport.parallel.cutting import children
from archport.parallel.parts import share_out
from archport.parallel.ranks import Ranks
from archport.registry import architecture
from archport.translate.fields import write_config
from archport.translate.tensors import export_tensors

WIDTHS, STEPS = (192, 768), 30
MODEL, ARCH, COUNTS = "EleutherAI/gpt-neox-20b", "gpt_neox", (2, 4, 8)


def main() -> None:
    """Measure, print the table, and write it into a page where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model, few steps")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the tables into a page, between its markers")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        what, *words = options.one
        said = steps(*map(int, words)) if what == "steps" else loading(*words)
        if said is not None:
            print(json.dumps(said))
        return
    text = f"{where()}\n\n{table_of_steps(options.quick)}\n\n{table_of_loads(options.quick)}"
    print(text)
    if options.docs:
        from turns import write

        write(options.docs, "benchmarks/parallel.py", text)


def table_of_steps(quick: bool) -> str:
    """Milliseconds a token."""
    rows = ["| GPT-2, 12 layers, float32 | one process | two, as here | two, by DTensor |", "| --- | --- | --- | --- |"]
    for width in WIDTHS[:1] if quick else WIDTHS:
        start = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
        start += ["--rdzv-endpoint", "127.0.0.1:0"]
        said = own_process("steps", width, 5 if quick else STEPS, start=start)
        rows.append(f"| width {width} | " + " | ".join(f"{1e3 * seconds:.1f} ms" for seconds in said) + " |")
    return "\n".join(rows)


def table_of_loads(quick: bool) -> str:
    """Seconds and memory of a rank."""
    name = "EleutherAI/pythia-1b" if quick else MODEL
    heads = [f"{name}, float16, shared by", "weights each", "mapped where they lie"]
    heads += ["memory of its own", "most resident while loading", "seconds"]
    rows = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    with tempfile.TemporaryDirectory() as folder:
        holes(name, Path(folder))
        for count in COUNTS:
            one = own_process("loading", folder, count)
            sizes = [f"{one[part] / 1e9:.2f} GB" for part in ("weights", "mapped", "own", "peak")]
            rows.append(f"| {count} | {' | '.join(sizes)} | {one['seconds']:.1f} |")
    return "\n".join(rows)


def own_process(what: str, *words: object, start: list[str] | None = None) -> Any:
    """What a fresh process says, or the first of several."""
    command = [sys.executable, *(start or ()), __file__, "--one", what, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def holes(name: str, folder: Path) -> None:
    """A checkpoint of published sizes whose weights take no room on disk."""
    arch = architecture(ARCH)
    config = arch.config_class(**arch.published[name])
    parameters = dict(archport.build(ARCH, config, device="meta").named_parameters())
    tensors = export_tensors(arch.table, config, parameters, dtype=torch.float16)
    hf = write_config(arch.table, config, arch.name, None) | {"torch_dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(hf))
    index: dict[str, str] = {}
    layers = groupby(tensors.items(), key=lambda item: re.findall(r"\.(\d+)\.", item[0]))
    for number, (_, some) in enumerate(layers):
        name = f"model-{number}.safetensors"
        index |= dict.fromkeys(write_holes(folder / name, {key: one.header for key, one in some}), name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def write_holes(path: Path, headers: dict[str, Header]) -> list[str]:
    """One file of a checkpoint, a layer or what is before or after them, as no process could map all in one."""
    entries, end = {}, 0
    for key, header in headers.items():
        entries[key] = {"dtype": "F16", "shape": header.shape, "data_offsets": [end, end + header.bytes]}
        end += header.bytes
    text = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return [*headers]


def loading(folder: str, count: str) -> dict[str, float]:
    """What the first of so many takes to load its part."""
    archport.load()  # what is imported on the way
    planned, before, start = archport.plan(folder), memory(), time.perf_counter()
    model = execute(planned, cut=partial(share_out, ranks=Ranks(0, int(count))))
    seconds, after = time.perf_counter() - start, memory()
    columns = {f"{c.path}.{c.name}.weight" for c in children(whole(planned), 1) if c.how == Cut.INPUTS}
    sizes = {name: parameter.nbytes for name, parameter in model.named_parameters()}
    mapped = sum(size for name, size in sizes.items() if name not in columns)
    grown = {"own": after["RssAnon"] - before["RssAnon"], "peak": after["VmHWM"] - before["VmHWM"]}
    return {"seconds": seconds, "mapped": mapped, "weights": sum(sizes.values())} | grown


def whole(planned: Any) -> Any:
    """The model of a plan, not cut."""
    return archport.build(planned.architecture.name, planned.config, device="meta")


def steps(width: int, count: int) -> list[float] | None:
    """Seconds a token: of one process, of two here, of two by DTensor. The first rank says it."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)
    models = [gpt2(width), shared(gpt2(width), ranks), by_dtensor(gpt2(width), ranks)]
    seconds, logits = zip(*(timed(model, count, ranks, alone=model is models[0]) for model in models), strict=True)
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], rtol=1e-4, atol=1e-4)
    dist.destroy_process_group()
    return list(seconds) if ranks.rank == 0 else None


def gpt2(width: int) -> Any:
    """A GPT-2 with the same weights in each process."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 50257, "context": 1024, "width": width, "layers": 12, "heads": 12}
    return archport.build("gpt2", sizes).eval().requires_grad_(False)


def shared(model: Any, ranks: Ranks) -> Any:
    """A rank's part, of a model that is here already."""
    weights = dict(model.named_parameters())
    for name, piece in share_out(model, ranks).items():
        if name in weights:
            owner, _, leaf = name.rpartition(".")
            part = weights[name].narrow(piece.axis, piece.start, piece.stop - piece.start).clone()
            setattr(model.get_submodule(owner), leaf, nn.Parameter(part, requires_grad=False))
    model.tie()
    return model


def by_dtensor(model: Any, ranks: Ranks) -> Any:
    """The same cuts, by torch's own tensor parallelism."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    plan: dict[str, Any] = {"embed.tokens": RowwiseParallel(input_layouts=Replicate())}
    plan["head"] = ColwiseParallel(output_layouts=Replicate())
    for number, block in enumerate(model.blocks):
        plan |= {f"blocks.{number}.{name}": ColwiseParallel() for name in ("attn.qkv", "mlp.up")}
        plan |= {f"blocks.{number}.{name}": RowwiseParallel() for name in ("attn.out", "mlp.down")}
        block.attn.heads, block.attn.kv_heads = block.attn.heads // ranks.count, block.attn.kv_heads // ranks.count
    parallelize_module(model, init_device_mesh("cpu", (ranks.count,)), plan)
    model.tie()
    return model


@torch.inference_mode()
def timed(model: Any, count: int, ranks: Ranks, *, alone: bool) -> tuple[float, torch.Tensor]:
    """The median of so many steps after a prompt, and its logits; one process `alone` while the others wait."""
    seconds: list[float] = []
    logits = torch.empty(0)
    if not alone or ranks.rank == 0:
        cache = archport.KVCache(model, batch=1, capacity=16 + count)
        ids = torch.arange(16)[None]
        logits = model.next_logits(ids, cache=cache)
        for _ in range(count):
            start = time.perf_counter()
            model.next_logits(ids[:, :1], cache=cache)
            seconds.append(time.perf_counter() - start)
    dist.barrier()
    return (median(seconds), logits) if seconds else (0.0, model.next_logits(torch.arange(16)[None]))


if __name__ == "__main__":
    main()
