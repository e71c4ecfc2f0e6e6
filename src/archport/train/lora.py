"""LoRA by PEFT: small matrices beside the linear maps of attention and MLP are trained, the rest stays."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..layers import Decoder, Experts
from ..registry import architecture, skeleton

FOLDER = "adapter"  # within a save: a folder of its own, that a load of the save does not take for its weights


def target_names(model: Decoder) -> list[str]:
    """The linear maps of attention and MLP of an architecture, by what its own modules call them."""
    blocks = [(name, module) for name, module in model.blocks.named_modules() if type(module) is nn.Linear]
    parts = {name.rpartition(".")[2] for name, _ in blocks if ".attn." in f".{name}" or ".mlp." in f".{name}"}
    return sorted(parts - {"score"})  # a router's choices are not adapted


def adapt(model: Decoder, rank: int, *, seed: int) -> int:
    """Put adapters of a rank into a model, in place, and freeze the rest; how many numbers are trained now.

    Raises: TrainingError without peft, and for experts, whose weights are no linear maps.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise TrainingError("--lora needs peft: pip install archport[peft]") from None
    names = target_names(model)
    if any(isinstance(module, Experts) for module in model.modules()):
        raise TrainingError(f"--lora: {model.architecture} has experts, whose weights are no linear maps to adapt")
    model.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names), model)
    return sum(one.numel() for one in model.parameters() if one.requires_grad)


def is_adapted(model: nn.Module) -> bool:
    """Whether it has adapters."""
    return any(hasattr(module, "lora_A") for module in model.modules())


@torch.no_grad()
def merged(model: Decoder) -> Decoder:
    """A model of its own with the adapters added to the weights, as the architecture has it."""
    weights: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        layer: Any = module
        if hasattr(module, "base_layer"):
            weights[f"{name}.weight"] = layer.base_layer.weight + layer.get_delta_weight("default")
            if layer.base_layer.bias is not None:
                weights[f"{name}.bias"] = layer.base_layer.bias
        elif not {"base_layer", "lora_A", "lora_B"} & set(name.split(".")):
            weights |= {f"{name}.{key}": one for key, one in module.named_parameters(recurse=False)}
    # As plain tensors: a parameter that is assigned would become trainable, here and in the model that trains.
    weights = {name: one.detach() for name, one in weights.items()}
    plain = skeleton(architecture(model.architecture), model.config)
    plain.load_state_dict(weights, assign=True)
    plain.tie()
    plain.origin = model.origin
    return plain.train(model.training)


def save_adapter(model: Decoder, folder: Path) -> None:
    """The adapters alone, to go on from."""
    from safetensors.torch import save_file

    (folder / FOLDER).mkdir()
    save_file({name: one.contiguous() for name, one in _trained(model).items()}, folder / FOLDER / "lora.safetensors")


def load_adapter(model: Decoder, folder: Path) -> None:
    """What `save_adapter` wrote, back into the model."""
    from safetensors.torch import load_file

    read: Mapping[str, Tensor] = load_file(folder / FOLDER / "lora.safetensors")
    with torch.no_grad():
        for name, one in _trained(model).items():
            one.copy_(read[name])


def _trained(model: Decoder) -> dict[str, Tensor]:
    return {name: one.detach() for name, one in model.named_parameters() if one.requires_grad}
