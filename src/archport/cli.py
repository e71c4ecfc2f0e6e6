"""The command line: parses and prints, no logic of its own."""

import importlib
import itertools
import json
import os
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from .errors import ArchportError, ExportError, SourceError, plain

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False)

WORTH_PACKING = 16  # tokens, from which on packing linear maps takes less time than it saves

SourceArgument = Annotated[str, typer.Argument(help="a folder or a Hub id", metavar="SOURCE")]
OptionalSource = Annotated[
    str | None, typer.Argument(help="a folder or a Hub id; without it, the bundled checkpoint", metavar="[SOURCE]")
]
Revision = Annotated[str | None, typer.Option(help="branch, tag or commit on the Hub")]
DtypeOption = Annotated[str, typer.Option(help="auto, float32, float16, bfloat16 or float64")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, ...")]
Offline = Annotated[bool, typer.Option("--offline", help="use the local cache only")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.callback()
def options(
    plugin: Annotated[list[str] | None, typer.Option(help="a module that registers architectures of your own")] = None,
) -> None:
    """Load a GPT checkpoint into readable PyTorch, and see that it is the same model."""
    for name in plugin or ():
        # A module that Python finds from here, or a file.
        folder, module = (Path(name).resolve().parent, Path(name).stem) if name.endswith(".py") else (Path.cwd(), name)
        sys.path.insert(0, str(folder))
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # it is somebody else's code
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise typer.BadParameter(f"--plugin {name}: {reason}") from None


@app.command()
def load(
    source: OptionalSource = None,
    revision: Revision = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "cpu",
    offline: Offline = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="plan only, without downloading weights")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="print the whole key table")] = False,
    copy: Annotated[bool, typer.Option("--copy", help="read weights into memory, map no file")] = False,
    check_finite: Annotated[bool, typer.Option("--check-finite", help="look for NaN and infinities")] = False,
    check_hash: Annotated[bool, typer.Option("--check-hash", help="compare cached files with their hashes")] = False,
    as_json: Json = False,
) -> None:
    """Load a checkpoint and say what became of every tensor."""
    from . import checkpoint, errors, loading, port, registry, summary

    if dry_run and (copy or check_finite or check_hash):
        raise typer.BadParameter("--dry-run reads no weights: --copy, --check-finite and --check-hash do")
    start = time.perf_counter()
    plan = port.plan(source, revision=revision, dtype=dtype, offline=offline, headers_only=dry_run, copy=copy)
    if check_hash:
        checkpoint.check_hashes(plan.checkpoint)
    warned: list[warnings.WarningMessage] = []
    if dry_run:
        model = registry.skeleton(plan.architecture, plan.config)
    else:
        plan = loading.settle_tie(plan)
        with warnings.catch_warnings(record=True, action="always", category=errors.NotFiniteWarning) as warned:
            model = loading.carry_out(plan, device, check_finite=check_finite, progress=_progress)
    facts = summary.summary(plan, model)
    facts["not_finite"] = [name for one in warned or () for name in getattr(one.message, "names", ())]
    facts["seconds"] = None if dry_run else round(time.perf_counter() - start, 3)
    if source is None and not dry_run:
        facts["prompt"], facts["next_tokens"] = summary.PROMPT, summary.next_tokens(model)
    if explain:
        facts["key_table"] = summary.key_table(plan)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        _print_load(facts)


def _print_load(facts: dict[str, Any]) -> None:
    from . import port, summary

    if "key_table" in facts:
        _print_table(facts["key_table"])
    where = facts["source"] + (f" at {facts['revision']}" if facts["revision"] else "")
    lines = {
        "source": where + (f", commit {facts['commit']}" if facts["commit"] else ""),
        "model": f"{facts['architecture']}: {facts['in_words']}",
        "files": f"{', '.join(facts['files'])} ({summary.size(facts['file_bytes'])})",
        "tensors": summary.account(facts),
        "memory": summary.memory(facts),
        "parameters": f"{facts['parameters']:,} in {facts['dtype']}",
    }
    if facts["not_finite"]:
        lines["NOT FINITE"] = f"NaN or infinity in {', '.join(facts['not_finite'])}"
    if facts["unknown_fields"]:
        lines["unknown"] = f"config fields nobody knows, not used: {', '.join(facts['unknown_fields'])}"
    if any(name.endswith(".bin") for name in facts["files"]):
        lines["note"] = "this is a pickle, read with weights_only; a .safetensors file is safer and faster"
    if "next_tokens" in facts:
        likely = ", ".join(f"{token!r} {chance:.0%}" for token, chance in facts["next_tokens"])
        lines["likely"] = f"{facts['prompt']} -> {likely}"
    lines["seconds"] = "planned only, no weights were read" if facts["seconds"] is None else str(facts["seconds"])
    source = "" if facts["source"] == port.BUNDLED else f" {facts['source']}"
    lines["next"] = f"archport load{source}" + ("" if facts["seconds"] is None else " --explain")
    for label, text in lines.items():
        out.print(f"{label:<11} {plain(text)}", markup=False)


