"""Right models in the styles of other people's code: a file a style, with its rows as one would paste them.

Of a file, `LIKE` is the architecture, `VARIANT` that of tests/references.py, `ROWS` the text of its rows, the last
class the model, and `forward`, where there is one, what takes the logits out.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from archport.foreign.sizes import Sizes
from archport.registry import architecture
from archport.translate.fields import read_config
from archport.translate.table import Cell, rearranged, sections

from ..references import reference

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Style:
    """A person's own model: how it is made, its rows, and how its logits are had."""

    name: str
    like: str
    variant: str
    build: Callable[[Any], nn.Module]
    rows: Mapping[str, Cell]
    forward: Callable[[nn.Module, torch.Tensor], Any] | None

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.py"

    def reference(self, **options: Any) -> Any:
        """A loud transformers model of its variant."""
        return reference(self.variant, **options)

    def made(self, hf: Any) -> nn.Module:
        """The model at the sizes of a transformers model, with weights of its own."""
        arch = architecture(self.like)
        return self.build(Sizes(arch, read_config(arch.table, arch.config_class, hf.config.to_dict(), "config")[0]))


def style_of(module: ModuleType, name: str) -> Style:
    """A style by its module; one whose source was changed keeps its name."""
    classes = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, nn.Module)]
    build = next(one for one in reversed(classes) if one.__module__ == module.__name__)
    rows = eval(module.ROWS, {"rearranged": rearranged, "sections": sections})
    variant = getattr(module, "VARIANT", module.LIKE)
    return Style(name, module.LIKE, variant, build, rows, getattr(module, "forward", None))


def changed(style: Style, old: str, new: str) -> Style:
    """The same style with a bug written into its code: an old text, which it has once, replaced by a new one."""
    source = style.path.read_text()
    if source.count(old) != 1:
        raise ValueError(f"{style.path.name} has {source.count(old)} of {old!r}, expected one")
    module = ModuleType(f"changed_{style.name}")
    exec(compile(source.replace(old, new), str(style.path), "exec"), vars(module))
    return style_of(module, style.name)


NAMES = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))
STYLES = {name: style_of(importlib.import_module(f".{name}", __package__), name) for name in NAMES}
