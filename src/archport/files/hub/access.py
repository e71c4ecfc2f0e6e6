"""How to reach the Hub."""

from dataclasses import dataclass, field
from pathlib import Path

from ...errors import SourceError


@dataclass(frozen=True)
class HubAccess:
    """How to reach the Hub, where the environment (HF_TOKEN, HF_HOME, HF_ENDPOINT) does not say.

    Raises: SourceError.
    """

    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    endpoint: str | None = None

    def __post_init__(self) -> None:
        for name, kinds, expected in (
            ("token", str | bool, "a text, or whether to use the one you logged in with"),
            ("cache_dir", str | Path, "a folder"),
            ("endpoint", str, "an address"),
        ):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kinds):
                raise SourceError(f"{name}: found a {type(value).__name__}, expected {expected}")
