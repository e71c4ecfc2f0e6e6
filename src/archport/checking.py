"""What values should be, by a rule or by the type a field declares; all that are not come in one ConfigError."""

from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from .errors import ConfigError

LIMIT = 1 << 24  # of a whole number, unless a field says otherwise
LARGEST = 1e30  # of any other number
SHOWN = 60  # letters of a value in a message

Rules = Mapping[str, tuple[Callable[[Any], bool], str]]


def require(owner: object, rules: Rules, where: str) -> None:
    """Hold attributes to what they should be: a test, and the words for it. Raises: ConfigError with all that fail."""
    faults = {}
    for name, (fits, words) in rules.items():
        value = getattr(owner, name)
        try:
            right = fits(value)
        except (TypeError, ValueError, RuntimeError):  # it cannot even be compared, or is nested too deep
            right = False
        if not right:
            faults[name] = f"found {shown(value)}, expected {words}"
    if faults:
        raise ConfigError(faults, where)


def shown(value: object) -> str:
    """A value as a message shows it, in a few words."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits, or of levels
        return f"a very large {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


class Bounds(NamedTuple):
    """Between what the numbers of a field lie. Unless given, whole numbers start at 1 and all others above 0."""

    least: float | None = None
    most: float | None = None
    rate: bool = False


class Kind(NamedTuple):
    """The values of a type: the test for them, the words for them, and the form in which one is kept."""

    fits: Callable[[Any], bool]
    words: str
    keep: Callable[[Any], Any]


def kind(hint: Any, bounds: Bounds = Bounds()) -> Kind:  # noqa: B008  # it cannot change
    """What a type hint allows. Raises: TypeError for a hint of values that JSON does not have."""
    origin, options = get_origin(hint) or hint, get_args(hint)
    if origin in SIMPLE:
        return SIMPLE[origin]
    if origin is int:
        return _whole(bounds)
    if origin is float:
        return _number(bounds)
    if origin is Literal:
        return Kind(
            lambda value: any(type(value) is type(one) and value == one for one in options), _either(options), _same
        )
    if origin in (Union, UnionType):
        return _union([kind(option, bounds) for option in options])
    if origin is tuple and options and options[-1] is not Ellipsis:
        return _tuple([kind(option, bounds) for option in options])
    if origin in (list, tuple, Sequence):
        return _list(kind(options[0] if options else Any, bounds))
    if origin in (dict, Mapping) and options[:1] in ((), (str,), (Any,)):
        return _object(kind(options[1] if options else Any, bounds))
    raise TypeError(f"values of {hint} are not JSON")


def frozen(value: Any) -> Any:
    """A JSON value with tuples for its lists."""
    if isinstance(value, list | tuple):
        return tuple(map(frozen, value))
    return {key: frozen(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


def thawed(value: Any) -> Any:
    """A JSON value with lists for its tuples, as a file says it."""
    if isinstance(value, list | tuple):
        return list(map(thawed, value))
    return {key: thawed(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


def _is_json(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_json, value))
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_json(inner) for key, inner in value.items())
    return value is None or type(value) in (bool, int, str) or (type(value) is float and abs(value) < LARGEST)


def _same(value: Any) -> Any:
    return value


SIMPLE: dict[Any, Kind] = {
    Any: Kind(_is_json, "a JSON value", frozen),
    object: Kind(_is_json, "a JSON value", frozen),
    NoneType: Kind(lambda value: value is None, "None", _same),
    bool: Kind(lambda value: type(value) is bool, "true or false", _same),
    str: Kind(lambda value: isinstance(value, str), "a name", _same),
}


def _whole(bounds: Bounds) -> Kind:
    most = LIMIT if bounds.most is None else int(bounds.most)
    least = 1 if bounds.least is None else int(max(bounds.least, -LIMIT))
    return Kind(
        lambda value: type(value) is int and least <= value <= most, f"a whole number from {least} to {most}", _same
    )


def _number(bounds: Bounds) -> Kind:
    most = LARGEST if bounds.most is None else bounds.most

    def fits(value: Any) -> bool:
        if type(value) not in (int, float) or not abs(value) < LARGEST or value > most:
            return False
        if bounds.rate:
            return bool(0 <= value < 1)
        return bool(value > 0 if bounds.least is None else value >= bounds.least)

    words = "a positive number" if bounds.least is None else "a number"
    if bounds.least is not None and bounds.least > -LARGEST:
        words += f" from {bounds.least:g}"
    if most < LARGEST:
        words += f" to {most:g}"
    return Kind(fits, "a rate in [0, 1)" if bounds.rate else words, float)


def _union(kinds: Sequence[Kind]) -> Kind:
    def keep(value: Any) -> Any:
        return next(one for one in kinds if one.fits(value)).keep(value)

    return Kind(lambda value: any(one.fits(value) for one in kinds), " or ".join(one.words for one in kinds), keep)


def _list(inner: Kind) -> Kind:
    return Kind(
        lambda value: isinstance(value, list | tuple) and all(map(inner.fits, value)),
        "a list" if inner == SIMPLE[Any] else f"a list, each {inner.words}",
        lambda value: tuple(map(inner.keep, value)),
    )


def _tuple(kinds: Sequence[Kind]) -> Kind:
    def fits(value: Any) -> bool:
        right = isinstance(value, list | tuple) and len(value) == len(kinds)
        return right and all(one.fits(inner) for one, inner in zip(kinds, value, strict=True))

    return Kind(
        fits,
        f"a list of {len(kinds)}: {', '.join(one.words for one in kinds)}",
        lambda value: tuple(one.keep(inner) for one, inner in zip(kinds, value, strict=True)),
    )


def _object(inner: Kind) -> Kind:
    return Kind(
        lambda value: (
            isinstance(value, Mapping) and all(isinstance(key, str) and inner.fits(one) for key, one in value.items())
        ),
        "an object" if inner == SIMPLE[Any] else f"an object, each value {inner.words}",
        lambda value: {key: inner.keep(one) for key, one in value.items()},
    )


def _either(options: Sequence[object]) -> str:
    return " or ".join(map(repr, options))
