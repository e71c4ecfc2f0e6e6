"""Text to tokens and back: a checkpoint's tokenizer, and text that appears as its tokens do."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, GenerationError, SourceError
from ..files.checkpoint import companion
from ..files.source import companions
from ..keywords import strict_keywords
from ..layers import Decoder

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@strict_keywords
def tokenizer(source: Decoder | str | Path | None = None, *, follow_links: bool = False) -> "Tokenizer":
    """The tokenizer of a model, a folder, a Hub id or the bundled checkpoint: `tokenizer.json`, or vocab and merges.

    `follow_links` reads files that are links out of the folder, as it does for a model that was loaded so.

    Raises: SourceError, CheckpointError.
    """
    if isinstance(source, Decoder):
        folder = source.origin.folder if source.origin else None
        if folder is None:
            raise SourceError(f"{source.architecture}: came from no folder, so there is no tokenizer beside it")
        allowed = follow_links or bool(source.origin and source.origin.follow_links)
        own, rows = _of_folder(folder, allowed), source.config.vocab_size
        if size(own) > rows:
            raise CheckpointError(f"{folder}: the tokenizer has ids up to {size(own) - 1}, the model {rows} tokens")
        return own
    return _of_folder(companions(source), follow_links)


def size(tokenizer: "Tokenizer") -> int:
    """One more than the largest id, which some tokenizers have above gaps."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def _of_folder(folder: Path, follow_links: bool) -> "Tokenizer":
    if (folder / "tokenizer.json").exists():
        return _opened(companion(folder, "tokenizer.json", follow_links=follow_links))
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        vocab, merges = (companion(folder, name, follow_links=follow_links) for name in ("vocab.json", "merges.txt"))
        return _from_merges(vocab, merges)
    raise CheckpointError(f"{folder}: no tokenizer found, expected tokenizer.json, or vocab.json and merges.txt")


def _opened(path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower one
        raise CheckpointError(f"{path}: not a tokenizer: {error}") from None


def _from_merges(vocab: Path, merges: Path) -> "Tokenizer":
    """GPT-2's byte-level BPE, as the older files have it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the library raises no narrower one
        raise CheckpointError(f"{vocab}: not a vocabulary for {merges.name}: {error}") from None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def encoded(tokenizer: "Tokenizer", text: str) -> list[int]:
    """The ids of a text. Raises: CheckpointError when the tokenizer has none for a part of it."""
    try:
        ids: list[int] = tokenizer.encode(text).ids
    except Exception as error:  # the library raises no narrower one
        raise CheckpointError(f"the tokenizer cannot encode {text[:40]!r}: {error}") from None
    return ids


def start_ids(model: Decoder) -> list[int]:
    """What an empty prompt stands for: the token that begins a text. Raises: GenerationError when there is none."""
    token = model.origin.hf.get("bos_token_id") if model.origin else None
    if type(token) is not int or not 0 <= token < model.config.vocab_size:
        raise GenerationError(f"the prompt is empty and {model.architecture} has no token that begins a text: give one")
    return [token]


def stopping(tokenizer: "Tokenizer", stops: Sequence[str]) -> Callable[[Sequence[int]], bool] | None:
    """Whether the text of a row's new tokens has come to a stop string, as `until` of a generation."""
    return (lambda tokens: any(stop in tokenizer.decode(list(tokens)) for stop in stops)) if stops else None


def pieces(tokens: Iterable[int], tokenizer: "Tokenizer", stops: Sequence[str] = ()) -> Iterator[str]:
    """The text of tokens, in pieces as they come: whole characters only, and nothing of a stop string or after it."""
    from tokenizers.decoders import DecodeStream

    whole = DecodeStream(skip_special_tokens=True)
    ids: list[int] = []
    length, pending = 0, ""
    for token in tokens:
        ids.append(token)
        piece = whole.step(tokenizer, token) or ""  # nothing while a character is not complete
        length += len(piece)
        pending += piece
        if any(stop in pending for stop in stops):
            break
        ready = len(pending) - _overlap(pending, stops)
        if ready:
            yield pending[:ready]
            pending = pending[ready:]
    pending += tokenizer.decode(ids)[length:]
    # Of several, the one that is complete first, as if characters came one by one.
    ends = [(pending.index(stop) + len(stop), pending.index(stop)) for stop in stops if stop in pending]
    _, cut = min(ends, default=(0, len(pending)))
    if cut:
        yield pending[:cut]


def _overlap(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of a text may be the beginning of a stop string."""
    longest = min(max(map(len, stops), default=1) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if any(stop.startswith(text[-n:]) for stop in stops)), 0)
