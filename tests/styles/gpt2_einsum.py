"""GPT-2 without a single linear map: raw parameters a head, met by einsum, as interpretability code writes it."""

import torch
from torch import nn

LIKE = "gpt2"
ROWS = """
{
    "embed.tokens.weight": "embed.W_E",
    "embed.positions.weight": "embed.W_pos",
    "blocks.{n}.norm_attn.weight": "blocks.{n}.ln1.w",
    "blocks.{n}.norm_attn.bias": "blocks.{n}.ln1.b",
    "blocks.{n}.attn.qkv.weight": rearranged(
        ("blocks.{n}.attn.W_Q", "blocks.{n}.attn.W_K", "blocks.{n}.attn.W_V"),
        "(kv [group k v]) width dim -> (kv [group k v] dim) width",
    ),
    "blocks.{n}.attn.qkv.bias": rearranged(
        ("blocks.{n}.attn.b_Q", "blocks.{n}.attn.b_K", "blocks.{n}.attn.b_V"),
        "(kv [group k v]) dim -> (kv [group k v] dim)",
    ),
    "blocks.{n}.attn.out.weight": rearranged("blocks.{n}.attn.W_O", "head dim width -> width (head dim)"),
    "blocks.{n}.attn.out.bias": "blocks.{n}.attn.b_O",
    "blocks.{n}.norm_mlp.weight": "blocks.{n}.ln2.w",
    "blocks.{n}.norm_mlp.bias": "blocks.{n}.ln2.b",
    "blocks.{n}.mlp.up.weight": rearranged("blocks.{n}.W_in", "width mlp -> mlp width"),
    "blocks.{n}.mlp.up.bias": "blocks.{n}.b_in",
    "blocks.{n}.mlp.down.weight": rearranged("blocks.{n}.W_out", "mlp width -> width mlp"),
    "blocks.{n}.mlp.down.bias": "blocks.{n}.b_out",
    "norm.weight": "ln_final.w",
    "norm.bias": "ln_final.b",
    "head.weight": rearranged("W_U", "width vocab -> vocab width"),
}
"""
VARIANT = "gpt2 untied"


class LayerNorm(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.eps = cfg.norm_eps
        self.w = nn.Parameter(torch.ones(cfg.d_model))
        self.b = nn.Parameter(torch.zeros(cfg.d_model))

    def forward(self, residual):
        residual = residual - residual.mean(dim=-1, keepdim=True)
        scale = (residual.pow(2).mean(dim=-1, keepdim=True) + self.eps).sqrt()
        return residual / scale * self.w + self.b


class Attention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        heads, width, size = cfg.n_heads, cfg.d_model, cfg.d_head
        for name in "QKV":
            setattr(self, f"W_{name}", nn.Parameter(torch.randn(heads, width, size) * 0.02))
            setattr(self, f"b_{name}", nn.Parameter(torch.zeros(heads, size)))
        self.W_O = nn.Parameter(torch.randn(heads, size, width) * 0.02)
        self.b_O = nn.Parameter(torch.zeros(width))
        self.scale = size**0.5

    def forward(self, x):
        q = torch.einsum("bpw,hwd->bphd", x, self.W_Q) + self.b_Q
        k = torch.einsum("bpw,hwd->bphd", x, self.W_K) + self.b_K
        v = torch.einsum("bpw,hwd->bphd", x, self.W_V) + self.b_V
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / self.scale
        seen = torch.tril(torch.ones(scores.shape[-2:], dtype=torch.bool))
        scores = torch.where(seen, scores, torch.tensor(-1e5, dtype=scores.dtype))
        pattern = scores.softmax(dim=-1)
        z = torch.einsum("bhqk,bkhd->bqhd", pattern, v)
        return torch.einsum("bqhd,hdw->bqw", z, self.W_O) + self.b_O


class Embed(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.W_E = nn.Parameter(torch.randn(cfg.d_vocab, cfg.d_model) * 0.02)
        self.W_pos = nn.Parameter(torch.randn(cfg.n_ctx, cfg.d_model) * 0.02)

    def forward(self, tokens):
        return self.W_E[tokens] + self.W_pos[: tokens.shape[1]]


class TransformerBlock(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.ln1, self.attn, self.ln2 = LayerNorm(cfg), Attention(cfg), LayerNorm(cfg)
        self.W_in = nn.Parameter(torch.randn(cfg.d_model, cfg.d_mlp) * 0.02)
        self.b_in = nn.Parameter(torch.zeros(cfg.d_mlp))
        self.W_out = nn.Parameter(torch.randn(cfg.d_mlp, cfg.d_model) * 0.02)
        self.b_out = nn.Parameter(torch.zeros(cfg.d_model))

    def forward(self, resid_pre):
        resid_mid = self.attn(self.ln1(resid_pre)) + resid_pre
        pre = torch.einsum("bpw,wm->bpm", self.ln2(resid_mid), self.W_in) + self.b_in
        post = 0.5 * pre * (1.0 + torch.tanh((2.0 / torch.pi) ** 0.5 * (pre + 0.044715 * pre**3)))
        return torch.einsum("bpm,mw->bpw", post, self.W_out) + self.b_out + resid_mid


class Transformer(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.embed = Embed(cfg)
        self.blocks = nn.ModuleList([TransformerBlock(cfg) for _ in range(cfg.n_layers)])
        self.ln_final = LayerNorm(cfg)
        self.W_U = nn.Parameter(torch.randn(cfg.d_model, cfg.d_vocab) * 0.02)

    def forward(self, tokens):
        residual = self.embed(tokens)
        for block in self.blocks:
            residual = block(residual)
        return torch.einsum("bpw,wv->bpv", self.ln_final(residual), self.W_U)