@app.command()
def build(
    architecture: Annotated[str, typer.Argument(help="gpt2, gpt-j, gpt-neox", metavar="ARCH")],
    config: Annotated[Path | None, typer.Option(help="a config.json of that architecture")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="a size of ours, as layers=6")] = None,
) -> None:
    """Print the module tree and the parameter count of an architecture; nothing is allocated.

    Sizes are those of its first published model, but for the ones set.
    """
    from . import checkpoint, port, published, registry, strict_json, summary

    if config is not None and settings:
        raise typer.BadParameter("give --config or --set, not both")
    arch = registry.architecture(architecture)
    if config is not None:
        cfg, like = strict_json.read_json(config, checkpoint.MAX_CONFIG), str(config)
    else:
        like, cfg = next((name, sizes) for name, (of, sizes) in published.PUBLISHED.items() if of == arch.name)
        cfg = cfg | dict(_setting(text) for text in settings or ())
    model = port.build(arch.name, cfg, device="meta")
    out.print(str(model), markup=False)
    out.print(f"{arch.name}: {summary.in_words(model)}", markup=False)
    out.print(f"{sum(p.numel() for p in model.parameters()):,} parameters; sizes of {like}", markup=False)
    if settings:
        out.print(f"but for {', '.join(settings)}", markup=False)


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"--set {text}: expected NAME=VALUE, as layers=6")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


@app.command()
def export(
    source: SourceArgument,
    folder: Annotated[Path, typer.Argument(help="a new folder", metavar="FOLDER")],
    revision: Revision = None,
    dtype: DtypeOption = "auto",
    max_shard_size: Annotated[str, typer.Option(help="largest weights file, as 500MB")] = "5GB",
    offline: Offline = False,
) -> None:
    """Write a checkpoint as a folder that transformers loads."""
    from . import port

    model = port.load(source, revision=revision, dtype=dtype, offline=offline)
    written = port.export(model, folder, max_shard_size=max_shard_size)
    for path in sorted(written.iterdir()):
        out.print(f"{path}  {path.stat().st_size:,} bytes", markup=False)


@app.command()
def verify(
    source: Annotated[str | None, typer.Argument(help="a folder, a Hub id or an ARCH", metavar="[SOURCE|ARCH]")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16")] = "float32",
    against: Annotated[str, typer.Option(help="the reference's attention: eager or sdpa")] = "eager",
    device: DeviceOption = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="compare logits and embeddings only")] = False,
    packed: Annotated[bool, typer.Option("--packed", help="the port with its linear maps packed for speed")] = False,
    by_block: Annotated[bool, typer.Option("--by-block", help="in the memory of a few blocks")] = False,
    revision: Revision = None,
    offline: Offline = False,
    as_json: Json = False,
    report: Annotated[Path | None, typer.Option(help="write the report to a .md or .html file too")] = None,
) -> None:
    """Is it the same model as transformers', and if not, which line is wrong? Exit code 1 when it is not."""
    from . import parity, registry

    of_architecture = source is not None and not Path(source).exists() and registry.is_architecture(source)
    if report is not None and report.suffix not in (".md", ".html"):
        raise typer.BadParameter(f"--report {report}: expected a name ending in .md or .html")
    if packed and (of_architecture or quick):
        raise typer.BadParameter("--packed is for a SOURCE, and has lines of its own")
    if by_block and (packed or of_architecture or quick or against != "eager" or device != "cpu"):
        raise typer.BadParameter("--by-block is for a SOURCE, against eager attention on the cpu, all lines")
    if of_architecture and (revision or offline):
        raise typer.BadParameter(f"{source} is an architecture: --revision and --offline are for a SOURCE")
    if of_architecture:
        _one_thread()
        reports = parity.verify_architecture(str(source), dtype=dtype, against=against, device=device, quick=quick)
    elif by_block:
        reports = [parity.verify_by_block(source, dtype=dtype, revision=revision, offline=offline)]
    else:
        verify = partial(parity.verify, source, dtype=dtype, against=against, device=device, quick=quick, packed=packed)
        reports = [verify(revision=revision, offline=offline)]
    if as_json:
        facts = [one.to_dict() for one in reports]
        print(json.dumps(facts if of_architecture else facts[0], indent=2))
    else:
        print("\n".join(one.verdict if one.ok and of_architecture else str(one) for one in reports))
    if report is not None:
        page = parity.to_html(reports) if report.suffix == ".html" else "\n".join(r.to_markdown() for r in reports)
        try:
            report.write_text(page, "utf-8")
        except OSError as error:
            raise ExportError(f"{report}: cannot be written: {error.strerror}") from None
    sys.exit(not all(one.ok for one in reports))


