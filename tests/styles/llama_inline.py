"""Llama in a single class: blocks are dictionaries of raw parameters (in, out), attention is a function; tied."""

import torch
from torch import nn

LIKE = "llama"
VARIANT = "llama tied True"
ROWS = """
{
    "embed.tokens.weight": "emb",
    "blocks.{n}.norm_attn.weight": "layers.{n}.attn_gain",
    "blocks.{n}.attn.qkv.weight": rearranged(
        ("layers.{n}.q", "layers.{n}.k", "layers.{n}.v"), "... (kv [group k v] dim) -> (kv [group k v] dim) ..."
    ),
    "blocks.{n}.attn.out.weight": rearranged("layers.{n}.o", "... width -> width ..."),
    "blocks.{n}.norm_mlp.weight": "layers.{n}.mlp_gain",
    "blocks.{n}.mlp.gate.weight": rearranged("layers.{n}.gate", "... width -> width ..."),
    "blocks.{n}.mlp.up.weight": rearranged("layers.{n}.up", "... width -> width ..."),
    "blocks.{n}.mlp.down.weight": rearranged("layers.{n}.down", "... width -> width ..."),
    "norm.weight": "gain",
}
"""


def rms(x, gain, eps):
    return gain * (x / (x.pow(2).mean(-1, keepdim=True) + eps) ** 0.5)


def rope(x, base):  # (batch, seq, heads, size)
    half = x.shape[-1] // 2
    freq = torch.exp(-torch.arange(half) * (torch.log(torch.tensor(base)) / half))
    angle = (torch.arange(x.shape[1])[:, None] * freq)[None, :, None]
    rotation = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), -1).unflatten(-1, (2, 2)).to(x.dtype)
    pairs = torch.stack((x[..., :half], x[..., half:]), dim=-1)
    return (rotation @ pairs[..., None])[..., 0].mT.flatten(-2)


def attend(q, k, v):  # (batch, seq, heads, size), (batch, seq, kv_heads, size)
    group = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    later = torch.arange(q.shape[1])[None] > torch.arange(q.shape[1])[:, None]
    scores[:, :, later] = -torch.inf
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).flatten(2)


class TinyLlama(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.size, self.eps, self.base = config.head_dim, config.rms_norm_eps, config.rope_theta
        width, mlp = config.hidden_size, config.intermediate_size
        q, kv = config.num_attention_heads * self.size, config.num_key_value_heads * self.size

        def matrix(rows, columns):
            return nn.Parameter(torch.randn(rows, columns) * 0.02)

        self.emb = matrix(config.vocab_size, width)
        self.layers = nn.ModuleList()
        for _ in range(config.num_hidden_layers):
            parts = {"attn_gain": nn.Parameter(torch.ones(width)), "q": matrix(width, q), "k": matrix(width, kv)}
            parts |= {"v": matrix(width, kv), "o": matrix(q, width), "mlp_gain": nn.Parameter(torch.ones(width))}
            parts |= {"gate": matrix(width, mlp), "up": matrix(width, mlp), "down": matrix(mlp, width)}
            self.layers.append(nn.ParameterDict(parts))
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, ids):
        x = self.emb[ids]
        for p in self.layers:
            n = rms(x, p["attn_gain"], self.eps)
            q, k, v = ((n @ p[name]).unflatten(-1, (-1, self.size)) for name in "qkv")
            q, k = rope(q, self.base), rope(k, self.base)
            x = x + attend(q, k, v) @ p["o"]
            n = rms(x, p["mlp_gain"], self.eps)
            g = n @ p["gate"]
            x = x + (g * torch.sigmoid(g) * (n @ p["up"])) @ p["down"]
        return {"loss": None, "logits": rms(x, self.gain, self.eps) @ self.emb.t()}


def forward(model, ids):
    return model(ids)["logits"]
