"""A model for lm-eval: `lm_eval.simple_evaluate(model=ArchportLM(model), tasks=["lambada_openai"])`."""

from pathlib import Path
from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer

from ..errors import SourceError
from ..layers import Decoder
from ..port import load
from . import as_transformers

OF_LOADING = ("revision", "dtype", "device", "offline", "adapter", "linears")


@register_model("archport")
class ArchportLM(HFLM):
    """A Decoder, or what `load` makes of a source, as lm-eval's own model: `--model archport --model_args source=DIR`.

    `revision`, `dtype`, `device`, `offline`, `adapter` and `linears` are those of `load`, the tokenizer that of the
    folder unless given. All other options are those of lm-eval's `HFLM`, which asks the model.

    Raises: as `load` does, and SourceError where there is no tokenizer.
    """

    def __init__(self, source: Decoder | str | Path | None = None, *, tokenizer: Any = None, **options: Any) -> None:
        loading = {name: options.pop(name) for name in OF_LOADING if name in options}
        model = source if isinstance(source, Decoder) else load(source, **loading)
        folder = model.origin.folder if model.origin else None
        if tokenizer is None and folder is None:
            raise SourceError(f"{model.architecture}: came from no folder: expected tokenizer=")
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(folder, local_files_only=True)
        super().__init__(pretrained=as_transformers(model), tokenizer=tokenizer, **options)


if __name__ == "__main__":  # lm-eval's own command line, which knows `--model archport` then
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
