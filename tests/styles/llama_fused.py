"""Llama with all that can be fused: q, k and v in sections, gate and up in one; rotary tables are saved buffers."""

import torch
from torch import nn
from torch.nn import functional as F

LIKE = "llama"
ROWS = """
{
    "embed.tokens.weight": "wte.weight",
    "blocks.{n}.norm_attn.weight": "blocks.{n}.norm_1.scale",
    "blocks.{n}.attn.qkv.weight": sections(
        "blocks.{n}.mixer.Wqkv.weight", "(kv [group k v] dim) ... -> (kv [group k v] dim) ..."
    ),
    "blocks.{n}.attn.out.weight": "blocks.{n}.mixer.out_proj.weight",
    "blocks.{n}.norm_mlp.weight": "blocks.{n}.norm_2.scale",
    "blocks.{n}.mlp.gate.weight": rearranged("blocks.{n}.ffn.w12.weight", "([gate up] mlp) ... -> ([gate] mlp) ..."),
    "blocks.{n}.mlp.up.weight": rearranged("blocks.{n}.ffn.w12.weight", "([gate up] mlp) ... -> ([up] mlp) ..."),
    "blocks.{n}.mlp.down.weight": "blocks.{n}.ffn.w3.weight",
    "norm.weight": "norm_f.scale",
    "head.weight": "lm_head.weight",
}
"""


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        rms = (x.square().mean(dim=-1, keepdim=True) + self.eps).sqrt()
        return x / rms * self.scale


class Mixer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, self.kv_heads, self.size = config.heads, config.kv_heads, config.head_width
        rows = (self.heads + 2 * self.kv_heads) * self.size
        self.Wqkv = nn.Linear(config.width, rows, bias=False)
        self.out_proj = nn.Linear(self.heads * self.size, config.width, bias=False)
        inv_freq = config.rotary_base ** (-torch.arange(0, self.size, 2).float() / self.size)
        angles = torch.arange(config.context).float()[:, None] * inv_freq[None]
        self.register_buffer("cos", torch.cat((angles, angles), dim=-1).cos())
        self.register_buffer("sin", torch.cat((angles, angles), dim=-1).sin())

    def turn(self, x):  # (batch, heads, seq, size)
        one, two = x.chunk(2, dim=-1)
        return x * self.cos[: x.shape[2]] + torch.cat((-two, one), dim=-1) * self.sin[: x.shape[2]]

    def forward(self, x):
        sizes = [self.heads * self.size, self.kv_heads * self.size, self.kv_heads * self.size]
        q, k, v = (one.unflatten(-1, (-1, self.size)).transpose(1, 2) for one in self.Wqkv(x).split(sizes, dim=-1))
        q, k = self.turn(q), self.turn(k)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.w12 = nn.Linear(config.width, 2 * config.mlp_width, bias=False)
        self.w3 = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x):
        gate, up = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm_1, self.mixer = RMSNorm(config.width, config.norm_eps), Mixer(config)
        self.norm_2, self.ffn = RMSNorm(config.width, config.norm_eps), SwiGLU(config)

    def forward(self, x):
        x = x + self.mixer(self.norm_1(x))
        return x + self.ffn(self.norm_2(x))


class Llama(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm_f = RMSNorm(config.width, config.norm_eps)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)

    def forward(self, ids):
        x = self.wte(ids)
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.norm_f(x))
