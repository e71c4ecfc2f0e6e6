"""What a checkpoint's generation_config.json, or config.json without one, asks of a generation, as options of ours."""

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from ..errors import AsideWarning, ConfigError, GenerationError
from ..files.checkpoint import CONFIG, GENERATION
from ..keywords import strict_keywords
from ..layers import Decoder
from .options import Generation
from .prompts import Prompts, end_ids, read_prompts

Ban = Callable[[Sequence[int]], Iterable[int]]
# Fields that are options of ours, with the value that asks for nothing.
OPTIONS = {"temperature": 1, "top_k": 50, "top_p": 1, "min_p": 0, "repetition_penalty": 1, "max_new_tokens": None}
RENAMED = {"num_return_sequences": "samples"}
# Fields that choose no token, or only where another field does.
ASIDE = {"bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version"}
ASIDE |= {"_from_model_config", "use_cache", "cache_implementation", "cache_config", "return_dict_in_generate"}
ASIDE |= {"early_stopping", "length_penalty", "renormalize_logits", "disable_compile", "compile_config"}
# Of all others null, false and 0 ask for nothing, and these.
NEUTRAL = {"typical_p": 1, "num_beams": 1, "num_beam_groups": 1, "guidance_scale": 1, "encoder_repetition_penalty": 1}


class Settings(NamedTuple):
    """Options of `generate` that a file asks for; its fields that become one, and those that do not."""

    where: str
    options: dict[str, Any]
    followed: dict[str, Any]
    others: dict[str, Any]

    def chosen(self, instead: Collection[str] = ()) -> dict[str, Any]:
        """The options but for those given instead. Raises: ConfigError, which names the file."""
        options = {name: value for name, value in self.options.items() if name not in instead}
        try:
            Generation(**options)
        except ConfigError as error:
            fields = {option: field for field, option in RENAMED.items()}
            raise ConfigError(
                {fields.get(name, name): text for name, text in error.faults.items()}, self.where
            ) from None
        return options


@strict_keywords
def as_configured(model: Decoder, ids: Prompts | None = None) -> dict[str, Any]:
    """The options with which `generate` continues the prompts `ids` as transformers does, by the checkpoint's own file.

    They are what generation_config.json asks for, or config.json where there is none, and greedy unless it says
    `do_sample`. What no option follows is warned of. `max_length` and `min_new_tokens`, which need the length of the
    prompt, are followed where `ids` are given.

    Raises: ConfigError, GenerationError.
    """
    if not isinstance(model, Decoder):
        raise GenerationError(f"found a {type(model).__name__} for a model, expected a Decoder of archport")
    settings = read_settings(model, None if ids is None else max(map(len, read_prompts(model, ids))))
    if settings.others:
        warnings.warn(AsideWarning(f"{settings.where}: not followed: {in_words(settings.others)}"), stacklevel=3)
    return settings.chosen()


def in_words(fields: Mapping[str, Any]) -> str:
    """Fields with their values, in a line."""
    return ", ".join(f"{name} {value!r:.60}" for name, value in fields.items())


def read_settings(model: Decoder, length: int | None = None) -> Settings:
    """What the files of a model ask for, for prompts of that length. Raises: ConfigError."""
    origin = model.origin
    given = dict(origin.generation or {}) if origin else {}
    file = GENERATION
    if origin and origin.generation is None:
        file, given = CONFIG, {name: value for name, value in origin.hf.items() if name in _fields()}
    where = f"{(origin.folder or origin.name) if origin else model.architecture}/{file}"
    asked = dict(given)
    sampling = bool(asked.pop("do_sample", None))  # of any type, as transformers takes it
    options: dict[str, Any] = {"greedy": not sampling}
    followed = {"do_sample": True} if sampling else {}
    names = {}  # of fields that stand for others
    if asked.get("max_new_tokens") is not None:
        asked.pop("max_length", None)  # which the other goes before
    elif length is not None and type(asked.get("max_length")) is int:
        names["max_new_tokens"] = "max_length"
        asked["max_new_tokens"] = max(1, asked.pop("max_length") - length)
    if length is not None and type(asked.get("min_new_tokens")) is int:
        names["min_length"] = "min_new_tokens"
        asked["min_length"] = asked.pop("min_new_tokens") + length
    for field, nothing in {**OPTIONS, **dict.fromkeys(RENAMED, 1)}.items():
        value = asked.pop(field, None)
        if value is not None and value != nothing:
            options[RENAMED.get(field, field)] = value
            followed[names.get(field, field)] = given[names.get(field, field)]
    bans: list[Ban] = []
    for field, make in BANS.items():
        if value := asked.pop(field, None):
            name = names.get(field, field)
            try:
                bans.append(make(value, end_ids(model)))
            except (TypeError, ValueError, IndexError):
                fault = f"found {given[name]!r:.60}, expected what transformers writes"
                raise ConfigError({name: fault}, where) from None
            followed[name] = given[name]
    if bans:
        options["ban"] = lambda row: (token for ban in bans for token in ban(row))
    others = {name: value for name, value in asked.items() if name not in ASIDE and not name.startswith("output_")}
    others = {name: value for name, value in others.items() if value and value != NEUTRAL.get(name)}
    return Settings(where, options, followed, others)


@cache
def _fields() -> frozenset[str]:
    """The settings that transformers reads from a config.json where there is no generation_config.json."""
    from transformers import GenerationConfig

    return frozenset(GenerationConfig().to_dict())


def _suppressed(tokens: Sequence[int], _: set[int]) -> Ban:
    never = [int(token) for token in tokens]
    return lambda _: never


def _bad_words(words: Sequence[Sequence[int]], ends: set[int]) -> Ban:
    """The last id of each word that a row ends in but for that id; a word that is an end id alone may come."""
    alone = [[end] for end in ends]
    bad = [[int(token) for token in word] for word in words if word and [*word] not in alone]
    return lambda row: (last for *begin, last in bad if list(row[len(row) - len(begin) :]) == begin)


def _repeated(size: int, _: set[int]) -> Ban:
    """The ids that would end a piece of `size` tokens which a row has already."""
    known = range(size)[-1]  # which must be a whole number

    def ban(row: Sequence[int]) -> Iterable[int]:
        begin = row[len(row) - known :]
        return (row[at + known] for at in range(len(row) - known) if row[at : at + known] == begin)

    return ban


def _no_end(length: int, ends: set[int]) -> Ban:
    """The ids that end a row, while it is shorter than that."""
    shorter = range(length)
    return lambda row: ends if len(row) in shorter else ()


BANS: dict[str, Callable[[Any, set[int]], Ban]] = {
    "no_repeat_ngram_size": _repeated,
    "bad_words_ids": _bad_words,
    "suppress_tokens": _suppressed,
    "min_length": _no_end,
}
