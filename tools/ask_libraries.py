"""Write what litgpt and TransformerLens make of tiny models by their own conversions: tests/golden/formats.json.

Run it where they are installed: python tools/ask_libraries.py. The tests then need neither.
"""

import json
import sys
import tempfile
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.formats import digest, numbered, of_each, sizes  # noqa: E402

import archport  # noqa: E402
from archport.converting import settings_in  # noqa: E402
from archport.formats import formats  # noqa: E402
from archport.registry import architecture  # noqa: E402

# Of each family one of litgpt's own configs, and the architecture that it is here.
PUBLISHED = {
    "pythia-14m": "gpt_neox",
    "Llama-2-7b-hf": "llama",
    "Llama-3.1-8B": "llama",
    "LLaMA-2-7B-32K": "llama",
    "Mistral-7B-v0.1": "mistral",
    "Phi-4-mini-instruct": "phi3",
    "phi-2": "phi",
    "Qwen2.5-0.5B": "qwen2",
    "Qwen3-0.6B": "qwen3",
    "Qwen3-30B-A3B": "qwen3_moe",
    "OLMo-1B-hf": "olmo",
    "OLMo-2-1124-7B": "olmo2",
    "stablelm-3b-4e1t": "stablelm",
    "falcon-7b": "falcon",
    "falcon-40b": "falcon",
    "Gemma-2b": "gemma",
    "Gemma-2-2b": "gemma2",
    "Gemma-3-4b-it": "gemma3_text",
    "Mixtral-8x7B-v0.1": "mixtral",
}


def main() -> None:
    """Ask both, and write."""
    from litgpt.config import Config

    found: dict[str, dict[str, str]] = {"litgpt": {}, "transformer_lens": {}}
    for kind, name in of_each():
        if kind in found:
            model = numbered(name, sizes(name, kind))
            settings = settings_in(formats()[kind], architecture(name), model.config)[1]
            tensors = {"litgpt": _litgpt, "transformer_lens": _lens}[kind](model, settings, _reference(model))
            found[kind][name] = digest(tensors)
    configs = {name: [kind, asdict(Config.from_name(name))] for name, kind in PUBLISHED.items()}
    content = {**found, "configs of litgpt": configs}
    (ROOT / "tests" / "golden" / "formats.json").write_text(json.dumps(content, indent=1) + "\n")


def _reference(model: archport.Decoder) -> Any:
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        archport.export(model, Path(folder) / "hf")
        return AutoModelForCausalLM.from_pretrained(Path(folder) / "hf")


def _litgpt(model: archport.Decoder, settings: dict[str, Any], reference: Any) -> dict[str, Tensor]:
    from litgpt import GPT, Config
    from litgpt.scripts import convert_hf_checkpoint as convert

    name, config = model.architecture, Config(**settings)
    keys = set(GPT(config).state_dict())
    theirs = _experts_apart(reference.state_dict(), mixtral=name == "mixtral")
    made: dict[str, Tensor] = {}
    apart: dict[int, Any] = {}
    # Some of its conversions look at the name.
    config.name = {"phi3": "Phi-3", "falcon": "falcon-40b" if settings["n_query_groups"] > 1 else "falcon-7b"}.get(
        name, config.name
    )
    if name == "gpt_neox":
        convert.copy_weights_gpt_neox(config, made, {k.replace("lm_head", "embed_out"): v for k, v in theirs.items()})
    elif name == "falcon":
        convert.copy_weights_falcon(config, made, theirs)
    elif name in ("phi", "phi3"):
        convert.copy_weights_phi(config, apart, made, theirs)
    elif name == "gemma2":
        convert.copy_weights_gemma_2(apart, made, theirs)
    elif name == "gemma3_text":
        convert.copy_weights_gemma_3(apart, made, theirs, config=config)
    elif name == "qwen2":
        convert.copy_weights_qwen_2_5(config, apart, made, theirs)
    elif name.startswith("qwen3"):
        convert.copy_weights_qwen_3(config, apart, made, theirs)
    elif name == "olmo2":
        convert.copy_weights_olmo2(config, apart, made, theirs)
    else:
        convert.copy_weights_hf_llama(config, apart, made, theirs)
    return {key: made[key] for key in keys}


def _lens(model: archport.Decoder, settings: dict[str, Any], reference: Any) -> dict[str, Tensor]:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    name, config = model.architecture, HookedTransformerConfig(**settings, device="cpu")
    if name == "gpt_neox":
        reference.embed_out = reference.lm_head
    if name == "mixtral":
        for layer in reference.model.layers:
            layer.__dict__["block_sparse_moe"] = _experts(layer.mlp)
    short = {"gpt_neox": "neox"}.get(name, name)
    module = import_module(f"transformer_lens.pretrained.weight_conversions.{short}")
    made = getattr(module, f"convert_{short}_weights")(reference, config)
    whole = HookedTransformer(config)
    whole.load_state_dict(made, strict=False)  # its masks are not among them, and zeros of the head not always
    return {key: made.get(key, parameter) for key, parameter in whole.named_parameters()}


def _experts_apart(tensors: dict[str, Tensor], *, mixtral: bool) -> dict[str, Tensor]:
    """The experts under the names that the files of transformers 4 had."""
    names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    apart: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        before, fused, _ = key.partition("experts.gate_up_proj" if "gate_up" in key else "experts.down_proj")
        if not fused:
            apart[key] = tensor
        for number, one in enumerate(tensor if fused else ()):
            parts = dict(zip(names[:2], one.chunk(2), strict=True)) if "gate_up" in key else {names[2]: one}
            apart |= {f"{before}experts.{number}.{part}.weight": value for part, value in parts.items()}
    return {key.replace(".mlp.", ".block_sparse_moe.") if mixtral else key: value for key, value in apart.items()}


def _experts(mlp: Any) -> Any:
    experts = []
    for both, down in zip(mlp.experts.gate_up_proj, mlp.experts.down_proj, strict=True):
        gate, up = both.chunk(2)
        weights = {"w1": gate, "w3": up, "w2": down}
        experts.append(SimpleNamespace(**{part: SimpleNamespace(weight=one) for part, one in weights.items()}))
    return SimpleNamespace(gate=mlp.gate, experts=experts)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
