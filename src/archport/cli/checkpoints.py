"""Commands about checkpoints: load, build, export, models."""

import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, BadParameter, Option

from .. import converting, exporting, load_plan, loading, port, registry
from ..errors import LINE, plain
from ..files import checkpoint, format_writer, strict_json
from ..files.checkpoint_writer import check_folder
from ..registry import Architecture
from ..view import composition, summary
from ..view.trees import parameter_count
from .app import (
    Adapter,
    Device,
    Dtype,
    Json,
    Links,
    MaybeSource,
    Offline,
    Revision,
    Source,
    Tokenizer,
    Variant,
    app,
    err,
    print_json,
    print_table,
    reading,
    say,
    setting,
)


@app.command()
def load(
    source: MaybeSource = None,
    revision: Revision = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    offline: Offline = False,
    dry_run: Annotated[bool, Option("--dry-run", help="plan only, without downloading weights")] = False,
    explain: Annotated[bool, Option("--explain", help="print the whole key table")] = False,
    copy: Annotated[bool, Option("--copy", help="read weights into memory, map no file")] = False,
    check_finite: Annotated[bool, Option("--check-finite", help="look for NaN and infinities")] = False,
    check_hash: Annotated[bool, Option("--check-hash", help="compare cached files with their hashes")] = False,
    variant: Variant = None,
    follow_links: Links = False,
    adapter: Adapter = None,
    as_json: Json = False,
) -> None:
    """Load a checkpoint and say what became of every tensor."""
    if dry_run and (copy or check_finite or check_hash or adapter):
        raise BadParameter("--dry-run reads no weights: --copy, --check-finite, --check-hash and --adapter do")
    start = time.perf_counter()
    plan = port.plan(
        source,
        dtype=dtype,
        headers_only=dry_run,
        copy=copy,
        adapter=adapter,
        **reading(revision, offline, variant, follow_links),
    )
    if check_hash:
        checkpoint.check_hashes(plan.checkpoint)
    warned: list[warnings.WarningMessage] = []
    if dry_run:
        model = registry.skeleton(plan.architecture, plan.config)
    else:
        plan = load_plan.settle_tie(plan)
        with warnings.catch_warnings(record=True, action="always", category=UserWarning) as warned:
            model = loading.execute(plan, device, check_finite=check_finite, progress=_progress)
    facts = summary.of_load(plan, model)
    facts["not_finite"] = [name for one in warned or () for name in getattr(one.message, "names", ())]
    facts["adapter"] = adapter
    facts["seconds"] = None if dry_run else round(time.perf_counter() - start, 3)
    if source is None and not dry_run:
        facts["prompt"], facts["next_tokens"] = summary.PROMPT, summary.next_tokens(model)
    if explain:
        facts["key_table"] = plan.key_table
    if as_json:
        print_json(facts)
    else:
        _print_load(facts)


def _print_load(facts: dict[str, Any]) -> None:
    if "key_table" in facts:
        print_table(facts["key_table"])
    where = facts["source"] + (f" at {facts['revision']}" if facts["revision"] else "")
    lines = [
        ("source", where + (f", commit {facts['commit']}" if facts["commit"] else "")),
        ("model", f"{facts['architecture']}: {facts['in_words']}"),
        ("files", f"{', '.join(facts['files'])} ({summary.size(facts['file_bytes'])})"),
        ("tensors", summary.account(facts)),
        ("memory", summary.memory(facts)),
        ("parameters", f"{facts['parameters']:,} in {facts['dtype']}"),
    ]
    if facts["adapter"]:
        lines.append(("adapter", f"{facts['adapter']}, merged into the weights"))
    if facts["not_finite"]:
        lines.append(("NOT FINITE", f"NaN or infinity in {', '.join(facts['not_finite'])}"))
    if facts["unknown_fields"]:
        lines.append(("unknown", f"config fields nobody knows, not used: {', '.join(facts['unknown_fields'])}"))
    lines += [("note", note) for note in facts["notes"]]
    if any(name.endswith(format_writer.OF_TORCH) for name in facts["files"]):
        lines.append(("note", "this is a pickle, read with weights_only; a .safetensors file is safer and faster"))
    if "next_tokens" in facts:
        likely = ", ".join(f"{token!r} {chance:.0%}" for token, chance in facts["next_tokens"])
        lines.append(("likely", f"{facts['prompt']} -> {likely}"))
    planned = facts["seconds"] is None
    lines.append(("seconds", "planned only, no weights were read" if planned else str(facts["seconds"])))
    source = "" if facts["source"] == port.BUNDLED else f" {facts['source']}"
    lines.append(("next", f"archport load{source}{'' if planned else ' --explain'}"))
    for label, text in lines:
        say(f"{label:<11} {plain(text, LINE)}")


