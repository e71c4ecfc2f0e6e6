"""The parts every GPT is made of, and the Decoder that strings them together: pure mathematics."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import DecoderConfig, Origin
from .errors import ConfigError
from .rotary import Rotary
from .step import Memories, Step, visible
from .tree import to_html

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "relu": nn.ReLU,
}

# The rows of a fused `qkv` weight: head by head, and within a head its query, its key, its value. So a contiguous
# slice of rows is a set of whole heads, and q, k and v are views of one product.
QKV = "(head qkv dim)"


class Embed(nn.Module):
    """Token ids to vectors."""

    def __init__(self, vocab_size: int, width: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002  # (batch, seq), (seq) -> (batch, seq, width)
        """Look the tokens up; positions come later, inside attention."""
        return self.dropout(self.tokens(ids))


class PositionedEmbed(Embed):
    """Token ids to vectors, plus a learned vector for each position up to `context`.

    Source: GPT-2, Radford et al. 2019.
    """

    def __init__(self, vocab_size: int, width: int, *, context: int, dropout: float = 0.0) -> None:
        super().__init__(vocab_size, width, dropout=dropout)
        self.positions = nn.Embedding(context, width)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:  # (batch, seq), (seq) -> (batch, seq, width)
        """Look both up and add. Raises: ValueError past the last learned position."""
        learned = self.positions.num_embeddings
        if positions.shape[-1] > learned:
            raise ValueError(f"{positions.shape[-1]} tokens, but this model has learned {learned} positions")
        tokens = self.tokens(ids)
        try:
            return self.dropout(tokens + self.positions(positions))
        except IndexError:
            last = int(positions.max())
            raise ValueError(f"position {last}, but this model has learned {learned}, from 0 on") from None


class Attention(nn.Module):
    """Causal multi-head self-attention with one fused projection for queries, keys and values.

    `scale` multiplies the scores: 1 / sqrt(head_width) unless given. `dropout` acts on the output, `score_dropout`
    on the attention probabilities.

    Source: arXiv 1706.03762.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        bias: bool = True,
        scale: float | None = None,
        dropout: float = 0.0,
        score_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.scale = self.head_width**-0.5 if scale is None else scale
        self.score_dropout = score_dropout
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, step: Step) -> Tensor:  # (batch, seq, width), same out
        """Each position gathers values from itself and the positions before it."""
        q, k, v = self.split(self.qkv(x))
        dropout = self.score_dropout if self.training else 0.0
        k, v = step.remember(step.rotate(k), v)
        mixed = F.scaled_dot_product_attention(
            step.rotate(q), k, v, attn_mask=step.mask, is_causal=step.causal, scale=self.scale, dropout_p=dropout
        )
        return self.dropout(self.out(mixed.transpose(1, 2).flatten(-2)))

    def split(self, fused: Tensor) -> tuple[Tensor, ...]:  # (batch, seq, 3 * width)
        """Queries, keys and values, (batch, heads, seq, head_width) each."""
        by_head = fused.unflatten(-1, (self.heads, 3, self.head_width))  # (batch, seq, heads, 3, head_width)
        return by_head.permute(3, 0, 2, 1, 4).unbind()

    def extra_repr(self) -> str:
        """The settings, for print."""
        dropout = f", score_dropout={self.score_dropout:g}" if self.score_dropout else ""
        return f"heads={self.heads}, head_width={self.head_width}, scale={self.scale:g}" + dropout


