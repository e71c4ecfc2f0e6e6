"""Texts to ids, in parallel: cut in pieces where no token goes over the cut, so that the ids are those of the whole."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from ..errors import CheckpointError, in_a_line
from ..generation.tokenizers import Tokenizer

PIECE = 1 << 14  # letters of a piece, about
BATCH = 128  # pieces that are tokenised at once
SEEN = 64  # letters on each side of a cut by which it is tried
BACK = PIECE // 2  # letters in which a place to cut is looked for

Encode = Callable[[Sequence[str]], list[list[int]]]


def text_files(paths: Sequence[Path]) -> list[Path]:
    """Files, and those in folders, but hidden ones, in the order of their names. Raises: CheckpointError."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.is_file())
            found += [one for one in inside if not any(part.startswith(".") for part in one.relative_to(path).parts)]
        elif path.is_file():
            found.append(path)
        else:
            raise CheckpointError(f"{path}: found no such file or folder, expected a text, or a folder of texts")
    if not found:
        raise CheckpointError(f"{', '.join(map(str, paths))}: found no file in it, expected texts")
    if not any(path.stat().st_size for path in found):
        raise CheckpointError(f"{', '.join(map(str, paths))}: found no letter in it, expected texts")
    return found


def digest_of(files: Sequence[Path]) -> str:
    """Of what they are called, how large they are and when they were written: another text has another."""
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


def tokenised(
    files: Sequence[Path], tokenizer: Tokenizer, told: Callable[[int, int], None] | None = None
) -> Iterator[list[int]]:
    """The ids of all texts, in pieces, without those that a tokenizer puts around a text.

    Between two texts comes the token that ends one, where the tokenizer has it. `told` hears how many bytes of how
    many are done. Raises: CheckpointError.
    """
    encode = encoder(tokenizer)
    end = getattr(getattr(tokenizer, "own", None), "eos_token_id", None)
    total, done = sum(path.stat().st_size for path in files), 0
    for number, path in enumerate(files):
        if number and end is not None:
            yield [end]
        try:
            with path.open(encoding="utf-8", newline="") as text:
                for piece, size in _encoded(_pieces(text), encode):
                    yield piece
                    done += size
                    if told is not None:
                        told(done, total)
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path}: found bytes that are not UTF-8 at {error.start}, expected a text") from None


def encoder(tokenizer: Tokenizer) -> Encode:
    """Many texts to ids at once, on all cores where the tokenizer is one of the tokenizers library."""
    own: Any = getattr(tokenizer, "own", tokenizer)
    backend: Any = getattr(own, "backend_tokenizer", own)
    batch = getattr(backend, "encode_batch_fast", None)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        try:
            if batch is not None:
                return [one.ids for one in batch(list(texts), add_special_tokens=False)]
            return [list(own(text, add_special_tokens=False, verbose=False)["input_ids"]) for text in texts]
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of tokenizers is no Exception
            raise CheckpointError(f"the tokenizer cannot encode a part of the data: {in_a_line(error)}") from None

    return encode


def _pieces(text: TextIO) -> Iterator[str]:
    """A text in pieces that end where a line begins after a word, or a word after another, where there is one."""
    rest = ""
    while more := text.read(PIECE):
        rest += more
        if len(rest) > PIECE:
            cut = _place(rest, PIECE)
            yield rest[:cut]
            rest = rest[cut:]
    while rest:
        cut = _place(rest, PIECE) if len(rest) > PIECE else len(rest)
        yield rest[:cut]
        rest = rest[cut:]


def _place(text: str, end: int) -> int:
    """The last place of those before `end` at which tokenizers cut by themselves."""
    for sign in "\n ":
        at = end
        while (at := text.rfind(sign, end - BACK, at)) > 0:
            if text[at - 1].isalpha() and text[at + 1 : at + 2].isalpha():
                return at
    return end


def _encoded(pieces: Iterator[str], encode: Encode) -> Iterator[tuple[list[int], int]]:
    """The ids of each piece, as they are in the whole, and its bytes.

    Each is tokenised behind the end of the one before, whose ids are then left out. Where these are others with and
    without what follows, the cut went through a token, and the pieces are tokenised as one.
    """
    before = ""
    waiting: list[_Piece] = []
    while batch := list(islice(pieces, BATCH)):
        # The last few letters of the piece before stand for all that was before.
        left = [before[-SEEN:], *(piece[-SEEN:] for piece in batch[:-1])]
        seen = encode([one + piece[:SEEN] for one, piece in zip(left, batch, strict=True)])
        for text, piece, ids, both in zip(left, batch, encode(left), seen, strict=True):
            if waiting and both[: len(ids)] != ids:
                waiting[-1] = waiting[-1]._replace(text=waiting[-1].text + piece)
            else:
                waiting.append(_Piece(text, piece, len(ids)))
        yield from _with_bytes(waiting[:-1], encode)
        waiting, before = waiting[-1:], batch[-1]  # the last may have to be joined with the next
    yield from _with_bytes(waiting, encode)


class _Piece(NamedTuple):
    """A piece of a text, what is before it, and how many ids that takes."""

    before: str
    text: str
    ids_before: int


def _with_bytes(pieces: Sequence[_Piece], encode: Encode) -> Iterator[tuple[list[int], int]]:
    for piece, ids in zip(pieces, encode([piece.before + piece.text for piece in pieces]), strict=True):
        yield ids[piece.ids_before :], len(piece.text.encode("utf-8"))
