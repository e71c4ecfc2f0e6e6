"""GPT-J: fused heads, rotary by complex numbers, the residual added inside; an object comes back."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

LIKE = "gptj"
ROWS = """
{
    "embed.tokens.weight": "embedding.weight",
    "blocks.{n}.norm.*": "block.{n}.norm.*",
    "blocks.{n}.attn.qkv.weight": rearranged(
        "block.{n}.attention.proj_in.weight", "(kv [group k v] dim) ... -> (kv [group k v] dim) ..."
    ),
    "blocks.{n}.attn.out.weight": "block.{n}.attention.proj_out.weight",
    "blocks.{n}.mlp.up.*": "block.{n}.feed.up.*",
    "blocks.{n}.mlp.down.*": "block.{n}.feed.down.*",
    "norm.*": "out.0.*",
    "head.*": "out.1.*",
}
"""


def rotations(width, length):
    frequencies = 10000.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.outer(torch.arange(length).float(), frequencies)
    return torch.polar(torch.ones_like(angles), angles)  # (seq, pairs)


def turned(x, by):  # (batch, heads, seq, size)
    width = 2 * by.shape[-1]
    pairs = torch.view_as_complex(x[..., :width].float().reshape(*x.shape[:-1], -1, 2))
    return torch.cat((torch.view_as_real(pairs * by).flatten(-2).type_as(x), x[..., width:]), dim=-1)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads = config.heads
        self.proj_in = nn.Linear(config.width, 3 * config.width, bias=False)
        self.proj_out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x, by):
        qkv = self.proj_in(x).unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        q, k, v = qkv
        y = F.scaled_dot_product_attention(turned(q, by), turned(k, by), v, is_causal=True)
        return self.proj_out(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(config.width, config.mlp_width)
        self.down = nn.Linear(config.mlp_width, config.width)

    def forward(self, n, x):
        return x + self.down(F.gelu(self.up(n), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config)
        self.feed = FeedForward(config)

    def forward(self, x, by):
        n = self.norm(x)
        return self.feed(n, x) + self.attention(n, by)


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.rotary = config.rotary_width
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.block = nn.ModuleList(Block(config) for _ in range(config.layers))
        norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.out = nn.Sequential(norm, nn.Linear(config.width, config.vocab_size))

    def forward(self, ids):
        x, by = self.embedding(ids), rotations(self.rotary, ids.shape[1])
        for block in self.block:
            x = block(x, by)
        return SimpleNamespace(logits=self.out(x))


def forward(model, ids):
    return model(ids).logits
