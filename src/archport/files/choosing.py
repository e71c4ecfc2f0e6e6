"""Which file of a folder or a repository the weights are read from, and what lies there where there is none."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import CheckpointError, SourceError, plain

# In the order of preference, which is transformers'; an index names shards.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SHARD = r"-\d{5}-of-\d{5}"
OF_WEIGHTS = re.compile(rf"(model|pytorch_model)({SHARD})?\.(safetensors|bin)(\.index\.json)?")  # of no variant
SHOWN = 5  # kinds of files in a message

# What else may lie in a folder: names of files or folders, what they are, and what to do about them.
OTHERS = (
    (r"(?:model|pytorch_model)\.(?!safetensors|bin)([\w-]+?)(?:-\d{5}-of-\d{5})?\.(?:safetensors|bin)", "variant"),
    (r"(?:model\.safetensors|pytorch_model\.bin)\.index\.([\w-]+)\.json", "variant"),
    (rf".+{SHARD}\.(?:safetensors|bin)", "shards without the index that names them: get it too, or save them again"),
    (r".+\.incomplete", "a download that has not ended: fetch it again"),
    (r".+\.gguf", "GGUF, which archport does not read: get the safetensors it was made of"),
    (r"adapter_model\.(?:safetensors|bin)", "an adapter, no model: name its base"),
    (r".+\.msgpack", "Flax weights: transformers 4 converts them, by from_flax=True and save_pretrained"),
    (
        r".+\.h5|.+\.ckpt\.(?:index|meta|data-.+)",
        "TensorFlow weights: transformers 4 converts them, by from_tf=True and save_pretrained",
    ),
    (r".+\.onnx(?:_data)?|onnx", "ONNX, a graph without a config: get the weights it was made of"),
    (r".+\.ot", "rust-bert's: get the weights it was made of"),
    (r"zero_to_fp32\.py|.*_states\.pt|global_step\d+", "DeepSpeed's: run `python zero_to_fp32.py . .` there"),
    (r".+\.distcp|pytorch_model_fsdp_\d+", "FSDP's: run `accelerate merge-weights`"),
    (r"ckpt\.pt", "nanoGPT's: name that file itself"),
    (r"lit_model\.pth", "litgpt's: get its model_config.yaml too, and name that file itself"),
    (r"consolidated\..+", "another library's names: convert them to transformers'"),
    (r"checkpoint-\d+", "a folder of Trainer's: name that one"),
    (r"(?:optimizer|scheduler|training_args|rng_state|random_states)\b.*", ""),
    (r"model_config\.yaml", "litgpt's, without its lit_model.pth: get that too"),
    (r".+\.(?:safetensors|bin|pth?|ckpt)", "of another name: if it is a checkpoint, name that file itself"),
    (r".+\.npz", "NumPy's, which archport does not read"),
)


# Files of weights that are whole without another one, by how they end, and those of them that are not.
ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
PARTS = re.compile(rf".+{SHARD}\..+|.*_states\.pt|adapter_model\..+|consolidated\..+")


def is_whole(name: str) -> bool:
    """Whether a file, by its name, may be all weights of a model."""
    return name.endswith(ENDINGS) and not PARTS.fullmatch(name)


def choose_weights(names: Iterable[str], where: str, hf: Mapping[str, Any], variant: str | None = None) -> str:
    """The file to read weights from, or the index that names them, among the names of a folder or repository.

    A `variant` is one that transformers takes too, as fp16 for model.fp16.safetensors. Raises: CheckpointError.
    """
    names = list(names)
    wanted = of_variant(variant)
    chosen = next((name for name in wanted if name in names), None)
    explicit = hf.get("transformers_weights")
    if explicit is not None and explicit != chosen:
        named = plain(f"{explicit!r:.100}")
        rename = "rename that to model.safetensors and take the field out"
        raise CheckpointError(f"{where}/config.json: transformers_weights: found {named}, expected none: {rename}")
    if chosen is None:
        raise CheckpointError(f"{where}: no weights found, expected {' or '.join(wanted[:3])}{lying(names, variant)}")
    return chosen


def of_variant(variant: str | None) -> list[str]:
    """The names of weights as transformers spells them for a variant: before the last ending."""
    between = "" if variant is None else f".{variant}"
    return [f"{name.rpartition('.')[0]}{between}.{name.rpartition('.')[2]}" for name in WEIGHTS]


def check_variant(variant: str | None) -> None:
    """Raises: SourceError for what is no name of a variant."""
    if variant is not None and not (isinstance(variant, str) and re.fullmatch(r"[\w-]+(?:\.[\w-]+)*", variant)):
        raise SourceError(f"variant: found {variant!r:.60}, expected a name, as fp16 for model.fp16.safetensors")


def lying(names: Iterable[str], variant: str | None = None) -> str:
    """What lies there that a person may take for the weights, to end a message with."""
    kinds: dict[str, list[str]] = {}
    for name in sorted(names):
        if kind := kind_of(name.rpartition("/")[2], variant):
            kinds.setdefault(kind, []).append(name)
    lines = [f"{_some(files)} ({kind})" for kind, files in kinds.items()]
    return f"; found {'; '.join(lines[:SHOWN])}" if lines else ""


def kind_of(name: str, variant: str | None = None) -> str:
    """What a file is that is not read as weights, and what to do about it; nothing where nobody knows."""
    if name in WEIGHTS:
        return "without a variant: ask for none" if variant is not None else ""
    for pattern, kind in OTHERS:
        if match := re.fullmatch(pattern, name):
            return f"a variant: take it by --variant {match[1]}, variant={match[1]!r}" if kind == "variant" else kind
    return ""


def _some(files: Sequence[str]) -> str:
    return plain(files[0][:100]) + (f" and {len(files) - 1} more" if len(files) > 1 else "")
