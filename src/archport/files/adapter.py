"""The files of an adapter, as PEFT names them, alone or beside the weights of its base."""

from collections.abc import Collection

from ..errors import CheckpointError, plain

ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def require_model(present: Collection[str], where: str, base: object = None) -> None:
    """Refuse an adapter without its base, by the names of a folder's files. Raises: CheckpointError."""
    if ADAPTER in present and "config.json" not in present:
        named = f", {plain(base[:100])}," if isinstance(base, str) else ""
        load = f"load its base{named} with adapter={where!r}, or with --adapter {where}"
        raise CheckpointError(f"{where}: found an adapter ({ADAPTER}) without a model: {load}")


def adapter_notes(present: Collection[str], where: str) -> tuple[str, ...]:
    """What to say of an adapter that lies beside the weights, by the names of a folder's files."""
    merge = f"adapter={where!r} or --adapter {where} merges it"
    return (f"{where}/{ADAPTER}: the adapter beside the weights is left out: {merge}",) if ADAPTER in present else ()
