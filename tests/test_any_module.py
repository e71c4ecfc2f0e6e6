"""A person's own module in any style: filled by its rows, and its rows found."""

import copy
import re

import pytest
import torch
from torch import nn

from archport.errors import ArchportError, MappingError, NotFiniteWarning
from archport.foreign.filling import fill
from archport.foreign.rows import Rows

from .styles import STYLES, Style

IDS = torch.randint(0, 100, (2, 23), generator=torch.Generator().manual_seed(3))


def logits(style: Style, module: nn.Module) -> torch.Tensor:
    """What a style's module says, in whatever it is wrapped."""
    with torch.no_grad():
        result = module(IDS) if style.forward is None else style.forward(module, IDS)
    if isinstance(result, dict):
        result = result["logits"]
    return result[0] if isinstance(result, tuple | list) else result


def apart(style: Style, module: nn.Module, hf: nn.Module) -> float:
    """How far its logits are from transformers', in parts of the largest; rotary tables may be in float32."""
    with torch.no_grad():
        theirs = hf(IDS).logits
    return ((logits(style, module) - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("name", STYLES)
def test_a_module_in_any_style_is_filled_by_its_rows(name, tmp_path):
    style = STYLES[name]
    hf = style.reference().double()
    hf.save_pretrained(tmp_path)
    for source in (hf, tmp_path, str(tmp_path)):
        module = style.made(hf).double().eval()
        assert fill(module, source, style.rows) == style.rows
        assert apart(style, module, hf) < 3e-6
