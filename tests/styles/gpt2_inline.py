"""GPT-2 with attention written out inside the block: q, k and v apart, norms of its own class; its loss comes first."""

import torch
from torch import nn
from torch.nn import functional as F

LIKE = "gpt2"
ROWS = """
{
    "embed.tokens.weight": "tok.weight",
    "embed.positions.weight": "pos",
    "blocks.{n}.norm_attn.weight": "stack_{n}.g1",
    "blocks.{n}.norm_attn.bias": "stack_{n}.b1",
    "blocks.{n}.attn.qkv.*": rearranged(
        ("stack_{n}.query.*", "stack_{n}.key.*", "stack_{n}.value.*"),
        "(kv [group k v] dim) ... -> (kv [group k v] dim) ...",
    ),
    "blocks.{n}.attn.out.*": "stack_{n}.mix.*",
    "blocks.{n}.norm_mlp.weight": "stack_{n}.g2",
    "blocks.{n}.norm_mlp.bias": "stack_{n}.b2",
    "blocks.{n}.mlp.up.*": "stack_{n}.wide.*",
    "blocks.{n}.mlp.down.*": "stack_{n}.narrow.*",
    "norm.*": "last.*",
    "head.weight": "tok.weight",
}
"""


class Stack(nn.Module):
    def __init__(self, width, heads, mlp_width, eps):
        super().__init__()
        self.heads, self.eps = heads, eps
        self.g1, self.b1 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.mix = nn.Linear(width, width)
        self.g2, self.b2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.wide = nn.Linear(width, mlp_width)
        self.narrow = nn.Linear(mlp_width, width)

    def norm(self, x, g, b):
        mean = x.mean(-1, keepdim=True)
        var = ((x - mean) ** 2).mean(-1, keepdim=True)
        return (x - mean) / torch.sqrt(var + self.eps) * g + b

    def forward(self, x):
        n = self.norm(x, self.g1, self.b1)
        heads = []
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        size = x.shape[-1] // self.heads
        q, k, v = self.query(n), self.key(n), self.value(n)
        for i in range(self.heads):
            at = slice(i * size, (i + 1) * size)
            scores = q[..., at] @ k[..., at].mT * size**-0.5
            scores = scores.masked_fill(mask, torch.finfo(scores.dtype).min)
            heads.append(scores.softmax(-1) @ v[..., at])
        x = x + self.mix(torch.cat(heads, dim=-1))
        n = self.norm(x, self.g2, self.b2)
        x = x + self.narrow(F.gelu(self.wide(n), approximate="tanh"))
        return x


class Inline(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.depth = config.layers
        self.tok = nn.Embedding(config.vocab_size, config.width)
        self.pos = nn.Parameter(torch.zeros(config.context, config.width))
        for n in range(config.layers):
            setattr(self, f"stack_{n}", Stack(config.width, config.heads, config.mlp_width, config.norm_eps))
        self.last = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, ids, labels=None):
        x = self.tok(ids) + self.pos[: ids.shape[1]]
        for n in range(self.depth):
            x = getattr(self, f"stack_{n}")(x)
        logits = F.linear(self.last(x), self.tok.weight)
        loss = torch.zeros(()) if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return loss, logits


def forward(model, ids):
    return model(ids)[1]
