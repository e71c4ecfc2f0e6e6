"""GPT-NeoX, one branch after the other: fused in thirds, an activation as a module, a list comes back."""

import torch
from torch import nn

LIKE = "gpt_neox"
ROWS = """
{
    "embed.tokens.weight": "inp.weight",
    "blocks.{n}.norm_attn.*": "body.{n}.0.norm.*",
    "blocks.{n}.attn.qkv.*": rearranged(
        "body.{n}.0.into.*", "([group k v] kv dim) ... -> (kv [group k v] dim) ..."
    ),
    "blocks.{n}.attn.out.*": "body.{n}.0.back.*",
    "blocks.{n}.norm_mlp.*": "body.{n}.1.norm.*",
    "blocks.{n}.mlp.up.*": "body.{n}.1.into.*",
    "blocks.{n}.mlp.down.*": "body.{n}.1.back.*",
    "norm.*": "norm.*",
    "head.weight": "outp.weight",
}
"""
VARIANT = "gpt_neox sequential"


class SelfAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.turn, self.base = c.heads, c.rotary_width, c.rotary_base
        self.norm = nn.LayerNorm(c.width, eps=c.norm_eps)
        self.into = nn.Linear(c.width, 3 * c.width)
        self.back = nn.Linear(c.width, c.width)

    def rope(self, x):  # (batch, heads, seq, size)
        half = self.turn // 2
        theta = self.base ** (-torch.arange(half, dtype=torch.float32) / half)
        angle = torch.arange(x.shape[2], dtype=torch.float32)[:, None] * theta
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b, rest = x[..., :half], x[..., half : self.turn], x[..., self.turn :]
        return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)

    def forward(self, x):
        B, T, W = x.shape
        q, k, v = self.into(self.norm(x)).reshape(B, T, 3, self.heads, W // self.heads).permute(2, 0, 3, 1, 4)
        q, k = self.rope(q), self.rope(k)
        att = torch.einsum("bhid,bhjd->bhij", q, k) * (W // self.heads) ** -0.5
        att = att + torch.full((T, T), float("-inf")).triu(1)
        att = att.softmax(dim=-1)
        return x + self.back(torch.einsum("bhij,bhjd->bihd", att, v).reshape(B, T, W))


class FeedForward(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm = nn.LayerNorm(c.width, eps=c.norm_eps)
        self.into = nn.Linear(c.width, c.mlp_width)
        self.act = nn.GELU()
        self.back = nn.Linear(c.mlp_width, c.width)

    def forward(self, x):
        return x + self.back(self.act(self.into(self.norm(x))))


class Sequential(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.inp = nn.Embedding(c.vocab_size, c.width)
        self.body = nn.ModuleList(nn.Sequential(SelfAttention(c), FeedForward(c)) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.width, eps=c.norm_eps)
        self.outp = nn.Linear(c.width, c.vocab_size, bias=False)

    def forward(self, ids):
        x = self.inp(ids)
        for layer in self.body:
            x = layer(x)
        return [self.outp(self.norm(x))]
