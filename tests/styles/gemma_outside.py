"""Gemma in one file, as scripts have it: the embedding is scaled where it is used, not where it is made."""

import math

import torch
from torch import nn
from torch.nn import functional as F

LIKE = "gemma"
ROWS = """
{
    "embed.tokens.weight": "tok.weight",
    "blocks.{n}.norm_attn.weight": "layers.{n}.norm_1.weight",
    "blocks.{n}.attn.qkv.weight": rearranged(
        ("layers.{n}.att.wq.weight", "layers.{n}.att.wk.weight", "layers.{n}.att.wv.weight"),
        "(kv [group k v] dim) ... -> (kv [group k v] dim) ...",
    ),
    "blocks.{n}.attn.out.weight": "layers.{n}.att.wo.weight",
    "blocks.{n}.norm_mlp.weight": "layers.{n}.norm_2.weight",
    "blocks.{n}.mlp.gate.weight": "layers.{n}.mlp.gate.weight",
    "blocks.{n}.mlp.up.weight": "layers.{n}.mlp.up.weight",
    "blocks.{n}.mlp.down.weight": "layers.{n}.mlp.down.weight",
    "norm.weight": "norm.weight",
}
"""


class Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(width)), eps

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], 1 + self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.size, self.base = c.head_width, c.rotary_base
        self.wq = nn.Linear(c.width, c.heads * self.size, bias=False)
        self.wk = nn.Linear(c.width, c.kv_heads * self.size, bias=False)
        self.wv = nn.Linear(c.width, c.kv_heads * self.size, bias=False)
        self.wo = nn.Linear(c.heads * self.size, c.width, bias=False)

    def turn(self, x):
        angles = torch.arange(x.shape[2])[:, None] * self.base ** (-torch.arange(0, self.size, 2) / self.size).to(x)
        cos, sin = (table.repeat(1, 2) for table in (angles.cos(), angles.sin()))
        one, two = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-two, one), dim=-1) * sin

    def forward(self, x):
        q, k, v = (map_(x).unflatten(-1, (-1, self.size)).transpose(1, 2) for map_ in (self.wq, self.wk, self.wv))
        k, v = (one.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for one in (k, v))
        y = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v, is_causal=True)
        return self.wo(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate = nn.Linear(c.width, c.mlp_width, bias=False)
        self.up = nn.Linear(c.width, c.mlp_width, bias=False)
        self.down = nn.Linear(c.mlp_width, c.width, bias=False)

    def forward(self, x):
        return self.down(F.gelu(self.gate(x), approximate="tanh") * self.up(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm_1, self.att = Norm(c.width, c.norm_eps), Attention(c)
        self.norm_2, self.mlp = Norm(c.width, c.norm_eps), MLP(c)

    def forward(self, x):
        x = x + self.att(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class Gemma(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.tok = nn.Embedding(c.vocab_size, c.width)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.norm = Norm(c.width, c.norm_eps)

    def forward(self, ids):
        x = self.tok(ids) * math.sqrt(self.tok.embedding_dim)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x) @ self.tok.weight.T
