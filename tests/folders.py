"""Folders put together from parts at random: what is done to a good one, and what each side makes of the result.

An edit changes config and tensors. Where transformers cannot read what it makes, it is made for archport only, and
transformers gets the folder without it.
"""

import copy
import json
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import archport
from archport.errors import ArchportError, AsideWarning
from archport.registry import architecture

from .references import as_written, reference

TOKENS = 9


@dataclass
class Folder:
    """A config and tensors: what a load must say of them, why archport must refuse them, and whether one side may."""

    hf: dict[str, Any]
    tensors: dict[str, Tensor]
    seed: float
    said: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    open: bool = False

    @property
    def table(self) -> Any:
        return architecture(self.architecture).table

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.architecture = self.hf["model_type"]
        self.tied = self.hf.get("tie_word_embeddings", False)

    def key(self, name: str) -> str:
        """The key of a tensor of ours, as transformers writes it."""
        arch = architecture(self.architecture)
        sizes = arch.config_class(**arch.sizes)
        return str(self.table.rows(name, sizes)[0].keys[0])

    @property
    def head(self) -> str:
        return self.key("head.weight")

    @property
    def embedding(self) -> str:
        return self.key("embed.tokens.weight")

    def write(self, folder: Path) -> Path:
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(self.hf))
        tensors = {key: tensor.clone().contiguous() for key, tensor in self.tensors.items()}
        dice = random.Random(self.seed)  # the same for both sides, whatever was done to each
        kind = dice.choice(["safetensors", "pickle", "shards"])
        if kind == "pickle":
            torch.save(tensors, folder / "pytorch_model.bin")
        elif kind == "shards":
            names = sorted(tensors)
            cut = dice.randrange(1, len(names))
            weight_map = {}
            for number, keys in enumerate((names[:cut], names[cut:]), 1):
                shard = f"model-{number:05}-of-00002.safetensors"
                save_file({key: tensors[key] for key in keys}, folder / shard, metadata={"format": "pt"})
                weight_map |= dict.fromkeys(keys, shard)
            (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        else:
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder


Edit = Callable[[Folder], None]


# --- what is in the tensors ---


HEADS = {"v_head.summary.weight", "score.weight", "value_head.0.bias", "multiple_choice_head.summary.weight"}


def a_tensor_missing(it: Folder) -> None:
    del it.tensors[it.random.choice(sorted(it.tensors.keys() - HEADS))]


def another_shape(it: Folder) -> None:
    key = it.random.choice(sorted(it.tensors))
    it.tensors[key] = torch.cat([it.tensors[key], it.tensors[key][:1]])


def half_of_them_in_half(it: Folder) -> None:
    for key in sorted(it.tensors):
        if it.random.random() < 0.5:
            it.tensors[key] = it.tensors[key].half()


def all_in_bfloat16(it: Folder) -> None:
    it.tensors = {key: tensor.bfloat16() for key, tensor in it.tensors.items()}


def head_beside_the_embedding(it: Folder) -> None:
    if it.embedding in it.tensors:
        it.tensors[it.head] = it.tensors[it.embedding].clone()


def head_in_another_type(it: Folder) -> None:
    if it.embedding in it.tensors:
        it.tensors[it.embedding] = it.tensors[it.embedding].half().float()
        it.tensors[it.head] = it.tensors[it.embedding].half()


def head_that_differs(it: Folder) -> None:
    if it.embedding in it.tensors:
        it.tensors[it.head] = it.tensors[it.embedding].flip(0)


def head_only(it: Folder) -> None:
    if it.embedding in it.tensors:
        it.tensors[it.head] = it.tensors.pop(it.embedding)


def no_head(it: Folder) -> None:
    it.tensors.pop(it.head, None)


def masks(it: Folder) -> None:
    for template in it.table.ignored:
        for layer in range(3):
            it.tensors[template.replace("{n}", str(layer))] = torch.ones(1, 1, 5, 5, dtype=torch.uint8)


# --- what they are called ---


def of_a_base_model(it: Folder) -> None:
    it.tensors = {key.removeprefix(it.table.prefix): tensor for key, tensor in it.tensors.items()}


def another_head(it: Folder) -> None:
    it.tensors[it.random.choice(sorted(HEADS))] = torch.ones(1, 7)
    it.said.append("beside a complete language model")


def inside_a_layer(it: Folder) -> None:
    key = next(key for key in sorted(it.tensors) if ".0." in key)
    it.tensors[key.rpartition(".")[0] + ".extra"] = torch.ones(3)
    it.refused.append("extra")


PREFIXES = ("_orig_mod.", "module.", "base_model.model.", "pretrained_model.", "model.", "net.", "module._orig_mod.")


def prefix(it: Folder) -> None:
    name = it.random.choice(PREFIXES)
    if it.table.prefix != name:  # which is taken for the base model's
        it.tensors = {name + key: tensor for key, tensor in it.tensors.items()}
        it.said.append("taken off the names")


# --- what the config says ---


def field_of(it: Folder, name: str, value: Any) -> None:
    cell = it.table.field(name)
    given = cell.given(it.hf) or [s for s in cell.spellings if "." not in s][:1]
    for spelling in given:
        it.hf[spelling] = value


def activation(it: Folder) -> None:
    cell = it.table.config.get("activation")
    if cell is not None and len(it.table.field("activation").values) > 1:
        field_of(
            it, "activation", it.random.choice(["gelu_python", "gelu_python_tanh", "gelu_accurate", "gelu", "relu"])
        )


def no_deviation(it: Folder) -> None:
    if "init_std" in it.table.config:
        field_of(it, "init_std", 0.0)


def tied_or_not(it: Folder) -> None:
    it.hf["tie_word_embeddings"] = not it.hf.get("tie_word_embeddings", it.tied)


def type_of_numbers(it: Folder) -> None:
    it.hf.pop("torch_dtype", None)
    it.hf["dtype"] = it.random.choice([None, "float32", "float16", "bfloat16", "half", "float64"])


def no_type_of_numbers(it: Folder) -> None:
    for name in ("dtype", "torch_dtype"):
        it.hf.pop(name, None)


CLASSES = ("TF{}", "Flax{}", "FSDP{}", "OptimizedModule", "GPT2DoubleHeadsModel", "AutoModelForCausalLMWithValueHead")


def another_class(it: Folder) -> None:
    name = it.random.choice(CLASSES).format(it.table.classes[0])
    it.hf["architectures"] = [name]
    it.said.append(name)


def class_of_another_task(it: Folder) -> None:
    it.hf["architectures"] = [it.table.classes[1].removesuffix("Model") + "ForSequenceClassification"]
    if it.head in it.tensors:
        it.said.append("ForSequenceClassification")
    else:
        it.refused.append("architectures")


def no_class(it: Folder) -> None:
    del it.hf["architectures"]


def remote_code(it: Folder) -> None:
    it.hf["auto_map"] = {"AutoModelForCausalLM": "modeling_x.Model"}
    it.said.append("auto_map")


def rope_of_others(it: Folder) -> None:
    if it.architecture == "gpt_neox":
        name, value = it.random.choice([("rope_theta", 777.0), ("partial_rotary_factor", 0.75)])
        it.hf[name] = value
        it.said.append(f"{name}: found {value}")


def unknown_field(it: Folder) -> None:
    it.hf["nobody_knows"] = it.random.choice([1, "x", None, [2]])


def any_field(it: Folder) -> None:
    """One field of any kind gone, null or another value, which either side may refuse: equal where both load."""
    places = [(it.hf, name) for name in it.hf if name not in ("model_type", "architectures")]
    places += [(inner, name) for inner in it.hf.values() if isinstance(inner, dict) for name in inner]
    fields, name = it.random.choice(sorted(places, key=lambda place: place[1]))
    value, how = fields[name], it.random.choice(["gone", "null", "changed"])
    if how == "gone":
        del fields[name]
    elif how == "changed" and isinstance(value, bool | int | float):
        fields[name] = not value if isinstance(value, bool) else 2 * value or 1
    else:
        fields[name] = None
    it.open = True


def quantised(it: Folder) -> None:
    it.hf["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    it.refused.append("GPTQ")


def no_model_type(it: Folder) -> None:
    del it.hf["model_type"]
    it.said.append("model_type: missing, taken for")


# In this order, at most so many of each.
BOTH: dict[tuple[Edit, ...], int] = {
    (head_beside_the_embedding, head_in_another_type, head_that_differs, head_only, no_head): 1,
    (masks, half_of_them_in_half, all_in_bfloat16): 2,
    (activation, no_deviation, type_of_numbers, no_type_of_numbers, remote_code, rope_of_others, unknown_field): 3,
    (another_class, class_of_another_task, no_class, tied_or_not): 1,
    (of_a_base_model, another_head): 2,
}
# What is not to be loaded, or perhaps not, in three folders of ten.
DAMAGE: tuple[Edit, ...] = (any_field, a_tensor_missing, another_shape, inside_a_layer, quantised)
OURS: tuple[Edit, ...] = (prefix, no_model_type)


@cache
def saved(variant: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the tensors of what transformers writes."""
    with TemporaryDirectory() as folder:
        reference(variant).save_pretrained(folder)
        path = Path(folder)
        return json.loads((path / "config.json").read_text()), load_file(path / "model.safetensors")


def made(variant: str, dice: random.Random) -> tuple[Folder, Folder, list[str]]:
    """A folder for archport, one for transformers, and the names of the edits that made them."""
    hf, tensors = saved(variant)
    both = [edit for stage, most in BOTH.items() for edit in dice.sample(stage, dice.randint(0, most))]
    if dice.random() < 0.3:
        both.append(dice.choice(DAMAGE))
    alone = [edit for edit in OURS if dice.random() < 0.2]
    seed = dice.random()
    folders = [Folder(copy.deepcopy(hf), dict(tensors), seed) for _ in range(2)]
    for edit in both:
        for one in folders:
            edit(one)
    for edit in alone:
        edit(folders[0])
    return folders[0], folders[1], [edit.__name__ for edit in (*both, *alone)]


def theirs(folder: Path) -> Any:
    """What transformers makes of a folder; None where it raises, or draws weights that are not there."""
    import transformers

    try:
        model, account = transformers.AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", output_loading_info=True, local_files_only=True
        )
    except Exception:  # whatever it raises
        return None
    return None if account["missing_keys"] or account["mismatched_keys"] else as_written(model)


def ours_of(folder: Path) -> tuple[Any, str, list[str]]:
    """What we make of a folder, or the message why not, and what is said of it."""
    with warnings.catch_warnings(record=True, action="always") as caught:
        try:
            return archport.load(folder), "", [str(one.message) for one in caught if one.category is AsideWarning]
        except ArchportError as error:
            return None, str(error), []


@torch.no_grad()
def check(variant: str, dice: random.Random, root: Path) -> str:
    """Load one folder by both sides: equal, and what is odd said, or refused in a line that names the folder.

    Returns "loaded" or "refused". Raises: AssertionError.
    """
    ours, other, edits = made(variant, dice)
    what = f"{variant}: {', '.join(edits)}"
    model = theirs(other.write(root / "theirs"))
    folder = ours.write(root / "ours")
    port, error, said = ours_of(folder)
    if port is None:
        lines = error.splitlines()
        assert str(folder) in lines[0], f"{what}: names no file: {error}"
        assert len(lines) <= 3, f"{what}: {error}"
        ambiguous = "no_model_type" in edits and "fit " in error
        assert model is None or ours.refused or ours.open or ambiguous, (
            f"{what}: transformers loads it, we say: {error}"
        )
        return "refused"
    if model is None and ours.open:
        return "loaded"
    assert model is not None, f"{what}: we load what transformers does not"
    assert not ours.refused, f"{what}: loaded, though {ours.refused}"
    for words in ours.said:
        assert any(words in line and str(folder) in line for line in said), f"{what}: {words!r} is not in {said}"
    same(port, model, what)
    return "loaded"


def in_float32(model: Any) -> Any:
    """The same model with its weights, and what it makes of its config, in float32."""
    config = copy.deepcopy(model.config)
    config.tie_word_embeddings = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    exact = type(model)._from_config(config, attn_implementation="eager", dtype=torch.float32)
    exact.load_state_dict(model.state_dict())
    return as_written(exact.eval())


def same(port: Any, model: Any, what: str) -> None:
    """Both models have as many weights, of one type, and make the same numbers of them in float32."""
    counts = [sum(one.numel() for one in each.parameters()) for each in (port, model)]
    assert counts[0] == counts[1], f"{what}: {counts} parameters"
    assert {one.dtype for one in port.parameters()} == {model.dtype}, what
    if {one.dtype for one in model.parameters()} != {model.dtype}:
        return  # transformers keeps some of GPT-OSS in float32 where the rest is float16
    ids = torch.randint(port.config.vocab_size, (2, TOKENS), generator=torch.Generator().manual_seed(1))
    try:
        expected = in_float32(model)(ids, use_cache=False).logits
    except TypeError:
        if any_field.__name__ not in what:
            raise
        return  # a field is null with which it builds a model, as a rate of dropout, and cannot run it
    apart = (port.float()(ids) - expected).abs().max() / expected.abs().max().clamp(min=1)
    assert apart <= 1e-5, f"{what}: {apart} apart"
