"""GPT-2 as OpenAI wrote it: weights lie (in, out), masked scores are a large number; the result is a dict."""

import torch
from torch import nn

LIKE = "gpt2"
ROWS = """
{
    "embed.tokens.weight": "wte.weight",
    "embed.positions.weight": "wpe.weight",
    "blocks.{n}.norm_attn.*": "h.{n}.ln_1.*",
    "blocks.{n}.attn.qkv.*": rearranged("h.{n}.c_attn.*", "... ([group k v] kv dim) -> (kv [group k v] dim) ..."),
    "blocks.{n}.attn.out.*": rearranged("h.{n}.c_proj.*", "... width -> width ..."),
    "blocks.{n}.norm_mlp.*": "h.{n}.ln_2.*",
    "blocks.{n}.mlp.up.*": rearranged("h.{n}.mlp_fc.*", "... width -> width ..."),
    "blocks.{n}.mlp.down.*": rearranged("h.{n}.mlp_proj.*", "... width -> width ..."),
    "norm.*": "ln_f.*",
}
"""


class Conv1D(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_in, n_out) * 0.02)
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x):
        size_out = x.shape[:-1] + (self.weight.shape[1],)
        x = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
        return x.view(size_out)


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads = config.n_head
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.c_attn = Conv1D(config.n_embd, 3 * config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp_fc = Conv1D(config.n_embd, config.mlp_width)
        self.mlp_proj = Conv1D(config.mlp_width, config.n_embd)

    def attend(self, x):
        batch, seq, width = x.shape
        q, k, v = (one.view(batch, seq, self.heads, -1).transpose(1, 2) for one in self.c_attn(x).chunk(3, dim=-1))
        w = q @ k.transpose(-1, -2)
        w = w / (v.shape[-1] ** 0.5)
        b = torch.tril(torch.ones(seq, seq, dtype=w.dtype))
        w = w * b - 1e10 * (1 - b)
        a = torch.softmax(w, dim=-1) @ v
        return self.c_proj(a.transpose(1, 2).reshape(batch, seq, width))

    def forward(self, x):
        x = x + self.attend(self.ln_1(x))
        return x + self.mlp_proj(gelu(self.mlp_fc(self.ln_2(x))))


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Layer(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def forward(self, ids):
        h = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        for layer in self.h:
            h = layer(h)
        h = self.ln_f(h)
        return {"logits": h @ self.wte.weight.T, "hidden": h}
