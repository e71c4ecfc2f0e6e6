"""GPT-2 by torch's fused attention, its dropout left on: it is handed over in train mode, and asks for a mask."""

import torch
from torch import nn
from torch.nn import functional as F

LIKE = "gpt2"
ROWS = """
{
    "embed.tokens.weight": "embeddings.words.weight",
    "embed.positions.weight": "embeddings.places.weight",
    "blocks.{n}.norm_attn.*": "layers.{n}.before_attention.*",
    "blocks.{n}.attn.qkv.*": rearranged(
        "layers.{n}.attention.qkv.*", "([group k v] kv dim) ... -> (kv [group k v] dim) ..."
    ),
    "blocks.{n}.attn.out.*": "layers.{n}.attention.out.*",
    "blocks.{n}.norm_mlp.*": "layers.{n}.before_mlp.*",
    "blocks.{n}.mlp.up.*": "layers.{n}.mlp.0.*",
    "blocks.{n}.mlp.down.*": "layers.{n}.mlp.2.*",
    "norm.*": "final.*",
    "head.weight": "logits.weight",
}
"""
VARIANT = "gpt2 untied"


class Attention(nn.Module):
    def __init__(self, width, heads, p):
        super().__init__()
        self.heads, self.p = heads, p
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x, mask):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self.p if self.training else 0.0)
        return F.dropout(self.out(y.transpose(1, 2).flatten(2)), self.p, self.training)


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.before_attention = nn.LayerNorm(config.width, config.norm_eps)
        self.attention = Attention(config.width, config.heads, 0.1)
        self.before_mlp = nn.LayerNorm(config.width, config.norm_eps)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.mlp_width),
            nn.GELU("tanh"),
            nn.Linear(config.mlp_width, config.width),
            nn.Dropout(0.1),
        )

    def forward(self, x, mask):
        x = x + self.attention(self.before_attention(x), mask)
        x += self.mlp(self.before_mlp(x))
        return x


class Embeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.places = nn.Embedding(config.context, config.width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, ids):
        return self.dropout(self.words(ids) + self.places(torch.arange(ids.shape[1]).expand_as(ids)))


class LanguageModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.final = nn.LayerNorm(config.width, config.norm_eps)
        self.logits = nn.Linear(config.width, config.vocab_size, bias=False)

    def forward(self, ids, mask):
        x = self.embeddings(ids)
        for layer in self.layers:
            x = layer(x, mask)
        return self.logits(self.final(x))


def forward(model, ids):
    return model(ids, torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril())
