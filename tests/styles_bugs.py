# ruff: noqa: E501
"""Bugs written into the code of other people's styles: what was there, what is, the place, and the fault's names."""

from typing import NamedTuple


class Bug(NamedTuple):
    """One bug: an old text of a style's file and the new one; where it may be placed, what it may be called."""

    kind: str
    style: str
    old: str
    new: str
    places: tuple[str, ...]
    names: tuple[str, ...]


def _bug(kind: str, style: str, old: str, new: str, places: str, *names: str) -> Bug:
    return Bug(kind, style, old, new, tuple(places.split(" | ")), names or (kind,))


ERF = "activation GELU (erf)"
TANH = "activation GELU (tanh)"

BUGS = (
    # scale
    _bug("scale missing", "gpt2_nano", "att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))",
         "att = q @ k.transpose(-2, -1)", "transformer.h.0.attn"),
    _bug("scale missing", "gpt2_inline", " * size**-0.5", "", "stack_0"),
    _bug("scale missing", "gpt2_conv1d", "        w = w / (v.shape[-1] ** 0.5)\n", "", "h.0"),
    _bug("scale missing", "gpt2_einsum", ', q, k) / self.scale', ', q, k)', "blocks.0.attn"),
    _bug("scale missing", "gptj_neighbours", "        scores = scores / k.shape[-1] ** 0.5\n", "", "layers.0.att"),
    _bug("scale missing", "gptj_complex", "v, is_causal=True)", "v, is_causal=True, scale=1.0)", "block.0.attention"),
    _bug("scale missing", "neox_heads", " / self.size**0.5", "", "layers.0.attention"),
    _bug("scale missing", "llama_separate", " / math.sqrt(self.head_dim)", "", "layers.0.attention"),
    _bug("scale missing", "llama_inline", ", q, k) / q.shape[-1] ** 0.5", ", q, k)", "layers.0"),
    _bug("scale of width", "gpt2_nano", "math.sqrt(k.size(-1))", "math.sqrt(C)", "transformer.h.0.attn"),
    _bug("scaled twice", "neox_heads", " / self.size**0.5", " / self.size", "layers.0.attention"),
    _bug("scaled twice", "llama_fused", "enable_gqa=True)", "enable_gqa=True, scale=1 / q.shape[-1])", "blocks.0.mixer"),
    # activation
    _bug(ERF, "gpt2_nano", 'nn.GELU(approximate="tanh")', "nn.GELU()", "transformer.h.0.mlp | transformer.h.0.mlp.gelu"),
    _bug(ERF, "gptj_neighbours", ', approximate="tanh"', "", "layers.0 | layers.0.fc_out"),
    _bug(TANH, "neox_heads", "functional.gelu(self.dense_h_to_4h(x))",
         'functional.gelu(self.dense_h_to_4h(x), approximate="tanh")', "layers.0.mlp"),
    _bug("activation ReLU", "gpt2_conv1d", "gelu(self.mlp_fc(self.ln_2(x)))", "self.mlp_fc(self.ln_2(x)).relu()", "h.0"),
    _bug("activation GELU (erf)", "llama_fused", "F.silu(gate)", "F.gelu(gate)", "blocks.0.ffn"),
    _bug("activation missing", "gpt2_inline", 'F.gelu(self.wide(n), approximate="tanh")', "self.wide(n)", "stack_0"),
    # eps
    _bug("norm eps 1e-05", "gpt2_nano", '"ln_f": nn.LayerNorm(config.n_embd, eps=config.norm_eps)',
         '"ln_f": nn.LayerNorm(config.n_embd)', "transformer.ln_f"),
    _bug("norm eps 1e-06", "llama_separate", "self.ffn_norm = RMSNorm(args.dim, args.norm_eps)",
         "self.ffn_norm = RMSNorm(args.dim, 1e-6)", "layers.0.ffn_norm"),
    _bug("norm eps 1e-05", "llama_inline", "config.rms_norm_eps", "1e-5", "layers.0"),
    _bug("norm eps 1e-05", "gpt2_inline", "self.eps = heads, eps", "self.eps = heads, 1e-5", "stack_0"),
    _bug("norm eps 1e-06", "neox_thirds", "        self.norm = nn.LayerNorm(c.width, eps=c.norm_eps)\n        self.outp",
         "        self.norm = nn.LayerNorm(c.width, eps=1e-6)\n        self.outp", "norm"),
    # rotary
    _bug("rotary halves", "gptj_neighbours", "turned * cos + swapped * sin",
         "turned * torch.cat((cos[..., ::2],) * 2, -1) + torch.cat((-turned[..., self.rotary // 2:], "
         "turned[..., :self.rotary // 2]), -1) * torch.cat((sin[..., ::2],) * 2, -1)", "layers.0.att"),
    _bug("rotary neighbours", "llama_inline",
         "torch.stack((x[..., :half], x[..., half:]), dim=-1)\n    return (rotation @ pairs[..., None])[..., 0].mT.flatten(-2)",
         "x.unflatten(-1, (-1, 2))\n    return (rotation @ pairs[..., None])[..., 0].flatten(-2)", "layers.0"),
    _bug("rotary base 10000", "llama_separate", "args.head_dim, args.rope_theta", "args.head_dim, 10000.0",
         "layers.0.attention"),
    _bug("rotary base 10000", "llama_fused", "config.rotary_base **", "10000.0 **", "blocks.0.mixer"),
    _bug("rotary base 500000", "gptj_complex", "10000.0 **", "500000.0 **", "block.0.attention"),
    _bug("rotary over the whole head", "neox_heads", "int(self.size * config.rotary_pct)", "self.size",
         "layers.0.attention"),
    _bug("rotary over the whole head", "gptj_complex", "config.rotary_width", "config.width // config.heads",
         "block.0.attention"),
    _bug("rotary inverted", "llama_separate", "(first * cos - second * sin, second * cos + first * sin)",
         "(first * cos + second * sin, second * cos - first * sin)", "layers.0.attention"),
    _bug("rotary missing", "neox_thirds", "q, k = self.rope(q), self.rope(k)", "pass", "body.0.0"),
    _bug("rotary on keys only", "llama_fused", "q, k = self.turn(q), self.turn(k)", "k = self.turn(k)", "blocks.0.mixer"),
    _bug("rotary on values", "llama_inline", "attend(q, k, v) @", "attend(q, k, rope(v, self.base)) @", "layers.0"),
    # mask
    _bug("mask includes the next token", "gpt2_inline", ".triu(1)", ".triu(2)", "stack_0"),
    _bug("mask includes the next token", "neox_heads", "diagonal=1)", "diagonal=2)", "layers.0.attention"),
    _bug("mask includes the next token", "gpt2_dropout", ".tril()", ".tril(1)", "layers.0.attention"),
    _bug("mask missing", "gptj_complex", "v, is_causal=True", "v", "block.0.attention"),
    _bug("mask missing", "llama_separate", "        if mask is not None:\n            scores = scores + mask\n", "",
         "layers.0.attention"),
    # wiring
    _bug("post-norm", "gpt2_nano", "x = x + self.attn(self.ln_1(x))\n        x = x + self.mlp(self.ln_2(x))",
         "x = self.ln_1(x + self.attn(x))\n        x = self.ln_2(x + self.mlp(x))", "transformer.h.0"),
    _bug("post-norm", "llama_fused", "x = x + self.mixer(self.norm_1(x))\n        return x + self.ffn(self.norm_2(x))",
         "x = self.norm_1(x + self.mixer(x))\n        return self.norm_2(x + self.ffn(x))", "blocks.0"),
    _bug("parallel for sequential", "gpt2_conv1d", "x = x + self.attend(self.ln_1(x))\n        return x + ",
         "return x + self.attend(self.ln_1(x)) + ", "h.0"),
    _bug("parallel for sequential", "llama_separate", "h + self.feed_forward(self.ffn_norm(h))",
         "h + self.feed_forward(self.ffn_norm(x))", "layers.0"),
    _bug("sequential for parallel", "neox_heads", "self.mlp(self.post_attention_layernorm(x))",
         "self.mlp(self.post_attention_layernorm(x + attention_output))", "layers.0"),
    _bug("sequential for parallel, one norm", "gptj_neighbours",
         "return self.att(n) + self.fc_out(F.gelu(self.fc_in(n), approximate=\"tanh\")) + x",
         "x = x + self.att(n)\n        return x + self.fc_out(F.gelu(self.fc_in(self.ln(x)), approximate=\"tanh\"))",
         "layers.0"),
    _bug("shared norm for two", "neox_heads", "self.mlp(self.post_attention_layernorm(x))",
         "self.mlp(self.input_layernorm(x))", "layers.0"),
    _bug("one norm for both branches", "gpt2_nano", "self.mlp(self.ln_2(x))", "self.mlp(self.ln_1(x))", "transformer.h.0"),
    _bug("one norm for both branches", "llama_inline", 'n = rms(x, p["mlp_gain"], self.eps)',
         'n = rms(x, p["attn_gain"], self.eps)', "layers.0"),
    _bug("second norm for both branches", "gpt2_inline",
         "n = self.norm(x, self.g1, self.b1)\n        heads = []", "n = self.norm(x, self.g2, self.b2)\n        heads = []",
         "stack_0", "second norm for both branches"),
    _bug("final norm missing", "gpt2_nano", "        x = self.transformer.ln_f(x)\n", "", "GPT"),
    _bug("final norm missing", "llama_separate", "self.output(self.norm(h))", "self.output(h)", "Transformer"),
    _bug("final norm missing", "gpt2_einsum", "self.ln_final(residual)", "residual", "Transformer"),
    _bug("final norm twice", "neox_thirds", "self.outp(self.norm(x))", "self.outp(self.norm(self.norm(x)))", "Sequential"),
    _bug("attention not added to the stream", "gpt2_nano", "x = x + self.attn(self.ln_1(x))",
         "x = self.attn(self.ln_1(x))", "transformer.h.0", "stream lost at attention"),
    _bug("stream lost at the MLP", "llama_separate", "return h + self.feed_forward", "return self.feed_forward", "layers.0"),
    _bug("stream lost at the MLP", "llama_inline", 'x = x + (g * ', 'x = (g * ', "layers.0"),
    _bug("stream lost, one norm", "gptj_neighbours", 'approximate="tanh")) + x', 'approximate="tanh"))', "layers.0"),
    _bug("stream lost", "neox_heads", "return residual + mlp_output", "return mlp_output", "layers.0"),
    _bug("residual after the norm", "llama_fused", "x = x + self.mixer(self.norm_1(x))\n        return x + self.ffn(self.norm_2(x))",
         "x = self.norm_1(x)\n        x = x + self.mixer(x)\n        x = self.norm_2(x)\n        return x + self.ffn(x)", "blocks.0"),
    _bug("norm missing", "gpt2_conv1d", "self.attend(self.ln_1(x))", "self.attend(x)", "h.0 | h.0.ln_1"),
    _bug("norm missing", "llama_fused", "self.ffn(self.norm_2(x))", "self.ffn(x)", "blocks.0 | blocks.0.norm_2"),
    # embedding
    _bug("positions off by one", "gpt2_nano", "pos = torch.arange(0, T, device=idx.device)",
         "pos = torch.arange(1, T + 1, device=idx.device).clamp(max=self.config.block_size - 1)",
         "transformer.wpe | GPT | transformer"),
    _bug("positions missing", "gpt2_conv1d", "self.wte(ids) + self.wpe.weight[: ids.shape[1]]", "self.wte(ids)",
         "Model | wte"),
    _bug("embedding scaled", "llama_separate", "h = self.tok_embeddings(tokens)",
         "h = self.tok_embeddings(tokens) * self.tok_embeddings.embedding_dim ** 0.5", "tok_embeddings | Transformer"),
    _bug("embedding scaled", "gptj_neighbours", "x = self.tok(ids)", "x = self.tok(ids) * self.tok.embedding_dim**0.5",
         "tok | GPTJ"),
    # attention's insides
    _bug("heads not brought together", "gpt2_nano", "y.transpose(1, 2).contiguous().view(B, T, C)", "y.reshape(B, T, C)",
         "transformer.h.0.attn"),
    _bug("heads not brought together", "gptj_neighbours", "(weights @ v.transpose(1, 2)).transpose(1, 2)",
         "(weights @ v.transpose(1, 2))", "layers.0.att"),
    _bug("keys and values tiled", "llama_separate",
         "x = x[:, :, :, None, :].expand(bs, slen, n_kv_heads, n_rep, head_dim)",
         "x = x[:, :, None, :, :].expand(bs, slen, n_rep, n_kv_heads, head_dim)", "layers.0.attention"),
    _bug("keys and values tiled", "llama_inline", "k, v = k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)",
         "k, v = k.repeat(1, 1, group, 1), v.repeat(1, 1, group, 1)", "layers.0"),
    _bug("q and k exchanged", "gpt2_nano", "q, k, v = self.c_attn", "k, q, v = self.c_attn", "transformer.h.0.attn"),
    _bug("k and v exchanged", "gpt2_dropout", "q, k, v = self.qkv", "q, v, k = self.qkv", "layers.0.attention"),
    _bug("qkv cycled", "neox_heads", "q, k, v = (one.transpose", "v, q, k = (one.transpose", "layers.0.attention",
         "q, k and v cycled", "q, k and v cycled back"),
    _bug("qkv read as thirds", "neox_heads",
         "qkv = qkv.view(*qkv.shape[:-1], self.heads, 3 * self.size)\n        q, k, v = (one.transpose(1, 2) for one in qkv.split(self.size, dim=-1))",
         "q, k, v = (one.unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in qkv.chunk(3, dim=-1))", "layers.0.attention"),
    _bug("qkv read head by head", "gpt2_nano", "q, k, v = self.c_attn(x).split(C, dim=2)",
         "q, k, v = self.c_attn(x).view(B, T, self.n_head, 3, -1).permute(3, 0, 1, 2, 4).reshape(3, B, T, C)",
         "transformer.h.0.attn", "qkv taken head by head"),
    _bug("softmax over queries", "gpt2_conv1d", "torch.softmax(w, dim=-1)", "torch.softmax(w, dim=-2)", "h.0"),
    _bug("attn.out bias dropped", "gpt2_einsum", ", self.W_O) + self.b_O", ", self.W_O)", "blocks.0.attn"),
    _bug("mlp.down bias dropped", "gpt2_einsum", " + self.b_out + resid_mid", " + resid_mid", "blocks.0"),
    _bug("keys tiled", "llama_inline", "k, v = k.repeat_interleave(group, dim=2)", "k, v = k.repeat(1, 1, group, 1)", "layers.0"),
    _bug("values tiled", "llama_inline", "v.repeat_interleave(group, dim=2)", "v.repeat(1, 1, group, 1)", "layers.0"),
    _bug("bias of values dropped", "gpt2_einsum", ", self.W_V) + self.b_V", ", self.W_V)", "blocks.0.attn"),
    _bug("softmax in bfloat16", "gpt2_nano", "att = F.softmax(att, dim=-1)",
         "att = F.softmax(att.bfloat16(), dim=-1).to(v.dtype)", "transformer.h.0.attn"),
    # MLP
    _bug("gate and up exchanged", "llama_separate", "F.silu(self.w1(x)) * self.w3(x)", "F.silu(self.w3(x)) * self.w1(x)",
         "layers.0.feed_forward"),
    _bug("gate and up exchanged", "llama_fused", "gate, up = self.w12", "up, gate = self.w12", "blocks.0.ffn"),
    _bug("gate and up exchanged", "llama_inline",
         'g = n @ p["gate"]\n            x = x + (g * torch.sigmoid(g) * (n @ p["up"]))',
         'g = n @ p["up"]\n            x = x + (g * torch.sigmoid(g) * (n @ p["gate"]))', "layers.0"),
    # norms
    _bug("mean subtracted", "llama_fused", "        rms = (", "        x = x - x.mean(-1, keepdim=True)\n        rms = (",
         "blocks.0.norm_1"),
    _bug("norm weights from one", "llama_separate", "output * self.weight", "output * (1 + self.weight)",
         "layers.0.attention_norm"),
    _bug("RMS norm", "gpt2_einsum", "        residual = residual - residual.mean(dim=-1, keepdim=True)\n", "", "blocks.0.ln1"),
    _bug("norm without bias", "gpt2_inline", " * g + b", " * g", "stack_0"),
    _bug("blocks in another order", "gpt2_nano", "for block in self.transformer.h:", "for block in reversed(self.transformer.h):", "GPT"),
    # another boundary, which is no bug
    _bug("norm weights from zero", "gemma_outside", "1 + self.weight", "self.weight", "layers.0.norm_1"),
    _bug(ERF, "gemma_outside", ', approximate="tanh"', "", "layers.0.mlp"),
    _bug("embedding not scaled", "gemma_outside", " * math.sqrt(self.tok.embedding_dim)", "", "tok | Gemma"),
    # seen where raw matrices are used
    _bug("norm eps 1e-12", "gpt2_einsum", "+ self.eps", "+ 1e-12", "blocks.0.ln1"),
    _bug("rotary inverted", "gemma_outside", "torch.cat((-two, one), dim=-1)", "torch.cat((two, -one), dim=-1)", "layers.0.att"),
    # layers
    _bug("last block dropped", "gpt2_nano", "for block in self.transformer.h:", "for block in self.transformer.h[:-1]:", "GPT"),
)  # fmt: skip
