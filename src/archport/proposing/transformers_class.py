"""A decoder class of transformers at tiny sizes: its own config, or a given one, shrunk by what its fields mean."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ..errors import SourceError, in_a_line
from ..files.checkpoint import CONFIG, MAX_CONFIG
from ..files.source import companions
from ..files.strict_json import read_json
from ..parity.references import building, with_plain_experts
from .subject import MOST, TINY, Subject, ids_of, loud, run
from .tiny_config import flat, nested, tiny_settings

EMPTY: Mapping[str, Any] = MappingProxyType({})


def model_types() -> dict[str, str]:
    """The class of each causal decoder that transformers has, by its model_type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    return {name.replace("-", "_"): kind if isinstance(kind, str) else kind[0] for name, kind in NAMES.items()}


def config_of(source: str, *, revision: str | None = None, offline: bool = False) -> dict[str, Any]:
    """The config.json of a folder or a Hub id. Raises: SourceError where it names no model_type, CheckpointError."""
    path = companions(source, revision=revision, offline=offline) / CONFIG
    hf: dict[str, Any] = read_json(path, MAX_CONFIG)
    if not isinstance(hf.get("model_type"), str):
        raise SourceError(f"{path}: found no model_type, expected that of a decoder of transformers")
    return hf


def of_transformers(model_type: str, given: Mapping[str, Any] = EMPTY, tiny: Mapping[str, Any] = EMPTY) -> Subject:
    """A decoder of transformers by its model_type, at tiny sizes, and else as it is `given` or by default.

    Raises: SourceError where transformers has none, or where no tiny config of it can be made.
    """
    import transformers

    class_name = model_types().get(model_type.replace("-", "_"))
    if class_name is None:
        raise SourceError(
            f"{model_type}: transformers {transformers.__version__} has no causal decoder of this model_type"
        )
    with building(f"{model_type}: "):
        kind = getattr(transformers, class_name)
    subject = of_kind(kind, model_type, given, tiny)
    return replace(subject, model_type=subject.config["model_type"])


def of_kind(kind: Any, name: str, given: Mapping[str, Any] = EMPTY, tiny: Mapping[str, Any] = EMPTY) -> Subject:
    """A class of transformers, or one made of it, at tiny sizes, or at those of a `tiny` config, and else as `given`.

    Raises: SourceError where no tiny config of it can be made.
    """
    with building(f"{name}: "):
        config_class = kind.config_class

    def make(settings: Mapping[str, Any]) -> nn.Module:
        with building(f"{name}: "):
            config = config_class(**nested(settings))
            config._attn_implementation = "eager"
            with torch.device("meta"):
                count = sum(one.numel() for one in kind(config).parameters())
            if count > MOST:
                raise ValueError(f"found {count:,} parameters at tiny sizes, expected up to {MOST:,}")
            made: nn.Module = with_plain_experts(kind(config).eval())
            return made

    first: SourceError | None = None
    for settings in [flat(tiny)] if tiny else tiny_settings(config_class, given):
        try:
            module = make(settings)
            with torch.no_grad():
                logits = run(loud(module.double(), 0), ids_of(settings.get("vocab_size", TINY["vocab_size"])))
            if not logits.isfinite().all():
                raise SourceError(f"{name}: gives logits that are not finite at tiny sizes")
        except SourceError as error:
            first = first or error
            continue
        except Exception as error:  # it is the reference's code
            first = first or SourceError(
                f"{name}: does not run at tiny sizes: {type(error).__name__}: {in_a_line(error)}"
            )
            continue
        own: Any = module.config
        prefix = f"{kind.base_model_prefix}." if kind.base_model_prefix else ""
        base = type(getattr(module, kind.base_model_prefix, module)).__name__
        defaults = flat(config_class().to_dict())
        kinds = (kind.__name__, base)
        subject = Subject(name, kind.__name__, flat(own.to_dict()), make, defaults, None, kinds, prefix)
        return subject.at(settings)
    raise first or SourceError(f"{name}: no tiny config")
