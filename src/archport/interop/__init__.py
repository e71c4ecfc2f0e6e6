"""Our model as other libraries take one: `as_transformers`, and `interop.lm_eval` for lm-eval."""

from typing import TYPE_CHECKING

from ..keywords import strict_keywords
from ..layers import Decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@strict_keywords
def as_transformers(model: Decoder) -> "PreTrainedModel":
    """The model as transformers' Trainer, `generate` and pipelines, PEFT, accelerate and lm-eval take one.

    It shares the model's memory: what trains one trains the other. Its `save_pretrained` is `export`; its class bears
    the name of the class that transformers has for the architecture, by which libraries go.

    Raises: ConfigError for anything but a Decoder.
    """
    from .causal_lm import wrapped

    return wrapped(model)
