"""The Decoder, which strings the parts together: embed, blocks, norm, head."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..config import NOT_OF_TRANSFORMERS, AnyConfig, DecoderConfig, Origin
from .block import Block
from .context import AttentionContext, Cache, of_pass
from .embed import Embed
from .sharding import Cut, Sharding


class _OfTransformers:
    """What Trainer, pipelines and PEFT ask their models for first, and a Decoder is none of these."""

    def __get__(self, model: Any, owner: type | None = None) -> Any:
        if model is None:
            return self
        raise TypeError(NOT_OF_TRANSFORMERS)


class Decoder(nn.Module):
    """A decoder-only transformer: embed, blocks, norm, head, finish. `tied` makes the head the token embedding.

    `config`, `architecture` and `origin` say what it is and where it came from; `archport.build` and `archport.load`
    set them. `ranks` is how many processes compute it together, each with a part of it here: `archport.parallel.load`.
    """

    architecture: str
    origin: Origin | None = None
    sharding: ClassVar = Sharding({"head": Cut.GATHERED})
    ranks: int = 1
    accepts_loss_kwargs = can_generate = prepare_inputs_for_generation = _OfTransformers()

    if TYPE_CHECKING:

        @property
        def config(self) -> AnyConfig:
            """Its sizes, those of its own architecture too."""

        @config.setter
        def config(self, config: DecoderConfig) -> None: ...

    def __init__(
        self,
        *,
        embed: Embed,
        blocks: Sequence[Block],
        norm: nn.Module,
        head: nn.Linear,
        finish: nn.Module | None = None,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.head = head
        self.finish = finish
        self.tied = tied
        self.tie()

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of its numbers."""
        return next(self.parameters()).dtype

    @property
    def is_part(self) -> bool:
        """Whether the rest of it is in other processes."""
        return self.ranks > 1 or any(hasattr(parameter, "placements") for parameter in self.parameters())

    def num_parameters(self) -> int:
        """How many numbers it has learned, a tied head counted once, and those that stand-ins have taken over too."""
        listed = sum(parameter.numel() for parameter in self.parameters())
        return listed + sum(getattr(module, "taken_over", 0) for module in self.modules())

    def tie(self) -> None:
        """Make the head share the embedding's weight, where the model is tied."""
        if self.tied:
            self.head.weight = self.embed.tokens.weight

    def forward(
        self,
        ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:  # (batch, seq) -> (batch, seq, vocab_size)
        """Logits of the next token after each prefix: output i has seen tokens 0..i only.

        `inputs_embeds` (batch, seq, width) are token vectors in the place of `ids`. With a `cache`, tokens go on where
        it ends, and are added to it. `mask` (batch, cached + seq) is true for tokens, false for padding, which no token
        sees. `positions` (seq) or (batch, seq) count the tokens from 0 unless given. Raises: ValueError.
        """
        return self.logits(self.stream(ids, inputs_embeds=inputs_embeds, positions=positions, mask=mask, cache=cache))

    if TYPE_CHECKING:
        __call__ = forward

    def next_logits(self, ids: Tensor, *, mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Logits (batch, vocab_size) of the token after the last, in float32; the rest is as in `forward`."""
        stream = self.stream(ids, mask=mask, cache=cache)
        if not stream.shape[1]:
            raise ValueError("no tokens, so none that another could follow")
        return self.logits(stream[:, -1:])[:, -1].float()

    if TYPE_CHECKING:

        def hf_state_dict(self) -> dict[str, Tensor]:
            """Its tensors under the names of transformers' files; those that lie there as they do here are its own."""

    def logits(self, stream: Tensor) -> Tensor:  # (batch, seq, width) -> (batch, seq, vocab_size)
        """What comes after the last block: norm, head, and in some models a finish."""
        logits: Tensor = self.head(self.norm(stream))
        return logits if self.finish is None else self.finish(logits)

    def stream(
        self,
        ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        upto: int | None = None,
    ) -> Tensor:  # (batch, seq) -> (batch, seq, width)
        """The residual stream after the last block, or before block `upto`; the rest is as in `forward`."""
        tokens = _tokens(ids, inputs_embeds)
        count = len(self.blocks) if upto is None else upto
        if not 0 <= count <= len(self.blocks):
            raise ValueError(f"the stream before block {upto}: expected 0 to {len(self.blocks)}")
        if cache is not None and upto is not None:
            raise ValueError("upto and a cache exclude each other: the later layers would not be in it")
        if cache is not None and len(cache.layers) != len(self.blocks):
            raise ValueError(f"a cache of {len(cache.layers)} layers, but this model has {len(self.blocks)}")
        batch, seq = tokens.shape[:2]
        context = of_pass(batch, seq, tokens.device, positions=positions, mask=mask, cache=cache)
        x = self.embed(tokens, context.positions) if tokens.ndim == 2 else self.embed.place(tokens, context.positions)
        for block, own in zip(self.blocks, context.for_layers(x.dtype, cache, count), strict=False):
            x = block(x, own)
        if cache:
            cache.advance(seq)
        return x

    def context(self, ids: Tensor, dtype: torch.dtype) -> AttentionContext:  # (batch, seq)
        """What a block is told in a pass over these tokens, for a block that is run alone."""
        batch, seq = ids.shape
        context = of_pass(batch, seq, ids.device, positions=None, mask=None, cache=None)
        return replace(context, dtype=dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Decoder":
        """Moves and casts, and `to_empty`, keep a tied head tied."""
        shared = self.tied and getattr(self.head, "weight", None) is self.embed.tokens.weight
        super()._apply(fn, recurse)
        if shared:
            self.tie()
        return self

    def _load_from_state_dict(self, *given: Any) -> None:
        """A part that takes no other weights says so before another has taken some."""
        for part in self.modules():
            if isinstance(part, Filled):
                part.refuse_weights()
        super()._load_from_state_dict(*given)


def _tokens(ids: Any, inputs_embeds: Tensor | None) -> Tensor:  # (batch, seq) or (batch, seq, width)
    """Ids or vectors, whichever is given. Raises: ValueError for neither, both, or what is no tensor of either."""
    if (ids is None) == (inputs_embeds is None):
        raise ValueError("give ids or inputs_embeds, one of the two")
    tokens, ndim = (ids, 2) if inputs_embeds is None else (inputs_embeds, 3)
    what, shape = ("ids", "(batch, seq)") if inputs_embeds is None else ("inputs_embeds", "(batch, seq, width)")
    if not isinstance(tokens, Tensor):
        raise ValueError(f"{what}: found a {type(tokens).__name__}, expected a tensor {shape}")
    if tokens.ndim != ndim:
        raise ValueError(f"{what} of shape {tuple(tokens.shape)}, expected {shape}")
    if tokens.dtype not in (torch.int64, torch.int32) if ndim == 2 else not tokens.is_floating_point():
        wanted = "int64 or int32" if ndim == 2 else "a floating-point type"
        raise ValueError(f"{what}: found {str(tokens.dtype).removeprefix('torch.')}, expected {wanted}")
    return tokens


@runtime_checkable
class Drawn(Protocol):
    """A part that has weights beside linear maps, embeddings and layer norms."""

    def draw(self, std: float, generator: torch.Generator | None = None) -> None:
        """Draw them anew, in place."""


@runtime_checkable
class Filled(Protocol):
    """A part that takes no other weights."""

    def refuse_weights(self) -> None:
        """Say so, as an error."""


@torch.no_grad()
def initialise(model: Decoder, *, std: float, residual_std: float, generator: torch.Generator | None = None) -> None:
    """Draw fresh weights in place: normal with `std`, or `residual_std` where a matrix writes to the residual stream.

    They come of a `generator`, torch's own unless given. Norms start at one and zero, biases at zero; a part with other
    weights of its own draws them itself.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            writes_to_stream = name.endswith((".attn.out", ".down"))
            module.weight.normal_(0.0, residual_std if writes_to_stream else std, generator=generator)
        elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            module.weight.fill_(1.0)
        if isinstance(module, nn.Linear | nn.LayerNorm) and isinstance(getattr(module, "bias", None), Tensor):
            module.bias.zero_()
    for module in model.modules():
        if isinstance(module, Drawn):
            module.draw(std, generator)
