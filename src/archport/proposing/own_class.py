"""A class or function of one's own at tiny sizes: those that its code asks for are its settings."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..foreign.importing import imported, made
from ..foreign.sizes import OTHERS, Sizes
from ..registry import architecture
from .subject import TINY, Subject, ids_of, run
from .transformers_class import EMPTY, of_kind


def of_class(name: str, tiny: Mapping[str, Any] = EMPTY) -> Subject:
    """A class or function of one's own, as my_model.py:GPT, at tiny sizes, some of which may be given.

    Raises: SourceError, CodeError.
    """
    kind = imported(name)
    if hasattr(kind, "config_class") and hasattr(kind, "base_model_prefix"):
        return of_kind(kind, name.rpartition(":")[2], tiny=tiny)
    arch = architecture("llama")  # whose sizes have a name for most that people ask for
    sizes: dict[str, Any] = {one: TINY[one] for one in OTHERS if one in TINY and one != "head_width"}
    given = Sizes(arch, arch.config_class(**sizes))

    def make(settings: Mapping[str, Any]) -> nn.Module:
        return made(name, given.changed({**tiny, **settings}))

    asked = given.changed(dict(tiny))
    module = made(name, asked).eval()
    with torch.no_grad():
        run(module, ids_of(TINY["vocab_size"]))
    config = {one: asked[one] for one in sorted(asked.read)}
    own = name.rpartition(":")[2]
    return Subject(own, name, config, make, config, None, (own,))
