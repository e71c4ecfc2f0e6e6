"""The sizes of a model under every name that people's code asks for."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from ..config import DecoderConfig
from ..registry import Architecture, skeleton
from ..translate.planning import nearest

# Names in the style of nanoGPT, of Meta's code and of TransformerLens, by ours.
OTHERS = {
    "vocab_size": ("d_vocab", "padded_vocab_size", "n_vocab", "vocab"),
    "context": ("block_size", "n_ctx", "max_seq_len", "seq_len", "ctx_len", "context_length", "n_positions"),
    "width": ("n_embd", "dim", "d_model", "embed_dim", "hidden_size"),
    "layers": ("n_layer", "n_layers", "num_layers", "depth", "num_hidden_layers"),
    "heads": ("n_head", "n_heads", "num_heads", "num_attention_heads"),
    "kv_heads": ("n_kv_heads", "n_kv_head", "num_kv_heads", "n_query_groups"),
    "head_width": ("head_dim", "d_head", "head_size"),
    "mlp_width": ("hidden_dim", "d_mlp", "n_inner", "d_ff"),
    "norm_eps": ("eps", "layer_norm_eps"),
    "rotary_width": ("rotary_dim",),
    "rotary_base": ("rope_theta", "rope_base"),
    "residual_dropout": ("dropout",),
}


class Sizes(Mapping[str, Any]):
    """The sizes of a model of an architecture: as attributes or keys, by our names, Hugging Face's or other people's.

    `bias` says whether linear maps of attention have one, as nanoGPT asks. `read` are the names that were asked for.
    """

    def __init__(self, arch: Architecture, config: DecoderConfig) -> None:
        values: dict[str, Any] = {}
        for name, others in OTHERS.items():
            values |= dict.fromkeys(others, getattr(config, name)) if hasattr(config, name) else {}
        for name in arch.table.config:
            cell = arch.table.field(name)
            values |= dict.fromkeys((s.rpartition(".")[2] for s in cell.spellings), cell.theirs(getattr(config, name)))
        ours = {name: getattr(config, name) for name in dir(config) if not name.startswith("_")}
        values |= {name: value for name, value in ours.items() if not callable(value)}
        values["bias"] = any(name.endswith("qkv.bias") for name, _ in skeleton(arch, config).named_parameters())
        values["model_type"] = arch.name
        self._values = values
        self.read: set[str] = set()

    def changed(self, values: Mapping[str, Any]) -> "Sizes":
        """The same sizes with other values for some names."""
        other = copy.copy(self)
        other._values, other.read = self._values | dict(values), set()
        return other

    def differs(self, other: "Sizes") -> bool:
        """Whether code that asked for the same of another model was told something else."""
        return any(self._values.get(name) != other._values.get(name) for name in self.read)

    def __getitem__(self, name: str) -> Any:
        value = self._values[name]
        self.read.add(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._values:
            return self[name]
        raise AttributeError(f"the sizes of {self._values['model_type']} have no {name}{nearest(name, self._values)}")