@app.command()
def faults(
    models: Annotated[
        list[str] | None, typer.Argument(help="architectures, or bundled; all without", metavar="[ARCH]...")
    ] = None,
    as_json: Json = False,
) -> None:
    """Plant every known port bug, one at a time: is it noticed, located, named?"""
    from . import registry
    from .parity import kill

    _one_thread()
    names = [m if m == kill.BUNDLED else registry.architecture(m).name for m in models or ()]
    kills = [one for name in names or (*registry.architectures(), kill.BUNDLED) for one in kill.kill_table(name)]
    rows = [kill.row(one) for one in kills]
    if as_json:
        print(json.dumps({"faults": rows, "score": kill.score(kills)}, indent=2))
    else:
        _print_table(rows)
        out.print(kill.score(kills), markup=False)


@app.command()
def generate(
    source: OptionalSource = None,
    prompt: Annotated[str | None, typer.Option(help="the text to go on with")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="a file with it, in UTF-8")] = None,
    samples: Annotated[int, typer.Option(help="how many times")] = 1,
    max_new_tokens: Annotated[int, typer.Option(help="at most so many tokens each")] = 30,
    temperature: Annotated[float, typer.Option(help="divides the logits; 0 is greedy")] = 1.0,
    top_k: Annotated[int, typer.Option(help="keep the likeliest; 0 keeps all")] = 50,
    top_p: Annotated[float, typer.Option(help="keep the likeliest that together reach this")] = 1.0,
    min_p: Annotated[float, typer.Option(help="keep what reaches this part of the likeliest")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="above 1: repeat less")] = 1.0,
    greedy: Annotated[bool, typer.Option("--greedy", help="always the likeliest token")] = False,
    seed: Annotated[int | None, typer.Option(help="the same seed gives the same text")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="end before this text; may be repeated")] = None,
    quantize: Annotated[str | None, typer.Option(help="int8 or int4: rounded weights, faster on a CPU")] = None,
    slide: Annotated[bool, typer.Option("--slide", help="past the context, drop the oldest tokens")] = False,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="print the whole text at the end")] = False,
    revision: Revision = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "cpu",
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Go on with a prompt. One sample appears as it is made; several come together, divided by a line."""
    from . import linears, port, text
    from .generate import generate as rows_of
    from .generate import stream

    if (prompt is None) == (prompt_file is None):
        raise typer.BadParameter("give --prompt or --prompt-file")
    given = prompt if prompt is not None else _read_text(str(prompt_file))
    model = port.load(source, revision=revision, dtype=dtype, device=device, offline=offline)
    tokenizer = text.tokenizer(model)
    ids = text.encoded(tokenizer, given) or text.start_ids(model)
    if quantize is not None:
        linears.swap(model, quantize)
    elif max_new_tokens >= WORTH_PACKING and linears.why_not(model) is None:
        linears.swap(model)
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    options: dict[str, Any] = sampling | {"repetition_penalty": repetition_penalty, "greedy": greedy, "seed": seed}
    options |= {"max_new_tokens": max_new_tokens, "slide": slide, "vocabulary": tokenizer.get_vocab_size()}
    stops = [one for one in stop or () if one]
    try:
        if samples == 1 and not as_json and not no_stream:
            tokens = stream(model, ids, **options)
            for piece in itertools.chain([given], text.pieces(tokens, tokenizer, stops)):
                print(piece, end="", flush=True)
            print()
            return
        rows = rows_of(model, ids, samples=samples, **options)
    except KeyboardInterrupt:
        print()
        sys.exit(130)
    texts = [given + "".join(text.pieces(row[len(ids) :], tokenizer, stops)) for row in rows]
    if as_json:
        print(json.dumps({"prompt": given, "texts": texts, "ids": rows}, indent=2))
    else:
        print("\n---\n".join(texts))


@app.command()
def score(
    words: Annotated[
        list[str],
        typer.Argument(help="a text in UTF-8, or - for stdin; before it, a SOURCE", metavar="[SOURCE] FILE|-"),
    ],
    stride: Annotated[int | None, typer.Option(help="how far the window moves; half of the context")] = None,
    quantize: Annotated[str | None, typer.Option(help="int8 or int4: what rounding the weights costs")] = None,
    revision: Revision = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "cpu",
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Loss, perplexity and bits per byte of a text; with --json of every token."""
    from . import linears, port, text
    from .score import score as score_of

    if len(words) > 2:
        raise typer.BadParameter(f"found {len(words)} words, expected [SOURCE] FILE")
    given = _read_text(words[-1])
    source = words[0] if len(words) == 2 else None
    model = port.load(source, revision=revision, dtype=dtype, device=device, offline=offline)
    tokenizer = text.tokenizer(model)
    if quantize is not None:
        linears.swap(model, quantize)
    ids = text.encoded(tokenizer, given)
    found = score_of(model, ids, stride=stride)
    size = len(given.encode())
    facts = {
        "tokens": len(ids),
        "bytes": size,
        "loss": found.loss,
        "perplexity": found.perplexity,
        "bits_per_byte": found.bits_per_byte(size),
    }
    if as_json:
        rows = [{"id": ids[0], "text": tokenizer.decode([ids[0]]), "loss": None}]
        rows += [
            {"id": token, "text": tokenizer.decode([token]), "loss": loss}
            for token, loss in zip(ids[1:], found.losses, strict=True)
        ]
        print(json.dumps(facts | {"per_token": rows}, indent=2))
    else:
        for name, value in facts.items():
            print(f"{name.replace('_', ' '):<14} {value if isinstance(value, int) else format(value, '.4f')}")


