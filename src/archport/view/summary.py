"""What a load did or would do, in words and figures: one dictionary, printed for people or as JSON."""

from collections import Counter
from typing import Any

import torch

from ..config import dtype_name
from ..generation import text
from ..layers import Alibi, Attention, Decoder, PositionedEmbed, Rotary, Window
from ..load_plan import LoadPlan
from ..translate.steps import StepKind

PROMPT = "def __init__("
SCALES = {"GB": 10**9, "MB": 10**6, "kB": 10**3}


def in_words(model: Decoder) -> str:
    """The architecture of a model with its sizes: layers, heads, positions, residual wiring, head."""
    cfg, block, parts = model.config, model.blocks[0], [*model.modules()]
    positions = "learned positions" if isinstance(model.embed, PositionedEmbed) else "positions not known"
    if rotary := next((part for part in parts if isinstance(part, Rotary)), None):
        scaling = rotary.scaling
        scaled = f" with {type(scaling).__name__}, {getattr(scaling, 'factor', 1):g} times" if scaling else ""
        positions = f"rotary {rotary.width} of {cfg.head_width} in {rotary.pairing}{scaled}"
    elif any(isinstance(part, Alibi) for part in parts):
        positions = "ALiBi"
    kv_heads = [part.kv_heads for part in parts if isinstance(part, Attention) and part.kv_heads < part.heads]
    grouped = f", {kv_heads[0]} of keys and values" if kv_heads else ""
    attentions = [part for part in parts if isinstance(part, Attention)]
    if windows := [part.mask.size for part in attentions if isinstance(part.mask, Window)]:
        positions += f", window of {windows[0]:,}" + " in some layers" * (len(windows) < len(attentions))
    wiring = getattr(block, "wiring", type(block).__name__)
    sizes = f"{cfg.layers} layers, width {cfg.width}, {cfg.heads} heads of {cfg.head_width}{grouped}"
    return f"{sizes}, {positions}, {wiring}, {'tied' if model.tied else 'untied'} head"


def of_load(plan: LoadPlan, model: Decoder) -> dict[str, Any]:
    """What a load did: where from, what it is, the tensor account, memory."""
    origin, files = plan.checkpoint.origin, plan.checkpoint
    mapped = {step.name for step in plan.mapped}
    explained = {key for step in plan.steps for key in step.keys}
    return {
        "source": origin.name,
        "folder": str(origin.folder) if origin.folder else None,
        "revision": origin.revision,
        "commit": origin.commit,
        "architecture": plan.architecture.name,
        "in_words": in_words(model),
        "files": list(files.names),
        "file_bytes": files.file_bytes,
        "mapped": len(plan.mapped) - len(plan.of_kind(StepKind.ABSENT)),
        "zeros": len(plan.of_kind(StepKind.ABSENT)),
        "missing": sum(name not in mapped for name, _ in model.named_parameters()),
        "unexplained": len(files.headers.keys() - explained),
        "tied": len(plan.of_kind("tied")),
        "ignored": dict(Counter(step.why for step in plan.of_kind("ignored"))),
        "bytes_in_place": plan.bytes_in_place,
        "bytes_copied": plan.bytes_copied,
        "peak_bytes": plan.peak_bytes,
        "mappable": files.mapped,
        "parameters": plan.parameters,
        "dtype": dtype_name(plan.dtype),
        "unknown_fields": list(plan.unknown_fields),
        "notes": list(plan.notes),
    }


def account(facts: dict[str, Any]) -> str:
    """The tensor account in a line: every key of the file is mapped, tied or ignored for a reason."""
    zeros = f", {facts['zeros']} zeros that the file has not" if facts["zeros"] else ""
    ignored = sum(facts["ignored"].values())
    reasons = f": {'; '.join(facts['ignored'])}" if ignored else ""
    tied = f", {facts['tied']} tied" if facts["tied"] else ""
    lacking = f"{facts['missing']} missing, {facts['unexplained']} unexplained"
    return f"{facts['mapped']} mapped{tied}{zeros}, {lacking}, {ignored} ignored{reasons}"


def memory(facts: dict[str, Any]) -> str:
    """How many bytes are used where they lie, how many are copied, and the most at once."""
    used, copied, peak = facts["bytes_in_place"], facts["bytes_copied"], facts["peak_bytes"]
    if not facts["mappable"]:
        used, peak = facts["file_bytes"], facts["file_bytes"] + copied
    place = "used in place" if facts["mappable"] else "read into memory"
    return f"{size(used)} {place}, {size(copied)} copied, {size(peak)} at the peak"


def size(count: int) -> str:
    """Bytes for people: 1 MB is a million."""
    units = (f"{count / scale:.1f} {unit}" for unit, scale in SCALES.items() if count >= scale)
    return next(units, f"{count} bytes")


@torch.no_grad()
def next_tokens(model: Decoder, prompt: str = PROMPT, count: int = 3) -> list[tuple[str, float]]:
    """The likeliest next tokens after a prompt with their probabilities, read with the origin's tokenizer."""
    tokenizer = text.tokenizer(model)
    logits = model(torch.tensor([text.encoded(tokenizer, prompt, model.config.vocab_size)]))[0, -1].float()
    best = logits[: text.size(tokenizer)].softmax(-1).topk(count)
    return [(tokenizer.decode([int(index)]), float(value)) for value, index in zip(*best, strict=True)]
