"""LoRA by PEFT: small matrices beside the linear maps of the blocks are trained, the rest stays."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import PREFIX
from ..errors import TrainingError
from ..fast.linears import linear_maps
from ..files.adapter import ADAPTER_WEIGHTS
from ..layers import Decoder
from ..registry import architecture, skeleton

FOLDER = "adapter"  # within a save: a folder of its own, that a load of the save does not take for its weights


def target_names(model: Decoder) -> list[str]:
    """The linear maps of the blocks, those of experts too, but for routers, whose choices are not adapted."""
    return sorted(f"blocks.{name}" for names in linear_maps(model.blocks).values() for name in names)


def adapt(model: Decoder, rank: int, *, seed: int) -> int:
    """Put adapters of a rank into a model, in place, and freeze the rest; how many numbers are trained now.

    Raises: TrainingError without peft, and for a rank above the width.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise TrainingError("--lora needs peft: pip install archport[peft]") from None
    if rank > model.config.width:
        raise TrainingError(
            f"lora: found a rank of {rank}, expected up to {model.config.width}, the width of the model"
        )
    names = target_names(model)
    model.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names), model)
    return sum(one.numel() for one in model.parameters() if one.requires_grad)


def is_adapted(model: nn.Module) -> bool:
    """Whether it has adapters."""
    return hasattr(model, "peft_config")


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
    """The adapters alone, as PEFT and `archport.load(adapter=..)` read them."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    (folder / FOLDER).mkdir()
    config: Any = model.peft_config
    config["default"].save_pretrained(folder / FOLDER)
    weights = {f"{PREFIX}{name}": one.contiguous() for name, one in get_peft_model_state_dict(model).items()}
    save_file(weights, folder / FOLDER / ADAPTER_WEIGHTS[0])


def load_adapter(model: Decoder, folder: Path) -> None:
    """What `save_adapter` wrote, back into the model."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    read = load_file(folder / FOLDER / ADAPTER_WEIGHTS[0])
    set_peft_model_state_dict(model, {name.removeprefix(PREFIX): one for name, one in read.items()})
