"""One file of weights as a checkpoint, with the config that lies in it or beside it: other libraries write such."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checking import SIMPLE
from ..config import Origin
from ..errors import CheckpointError
from .checkpoint import CONFIG, GENERATION, LITGPT_CONFIG, MAX_CONFIG, Checkpoint, companion, open_weights
from .choosing import OF_WEIGHTS
from .strict_json import read_json
from .yaml_file import read_yaml

IN_FILE = {"model_args": "nanogpt", "cfg": "transformer_lens"}  # the key of a config, and whose file it is
LITGPT = "lit_model.pth"
NANOGPT = "ckpt.pt"


def file_of(folder: Path) -> Path | None:
    """The one file that a folder of another library is read from; none where transformers' weights lie there, too."""
    present = {path.name for path in folder.iterdir()}
    if any(OF_WEIGHTS.fullmatch(name) for name in present):
        return None
    if {LITGPT, LITGPT_CONFIG} <= present:
        return folder / LITGPT
    return folder / NANOGPT if NANOGPT in present and CONFIG not in present else None


def open_file(path: Path, *, name: str, follow_links: bool = False) -> Checkpoint:
    """Read a file's config and headers. Raises: CheckpointError when it has no config, or one is damaged."""

    def beside(file: str) -> Path:
        return companion(path.parent, file, follow_links=follow_links)

    weights = open_weights(beside(path.name))
    headers = weights.headers
    inside = {key: _plain(value, path) for key, value in getattr(weights, "settings", {}).items()}
    kind = next((format for key, format in IN_FILE.items() if key in inside), None)
    settings = next((inside[key] for key in IN_FILE if key in inside), None)
    hf: Mapping[str, Any] = inside.get("hf_config", {})
    folder = None
    if kind is None and (path.parent / LITGPT_CONFIG).exists():
        kind, settings = "litgpt", _plain(read_yaml(beside(LITGPT_CONFIG)), path.with_name(LITGPT_CONFIG))
        noted = settings.get("hf_config")
        noted = noted.get("config") if isinstance(noted, Mapping) else None
        hf, folder = dict(noted) if isinstance(noted, Mapping) else {}, path.parent
    elif kind is None and (path.parent / CONFIG).exists():
        hf, folder = read_json(beside(CONFIG), MAX_CONFIG), path.parent
    elif kind is None:
        expected = f"expected {CONFIG} or litgpt's {LITGPT_CONFIG} beside it, or {' or '.join(IN_FILE)} in it"
        raise CheckpointError(f"{path}: found tensors without a config, {expected}")
    there = folder is not None and (folder / GENERATION).exists()
    generation = read_json(beside(GENERATION), MAX_CONFIG) if there else None
    origin = Origin(name, hf, folder, generation=generation, follow_links=follow_links, alone=True)
    return Checkpoint(
        origin,
        headers,
        (path.name,),
        path.stat().st_size,
        dict.fromkeys(headers, weights),
        notes=() if kind else tuple(weights.notes),  # what a format has around its tensors is no news
        format=kind,
        settings=settings,
    )


def _plain(settings: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    """A config of JSON's values, with words for all others. Raises: CheckpointError for names that are none."""
    if not all(isinstance(name, str) for name in settings):
        raise CheckpointError(f"{path}: found a config with a name that is no text, expected names of fields")
    return {name: value if _is_json(value) else f"a {type(value).__name__}" for name, value in settings.items()}


def _is_json(value: Any) -> bool:
    try:
        return SIMPLE[Any].fits(value)
    except RecursionError:
        return False
