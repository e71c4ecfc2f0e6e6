"""GPT-J: neighbours turned by tables in float32 buffers, one norm for two branches; asserts on the length."""

import torch
from torch import nn
from torch.nn import functional as F

LIKE = "gptj"
ROWS = """
{
    "embed.tokens.weight": "tok.weight",
    "blocks.{n}.norm.*": "layers.{n}.ln.*",
    "blocks.{n}.attn.qkv.weight": rearranged(
        ("layers.{n}.att.q.weight", "layers.{n}.att.k.weight", "layers.{n}.att.v.weight"),
        "(kv [group k v] dim) ... -> (kv [group k v] dim) ...",
    ),
    "blocks.{n}.attn.out.weight": "layers.{n}.att.o.weight",
    "blocks.{n}.mlp.up.*": "layers.{n}.fc_in.*",
    "blocks.{n}.mlp.down.*": "layers.{n}.fc_out.*",
    "norm.*": "ln_f.*",
    "head.*": "head.*",
}
"""


class Attention(nn.Module):
    def __init__(self, width, heads, rotary, longest):
        super().__init__()
        self.heads, self.rotary, self.longest = heads, rotary, longest
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        inv_freq = 1.0 / (10000 ** (torch.arange(0, rotary, 2).float() / rotary))
        angles = torch.outer(torch.arange(longest).float(), inv_freq)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.register_buffer("cos", angles.cos(), persistent=False)

    def rotate(self, x):  # (batch, seq, heads, size)
        sin, cos = (table[: x.shape[1], None].repeat_interleave(2, dim=-1) for table in (self.sin, self.cos))
        turned, rest = x[..., : self.rotary], x[..., self.rotary :]
        swapped = torch.stack((-turned[..., 1::2], turned[..., ::2]), dim=-1).flatten(-2)
        return torch.cat((turned * cos + swapped * sin, rest), dim=-1)

    def forward(self, x):
        batch, seq, width = x.shape
        assert seq <= self.longest, f"{seq} tokens are too many"
        q, k, v = (map_(x).view(batch, seq, self.heads, -1) for map_ in (self.q, self.k, self.v))
        q, k = self.rotate(q).transpose(1, 2), self.rotate(k).transpose(1, 2)
        scores = q.float() @ k.float().transpose(-1, -2)
        scores = scores / k.shape[-1] ** 0.5
        mask = torch.tril(torch.ones(seq, seq, dtype=torch.bool))
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1).to(v.dtype)
        return self.o((weights @ v.transpose(1, 2)).transpose(1, 2).reshape(batch, seq, width))


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.att = Attention(config.n_embd, config.n_head, config.rotary_dim, config.n_positions)
        self.fc_in = nn.Linear(config.n_embd, config.n_inner)
        self.fc_out = nn.Linear(config.n_inner, config.n_embd)

    def forward(self, x):
        n = self.ln(x)
        return self.att(n) + self.fc_out(F.gelu(self.fc_in(n), approximate="tanh")) + x


class GPTJ(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.tok = nn.Embedding(config.vocab_size, config.n_embd)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.head = nn.Linear(config.n_embd, config.vocab_size)

    def forward(self, ids):
        x = self.tok(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.ln_f(x)), None
