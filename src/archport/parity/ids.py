"""The ids that models are compared on."""

from pathlib import Path

import torch
from torch import Tensor

from ..generation.text import encoded, tokenizer
from ..layers import CountedEmbed, Decoder, DynamicNTK, Rotary

LONGEST = 2048  # tokens; scores of a longer text, in float64, fill the memory
TEXT = "def __init__(self, name):\n    return 'Hello, I am a language model, and this text is for me to read'\n"


def ids_for(port: Decoder, folder: Path | None, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The sets of ids to compare on; the first is also used module by module.

    Where frequencies are changed past the context, the first goes past it, if that is short. Where positions count the
    tokens that are no padding, the long ones have none: a pass with a cache does not know of what came before it.
    """
    vocab, context = port.config.vocab_size, port.config.context
    past = any(isinstance(part, Rotary) and isinstance(part.scaling, DynamicNTK) for part in port.modules())
    generator = torch.Generator().manual_seed(1)
    whole = "full context" if context <= LONGEST else f"{LONGEST} tokens"
    ids = {
        "random ids": torch.randint(vocab, (2, 32 if past else min(32, context)), generator=generator),
        "edge ids": torch.tensor([[0, vocab - 1, 0, 0, vocab - 1, vocab // 2][:context]]),
        "one token": torch.tensor([[vocab // 3]]),
        whole: torch.randint(vocab, (1, min(context, LONGEST)), generator=generator),
        "many rows": torch.randint(vocab, (9, min(5, context)), generator=generator),
    }
    if isinstance(port.embed, CountedEmbed):
        for name in ("random ids", whole):
            ids[name] = torch.where(ids[name] == port.embed.padding, (ids[name] + 1) % vocab, ids[name])
    if folder is not None and (folder / "tokenizer.json").is_file():
        follow_links = port.origin is not None and port.origin.follow_links
        text = encoded(tokenizer(folder, follow_links=follow_links), TEXT)
        ids |= {"text": torch.tensor([text[:context]]).clamp(max=vocab - 1)} if text else {}
    return {name: tokens.to(device) for name, tokens in ids.items()}
