"""Commands to train: tokens, train."""

import json
import math
from pathlib import Path
from typing import Annotated, Any

from rich.live import Live
from rich.progress import Progress as Bar
from rich.text import Text
from typer import Argument, BadParameter, Option

from ..generation.decoding import generate
from ..generation.inference import in_eval_mode
from ..generation.text import encoded, start_ids
from ..generation.text import tokenizer as tokenizer_of
from ..registry import architecture
from ..train.launched import rank
from ..train.made_tokenizers import is_made, make_tokenizer
from ..train.recipes import RECIPES
from ..train.running import Told, run
from ..train.settings import Settings
from ..train.token_file import write_tokens
from ..train.tokenizing import text_files, tokenised
from .app import Force, app, err, out, say

SAMPLED = 100  # tokens of a sample
Data = Annotated[list[Path], Argument(help="texts, or folders of texts", metavar="PATH...")]


@app.command()
def tokens(
    paths: Data,
    to: Annotated[Path, Option("--out", help="the file to write")],
    tokenizer: Annotated[str, Option(help="a folder or Hub id, or bytes, characters, train:VOCAB")],
    force: Force = False,
) -> None:
    """Make a flat file of token ids of texts, which training maps into memory."""
    if to.exists() and not force:
        raise BadParameter(f"{to}: is there already: choose another name, or --force")
    files = text_files(paths)
    folder: str | Path = tokenizer
    if is_made(tokenizer):
        folder = to.with_name(f"{to.name}-tokenizer")
        make_tokenizer(tokenizer, files, folder)
    reader = tokenizer_of(folder)
    with _bar() as bar:
        made = write_tokens(to, tokenised(files, reader, _told_to(bar)), reader)
    say(f"{to}: {len(made.ids):,} tokens of {made.vocab_size:,} kinds, {to.stat().st_size:,} bytes")
    if is_made(tokenizer):
        say(f"{folder}: the tokenizer")


@app.command()
def train(
    data: Annotated[list[str] | None, Option(help="a text, a folder of texts, or a file of archport tokens")] = None,
    to: Annotated[Path | None, Option("--out", help="the folder of the run")] = None,
    arch: Annotated[str | None, Option(help="begin with fresh weights of this architecture")] = None,
    source: Annotated[str | None, Option("--from", help="begin with the weights of a folder or a Hub id")] = None,
    sizes: Annotated[list[str] | None, Option("--set", help="a field of the config, as layers=6")] = None,
    recipe: Annotated[str | None, Option(help=f"settings that are known to work: {', '.join(RECIPES)}")] = None,
    tokenizer: Annotated[str | None, Option(help="a folder or Hub id, or bytes, characters, train:VOCAB")] = None,
    context: Annotated[int | None, Option(help="tokens of a block [256]")] = None,
    batch: Annotated[int | None, Option(help="blocks at once, over all processes [32]")] = None,
    accumulate: Annotated[int | None, Option(help="batches of a step [1]")] = None,
    steps: Annotated[int | None, Option(help="of the optimizer [2000]")] = None,
    lr: Annotated[float | None, Option(help="the highest learning rate [1e-3]")] = None,
    min_lr: Annotated[float | None, Option(help="the last one of a cosine [a tenth]")] = None,
    warmup: Annotated[int | None, Option(help="steps in which it rises [100]")] = None,
    schedule: Annotated[str | None, Option(help="cosine, linear or constant [cosine]")] = None,
    weight_decay: Annotated[float | None, Option(help="of matrices [0.1]")] = None,
    beta2: Annotated[float | None, Option(help="of AdamW [0.99]")] = None,
    clip: Annotated[float | None, Option(help="the largest norm of all gradients; 0 leaves them [1.0]")] = None,
    dropout: Annotated[float | None, Option(help="all rates [those of the architecture]")] = None,
    dtype: Annotated[str | None, Option(help="float32, or bfloat16 for what autocast computes in it [float32]")] = None,
    eval_every: Annotated[int | None, Option(help="steps between validations [250]")] = None,
    save_every: Annotated[int | None, Option(help="steps between saves [500]")] = None,
    keep: Annotated[int | None, Option(help="saves that stay [3]")] = None,
    held_back: Annotated[float | None, Option(help="share of the data for validation, at its end [0.1]")] = None,
    resume: Annotated[bool, Option("--resume", help="go on from the last save in --out")] = False,
    changed: Annotated[bool, Option("--changed", help="with --resume: with other settings, too")] = False,
    seed: Annotated[int | None, Option(help="of weights, order and dropout [0]")] = None,
    log_to: Annotated[str | None, Option(help="csv or tensorboard [csv]")] = None,
    compiled: Annotated[bool | None, Option("--compile", help="compile the model first")] = None,
    recompute: Annotated[bool | None, Option("--recompute", help="keep less for the backward pass")] = None,
    lora: Annotated[int | None, Option(help="with --from: train adapters of this rank alone")] = None,
    sample: Annotated[str | None, Option(help="continue this text at each validation")] = None,
    device: Annotated[str | None, Option(help="auto or cpu [auto]")] = None,
) -> None:
    """Train a model: from scratch or from a checkpoint, to a folder that archport and transformers load."""
    given: dict[str, Any] = {"data": tuple(data or ()), "source": source, "tokenizer": tokenizer, "context": context}
    given |= {"batch": batch, "accumulate": accumulate, "steps": steps, "lr": lr, "min_lr": min_lr, "warmup": warmup}
    given |= {"schedule": schedule, "weight_decay": weight_decay, "beta2": beta2, "clip": clip, "dropout": dropout}
    given |= {"dtype": dtype, "eval_every": eval_every, "save_every": save_every, "keep": keep, "seed": seed}
    given |= {"held_back": held_back, "log_to": log_to, "compile": compiled, "recompute": recompute, "lora": lora}
    given |= {"sample": sample, "device": device}
    if to is None:
        raise BadParameter("--out: found none, expected the folder of the run")
    if changed and not resume:
        raise BadParameter("--changed: goes with --resume")
    name = None if arch is None else architecture(arch).name
    settings = _settings(
        recipe, name, _parsed(sizes or []), {key: one for key, one in given.items() if one is not None}, to
    )
    with _bar() as bar, Live(Text(), console=err, refresh_per_second=4, transient=True) as live:
        told = Told(
            line=lambda line: say(line, err),
            tokenised=_told_to(bar),
            step=lambda progress: live.update(Text(str(progress))),
            validated=lambda progress, model, reader: _validated(progress, model, reader, settings),
        )
        folder = run(settings, resume=resume, changed=changed, told=told)
    if rank() == 0:
        say(f"{folder}: archport generate {folder} --prompt ..")


