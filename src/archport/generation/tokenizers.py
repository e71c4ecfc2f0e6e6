"""The tokenizer of a folder as transformers reads it, behind the few methods that texts need."""

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from ..errors import AsideWarning, CheckpointError, ExportError, GenerationError, in_a_line
from ..files.checkpoint import CONFIG, MAX_CONFIG, companion
from ..files.companions import companions_of
from ..files.source import DEMO
from ..files.strict_json import read_json
from .declared import PROBE, not_as_declared

SETTINGS = "tokenizer_config.json"
VOCABULARY = re.compile(r"(tokenizer|vocab|tekken|encoder)\.json|vocab\.txt|.*\.(model(\..*)?|tiktoken|codes)")
CLASS = re.compile(r"\w*(Tokenizer|TokenizerFast|Backend)")
CLEANED = len(" do not") - 1  # the longest end of a text that `clean_up_tokenization` may still change
MAX_SETTINGS = 16 << 20  # thousands of added tokens, or a chat template, take more than a config may


class Encoding(Protocol):
    """A text as ids."""

    @property
    def ids(self) -> list[int]:
        """One a token, with those that the tokenizer puts before and after a text."""


class Tokenizer(Protocol):
    """What texts need of a tokenizer; those of the `tokenizers` library have it too."""

    def encode(self, sequence: str, /) -> Encoding:
        """The ids of a text, never padded or cut."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of ids."""

    def id_to_token(self, id: int, /) -> str | None:
        """A token as the vocabulary has it."""

    def get_vocab(self) -> dict[str, int]:
        """All tokens with their ids, added ones too."""

    def get_vocab_size(self) -> int:
        """The number of tokens, added ones too."""


@dataclass(frozen=True)
class Ids:
    """The ids of a text."""

    ids: list[int]


