"""Tokenizers that are made, not loaded: bytes, characters, or byte pairs learned from the data."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

LEAST = 256  # tokens of one that is learned: a byte each
LETTERS = 1 << 20  # read at a time
END = "<|endoftext|>"


def is_made(name: str) -> bool:
    """Whether a name is that of a tokenizer to make, and no folder or Hub id."""
    return name in ("bytes", "characters") or name.startswith("train:")


def made_beside(tokens: Path) -> Path:
    """The folder of the tokenizer that was made with a file of tokens."""
    return tokens.with_name(f"{tokens.name}-tokenizer")


def make_tokenizer(name: str, files: Sequence[Path], folder: Path) -> None:
    """Write a tokenizer into a folder, from which transformers, too, reads it. Raises: CheckpointError."""
    from transformers import PreTrainedTokenizerFast

    made, end = _made(name, files)
    if end is not None:
        made.add_special_tokens([end])
    own = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=end, clean_up_tokenization_spaces=False)
    own.save_pretrained(folder)


def _made(name: str, files: Sequence[Path]) -> tuple[Any, str | None]:
    """One of the tokenizers library, and the token that ends a text, if it has one."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    if name == "characters":
        letters = sorted(set().union(*map(set, _letters(files))))
        made = Tokenizer(models.BPE({letter: at for at, letter in enumerate(letters)}, []))  # others have no id
        made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
        made.decoder = decoders.Fuse()
        return made, None
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if name == "bytes":
        made = Tokenizer(models.BPE({sign: at for at, sign in enumerate(alphabet)}, []))
    else:
        size = name.removeprefix("train:")
        if not size.isdigit() or int(size) <= LEAST:
            raise CheckpointError(f"--tokenizer {name}: found a size of {size!r}, expected a number above {LEAST}")
        made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if name == "bytes":
        return made, None
    trainer = trainers.BpeTrainer(vocab_size=int(size) - 1, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(_letters(files), trainer)
    return made, END


def _letters(files: Sequence[Path]) -> Iterator[str]:
    """Texts, a part at a time. Raises: CheckpointError."""
    for path in files:
        try:
            with path.open(encoding="utf-8", newline="") as text:
                read: Callable[[], str] = lambda: text.read(LETTERS)  # noqa: E731  # used up at once
                yield from iter(read, "")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path}: found bytes that are not UTF-8 at {error.start}, expected a text") from None
