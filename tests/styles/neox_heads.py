"""GPT-NeoX: fused head by head, two branches beside each other, a rotary module with a cache that grows."""

import torch
from torch import nn

LIKE = "gpt_neox"
ROWS = """
{
    "embed.tokens.weight": "word_embeddings.weight",
    "blocks.{n}.norm_attn.*": "layers.{n}.input_layernorm.*",
    "blocks.{n}.attn.qkv.*": "layers.{n}.attention.query_key_value.*",
    "blocks.{n}.attn.out.*": "layers.{n}.attention.dense.*",
    "blocks.{n}.norm_mlp.*": "layers.{n}.post_attention_layernorm.*",
    "blocks.{n}.mlp.up.*": "layers.{n}.mlp.dense_h_to_4h.*",
    "blocks.{n}.mlp.down.*": "layers.{n}.mlp.dense_4h_to_h.*",
    "norm.*": "final_norm.*",
    "head.weight": "final_linear.weight",
}
"""


class RotaryEmbedding(nn.Module):
    def __init__(self, dim, base):
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / (base ** (torch.arange(0, dim, 2).float() / dim)))
        self.seq_len_cached = None

    def forward(self, x, seq_len):
        if self.seq_len_cached is None or seq_len > self.seq_len_cached:
            self.seq_len_cached = seq_len
            t = torch.arange(seq_len, dtype=self.inv_freq.dtype)
            freqs = torch.einsum("i,j->ij", t, self.inv_freq)
            emb = torch.cat((freqs, freqs), dim=-1)
            self.cos_cached, self.sin_cached = emb.cos(), emb.sin()
        return self.cos_cached[:seq_len].to(x.dtype), self.sin_cached[:seq_len].to(x.dtype)


def rotate_half(x):
    x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


class ParallelSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads = config.num_attention_heads
        self.size = config.hidden_size // self.heads
        self.rotary_ndims = int(self.size * config.rotary_pct)
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.rotary_emb = RotaryEmbedding(self.rotary_ndims, config.rotary_emb_base)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x):
        qkv = self.query_key_value(x)
        qkv = qkv.view(*qkv.shape[:-1], self.heads, 3 * self.size)
        q, k, v = (one.transpose(1, 2) for one in qkv.split(self.size, dim=-1))
        cos, sin = self.rotary_emb(v, x.shape[1])
        q_rot, q_pass = q[..., : self.rotary_ndims], q[..., self.rotary_ndims :]
        k_rot, k_pass = k[..., : self.rotary_ndims], k[..., self.rotary_ndims :]
        q = torch.cat((q_rot * cos + rotate_half(q_rot) * sin, q_pass), dim=-1)
        k = torch.cat((k_rot * cos + rotate_half(k_rot) * sin, k_pass), dim=-1)
        scores = torch.matmul(q, k.transpose(2, 3)) / self.size**0.5
        mask = torch.triu(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool), diagonal=1)
        scores = scores.masked_fill(mask, -10000.0)
        probs = torch.softmax(scores, dim=-1)
        context = torch.matmul(probs, v).permute(0, 2, 1, 3).reshape(x.shape)
        return self.dense(context)


class ParallelMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dense_4h_to_h = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x):
        return self.dense_4h_to_h(nn.functional.gelu(self.dense_h_to_4h(x)))


class ParallelTransformerLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = ParallelSelfAttention(config)
        self.mlp = ParallelMLP(config)

    def forward(self, x):
        residual = x
        attention_output = self.attention(self.input_layernorm(x))
        mlp_output = self.mlp(self.post_attention_layernorm(x))
        return residual + mlp_output + attention_output


class NeoX(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([ParallelTransformerLayer(config) for _ in range(config.num_hidden_layers)])
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.final_linear = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, ids):
        x = self.word_embeddings(ids)
        for layer in self.layers:
            x = layer(x)
        return self.final_linear(self.final_norm(x))
