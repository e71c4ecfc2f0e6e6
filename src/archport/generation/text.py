"""Text to tokens and back: a checkpoint's tokenizer, and text that appears as its tokens do."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from ..errors import CheckpointError, GenerationError, SourceError, in_a_line
from ..files.source import companions
from ..keywords import strict_keywords
from ..layers import Decoder
from .tokenizers import Tokenizer, read_tokenizer

WINDOW = 64  # tokens, after which the text of a token no longer depends on what was before
BYTE = re.compile("<0x[0-9A-F]{2}>")
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


@strict_keywords
def tokenizer(source: Decoder | str | Path | None = None, *, follow_links: bool = False) -> Tokenizer:
    """The tokenizer of a model, a folder, a Hub id or the bundled checkpoint, with all settings that lie beside it.

    Its ids and its text are those of transformers' tokenizer of the same folder. `encode(text).ids`, `decode(ids)`,
    `get_vocab()` and `id_to_token(id)` are as in the `tokenizers` library; `own` is the one of transformers, but for
    the bundled checkpoint, whose is read without.

    `follow_links` reads files that are links out of the folder, as it does for a model that was loaded so.

    Raises: SourceError, CheckpointError.
    """
    if isinstance(source, Decoder):
        folder = source.origin.folder if source.origin else None
        if folder is None:
            name = source.origin.name if source.origin else source.architecture
            remedy = "name the folder or the Hub id of one, by --tokenizer or archport.tokenizer(..)"
            raise SourceError(f"{name}: came from no folder, so there is no tokenizer beside it: {remedy}")
        allowed = follow_links or bool(source.origin and source.origin.follow_links)
        return read_tokenizer(folder, follow_links=allowed)
    return read_tokenizer(companions(source), follow_links=follow_links)


def size(tokenizer: Tokenizer) -> int:
    """One more than the largest id, which some tokenizers have above gaps."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def encoded(tokenizer: Tokenizer, text: str, rows: int | None = None) -> list[int]:
    """The ids of a text. Raises: CheckpointError when the tokenizer has none for a part of it, or a model of `rows`."""
    try:
        ids = tokenizer.encode(text).ids
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the libraries raise no narrower one, and a panic of tokenizers is no Exception
        raise CheckpointError(f"the tokenizer cannot encode {text[:40]!r}: {in_a_line(error)}") from None
    return ids if rows is None else within(tokenizer, ids, rows)


def within(tokenizer: Tokenizer, ids: list[int], rows: int) -> list[int]:
    """The same ids, if a model of so many tokens knows each. Raises: CheckpointError."""
    for token in ids:
        if token >= rows:
            name = tokenizer.id_to_token(token)
            raise CheckpointError(f"the tokenizer has id {token} for {name!r}, the model has ids up to {rows - 1}")
    return ids


def start_ids(model: Decoder) -> list[int]:
    """What an empty prompt stands for: the token that begins a text. Raises: GenerationError when there is none."""
    token = model.origin.hf.get("bos_token_id") if model.origin else None
    if type(token) is not int or not 0 <= token < model.config.vocab_size:
        raise GenerationError(f"the prompt is empty and {model.architecture} has no token that begins a text: give one")
    return [token]


def stopping(
    tokenizer: Tokenizer, stops: Sequence[str], prompt: Sequence[int] = ()
) -> Callable[[Sequence[int]], bool] | None:
    """Whether the text that a row's new tokens add to a prompt has come to a stop string, as `until` of `generate`."""
    begin = list(prompt)[-WINDOW:]
    length = len(tokenizer.decode(begin))

    def until(tokens: Sequence[int]) -> bool:
        text = tokenizer.decode([*begin, *tokens])[length:]
        return any(stop in text for stop in stops)

    return until if stops else None


def pieces(
    tokens: Iterable[int], tokenizer: Tokenizer, stops: Sequence[str] = (), prompt: Sequence[int] = ()
) -> Iterator[str]:
    """The text that tokens add to that of a prompt, in pieces as they come.

    Only what later tokens leave as it is, and nothing of a stop string or after it.
    """
    window = list(prompt)[-WINDOW:]
    taken, pending = len(tokenizer.decode(window)), ""  # how much of the window's text is in pending, or was yielded
    for token in tokens:
        window.append(token)
        text = tokenizer.decode(window[: len(window) - _open_bytes(tokenizer, window)])
        settled = len(text.rstrip(INCOMPLETE)) - getattr(tokenizer, "unsettled", 0)
        if settled > taken:
            pending += text[taken:settled]
            taken = settled
        if any(stop in pending for stop in stops):
            break
        ready = len(pending) - _overlap(pending, stops)
        if ready:
            yield pending[:ready]
            pending = pending[ready:]
        if len(window) > 2 * WINDOW:  # or each step would take longer than the one before
            text, shorter = tokenizer.decode(window), tokenizer.decode(window[-WINDOW:])
            whole = not _open_bytes(tokenizer, window[-WINDOW:][:1])
            if whole and text.endswith(shorter) and len(shorter) > len(text) - taken:
                window, taken = window[-WINDOW:], taken - len(text) + len(shorter)
    pending += tokenizer.decode(window)[taken:]
    # Of several, the one that is complete first, as if characters came one by one.
    ends = [(pending.index(stop) + len(stop), pending.index(stop)) for stop in stops if stop in pending]
    _, cut = min(ends, default=(0, len(pending)))
    if cut:
        yield pending[:cut]


def _open_bytes(tokenizer: Tokenizer, ids: Sequence[int]) -> int:
    """How many tokens at the end are single bytes, or show nothing: a byte that fits no character spoils them all."""

    def is_open(token: int) -> bool:
        return BYTE.fullmatch(tokenizer.id_to_token(token) or "") is not None or not tokenizer.decode([token])

    return sum(1 for _ in takewhile(is_open, reversed(ids)))


def _overlap(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of a text may be the beginning of a stop string."""
    longest = min(max(map(len, stops), default=1) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if any(stop.startswith(text[-n:]) for stop in stops)), 0)
