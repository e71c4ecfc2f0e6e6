"""The Config of an architecture that was read: its fields, their defaults, and what it does not take."""

from collections.abc import Iterator
from typing import Any

from ..mappings import ACTIVATIONS
from .abstract import Abstract, Constant, our_name
from .sizing import CONSTANT, DERIVED
from .source_text import Imports, literal

KINDS = {bool: "bool", int: "int", float: "float", str: "str"}
PLAIN = 10000.0  # base of rotary positions


class ConfigClass:
    """The class, as text."""

    def __init__(self, abstract: Abstract, imports: Imports) -> None:
        self.abstract, self.imports = abstract, imports

    def text(self) -> str:
        """All of it."""
        decorator = f"@{self.imports.named('dataclasses', 'dataclass')}(frozen=True, kw_only=True)"
        lines = [decorator, f"class Config({', '.join(self._bases())}):", f'    """Sizes of a {self.abstract.name}."""']
        fields = [f"    {one}" for one in (*self._sizes(), *self._constants(), *self._required())]
        return "\n".join([*lines, *([""] if fields else []), *fields, *self._faults()])

    def _bases(self) -> list[str]:
        abstract = self.abstract
        bases = {"RotaryConfig": abstract.rotary_object, "WindowConfig": abstract.by_type}
        bases |= {"ExpertsConfig": "experts" in abstract.sizes}
        named = [self.imports.named("archport.models", name) for name, has in bases.items() if has]
        return named or [self.imports.named("archport.config", "DecoderConfig")]

    def _sizes(self) -> Iterator[str]:
        """Sizes that are not as in every Config."""
        abstract = self.abstract
        if "position_rows" in abstract.sizes:
            derived = self.imports.named("archport.config", "derived")
            yield "position_rows: int  # of padding, too, and before it"
            yield f"context: int = {derived}(lambda cfg: cfg.position_rows - cfg.padding - 1)"
        elif "context" not in abstract.named:
            yield f"context: int = {abstract.sizes['context']}"
        for name, value in CONSTANT:
            if abstract.sizes[name] == value and name not in abstract.named:
                yield f"{name}: int = {self.imports.named('archport.config', 'fixed')}({value})"
        if "expert_width" in abstract.sizes:
            yield "expert_width: int"
        for name, theirs in abstract.named.items():
            if name in DERIVED and type(abstract.defaults.get(theirs)) is int:
                yield f"{name}: int = {abstract.defaults[theirs]}"
        if abstract.program.tied and "tied" not in abstract.code:
            yield f"tied: bool = {self.imports.named('archport.config', 'fixed')}(True)"
        base = next((v for n, v in abstract.defaults.items() if n.rpartition(".")[2] == "rope_theta"), PLAIN)
        if abstract.rotary_object and base != PLAIN:
            yield f"rotary_base: float = {literal(float(base))}"
        if abstract.fraction:
            yield f"rotary_fraction: float = {literal(abstract.defaults[abstract.fraction])}"

    def _constants(self) -> Iterator[str]:
        """Fields that settings of parts are, or that say which layer is what."""
        for one in self.abstract.constants:
            default = ACTIVATIONS.get(one.default, one.default) if one.name == "activation" else one.default
            if isinstance(one.here, tuple):
                yield f"{one.name}: tuple[{self._element(one)}, ...]"
            elif one.least is not None:
                yield f"{one.name}: int = {self._bounded(default, one.least)}"
            elif one.name == "padding":
                counted = "position_rows" in self.abstract.sizes
                yield f"padding: int{'' if counted else ' | None'} = {self._bounded(default, 0 if counted else -1)}"
            else:
                kind = next((word for kind, word in KINDS.items() if type(one.tried) is kind), "float")
                yield f"{one.name}: {kind}{' | None' if default is None else ''} = {literal(default)}"

    def _element(self, one: Constant) -> str:
        """What a list has for each layer."""
        if one.here and {*one.here, *one.tried} <= {0, 1} and type(one.here[0]) is int:
            return f"{self.imports.named('typing', 'Literal')}[0, 1]"
        return KINDS[type(one.here[0])] if one.here else "int"

    def _required(self) -> Iterator[str]:
        """Fields that `faults` holds to one value."""
        for theirs, ours in self.abstract.alike.items():
            derived = self.imports.named("archport.config", "derived")
            yield f"{our_name(theirs)}: int = {derived}(lambda cfg: cfg.{ours})"
        for theirs, (default, value) in self.abstract.asked.items():
            kind = f"{KINDS[type(value)]}{' | None' if default is None else ''}"
            number = isinstance(default, int | float) and not isinstance(default, bool)
            yield f"{our_name(theirs)}: {kind} = {self._bounded(default, -1) if number else literal(default)}"

    def _bounded(self, default: Any, least: int) -> str:
        """A number that may be 0, or less."""
        return f"{self.imports.named('archport.config', 'bounded')}({default!r}, least={least})"

    def _faults(self) -> Iterator[str]:
        """What the config has to see to."""
        tests = {theirs: (f"self.{ours}", f"{ours}, {{self.{ours}}}") for theirs, ours in self.abstract.alike.items()}
        tests |= {theirs: (literal(value), str(value)) for theirs, (_, value) in self.abstract.asked.items()}
        if tests or self.abstract.scalings is not None:
            iterator = self.imports.named("collections.abc", "Iterator")
            yield f"\n    def faults(self) -> {iterator}[tuple[str, str]]:"
            yield '        """What else a config may say, and is not built."""'
            yield "        yield from super().faults()"
        for theirs, (value, said) in tests.items():
            name = our_name(theirs)
            test = {"True": f"not self.{name}", "False": f"self.{name}"}.get(value, f"self.{name} != {value}")
            yield f"        if {test}:"
            yield f'            yield "{name}", f"found {{self.{name}}}, expected {said}"'
        if self.abstract.scalings is not None:
            taken = ("default", *self.abstract.scalings)
            yield f"        if self.rotary_scaling not in {literal(taken)}:"
            expected = f"expected {' or '.join(taken)}"
            yield f'            yield "rotary_scaling", f"found {{self.rotary_scaling}}, {expected}"'
