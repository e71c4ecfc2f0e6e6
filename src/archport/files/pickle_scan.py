"""What a pickle would name and load, read off its opcodes without running one."""

import pickletools
from collections.abc import Sequence
from typing import Any, NamedTuple

MAX_OPCODES = 1_000_000
MAX_TUPLE = 10_000  # elements, those of tuples inside it counted each time they are there
# What torch's own pickles are made of; it refuses the others too, later and in other words.
OPCODES = frozenset(
    """PROTO STOP MARK EMPTY_DICT EMPTY_LIST EMPTY_TUPLE EMPTY_SET TUPLE TUPLE1 TUPLE2 TUPLE3 SETITEM SETITEMS APPEND
    APPENDS GLOBAL REDUCE BUILD NEWOBJ BINPERSID BINPUT LONG_BINPUT BINGET LONG_BINGET BININT BININT1 BININT2 LONG1
    BINFLOAT BINUNICODE SHORT_BINSTRING NONE NEWTRUE NEWFALSE""".split()  # noqa: SIM905
)


class Name(str):
    """A function or class that a pickle names, as `module name`."""


class Scan(NamedTuple):
    """The names of a pickle, the persistent ids it asks for, its calls of names, and what it holds at the end."""

    names: list[Name]
    persistent: list[Any]
    calls: list[tuple[Name, Any]]
    value: Any


class Keys(list[Any]):
    """A dictionary of a pickle, of which only the keys are known."""


class _Counted(tuple):  # type: ignore[type-arg]
    """A tuple that knows how many elements it has, all the way down."""

    elements: int


def scan(stream: Any) -> Scan:
    """Follow a pickle with a stack of constants, tuples and names; what calls would make is None.

    Raises: ValueError for a pickle that is damaged, too long, or made of opcodes that a state_dict does not need.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    names: list[Name] = []
    persistent: list[Any] = []
    calls: list[tuple[Name, Any]] = []

    def pop(count: int) -> list[Any]:
        at = len(stack) - count
        if at < (marks[-1] if marks else 0):
            raise ValueError("a pickle that takes more than it has")
        taken = stack[at:]
        del stack[at:]
        return taken

    def to_mark() -> list[Any]:
        if not marks:
            raise ValueError("a pickle without a mark")
        return pop(len(stack) - marks.pop())

    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        name = opcode.name
        if name not in OPCODES or count > MAX_OPCODES:
            raise ValueError(f"a pickle with {name} after {count} steps, which a state_dict does not need")
        if name == "GLOBAL":
            names.append(Name(argument))
            stack.append(names[-1])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            stack += pop(1)
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo.get(argument))
        elif name == "TUPLE":
            stack.append(_tuple(to_mark()))
        elif name in ("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(_tuple(pop(int(name[-1]) if name[-1].isdigit() else 0)))
        elif name in ("SETITEMS", "APPENDS"):
            items = to_mark()
            _extend(stack, items if name == "APPENDS" else items[::2], Keys if name == "SETITEMS" else list)
        elif name == "APPEND":
            _extend(stack, pop(1), list)
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append(Keys())
        elif name == "BINPERSID":
            persistent += pop(1)
            stack.append(None)
        elif name in ("REDUCE", "NEWOBJ"):
            function, arguments = pop(2)
            calls += [(function, arguments)] if isinstance(function, Name) else []
            stack.append(None)
        elif name == "SETITEM":
            _extend(stack, pop(2)[:1], Keys)
        elif name == "BUILD":
            pop(1)
        elif name == "STOP":
            return Scan(names, persistent, calls, pop(1)[0])
        elif name != "PROTO":
            stack.append(argument)
    raise ValueError("a pickle without an end")


def _extend(stack: list[Any], items: list[Any], kind: type[list[Any]]) -> None:
    if stack and type(stack[-1]) is kind:
        stack[-1] += items


def _tuple(items: Sequence[Any]) -> _Counted:
    counted = _Counted(items)
    counted.elements = 1 + sum(item.elements if isinstance(item, _Counted) else 1 for item in items)
    if counted.elements > MAX_TUPLE:
        raise ValueError(f"a tuple of more than {MAX_TUPLE} elements")
    return counted
