"""One file a format of another library, named as `--format` names it: FORMAT, literal data. Here: what they share."""

# Fields of ours that the configs of other libraries do not keep and that change no logits, and what they are read as:
# whether the head is tied is looked up in the tensors.
LOST: dict[str, object] = {"embed_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}
LOST |= {"init_std": 0.02, "tied": True, "padding": None, "rotary_context": None}

TIED = {"head.weight": "embed.tokens.weight"}
