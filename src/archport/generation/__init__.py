"""From logits to text: cache, sampling, decoding, tokenizers, scores."""
