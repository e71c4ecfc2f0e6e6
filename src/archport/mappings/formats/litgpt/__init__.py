"""litgpt's lit_model.pth and model_config.yaml: one class for all families, all queries, then keys, then values."""

from ....translate.formats import Format
from .families import FAMILIES
from .plain import DEFAULTS
from .scalings import with_scalings

FORMAT = Format(
    title="litgpt",
    defaults=DEFAULTS,
    tables=tuple((name, way) for name, table in FAMILIES for way in with_scalings(table)),
)