class TransformersTokenizer:
    """A tokenizer of transformers, which is its `own`, with the names that the `tokenizers` library has."""

    def __init__(self, own: Any, folder: Path) -> None:
        self.own, self.folder = own, folder

    @property
    def unsettled(self) -> int:
        """How many letters at the end of a text the next token may change."""
        return CLEANED if self.own.clean_up_tokenization_spaces else 0

    def encode(self, text: str, /) -> Ids:
        """The ids of a text, never padded or cut."""
        return Ids([int(token) for token in self.own(text, verbose=False)["input_ids"]])

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of ids."""
        return str(self.own.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def id_to_token(self, id: int, /) -> str | None:
        """A token as the vocabulary has it."""
        token: str | None = self.own.convert_ids_to_tokens(id)
        return token

    def get_vocab(self) -> dict[str, int]:
        """All tokens with their ids, added ones too."""
        return dict(self.own.get_vocab())

    def get_vocab_size(self) -> int:
        """The number of tokens, added ones too."""
        return len(self.own)

    def save_pretrained(self, folder: Path) -> None:
        """Write it into a folder, from whose files transformers reads the same one. Raises: ExportError."""
        self.own.save_pretrained(folder)
        found, expected = (one.encode(PROBE).ids for one in (read_tokenizer(folder), self))
        if found != expected:
            kept = f"not what transformers makes of {self.folder}: name its tokenizer_class in {SETTINGS} there"
            raise ExportError(f"the tokenizer written is {kept}")


def chat_ids(tokenizer: Tokenizer, message: str) -> list[int]:
    """The ids of a chat that a person begins with a message, by the template of the tokenizer, up to the answer.

    Raises: GenerationError where there is no template, or it cannot be filled in.
    """
    own = getattr(tokenizer, "own", None)
    if own is None or not own.chat_template:
        where = "in tokenizer_config.json or chat_template.jinja: leave the chat out"
        raise GenerationError(f"{getattr(tokenizer, 'folder', DEMO)}: no chat template found, expected one {where}")
    messages = [{"role": "user", "content": message}]
    try:
        ids: list[int] = own.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    except Exception as error:  # it is the folder's own code, in a sandbox
        reason = in_a_line(error) or type(error).__name__
        raise GenerationError(f"{tokenizer.folder}: its chat template cannot be used: {reason}") from None  # type: ignore[attr-defined]
    return ids


def says_its_class(folder: Path) -> bool:
    """Whether the files of a tokenizer make the same one beside any config.json. Raises: CheckpointError."""
    names = companions_of(folder)
    if not any(VOCABULARY.fullmatch(name) for name in names) or folder == DEMO:
        return True
    settings = read_json(companion(folder, SETTINGS), MAX_SETTINGS) if SETTINGS in names else {}
    return settings.get("tokenizer_class") is not None


def read_tokenizer(folder: Path, *, follow_links: bool = False) -> Tokenizer:
    """The tokenizer of a folder: the one that transformers makes of its files. Raises: CheckpointError."""
    names = companions_of(folder)
    for name in (*names, CONFIG) if (folder / CONFIG).exists() else names:
        companion(folder, name, follow_links=follow_links)
    if not any(VOCABULARY.fullmatch(name) for name in names):
        expected = "tokenizer.json, vocab.json and merges.txt, vocab.txt, or tokenizer.model"
        raise CheckpointError(f"{folder}: no tokenizer found, expected {expected}")
    if folder == DEMO:  # whose one plain file needs nothing that takes seconds to import
        return _as_it_is(folder / "tokenizer.json")
    settings = read_json(folder / SETTINGS, MAX_SETTINGS) if SETTINGS in names else {}
    own = _by_transformers(folder, names, settings)
    if not own.get_vocab().keys() - own.get_added_vocab().keys():
        kind, declared = type(own).__name__, "name the right class as tokenizer_class in tokenizer_config.json"
        raise CheckpointError(
            f"{folder}: transformers makes a {kind} of it, which has no tokens of its own: {declared}"
        )
    for line in not_as_declared(own, folder, names, settings):
        warnings.warn(AsideWarning(line), stacklevel=4)
    return TransformersTokenizer(own, folder)


def _as_it_is(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def _by_transformers(folder: Path, names: Sequence[str], settings: Mapping[str, Any]) -> Any:
    import transformers

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    hf = read_json(folder / CONFIG, MAX_CONFIG) if (folder / CONFIG).is_file() else None
    for file, name in ((SETTINGS, settings.get("tokenizer_class")), (CONFIG, (hf or {}).get("tokenizer_class"))):
        other = isinstance(name, str) and not CLASS.fullmatch(name) and name in dir(transformers)
        if other or not isinstance(name, str | None):
            raise CheckpointError(f"{folder / file}: found tokenizer_class {name!r:.60}, expected that of a tokenizer")
    if "model_type" not in (hf or {}) and {"vocab.json", "merges.txt"} <= {*names} - {"tokenizer.json"}:
        options["config"] = transformers.GPT2Config()  # whose files they are where none names another
    elif hf is None:
        options["config"] = transformers.PretrainedConfig()
    try:
        with _quiet():
            own = transformers.AutoTokenizer.from_pretrained(folder, **options)
            own.decode([])  # which says once what it has to say
            return own
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # whatever transformers raises for files, and a panic of tokenizers is no Exception
        reason = in_a_line(error, 300) or type(error).__name__
        if isinstance(error, ImportError):
            reason = f"{reason}: pip install archport[sentencepiece]"
        if find_spec("sentencepiece") is None and any(name.endswith(".model") for name in names):
            reason = "sentencepiece is not installed: pip install archport[sentencepiece]"  # or it asks for tiktoken
        if "auto_map" in settings:
            reason = f"{SETTINGS} asks for code of its own (auto_map), which is never run"
    files = ", ".join(name for name in names if VOCABULARY.fullmatch(name))
    raise CheckpointError(f"{folder}: transformers cannot read its tokenizer ({files}): {reason}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' own messages off the terminal: what matters of them is raised."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
