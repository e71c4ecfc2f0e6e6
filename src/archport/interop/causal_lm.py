"""A Decoder as a transformers model: its weights are the Decoder's own, what it saves is our export."""

import copy
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache as once
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys
from transformers import (
    CONFIG_MAPPING,
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from ..errors import ConfigError, ExportError
from ..exporting import export
from ..fast.linears import is_swapped
from ..layers import Decoder, PositionedEmbed
from ..port import from_state_dict
from ..registry import architecture
from .passes import Past, require_one_text
from .recomputing import recomputed
from .saving import filled, hf_config, to_write

EMBEDDING, HEAD = "decoder.embed.tokens.weight", "decoder.head.weight"
# What an output calls the cache, which transformers 5 renamed.
CACHE = "cache" if "cache" in {one.name for one in fields(CausalLMOutputWithPast)} else "past_key_values"
# What forward takes beside its own arguments: for the loss, and what says nothing that it does not know.
OF_THE_LOSS = {"num_items_in_batch", "ignore_index", "shift_labels"}
KNOWN = OF_THE_LOSS | {"cache_position"}


class CausalLM(PreTrainedModel, GenerationMixin):
    """A Decoder under the interface of a transformers model.

    Source: `GPT2LMHeadModel` and its like, whose forward takes and returns the same.
    """

    main_input_name = "input_ids"
    base_model_prefix = ""  # all of it
    _supports_sdpa = True
    _supports_cache_class = True  # which transformers 4 asks for
    supports_gradient_checkpointing = True
    gradient_checkpointing = False  # which transformers switches on, and says how in _gradient_checkpointing_func

    def __init__(self, decoder: Decoder, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.decoder = decoder
        self._tied_weights_keys = {HEAD: EMBEDDING} if decoder.tied else None
        self.post_init()
        given = decoder.origin.generation if decoder.origin else None
        if given is not None:
            self.generation_config = GenerationConfig.from_dict(dict(given))
        elif decoder.origin and decoder.origin.hf:  # the file itself: of its settings, `config` keeps none
            self.generation_config = GenerationConfig.from_model_config(copy.deepcopy(dict(decoder.origin.hf)))
        self.generation_config.cache_implementation = None  # the dynamic one, which gives the same tokens
        self._before = copy.deepcopy((config.to_dict(), self.generation_config.to_dict()))
        self.train(decoder.training)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, and the loss of `labels`, as transformers' models give them.

        `attention_mask` (batch, cached + seq) is 1 for tokens, 0 for padding, which none sees.
        Raises: ValueError for what it would have to leave out.
        """
        unknown = [
            name for name, value in kwargs.items() if name not in KNOWN and value is not None and value is not False
        ]
        if unknown:
            raise ValueError(f"found {', '.join(unknown)}, which archport's models do not take: see archport.observe")
        past = past_key_values if cache is None else cache
        again = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        if past is None and not again and (self.config.use_cache if use_cache is None else use_cache):
            past = DynamicCache()
        if not isinstance(attention_mask, Tensor | None):
            found = f"attention_mask: found a {type(attention_mask).__name__}, expected a tensor (batch, cached + seq)"
            raise ValueError(f"{found}: leave cache_implementation out")
        routed = kwargs.get("output_router_logits") is not False and getattr(self.config, "output_router_logits", False)
        if labels is not None and routed:
            raise ValueError("found output_router_logits in the config: archport has no such loss: set it to False")
        mask = None if attention_mask is None or attention_mask.all() else attention_mask.bool()
        cached = 0 if past is None else int(past.get_seq_length())
        require_one_text(position_ids, mask, cached > 0)
        embed = self.decoder.embed
        counts_tokens = isinstance(embed, PositionedEmbed) and embed.offset > 0  # as OPT; others count padding too
        if position_ids is None and mask is not None and not counts_tokens:
            position_ids = torch.arange(mask.shape[-1], device=mask.device)[cached:]
        stream = (self._recomputed if again else self.decoder.stream)(
            input_ids,
            inputs_embeds=inputs_embeds,
            positions=position_ids,
            mask=mask,
            cache=None if past is None else Past(past, len(self.decoder.blocks)),
        )
        kept = slice(-logits_to_keep or None, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.decoder.logits(stream[:, kept])
        loss = None
        if labels is not None:
            more = {name: value for name, value in kwargs.items() if name in OF_THE_LOSS}
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **more)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: past})

    @property
    def is_gradient_checkpointing(self) -> bool:
        """What PEFT asks for; transformers warns that it has another name now."""
        return self.gradient_checkpointing

    @torch.compiler.disable  # it loses sight of a forward that is put back
    def _recomputed(self, *given: Any, **options: Any) -> Tensor:
        """The stream of blocks that keep nothing for the backward pass, which computes them again."""
        with recomputed(self.decoder, self._gradient_checkpointing_func):
            return self.decoder.stream(*given, **options)

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers it has learned, those that stand-ins have taken over too, which are not trainable."""
        listed: int = super().num_parameters(only_trainable, exclude_embeddings)
        return listed if only_trainable else listed + self.decoder.num_parameters() - super().num_parameters()

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.decoder.embed.tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Put another token embedding in its place."""
        self.decoder.embed.tokens = value

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.decoder.head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Put another head in its place."""
        self.decoder.head = new_embeddings

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Give embedding and head more or fewer rows, and the configs another `vocab_size`."""
        resized = super().resize_token_embeddings(*args, **kwargs)
        self.decoder.config = replace(self.decoder.config, vocab_size=resized.weight.shape[0])
        return resized

    def init_weights(self) -> None:
        """Leave the weights as they are."""

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Make the head share the embedding's weight, where the model is tied."""
        if not is_swapped(self.decoder):
            self.decoder.tie()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Weights under our names, or all of a checkpoint under those of its files, as Trainer reads one.

        Raises: MappingError unless a checkpoint is complete.
        """
        if not state_dict or self.state_dict().keys() & state_dict.keys():
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        read = from_state_dict(hf_config(self.decoder), state_dict, dtype=self.decoder.dtype)
        with torch.no_grad():
            for name, parameter in self.decoder.named_parameters():
                parameter.copy_(read.get_parameter(name))
        return _IncompatibleKeys([], [])

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        max_shard_size: int | str = "50GB",
        push_to_hub: bool = False,
        **kwargs: Any,  # noqa: ARG002  # how to write, which an export knows
    ) -> None:
        """Write the files that `export` writes into a folder, which may hold others; `state_dict` goes before our own.

        What has changed in `config` and `generation_config` since is written too. Raises: ExportError.
        """
        if push_to_hub:
            raise ExportError("push_to_hub: archport writes folders: upload one with huggingface_hub's upload_folder")
        if is_main_process:
            before, now = self._before[0], self.config.to_dict()
            changes = {name: value for name, value in now.items() if before.get(name) != value}
            decoder = to_write(self.decoder, state_dict, changes)
            changed = self.generation_config.to_dict() != self._before[1]
            with filled(Path(save_directory)) as new:
                export(decoder, new, max_shard_size=max_shard_size)
                if changed:
                    self.generation_config.save_pretrained(new)


def wrapped(model: Decoder) -> CausalLM:
    """A Decoder as a transformers model. Raises: ConfigError."""
    if not isinstance(model, Decoder):
        raise ConfigError({"model": f"found a {type(model).__name__}, expected a Decoder"}, "as_transformers")
    values = copy.deepcopy(hf_config(model))
    name = values.pop("model_type")
    of_plugin = type("Config", (PretrainedConfig,), {"model_type": name})  # of which transformers may know nothing
    known = CONFIG_MAPPING[name] if name in CONFIG_MAPPING else of_plugin  # noqa: SIM401  # its get finds nothing
    config = known(**values)
    if model.origin is not None:  # by which PEFT says what an adapter belongs to
        config.name_or_path = str(model.origin.name if model.origin.commit else model.origin.folder or "")
    return _class_named(architecture(model.architecture).table.classes[0])(model, config)


@once
def _class_named(name: str) -> type[CausalLM]:
    """The class under the name of transformers' own: Trainer shifts labels by it, and pipelines look it up."""
    return type(name, (CausalLM,), {"__doc__": CausalLM.__doc__, "__module__": __name__})
