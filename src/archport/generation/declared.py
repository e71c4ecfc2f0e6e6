"""Whether the tokenizer that transformers makes of a folder is the one that its files describe."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files.strict_json import read_json

PROBE = "Hello, I'm 1234 tokens\n\n  long: na\u00efve \u6f22\u5b57 \U0001f642 != don't\t."
MAX_ADDED = 16 << 20
ADDED = "added_tokens.json"
WHOLE = "tokenizer.json"


def not_as_declared(own: Any, folder: Path, names: Sequence[str], settings: Mapping[str, Any]) -> Iterator[str]:
    """A line for each file of which transformers makes something else than it says."""
    added = settings.get("added_tokens_decoder")
    declared = [(ADDED, read_json(folder / ADDED, MAX_ADDED))] if ADDED in names else []
    if isinstance(added, dict):
        ids = {token.get("content", ""): int(at) for at, token in added.items()}
        declared.append(("tokenizer_config.json", ids))
    vocabulary = own.get_vocab()
    for file, tokens in declared:
        places = ((token, vocabulary.get(token), at) for token, at in tokens.items())
        if moved := [f"{token!r} is {found}, not {at}" for token, found, at in places if found != at]:
            yield f"{folder / file}: as transformers reads it, {'; '.join(moved[:3])}"
    if WHOLE in names and not settings.get("add_prefix_space") and _differs(own, folder / WHOLE):
        kind, right = type(own).__name__, "tokenizer_class PreTrainedTokenizerFast in tokenizer_config.json"
        yield f"{folder / WHOLE}: transformers makes a {kind} of it, with other ids than it says: {right} keeps to it"


def _differs(own: Any, path: Path) -> bool:
    """Whether a tokenizer gives other ids than its file alone, where it can be read so."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        ids: list[int] = tokenizer.encode(PROBE, add_special_tokens=False).ids
        return bool(ids != own(PROBE, add_special_tokens=False, verbose=False)["input_ids"])
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # as a panic of tokenizers; what matters of it is raised when a text is read
        return False
