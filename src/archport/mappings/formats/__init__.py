"""One file a format of another library, named as `--format` names it: FORMAT, literal data. Here: what they share."""

# Fields of ours that the configs of other libraries do not keep, and that change no logits.
LOST = frozenset({"embed_dropout", "attention_dropout", "residual_dropout", "init_std", "tied", "padding"})

TIED = {"head.weight": "embed.tokens.weight"}
