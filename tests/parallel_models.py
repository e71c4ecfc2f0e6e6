"""Reference models whose heads several ranks can share, and what each rank says of them, for test_parallel.py."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import torch

from archport.registry import architecture
from archport.translate.fields import write_config

from .references import CLASSES, FAMILIES, as_written, loud

WORKER = Path(__file__).parent / "ranks.py"
# Sizes of which heads come in whole shares, and a vocabulary that does not.
SHARED = {"heads": 8, "kv_heads": 4, "width": 96, "vocab_size": 113}
OWN = {
    "codegen": {"kv_heads": None},
    "falcon": {"kv_heads": None, "kv_groups": 4},
    "gpt_bigcode": {"kv_heads": None, "multi_query": False},
    "olmoe": {"mlp_width": 38},
}
# Beside each architecture as it is: what its parts are cut by.
VARIANTS = {
    "gpt2 untied": {"tied": False},
    "gpt_neox tied": {"tied": True},
    "llama biases": {"attention_bias": True, "mlp_bias": True, "tied": True},
    "cohere qk_norm": {"qk_norm": True},
    "falcon alibi": {"alibi": True, "bias": True},
    "falcon heads": {"grouped": False, "kv_groups": None, "norms": None, "multi_query": False},
    "gemma2 untied": {"tied": False},
    "mpt unclipped": {"clip": None},
    "opt projected": {"token_width": 44, "norm_first": False},
    "phi qk_norm": {"qk_norm": True},
    "stablelm qk_norm": {"qk_norm": True},
    "bloom normed": {"normed_stream": True},
}


def sizes(name: str) -> dict:
    """The fields of our config for a model that up to four ranks share."""
    kind, arch = name.partition(" ")[0], architecture(name.partition(" ")[0])
    known = {field for field in arch.config_class.__dataclass_fields__.values() if field.init}
    names = {field.name for field in known}
    grouped = {"llama", "mistral"} & {kind} or arch.sizes.get("kv_heads") not in (None, arch.sizes.get("heads"))
    shared = SHARED if grouped else {**SHARED, "kv_heads": None}
    fields = {**arch.sizes, **shared, **OWN.get(kind, {}), **VARIANTS.get(name, {})}
    return {field: value for field, value in fields.items() if field in names}


def reference(name: str, seed: int = 0):
    """A loud transformers model of one of them, in eager mode."""
    arch = architecture(name.partition(" ")[0])
    config_class, model_class = CLASSES[arch.name]
    hf = write_config(arch.table, arch.config_class(**sizes(name)), arch.name, None)
    model = model_class._from_config(config_class(**copy.deepcopy(hf)), attn_implementation="eager")
    return as_written(loud(model, seed).eval())


def names() -> list[str]:
    """Every architecture that this transformers has, and the variants."""
    kinds = [*FAMILIES, "gpt2", "gptj", "gpt_neox"]
    return sorted([*kinds, *(name for name in VARIANTS if name.partition(" ")[0] in kinds)])


def under_torchrun(ranks: int, out: Path, **jobs) -> list[dict]:
    """What each of so many processes says after some jobs. An exit code alone tells little: one may end in a race."""
    out.mkdir(exist_ok=True)
    (out / "jobs.json").write_text(json.dumps(jobs))
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    words += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", str(WORKER), str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    said = [out / f"{rank}.pt" for rank in range(ranks)]
    assert all(path.exists() for path in said), done.stdout + done.stderr
    return [torch.load(path) for path in said]
