"""Adapters, as PEFT saves them, merged into the weights of their base by PEFT itself."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from filecmp import cmp
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .building import parameters_on_meta
from .errors import ArchportError, CheckpointError, SourceError, in_a_line
from .files.adapter import ADAPTER, ADAPTER_WEIGHTS
from .files.checkpoint import GENERATION, MAX_CONFIG, companion, open_weights
from .files.companions import companions_of
from .files.in_memory import InMemory
from .files.strict_json import read_json
from .layers import Decoder
from .load_plan import LoadPlan, plan_checkpoint
from .loading import execute
from .registry import architecture
from .translate.tensors import export_tensors

PREFIX = "base_model.model."  # of every key that PEFT saves


def merged(plan: LoadPlan, folder: Path) -> LoadPlan:
    """The plan of a base, for its weights with an adapter merged into them, which are in memory then.

    The adapter may have been trained on transformers' model of the base or on ours, under either's names. While they
    are merged there are two models in memory. Raises: SourceError without peft, CheckpointError.
    """
    try:
        import peft  # noqa: F401
    except ImportError:
        raise SourceError(f"{folder}: merging an adapter needs peft: pip install archport[peft]") from None
    keys = _keys(folder)
    model = execute(replace(plan, notes=()))
    with _by_peft(folder):
        below = any(key.startswith(f"{PREFIX}decoder.") for key in keys)
        if below or any(
            key.startswith(tuple(f"{PREFIX}{name}." for name, _ in model.named_children())) for key in keys
        ):
            _merge(nn.ModuleDict({"decoder": model}) if below else model, folder)
            head, embedding, weights = model.head, model.embed.tokens, _theirs(plan, model)
        else:
            reference = _merge(_of_transformers(plan, model), folder)
            head, embedding = reference.get_output_embeddings(), reference.get_input_embeddings()
            weights = reference.state_dict()
    memory = InMemory(weights)
    files = dict.fromkeys(weights, memory)
    checkpoint = replace(plan.checkpoint, headers=memory.headers, files=files, remote={}, own_names={})
    checkpoint = replace(checkpoint, format=None, settings=None)  # whatever it was before
    again = plan_checkpoint(checkpoint, plan.dtype, tied=head.weight is embedding.weight)
    notes = tuple(note for note in plan.notes if ADAPTER not in note)
    return replace(again, settled=True, notes=(*notes, *_of_its_tokenizer(folder, plan.checkpoint.origin.folder)))


def _of_its_tokenizer(folder: Path, base: Path | None) -> Iterator[str]:
    """What to say of a tokenizer beside an adapter that is not that of the base."""

    def same(name: str) -> bool:
        return base is not None and (base / name).exists() and cmp(folder / name, base / name, shallow=False)

    if files := [name for name in companions_of(folder) if name != GENERATION and not same(name)]:
        instead = f"archport.tokenizer({str(folder)!r}) reads it, export --tokenizer {folder} takes it along"
        yield f"{folder}: the tokenizer is that of the base, not {', '.join(files)} beside the adapter: {instead}"


def _keys(folder: Path) -> list[str]:
    """The keys of an adapter, its files checked as those of a checkpoint. Raises: CheckpointError."""
    settings = read_json(companion(folder, ADAPTER), MAX_CONFIG)
    if settings.get("megatron_config") is not None:
        raise CheckpointError(f"{folder / ADAPTER}: found megatron_config, which names code to run: merge it with PEFT")
    for name in ADAPTER_WEIGHTS:
        if (folder / name).exists():
            return list(open_weights(companion(folder, name)).headers)
    raise CheckpointError(f"{folder}: no weights of the adapter found, expected {' or '.join(ADAPTER_WEIGHTS)}")


def _theirs(plan: LoadPlan, model: Decoder, present: Any = None) -> dict[str, Tensor]:
    table = architecture(plan.architecture.name).table
    outgoing = export_tensors(table, model.config, dict(model.named_parameters()), present=present)
    return {key: one.make() for key, one in outgoing.items()}


def _of_transformers(plan: LoadPlan, model: Decoder) -> Any:
    """transformers' model of the base, with our weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    hf = copy.deepcopy({**plan.checkpoint.origin.hf, "model_type": plan.architecture.name})
    config = AutoConfig.for_model(**hf | {"tie_word_embeddings": model.config.tied})
    with parameters_on_meta():
        reference = AutoModelForCausalLM.from_config(config)  # of any type: all weights are assigned
    table = architecture(plan.architecture.name).table
    meanings = {key: table.canonical(key) for key in reference.state_dict()}
    ours = _theirs(plan, model, {one for several in meanings.values() for one in several})
    weights = {key: ours[one] for key, several in meanings.items() for one in several if one in ours}
    reference.load_state_dict(weights, strict=False, assign=True)
    reference.tie_weights()
    if empty := [name for name, parameter in reference.named_parameters() if parameter.is_meta]:
        raise CheckpointError(f"transformers' model has {', '.join(empty[:3])}, which ours has not")
    return reference.eval()


def _merge(base: nn.Module, folder: Path) -> Any:
    """A model with an adapter merged into its weights, in place."""
    from peft import PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict

    config = PeftConfig.from_pretrained(str(folder))
    kind, config.task_type = config.peft_type, None  # of whatever task, its weights are those of this model
    if config.is_prompt_learning:
        raise CheckpointError(
            f"{ADAPTER}: found peft_type {kind.value}, which is no change of weights: use PEFT itself"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what peft asks transformers for
        warnings.filterwarnings("error", "Found missing adapter keys")
        adapted: Any = PeftModel.from_pretrained(base, str(folder), config=config)
    found: Any = set_peft_model_state_dict(adapted, load_peft_weights(str(folder), device="cpu"))
    if unused := found.unexpected_keys:
        raise CheckpointError(f"found {', '.join(unused[:3])}, which this base has no place for")
    return adapted.merge_and_unload()


@contextmanager
def _by_peft(folder: Path) -> Iterator[None]:
    """What peft and transformers raise becomes a CheckpointError."""
    try:
        yield
    except ArchportError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    except Exception as error:  # whatever they raise for an adapter of something else
        raise CheckpointError(f"{folder}: cannot be merged: {type(error).__name__}: {in_a_line(error)}") from None