def _read_text(name: str) -> str:
    """A text in UTF-8 from a file, or from stdin. Raises: SourceError."""
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return raw.decode("utf-8")
    except OSError as error:
        raise SourceError(f"{name}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SourceError(f"{name}: found a byte at {error.start} that is not UTF-8, expected a text") from None


@app.command()
def models(as_json: Json = False) -> None:
    """List the architectures, and published models with their parameter counts."""
    from . import published, summary

    rows = []
    for name, (architecture, _) in published.PUBLISHED.items():
        model = published.skeleton_of(name)
        count = sum(parameter.numel() for parameter in model.parameters())
        rows.append({"model": name, "ARCH": architecture, "parameters": count, "sizes": summary.in_words(model)})
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        _print_table([row | {"parameters": f"{row['parameters']:,}"} for row in rows])


def _one_thread() -> None:
    """Threads only get in each other's way on models as small as these."""
    import torch

    torch.set_num_threads(1)


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in rows[0]:
        table.add_column(column, justify="right" if column == "parameters" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(plain(str(value)) for value in row.values()))
    Console(highlight=False, markup=False, width=None if out.is_terminal else 10_000).print(table)


def _progress(copies: Sequence[Any]) -> Iterable[Any]:
    """A bar on stderr when there is somebody to see it and something to wait for."""
    slow = sum(copy.target.nbytes for copy in copies) > 500e6
    return track(copies, "loading", console=err, transient=True) if slow and err.is_terminal else copies


def main() -> None:
    """Run the command line; an error of ours is one message on stderr and exit code 1."""
    if not err.is_terminal:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.showwarning = lambda message, *_: err.print(f"archport: {message}", markup=False, soft_wrap=True)
    try:
        app()
    except ArchportError as error:
        err.print(f"archport: {error}", markup=False, soft_wrap=True)
        sys.exit(1)
