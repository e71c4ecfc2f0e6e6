"""Training a model whose state is shared out among processes, by torch's FSDP2."""

from typing import Any

import torch.distributed as dist

from ..checking import shown
from ..errors import ConfigError
from ..fast.linears import is_swapped
from ..keywords import strict_keywords
from ..layers import Decoder
from .ranks import begin, require_mesh


@strict_keywords
def shard(model: Decoder, mesh: Any = None) -> Decoder:
    """The same model, of whose parameters, gradients and optimiser states each process of a mesh holds a part.

    `fully_shard` is applied to each block, then to the rest; a tied head stays tied. It trains by `model(ids)`, or by
    `archport.loss(model, ids)`, on another part of the batch in each process; gradients are means over these. Make the
    optimiser after it. Without a `mesh`, all processes that torchrun started share it, on the model's device. All
    begin with the weights of the first; a model on `meta` needs a mesh, and is filled later.

    Raises: ConfigError. Source: PyTorch FSDP, arXiv 2304.11277.
    """
    _require_whole(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if mesh is not None:
        require_mesh(mesh)
    elif model.device.type == "meta":
        raise ConfigError({"mesh": "found none, expected one for a model on meta"}, "shard")
    else:
        begin(model.device)
        mesh = init_device_mesh(model.device.type, (dist.get_world_size(),))
    for parameter in model.parameters():
        # Some are views across their file, which fully_shard does not take.
        parameter.data = parameter.data.contiguous()
        if not parameter.is_meta:
            dist.broadcast(parameter.data, group=mesh.get_group(), group_src=0)
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    # What is outside of the blocks stays gathered from the stream to the loss, which reads norm and head by themselves.
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    register_fsdp_forward_method(model, "stream")
    return model


def _require_whole(model: Any) -> None:
    """Raises: ConfigError for what is no whole model that learns."""
    fault = None
    if not isinstance(model, Decoder):
        fault = f"found {shown(model)}, expected a Decoder of archport"
    elif is_swapped(model):
        fault = "its linear maps are direct, packed or quantised, and only go forward: load it without linears"
    elif model.is_part:
        fault = "found a part of it in this process already, expected all of it"
    if fault is not None:
        raise ConfigError({"model": fault}, "shard")
