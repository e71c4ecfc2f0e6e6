"""The command about what a load will take: plan."""

from typing import Annotated, Any

import torch
from typer import BadParameter, Option

from .. import port, registry
from ..config import dtype_name
from ..dtypes import to_dtype
from ..errors import ConfigError
from ..layers import Decoder
from ..parallel.cutting import workable
from ..parallel.planning import Budget, of_model
from ..view import summary
from ..view.trees import parameter_count
from .app import Dtype, Json, Links, MaybeSource, Offline, Revision, Variant, app, print_json, print_table, reading, say

MOST = 8  # GPUs of a machine: numbers of processes that are planned for unless told


@app.command()
def plan(
    source: MaybeSource = None,
    tensor_parallel: Annotated[
        list[int] | None, Option(help="processes that share the model; may be repeated; else each number up to 8")
    ] = None,
    published: Annotated[
        bool, Option("--published", help="SOURCE is a Hub id whose sizes archport knows: ask nobody")
    ] = False,
    revision: Revision = None,
    dtype: Dtype = "auto",
    offline: Offline = False,
    variant: Variant = None,
    follow_links: Links = False,
    as_json: Json = False,
) -> None:
    """What memory a model takes, on one machine or of each process that shares it; no weights are read."""
    model, target, name = (
        _published(source, dtype)
        if published
        else _of_source(source, dtype, **reading(revision, offline, variant, follow_links))
    )
    counts = tensor_parallel or [count for count in workable(model) if count <= MOST]
    rows = [_row(of_model(model, target, count), model) for count in counts]
    facts: dict[str, Any] = {"source": name, "architecture": model.architecture, "in_words": summary.in_words(model)}
    facts |= {"parameters": parameter_count(model), "dtype": dtype_name(target), "context": model.config.context}
    if as_json:
        print_json(facts | {"ranks": rows})
        return
    say(f"{'source':<11} {name}")
    say(f"{'model':<11} {facts['architecture']}: {facts['in_words']}")
    say(f"{'parameters':<11} {facts['parameters']:,} in {facts['dtype']}")
    print_table([_words(row, model) for row in rows])


def _of_source(source: str | None, dtype: str, **how: Any) -> tuple[Decoder, torch.dtype, str]:
    planned = port.plan(source, dtype=dtype, **how)
    return registry.skeleton(planned.architecture, planned.config), planned.dtype, planned.checkpoint.origin.name


def _published(source: str | None, dtype: str) -> tuple[Decoder, torch.dtype, str]:
    """A model of sizes that are in its architecture's file. Raises: BadParameter, ConfigError."""
    if source is None:
        raise BadParameter("--published: expected the Hub id of a model, as archport models ARCH lists them")
    for arch in map(registry.architecture, registry.architectures()):
        if source in arch.published:
            model = registry.skeleton(arch, arch.config_class(**arch.published[source]))
            return model, torch.float32 if dtype == "auto" else to_dtype(dtype), f"sizes of {source}"
    expected = "expected one of those that archport models ARCH lists"
    raise ConfigError({"published": f"found {source!r}, {expected}"}, "plan")


def _row(one: Budget, model: Decoder) -> dict[str, Any]:
    cfg = model.config
    heads = {"heads": cfg.heads // one.ranks, "kv_heads": cfg.kv_heads // one.ranks}
    sizes = {"weights": one.weights, "whole_on_each": one.whole, "cache": one.cache, "total": one.total}
    return {"ranks": one.ranks, **heads, **sizes}


def _words(row: dict[str, Any], model: Decoder) -> dict[str, str]:
    text = f"keys and values of {model.config.context:,} tokens"
    heads = str(row["heads"]) + (f", {row['kv_heads']} of keys" if row["kv_heads"] < row["heads"] else "")
    return {
        "processes": str(row["ranks"]),
        "heads each": heads,
        "weights each": summary.size(row["weights"]),
        "the same on each": summary.size(row["whole_on_each"]) if row["ranks"] > 1 else "-",
        text: summary.size(row["cache"]),
        "together": summary.size(row["total"]),
    }
