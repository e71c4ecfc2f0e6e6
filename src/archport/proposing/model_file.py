"""models/NAME.py of an architecture that was read, as a person would write it."""

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

from .abstract import Abstract, our_name, rotary_of
from .config_class import ConfigClass
from .part import Each, Part
from .rotary_fields import CONTEXT
from .schedule import Choice
from .source_text import Group, Imports, call, in_a_line, laid_out, literal, mapping
from .subject import spellings

SIZES = (
    *("vocab_size", "context", "position_rows", "width", "layers", "heads", "kv_heads", "head_width", "mlp_width"),
    *("expert_width", "experts", "experts_per_token"),
)
SHORT = 80  # of a choice that stands where its value does


class ModelFile:
    """The file: its Config, build, and the sizes and variants of tiny models."""

    def __init__(self, abstract: Abstract, title: str) -> None:
        self.abstract, self.title = abstract, title
        self.imports = Imports()
        self.constants = abstract.constants
        self.rotary = rotary_of(abstract.block)
        self.by_layer = self.rotary is not None and any(isinstance(o, Choice) for o in self.rotary.settings.values())
        self.chosen: list[tuple[str, Choice, Group | str, Group | str]] = []  # before a block is made

    def text(self) -> str:
        """The whole file."""
        config = ConfigClass(self.abstract, self.imports).text()
        parts = [config, self._build(), self._sizes()]  # which say what is to be imported
        head = [f'"""{self.title}"""', *self.imports.groups()]
        return "\n\n\n".join(["\n\n".join(head), *parts]) + "\n"

    def _build(self) -> str:
        abstract, program = self.abstract, self.abstract.program
        self.imports.named("archport.layers", "Block")
        lines = [f"def build(cfg: Config) -> {self.imports.named('archport.layers', 'Decoder')}:"]
        lines += ['    """The whole architecture, as a list of parts."""']
        rotary = self.rotary
        if rotary is not None and abstract.rotary_object:
            pairing = rotary.settings["pairing"]
            lines.append(f"    rotary = cfg.rotary({'' if pairing == 'halves' else literal(pairing)})")
        elif rotary is not None and not self.by_layer:
            lines.append(laid_out(self.part(rotary, "blocks.attn.rotary"), 4, "rotary = "))
        mask = abstract.block.settings["attn"].settings.get("mask")
        if abstract.by_type:
            lines.append("    windows = cfg.windows()")
        elif isinstance(mask, Part):
            lines.append(laid_out(self.part(mask, "blocks.attn.mask"), 4, "mask = "))
        block = self.part(abstract.block, "blocks")
        inside = [line for one in self.chosen for line in self._chosen(*one)] + [laid_out(block, 8, "return ")]
        lines += ["", f"    def block({'layer' if any('layer' in one for one in inside) else '_'}: int) -> Block:"]
        lines += [*inside, ""]
        parts: list[tuple[str, Group | str]] = [("embed", self.part(program.embed, "embed"))]
        parts += [("blocks", "[block(layer) for layer in range(cfg.layers)]")]
        parts += [("norm", self.part(program.norm, "norm")), ("head", self.part(program.head, "head"))]
        parts += [] if program.finish is None else [("finish", self.part(program.finish, "finish"))]
        if program.tied or "tied" in abstract.code:
            parts.append(("tied", "cfg.tied"))
        return "\n".join([*lines, laid_out(call("Decoder", parts), 4, "return ")])

    def _chosen(self, name: str, choice: Choice, then: Group | str, otherwise: Group | str) -> Iterator[str]:
        """Statements that choose by the layer."""
        part = isinstance(choice.then, Part) or isinstance(choice.otherwise, Part)
        yield f"        {name}: {self.imports.named('torch', 'nn') + '.Module' if part else type(choice.then).__name__}"
        yield f"        if {choice.rule.format(self._field(choice))}:"
        yield laid_out(then, 12, f"{name} = ")
        yield "        else:"
        yield laid_out(otherwise, 12, f"{name} = ")

    def _field(self, choice: Choice) -> str:
        """What our config calls the field of a choice."""
        ours = {theirs: name for name, theirs in self.abstract.named.items()}
        return ours.get(choice.field, our_name(choice.field))

    def part(self, part: Part, path: str) -> Group:
        """A part, as the call that makes it."""
        kind: Any = part.kind
        if kind.__module__.startswith("torch."):
            self.imports.named("torch", "nn")
            name = f"nn.{kind.__name__}"
        else:
            ours = kind.__module__.startswith("archport.")
            name = self.imports.named("archport.layers" if ours else kind.__module__, kind.__name__)
        return call(name, self._arguments(part, path))

    def _arguments(self, part: Part, path: str) -> Iterator[tuple[str, Group | str]]:
        known: Mapping[str, inspect.Parameter] = inspect.signature(part.kind).parameters
        settings = dict(part.settings)
        shared = {"rotary": "rotary", "mask": "windows[layer]" if self.abstract.by_type else "mask"}
        if path == "blocks.attn" and self.abstract.by_type:
            settings["mask"] = None
        settings |= self.abstract.dropout(part.kind)
        for name in sorted(settings, key=[*known, *settings].index):
            value, parameter = settings[name], known.get(name)
            apart = isinstance(value, Choice) or (name == "rotary" and self.by_layer)
            if path == "blocks.attn" and name in shared and not apart:
                yield name, shared[name]
                continue
            written = self._written(path, name, value)
            if parameter is None:
                yield name, written
            elif parameter.default is parameter.empty:
                yield "" if parameter.kind is parameter.POSITIONAL_OR_KEYWORD else name, written
            elif written != literal(parameter.default):
                yield name, written

    def _written(self, path: str, name: str, value: Any) -> Group | str:
        """A setting, whatever it is."""
        if isinstance(value, Choice):
            then, otherwise = (self._side(path, name, one) for one in (value.then, value.otherwise))
            whole = f"{in_a_line(then)} if {value.rule.format(self._field(value))} else {in_a_line(otherwise)}"
            if len(whole) <= SHORT:
                return whole
            self.chosen.append((name, value, then, otherwise))
            return name
        if f"{path}.{name}" == "blocks.attn.rotary" and not self.by_layer:
            return "rotary" if isinstance(value, Part) else "None"
        if isinstance(value, Each):
            one = self.part(value.parts[0], f"{path}.{name}.each")
            return Group("[", (("", one),), "]", repeated="for _ in range(cfg.experts)")
        return self.part(value, f"{path}.{name}") if isinstance(value, Part) else self._setting(path, name, value)

    def _side(self, path: str, name: str, value: Any) -> Group | str:
        """What stands on one side of a choice: a number as the field that has it."""
        field = next((one.name for one in self.constants if type(one.here) is type(value) and one.here == value), None)
        return f"cfg.{field}" if field and not isinstance(value, Part | str) else self._written(path, name, value)

    def _setting(self, path: str, name: str, value: Any) -> str:
        """A setting: a field of the config, a size, or the number itself."""
        if isinstance(value, str) and value.startswith("cfg."):
            return value
        if (written := self.abstract.code.get(f"{path}.{name}")) is not None:
            return written
        sizes = self.abstract.sizes
        if name == "width" and path == "blocks.attn.rotary" and value == sizes["head_width"]:
            return "cfg.head_width"
        if name in ("width", "normalized_shape", "in_features") and "rotary" not in path:
            widths = {sizes["width"]: "cfg.width"}
            if path.startswith("blocks.attn."):
                of_heads = {
                    sizes[one] * sizes["head_width"]: f"cfg.{one} * cfg.head_width" for one in ("kv_heads", "heads")
                }
                widths = of_heads | {sizes["head_width"]: "cfg.head_width"}
            return widths.get(value, literal(value))
        name = {"top": "experts_per_token"}.get(name, name)
        for one in (name, *(["expert_width"] if name == "mlp_width" else [])):
            if one in sizes and sizes[one] == value:
                return f"cfg.{one}"
        of_experts = [one for one in ("expert_width", "mlp_width") if one in sizes] if name == "mlp_width" else []
        for size in of_experts:
            if value % sizes[size] == 0:  # as of shared experts, which lie in one
                return f"{value // sizes[size]} * cfg.{size}"
        if name == "scale" and math.isclose(value, sizes["width"] ** 0.5):
            return "cfg.width**0.5"
        if name == "out_features":
            return "cfg.vocab_size"
        ours = next((ours for ours, names in spellings().items() if name in names and sizes.get(ours) == value), None)
        return literal(value) if ours is None else f"cfg.{ours}"

    def _sizes(self) -> str:
        abstract = self.abstract
        values: dict[str, Any] = {name: abstract.sizes[name] for name in SIZES if name in abstract.named}
        values |= {one.name: one.here for one in self.constants if one.name != "tied" or one.here}
        values |= {"rotary_base": self.rotary.settings["base"]} if self.rotary and abstract.rotary_object else {}
        values |= {"rotary_fraction": abstract.fraction_here} if abstract.fraction else {}
        values |= {"layer_types": abstract.types_here} if abstract.by_type else {}
        values |= {our_name(name): value for name, (_, value) in abstract.asked.items()}
        self.imports.named("typing", "Any")
        lines = [f"MODEL_TYPE = {literal(abstract.model_type)}"] if abstract.model_type else []
        lines += [laid_out(mapping((name, literal(value)) for name, value in values.items()), 0, "SIZES = ")]
        variants: list[tuple[str, Group | str]] = [
            (
                f"{one.name} {one.tried:g}" if isinstance(one.tried, float) else f"{one.name} {one.tried}",
                mapping([(one.name, literal(one.tried))]),
            )
            for one in self.constants
        ]
        if abstract.rotary_object and abstract.scalings != ():
            self.imports.named("archport.models", "rotary_variants")
            width = self.rotary.settings["width"]  # type: ignore[union-attr]  # there is one
            scaled = f"rotary_variants(pairs={(width + 1) // 2}, context={CONTEXT})"
            if abstract.scalings is not None:
                [only, *others] = abstract.scalings
                some = f"in {literal(abstract.scalings)}" if others else f"== {literal(only)}"
                scaled = f'{{name: one for name, one in {scaled}.items() if one["rotary_scaling"] {some}}}'
            variants.append(("", f"**{scaled}"))
        lines.append(laid_out(mapping(variants), 0, "VARIANTS: dict[str, dict[str, Any]] = "))
        return "\n".join(lines)
