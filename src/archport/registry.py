"""Which architectures there are: the file name is the registry, and here models and mappings meet."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import torch

from . import models
from .building import known_drawn_later, parameters_on_meta
from .checking import Rules, require
from .config import DecoderConfig
from .errors import ArchportError, ConfigError, SourceError, UnsupportedError, in_a_line
from .keywords import strict_keywords
from .layers import Decoder
from .translate.fields import require_writable
from .translate.table import Table

Fields = Mapping[str, Any]  # of an architecture's own Config


@dataclass(frozen=True)
class Architecture:
    """One file of models/ and one of mappings/, under the model_type they share, and what belongs to it.

    `sizes` are those of a tiny model to test with, of which no two should be alike; `variants` the fields in which
    other models to test differ from it, by a name; `published` the fields of published models, by their Hub id.
    `faults` are bugs of its own beside parity's catalogue, or the name of such a tuple, as `package.module:FAULTS`.
    `model_type` is what its checkpoints say they are, where that is not its name.
    """

    name: str
    config_class: type[DecoderConfig]
    build: Callable[[Any], Decoder]
    table: Table
    sizes: Fields = field(default_factory=dict)
    variants: Mapping[str, Fields] = field(default_factory=dict)
    published: Mapping[str, Fields] = field(default_factory=dict)
    faults: tuple[Any, ...] | str = ()
    model_type: str = ""

    def __post_init__(self) -> None:
        rules: Rules = {
            "name": (lambda name: isinstance(name, str) and bool(name), "a model_type"),
            "config_class": (lambda kind: issubclass(kind, DecoderConfig), "a subclass of DecoderConfig"),
            "build": (callable, "a function of a config"),
            "table": (lambda table: isinstance(table, Table), "a Table"),
            "sizes": (lambda sizes: isinstance(sizes, Mapping), "a mapping of fields to values"),
            "variants": (_by_name, "a mapping of names to fields"),
            "published": (_by_name, "a mapping of Hub ids to fields"),
            "faults": (lambda faults: isinstance(faults, tuple | str), "a tuple of faults or the name of one"),
            "model_type": (lambda name: isinstance(name, str), "a model_type"),
        }
        where = f"architecture {self.name!r:.60}"
        require(self, rules, where)
        if faults := dict(self._unknown_fields()):
            raise ConfigError(faults, where)

    def _unknown_fields(self) -> Iterator[tuple[str, str]]:
        known = {item.name for item in fields(self.config_class) if item.init}
        groups = {"sizes": self.sizes, **self.variants, **self.published}
        for group, given in groups.items():
            if unknown := [str(name) for name in given if name not in known]:
                yield group, f"found {', '.join(unknown)}, which its Config does not have"

    def example(self) -> tuple[str, Fields]:
        """Sizes to show it at, and whose they are: its first published model's, else its own. Raises: ConfigError."""
        if self.published:
            return next(iter(self.published.items()))
        if self.sizes:
            return "its tests", self.sizes
        raise ConfigError({"architecture": f"{self.name} has no published sizes here: give a folder or a Hub id"})


def _by_name(groups: Any) -> bool:
    return isinstance(groups, Mapping) and all(isinstance(group, Mapping) for group in groups.values())


_registered: dict[str, Architecture] = {}


@strict_keywords
def register(
    name: str,
    *,
    config_class: type[DecoderConfig],
    build: Callable[[Any], Decoder],
    table: Table,
    sizes: Fields | None = None,
    variants: Mapping[str, Fields] | None = None,
    published: Mapping[str, Fields] | None = None,
    faults: tuple[Any, ...] | str = (),
    model_type: str = "",
) -> None:
    """Add an architecture of your own under its Hugging Face model_type, for this process.

    `sizes`, `variants`, `published`, `faults` and `model_type` are what `Architecture` says of them; `verify` and
    `faults` of the architecture need `sizes`. A package does the same for everyone who installs it by an entry point in
    the group `archport.architectures`: its name is the model_type, its value a module with `Config`, `build`, `TABLE`
    and, where it has them, `SIZES`, `VARIANTS`, `PUBLISHED`, `FAULTS` and `MODEL_TYPE`.

    Raises: UnsupportedError when the name is taken, ConfigError when a part is not what it should be.
    """
    if is_architecture(name):
        raise UnsupportedError({"model_type": f"{name!r} is registered already"})
    data = (sizes or {}, variants or {}, published or {}, faults, model_type)
    _registered[name] = Architecture(name, config_class, build, table, *data)