@app.command()
def build(
    architecture: Annotated[str, Argument(help="gpt2, gpt-j, gpt-neox", metavar="ARCH")],
    config: Annotated[Path | None, Option(help="a config.json of that architecture")] = None,
    settings: Annotated[list[str] | None, Option("--set", help="a size of ours, as layers=6")] = None,
) -> None:
    """Print the module tree and the parameter count of an architecture; nothing is allocated.

    Sizes are those of its first published model, or of its tests, but for the ones set.
    """
    if config is not None and settings:
        raise BadParameter("give --config or --set, not both")
    arch = registry.architecture(architecture)
    if config is not None:
        cfg, like = strict_json.read_json(config, checkpoint.MAX_CONFIG), str(config)
    else:
        like, sizes = arch.example()
        cfg = {**sizes, **dict(setting(text) for text in settings or ())}
    model = port.build(arch.name, cfg, device="meta")
    say(str(model))
    say(f"{arch.name}: {summary.in_words(model)}")
    say(f"{parameter_count(model):,} parameters; sizes of {like}")
    if config is not None and "model_type" not in cfg:
        say(f"{like}: model_type: missing, read as one of {arch.name}")
    if settings:
        say(f"but for {', '.join(settings)}")


@app.command()
def export(
    source: Source,
    folder: Annotated[Path, Argument(help="a new folder, or a file in some formats", metavar="FOLDER|FILE")],
    revision: Revision = None,
    dtype: Dtype = "auto",
    max_shard_size: Annotated[str, Option(help="largest weights file, as 500MB")] = "5GB",
    tokenizer: Tokenizer = None,
    force: Annotated[bool, Option("--force", help="write over a checkpoint that is there")] = False,
    offline: Offline = False,
    variant: Variant = None,
    follow_links: Links = False,
    adapter: Adapter = None,
    form: Annotated[str | None, Option("--format", help="another library's: nanogpt, litgpt, transformer_lens")] = None,
) -> None:
    """Write a checkpoint as a folder that transformers loads, or in the format of another library."""
    if form is None:
        check_folder(folder, force=force)
    else:
        converting.check_format(folder, form, force=force)
    model = port.load(source, dtype=dtype, adapter=adapter, **reading(revision, offline, variant, follow_links))
    written = exporting.export(
        model, folder, max_shard_size=max_shard_size, tokenizer=tokenizer, force=force, format=form
    )
    for path in sorted(written.iterdir()) if written.is_dir() else [written]:
        say(f"{path}  {path.stat().st_size:,} bytes")


@app.command()
def models(
    name: Annotated[str | None, Argument(help="one of them, with all its published models", metavar="[ARCH]")] = None,
    as_json: Json = False,
) -> None:
    """List the architectures, each with the parts of a published model; of one all of these, with sizes and counts."""
    if name is None:
        rows = [_line_of(registry.architecture(one)) for one in registry.architectures()]
    else:
        rows = list(_published(registry.architecture(name)))
    if as_json:
        print_json(rows)
    else:
        print_table(
            [{key: f"{value:,}" if isinstance(value, int) else value for key, value in row.items()} for row in rows]
        )


def _line_of(arch: Architecture) -> dict[str, Any]:
    first, sizes = next(iter(arch.published.items()), ("-", arch.sizes))
    parts = composition.parts(arch, [sizes] if sizes else [])
    return {"ARCH": arch.name, "published": len(arch.published), "as": first, "parts": parts}


def _published(arch: Architecture) -> Iterator[dict[str, Any]]:
    name, sizes = arch.example()
    for one, fields in (arch.published or {name: sizes}).items():
        model = registry.skeleton(arch, arch.config_class(**fields))
        yield {"model": one, "parameters": parameter_count(model), "sizes": summary.in_words(model)}


def _progress(copies: Sequence[Any]) -> Iterable[Any]:
    """A bar on stderr when there is somebody to see it and something to wait for."""
    from rich.progress import track

    slow = sum(copy.target.nbytes for copy in copies) > 500e6
    return track(copies, "loading", console=err, transient=True) if slow and err.is_terminal else copies
