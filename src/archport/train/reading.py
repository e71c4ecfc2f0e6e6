"""What a run reads: its texts or ids, the tokenizer of these, and the tail that is held back."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ArchportError, AsideWarning, TrainingError
from ..files.source import source_named
from ..generation.text import tokenizer as tokenizer_of
from ..generation.tokenizers import Tokenizer
from ..layers import Decoder
from .made_tokenizers import is_made, made_beside, make_tokenizer
from .settings import Settings
from .token_file import TokenFile, hash_of, is_token_file, read_tokens, write_tokens
from .tokenizing import digest_of, text_files, tokenised

TOKENS = "data.tokens"
TOKENIZER = "tokenizer"  # a folder of its own: one that was made


def data_of(settings: Settings) -> tuple[list[Path], TokenFile | None]:
    """Texts, or a file of their ids. Raises: CheckpointError, and TrainingError for both."""
    paths = [Path(name) for name in settings.data]
    made = [path for path in paths if path.is_file() and is_token_file(path)]
    if made and len(paths) > 1:
        raise TrainingError(f"{made[0]}: found a file of tokens beside other data, expected it alone")
    return ([], read_tokens(made[0])) if made else (text_files(paths), None)


def reader_of(settings: Settings, out: Path, files: Sequence[Path], ready: TokenFile | None) -> Any:
    """The tokenizer, made if it is one to make; None for ids of which none is named. Raises: ArchportError."""
    name: str | Path | None = settings.tokenizer or settings.source or (None if ready else "bytes")
    if ready and name is None:
        beside = made_beside(ready.path)
        if not beside.is_dir():
            warnings.warn(AsideWarning(f"{ready.path}: no --tokenizer, so the saves have none"), stacklevel=2)
            return None
        name = beside
    if is_made(str(name)):
        if ready and name != "bytes":
            found = f"{ready.path}: found token ids already, expected texts to make a tokenizer of"
            raise TrainingError(f"{found}, or --tokenizer with the folder of the one that they were made with")
        if not (out / TOKENIZER).is_dir():
            make_tokenizer(str(name), files, out / TOKENIZER)
        name = out / TOKENIZER
    try:
        reader = tokenizer_of(source_named(name))
    except ArchportError as error:
        if settings.tokenizer is None:
            raise
        raise TrainingError(f"--tokenizer {error}; others are bytes, characters, train:VOCAB") from None
    if ready and hash_of(reader) != ready.tokenizer:
        raise TrainingError(f"{ready.path}: made with another tokenizer than {name}: make it anew")
    return reader


def warn_of_other_ids(settings: Settings, reader: Tokenizer, model: Decoder) -> None:
    """Say where tokens are not those that a checkpoint has learned by their ids, if a tokenizer lies beside it."""
    try:
        learned = tokenizer_of(model).get_vocab()
    except ArchportError:
        return
    read = reader.get_vocab()
    others = len(read.items() - learned.items())
    if others:
        found = f"--tokenizer {settings.tokenizer}: {others:,} of its {len(read):,} tokens have another id, or none"
        warnings.warn(
            AsideWarning(f"{found}, in that of {settings.source}, with which its weights learned"), stacklevel=2
        )


def tokens_of(files: Sequence[Path], reader: Tokenizer, out: Path, told: Callable[[int, int], None]) -> TokenFile:
    """Those of the texts, made once. Raises: ArchportError."""
    digest = digest_of(files)
    if (out / TOKENS).is_file():
        tokens = read_tokens(out / TOKENS)
        if (tokens.data, tokens.tokenizer) == (digest, hash_of(reader)):
            return tokens
    return write_tokens(out / TOKENS, tokenised(files, reader, told), reader, data=digest)


def parted(tokens: TokenFile, settings: Settings) -> tuple[Tensor, Tensor]:
    """What is trained on, and the tail that is held back. Raises: TrainingError."""
    count = len(tokens.ids)
    held = max(int(count * settings.held_back), settings.context + 1)
    if count - held <= settings.context:
        least = 2 * (settings.context + 1)
        found = f"{', '.join(settings.data)}: found {count:,} tokens, expected {least:,} at least"
        raise TrainingError(f"{found}, for blocks of {settings.context} and {held:,} tokens held back")
    return tokens.ids[: count - held], tokens.ids[count - held :]
