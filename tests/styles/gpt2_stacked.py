"""GPT-2 as a function of stacked tensors: the weights of all layers lie in one parameter, a loop takes them apart."""

import torch
from torch import nn
from torch.nn import functional as F

LIKE = "gpt2"
ROWS = """
{
    "embed.tokens.weight": "wte",
    "embed.positions.weight": rearranged("wpe", "1 context width -> context width"),
    "blocks.{n}.norm_attn.weight": rearranged("ln_attn_scale", "{n} ... -> ..."),
    "blocks.{n}.norm_attn.bias": rearranged("ln_attn_shift", "{n} ... -> ..."),
    "blocks.{n}.attn.qkv.weight": rearranged(
        "qkv_weight", "{n} width ([group k v] kv dim) -> (kv [group k v] dim) width"
    ),
    "blocks.{n}.attn.qkv.bias": rearranged("qkv_bias", "{n} ([group k v] kv dim) -> (kv [group k v] dim)"),
    "blocks.{n}.attn.out.weight": rearranged("out_weight", "{n} a b -> b a"),
    "blocks.{n}.attn.out.bias": rearranged("out_bias", "{n} ... -> ..."),
    "blocks.{n}.norm_mlp.weight": rearranged("ln_mlp_scale", "{n} ... -> ..."),
    "blocks.{n}.norm_mlp.bias": rearranged("ln_mlp_shift", "{n} ... -> ..."),
    "blocks.{n}.mlp.up.weight": rearranged("fc_weight", "{n} a b -> b a"),
    "blocks.{n}.mlp.up.bias": rearranged("fc_bias", "{n} ... -> ..."),
    "blocks.{n}.mlp.down.weight": rearranged("proj_weight", "{n} a b -> b a"),
    "blocks.{n}.mlp.down.bias": rearranged("proj_bias", "{n} ... -> ..."),
    "norm.weight": "ln_f_scale",
    "norm.bias": "ln_f_shift",
}
"""


def attention(x, weight, bias, out, out_bias, heads):
    q, k, v = torch.matmul(x, weight).add(bias).chunk(3, dim=-1)
    q, k, v = (one.unflatten(-1, (heads, -1)).transpose(1, 2) for one in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return y.transpose(1, 2).flatten(2) @ out + out_bias


class Stacked(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, self.eps = config.n_head, config.layer_norm_epsilon
        layers, width, mlp = config.n_layer, config.n_embd, config.mlp_width
        self.wte = nn.Parameter(torch.randn(config.vocab_size, width) * 0.02)
        self.wpe = nn.Parameter(torch.zeros(1, config.block_size, width))
        for name in ("ln_attn", "ln_mlp"):
            setattr(self, f"{name}_scale", nn.Parameter(torch.ones(layers, width)))
            setattr(self, f"{name}_shift", nn.Parameter(torch.zeros(layers, width)))
        for name, rows, columns in (
            ("qkv", width, 3 * width),
            ("out", width, width),
            ("fc", width, mlp),
            ("proj", mlp, width),
        ):
            setattr(self, f"{name}_weight", nn.Parameter(torch.randn(layers, rows, columns) * 0.02))
            setattr(self, f"{name}_bias", nn.Parameter(torch.zeros(layers, columns)))
        self.ln_f_scale = nn.Parameter(torch.ones(width))
        self.ln_f_shift = nn.Parameter(torch.zeros(width))

    def forward(self, ids):
        size = self.wte.shape[-1:]
        x = F.embedding(ids, self.wte) + self.wpe[:, : ids.shape[1]]
        for n in range(len(self.qkv_weight)):
            h = F.layer_norm(x, size, self.ln_attn_scale[n], self.ln_attn_shift[n], self.eps)
            x = x + attention(h, self.qkv_weight[n], self.qkv_bias[n], self.out_weight[n], self.out_bias[n], self.heads)
            h = F.layer_norm(x, size, self.ln_mlp_scale[n], self.ln_mlp_shift[n], self.eps)
            h = F.gelu(h @ self.fc_weight[n] + self.fc_bias[n], approximate="tanh")
            x = x + h @ self.proj_weight[n] + self.proj_bias[n]
        return F.layer_norm(x, size, self.ln_f_scale, self.ln_f_shift, self.eps) @ self.wte.T