def register_folder(folder: str | Path) -> None:
    """Add the architectures of a folder that holds models/ and mappings/, a file in each: all or none.

    Raises: SourceError where it holds none or a file cannot be imported, and what `register` raises.
    """
    path = Path(folder)
    names = sorted(file.stem for file in (path / "models").glob("*.py") if file.stem != "__init__")
    if not names:
        raise SourceError(f"{path}: found no models/NAME.py, expected models/ and mappings/ with a file in each")
    if taken := next(filter(is_architecture, names), None):
        raise UnsupportedError({"model_type": f"{taken!r} is registered already"}, str(path))
    sys.path.insert(0, str(path.resolve()))  # where parts of one's own lie
    rooms = [[_module_of(path / room / f"{name}.py") for room in ("models", "mappings")] for name in names]
    _registered.update({name: architecture_of(name, *modules) for name, modules in zip(names, rooms, strict=True)})


def _module_of(path: Path) -> ModuleType:
    """A file of Python as a module. Raises: SourceError."""
    if not path.is_file():
        raise SourceError(f"{path}: no such file, expected one of that name in models/ and in mappings/")
    spec = spec_from_file_location(f"archport_plugin_{path.parent.name}_{path.stem}", path)
    module = module_from_spec(spec)  # type: ignore[arg-type]  # a file that ends in .py has one
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    except Exception as error:  # it is somebody else's code
        raise SourceError(f"{path}: {type(error).__name__}: {in_a_line(error)}") from error
    return module


@contextmanager
def standing_in(arch: Architecture) -> Iterator[None]:
    """Let an architecture stand for the one of its name, for as long as this lasts, in this process."""
    own = _registered.get(arch.name)
    _registered[arch.name] = arch
    try:
        yield
    finally:
        del _registered[arch.name]
        if own is not None:
            _registered[arch.name] = own


@contextmanager
def under_its_model_type(arch: Architecture) -> Iterator[str]:
    """Let an architecture stand for what its checkpoints say they are, which is given, for as long as this lasts."""
    if not arch.model_type:
        yield arch.name
        return
    with standing_in(replace(arch, name=arch.model_type, model_type="")):
        yield arch.model_type


@strict_keywords
def architectures() -> tuple[str, ...]:
    """The model_type of every architecture archport builds: its own, those of installed packages, those registered."""
    return (*_bundled(), *_entry_points(), *_registered)


def is_architecture(name: str) -> bool:
    """Whether a name, with or without hyphens and underscores, is that of an architecture."""
    return _plain(name) in map(_plain, architectures())


def architecture(name: str) -> Architecture:
    """An architecture by its model_type, with or without hyphens and underscores.

    Raises: UnsupportedError, listing what there is.
    """
    known = {_plain(known): known for known in architectures()}.get(_plain(name))
    if known is None:
        raise UnsupportedError({"model_type": f"found {name!r}, archport builds {', '.join(architectures())}"})
    return _registered[known] if known in _registered else _imported(known)


def _plain(name: object) -> str:
    return str(name).lower().replace("_", "").replace("-", "")


@cache
def _bundled() -> tuple[str, ...]:
    return tuple(module.name for module in iter_modules(models.__path__))


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="archport.architectures")}


@cache
def _imported(name: str) -> Architecture:
    if name in _entry_points():
        model = mapping = _entry_points()[name].load()
    else:
        model = import_module(f".models.{name}", __package__)
        mapping = import_module(f".mappings.{name}", __package__)
    return architecture_of(name, model, mapping)


def architecture_of(name: str, model: Any, mapping: Any) -> Architecture:
    """An architecture of what two modules hold."""
    parts: Any = getattr(model, "Config", None), getattr(model, "build", None), getattr(mapping, "TABLE", None)
    names = ("sizes", "variants", "published", "faults", "model_type")
    return Architecture(
        name, *parts, **{one: getattr(model, one.upper()) for one in names if hasattr(model, one.upper())}
    )


def skeleton(arch: Architecture, config: DecoderConfig) -> Decoder:
    """The model before its weights: its parameters are on `meta`, its buffers have their values.

    Raises: ConfigError for a config that the architecture's files cannot say or that it does not build.
    """
    with parameters_on_meta():
        return _built(arch, config)


def fresh(arch: Architecture, config: DecoderConfig, device: str | torch.device) -> Decoder:
    """The model with the weights that its modules draw, but for those that `layers.initialise` is to draw.

    Raises: as `skeleton` does.
    """
    with torch.device(device), known_drawn_later():
        return _built(arch, config)


def _built(arch: Architecture, config: DecoderConfig) -> Decoder:
    require_writable(arch.table, config, f"config of {arch.name}")
    try:
        model = arch.build(config)
    except ArchportError:
        raise
    except Exception as error:  # it may be a plugin's code
        raise UnsupportedError({"build": f"{type(error).__name__}: {in_a_line(error)}"}, arch.name) from error
    if not isinstance(model, Decoder):
        raise UnsupportedError({"build": f"returned a {type(model).__name__}, expected a Decoder"}, arch.name)
    model.config, model.architecture = config, arch.name
    return model