def _settings(recipe: str | None, arch: str | None, sizes: dict[str, Any], given: dict[str, Any], to: Path) -> Settings:
    """Those of the recipe, but for what was given. Raises: ConfigError."""
    values: dict[str, Any] = {}
    if recipe is not None:
        if recipe not in RECIPES:
            raise BadParameter(f"--recipe {recipe}: found none of that name, expected {', '.join(RECIPES)}")
        known = RECIPES[recipe]
        values = dict(known.settings)
        if "source" not in given and arch is not None and known.sizes:
            if arch not in known.sizes:
                raise BadParameter(f"--recipe {recipe}: has no sizes for {arch}, expected {', '.join(known.sizes)}")
            sizes = {**known.sizes[arch], **sizes}
        if arch is not None:
            values.pop("source", None)
    values |= given
    values["eval_every"] = min(values.get("eval_every", Settings.eval_every), values.get("steps", Settings.steps))
    return Settings(arch=arch, sizes=sizes, out=str(to), recipe=recipe, **values)


def _parsed(sizes: list[str]) -> dict[str, Any]:
    """Fields and values of --set, as JSON where they are. Raises: BadParameter."""
    fields: dict[str, Any] = {}
    for text in sizes:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise BadParameter(f"--set {text}: expected a field and its value, as layers=6")
        try:
            fields[name] = json.loads(value)
        except json.JSONDecodeError:
            fields[name] = value
    return fields


def _validated(progress: Any, model: Any, reader: Any, settings: Settings) -> None:
    """A line for each validation, and a sample."""
    more = f"  (ln of the vocabulary {math.log(model.config.vocab_size):.4f})" if progress.step == 0 else ""
    say(f"{progress}{more}", err)
    if settings.sample is None or reader is None:
        return
    with in_eval_mode(model):
        ids = encoded(reader, settings.sample, model.config.vocab_size) or start_ids(model)
        rows = generate(model, ids, max_new_tokens=SAMPLED, seed=settings.seed, slide=True)
    out.print(reader.decode(rows[0]), markup=False, soft_wrap=True)


def _bar() -> Bar:
    """A bar on stderr."""
    return Bar(console=err, transient=True, disable=not err.is_terminal)


def _told_to(bar: Bar) -> Any:
    """Show how much is tokenised."""
    task: list[Any] = []

    def told(done: int, total: int) -> None:
        if not task:
            task.append(bar.add_task("tokens", total=total))
        bar.update(task[0], completed=done)

    return told