class MLP(nn.Module):
    """Two linear maps with an activation between, at each position alone. Raises: ConfigError."""

    def __init__(self, width: int, mlp_width: int, *, activation: str, dropout: float = 0.0) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ConfigError({"activation": f"found {activation!r}, expected one of {', '.join(ACTIVATIONS)}"})
        self.up = nn.Linear(width, mlp_width)
        self.activation = ACTIVATIONS[activation]()
        self.down = nn.Linear(mlp_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:  # (batch, seq, width), same out
        """Widen, bend, narrow."""
        return self.dropout(self.down(self.activation(self.up(x))))


class Block(nn.Module):
    """One layer of the stack, made of the parts its subclass names; the subclass is the residual wiring."""

    wiring: ClassVar[str]

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    attn: Attention
    mlp: MLP
    norm: nn.LayerNorm
    norm_attn: nn.LayerNorm
    norm_mlp: nn.LayerNorm


class SequentialBlock(Block):
    """Attention first, then the MLP on what attention left. Source: GPT-2."""

    wiring = "sequential residual"

    def forward(self, x: Tensor, step: Step) -> Tensor:  # (batch, seq, width), same out
        """Two residual branches, one after the other."""
        x = x + self.attn(self.norm_attn(x), step)
        return x + self.mlp(self.norm_mlp(x))


class ParallelBlock(Block):
    """Attention and the MLP read the same stream, each through its own norm. Source: GPT-NeoX, arXiv 2204.06745."""

    wiring = "parallel residual"

    def forward(self, x: Tensor, step: Step) -> Tensor:  # (batch, seq, width), same out
        """The branches are added first, as the reference does, so that both round alike."""
        return self.attn(self.norm_attn(x), step) + self.mlp(self.norm_mlp(x)) + x


class SharedNormBlock(Block):
    """Attention and the MLP read the same stream through one norm. Source: GPT-J, Wang and Komatsuzaki 2021."""

    wiring = "parallel residual, one norm"

    def forward(self, x: Tensor, step: Step) -> Tensor:  # (batch, seq, width), same out
        """The branches are added first, as the reference does, so that both round alike."""
        normed = self.norm(x)
        return self.attn(normed, step) + self.mlp(normed) + x


class Decoder(nn.Module):
    """A decoder-only transformer: embed, blocks, norm, head. `tied` makes the head the token embedding.

    `config`, `architecture` and `origin` say what it is and where it came from; `archport.build` and `archport.load`
    set them.
    """

    config: DecoderConfig
    architecture: str
    origin: Origin | None = None

    def __init__(
        self,
        *,
        embed: Embed,
        blocks: Sequence[Block],
        norm: nn.LayerNorm,
        head: nn.Linear,
        rotary: Rotary | None = None,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.embed = embed
        self.rotary = rotary
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.head = head
        self.tied = tied
        self.tie()

    def tie(self) -> None:
        """Make the head share the embedding's weight, where the model is tied."""
        if self.tied:
            self.head.weight = self.embed.tokens.weight

    def forward(
        self, ids: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None, cache: Memories | None = None
    ) -> Tensor:  # (batch, seq) -> (batch, seq, vocab_size)
        """Logits of the next token after each prefix: output i has seen tokens 0..i only.

        With a `cache`, ids go on where it ends, and are added to it. `mask` (batch, cached + seq) is true for tokens,
        false for padding, which no token sees. `positions` (seq) or (batch, seq) count the tokens from 0 unless given.
        """
        return self.head(self.norm(self.stream(ids, positions=positions, mask=mask, cache=cache)))

    def next_logits(self, ids: Tensor, *, mask: Tensor | None = None, cache: Memories | None = None) -> Tensor:
        """Logits (batch, vocab_size) of the token after the last, in float32; the rest is as in `forward`."""
        stream = self.stream(ids, mask=mask, cache=cache)
        logits: Tensor = self.head(self.norm(stream[:, -1:]))[:, -1].float()
        return logits

    def stream(
        self, ids: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None, cache: Memories | None = None
    ) -> Tensor:  # (batch, seq) -> (batch, seq, width)
        """The residual stream after the last block; the rest is as in `forward`. Raises: ValueError."""
        if ids.ndim != 2:
            raise ValueError(f"ids of shape {tuple(ids.shape)}, expected (batch, seq)")
        batch, seq = ids.shape
        past, keys = (cache.length, cache.keys(seq)) if cache else (0, seq)
        if mask is not None and mask.shape != (batch, keys):
            raise ValueError(f"a mask of shape {tuple(mask.shape)}, expected {(batch, keys)}")
        places = torch.arange(seq, device=ids.device) + past  # of the new tokens among the keys
        if positions is None:
            positions = places if mask is None else (mask.long().cumsum(-1) - 1).clamp(min=0)[:, places]
        x = self.embed(ids, positions)  # (batch, seq, width)
        step = self.step(positions, x.dtype)
        if mask is not None or (keys > seq and (seq > 1 or isinstance(past, Tensor))):
            step = replace(step, mask=visible(mask, places, keys), causal=False)
        elif keys > seq:  # one token, which sees all that there is
            step = replace(step, causal=False)
        for number, block in enumerate(self.blocks):
            x = block(x, replace(step, memory=cache.layers[number]) if cache else step)
        if cache:
            cache.advance(seq)
        return x

    def step(self, positions: Tensor, dtype: torch.dtype) -> Step:  # (seq) or (batch, seq)
        """What the blocks need to know of a pass over these positions, each token seeing those before it."""
        if self.rotary is None:
            return Step(rotation=None)
        return Step(rotation=self.rotary(positions if positions.ndim == 1 else positions[:, None], dtype))

    def _repr_html_(self) -> str:
        """The tree of the modules, for notebooks."""
        packed = not isinstance(getattr(self.head, "weight", None), nn.Parameter)  # as the linear maps of linears.py
        beside = ", not counting its linear maps, which are packed" if packed else ""
        return to_html(self, getattr(self, "architecture", type(self).__name__), beside)


@torch.no_grad()
def initialise(model: Decoder, *, std: float, residual_std: float) -> None:
    """Draw fresh weights in place: normal with `std`, or `residual_std` where a matrix writes to the residual stream.

    Norms start at one and zero, biases at zero.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            writes_to_stream = name.endswith((".attn.out", ".mlp.down"))
            module.weight.normal_(0.0, residual_std if writes_to_stream else std)
        elif isinstance(module, nn.LayerNorm):
            module.weight.fill_(1.0)
        if isinstance(getattr(module, "bias", None), Tensor):
            module.bias.zero_()
