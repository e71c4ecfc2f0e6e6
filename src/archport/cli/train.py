"""Commands to train: tokens, train."""

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from typer import Argument, BadParameter, Context, Option

from ..errors import ArchportError
from ..files.source import source_named
from ..generation.decoding import generate
from ..generation.inference import in_eval_mode
from ..generation.text import encoded, start_ids
from ..generation.text import tokenizer as tokenizer_of
from ..registry import architecture
from ..train.made_tokenizers import is_made, made_beside, make_tokenizer
from ..train.recipes import RECIPES
from ..train.running import Told, run
from ..train.settings import Settings, saved
from ..train.token_file import write_tokens
from ..train.tokenizing import text_files, tokenised
from .app import Force, app, err, out, say, setting
from .processes import only_the_first_speaks

SAMPLED = 100  # tokens of a sample
ABOUT = "; ".join(f"{name} ({recipe.about})" for name, recipe in RECIPES.items())
Data = Annotated[list[Path], Argument(help="texts, or folders of texts", metavar="PATH...")]


@app.command()
def tokens(
    paths: Data,
    to: Annotated[Path, Option("--out", help="the file to write")],
    tokenizer: Annotated[str, Option(help="a folder or Hub id, or bytes, characters, train:VOCAB")],
    force: Force = False,
) -> None:
    """Make a flat file of token ids of texts, which training maps into memory."""
    made = made_beside(to) if is_made(tokenizer) else None
    for path in (to, made):
        if path is not None and path.exists() and not force:
            raise BadParameter(f"{path}: is there already: choose another name, or --force")
    files = text_files(paths)
    if to.resolve() in [path.resolve() for path in files]:
        raise BadParameter(f"{to}: is one of the texts: choose another name")
    if made is not None:
        make_tokenizer(tokenizer, files, made)
    reader = tokenizer_of(made or source_named(tokenizer))
    with _bar() as bar:
        written = write_tokens(to, tokenised(files, reader, _told_to(bar, "tokens")), reader)
    say(f"{to}: {len(written.ids):,} tokens of {written.vocab_size:,} kinds, {to.stat().st_size:,} bytes")
    if made is not None:
        say(f"{made}: the tokenizer")


@app.command()
def train(
    command: Context,
    data: Annotated[list[str] | None, Option(help="a text, a folder of texts, or a file of archport tokens")] = None,
    to: Annotated[Path | None, Option("--out", help="the folder of the run")] = None,
    arch: Annotated[str | None, Option(help="begin with fresh weights of this architecture")] = None,
    source: Annotated[
        str | None, Option("--from", help="begin with the weights of a folder, a Hub id or bundled")
    ] = None,
    sizes: Annotated[list[str] | None, Option("--set", help="a field of the config, as layers=6")] = None,
    recipe: Annotated[str | None, Option(help=f"settings that are known to work: {ABOUT}")] = None,
    tokenizer: Annotated[
        str | None, Option(help="a folder or Hub id, or bytes, characters, train:VOCAB [the checkpoint's, or bytes]")
    ] = None,
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
    compile: Annotated[bool | None, Option("--compile", help="compile the model first")] = None,
    recompute: Annotated[bool | None, Option("--recompute", help="keep less for the backward pass")] = None,
    lora: Annotated[int | None, Option(help="with --from: train adapters of this rank alone")] = None,
    sample: Annotated[str | None, Option(help="continue this text at each validation")] = None,
    device: Annotated[str | None, Option(help="auto or cpu [auto]")] = None,
) -> None:
    """Train a model: from scratch or from a checkpoint, to a folder that archport and transformers load."""
    if to is None:
        raise BadParameter("--out: found none, expected the folder of the run")
    if changed and not resume:
        raise BadParameter("--changed: goes with --resume")
    options = {one.name: command.params.get(one.name) for one in fields(Settings)}
    given = {name: value for name, value in options.items() if value not in (None, [], ())}
    given |= {"data": tuple(data)} if data else {}
    given |= {"sizes": dict(map(setting, sizes))} if sizes else {}
    given |= {"arch": architecture(arch).name} if arch is not None else {}
    settings = _settings(recipe, given, saved(to) if resume else {}, to)
    only_the_first_speaks()
    with _bar() as bar:
        steps_done = _told_to(bar, "")
        told = Told(
            line=lambda line: say(line, err),
            tokenised=_told_to(bar, "tokens"),
            step=lambda progress: steps_done(progress.step, progress.steps, str(progress)),
            validated=lambda progress, model, reader: _validated(progress, model, reader, settings),
        )
        folder = run(settings, resume=resume, changed=changed, told=told)
    say(f"{folder}: archport generate {folder} --prompt ..")


def _settings(recipe: str | None, given: dict[str, Any], before: Mapping[str, Any], to: Path) -> Settings:
    """Those of the run that goes on, but for the recipe's, but for what was given. Raises: ConfigError."""
    values: dict[str, Any] = {one.name: before[one.name] for one in fields(Settings) if one.name in before}
    values |= {"data": tuple(before.get("data", ())), "out": str(to), "recipe": recipe or before.get("recipe")}
    arch = given.get("arch")
    if recipe is not None:
        if recipe not in RECIPES:
            raise BadParameter(f"--recipe {recipe}: found none of that name, expected {', '.join(RECIPES)}")
        known = RECIPES[recipe]
        if arch is not None and known.sizes and arch not in known.sizes:
            raise BadParameter(f"--recipe {recipe}: has no sizes for {arch}, expected {', '.join(known.sizes)}")
        values |= known.settings
        values["sizes"] = known.sizes.get(arch or "", {}) or values.get("sizes", {})
    given = given | {"sizes": {**values.get("sizes", {}), **given.get("sizes", {})}}
    for one, other in (("arch", "source"), ("source", "arch")):  # a run begins with one of them
        if one in given:
            values[other] = None
    return Settings(**(values | given))


def _validated(progress: Any, model: Any, reader: Any, settings: Settings) -> None:
    """A line for each validation, and a sample."""
    more = f"  (ln of the vocabulary {math.log(model.config.vocab_size):.4f})" if progress.step == 0 else ""
    say(f"{progress}{more}", err)
    if settings.sample is None or reader is None:
        return
    try:
        with in_eval_mode(model):
            ids = encoded(reader, settings.sample, model.config.vocab_size) or start_ids(model)
            rows = generate(model, ids, max_new_tokens=SAMPLED, seed=settings.seed, slide=True)
    except ArchportError as error:  # no reason to stop a run
        say(f"archport: --sample: {error}", err)
    else:
        out.print(reader.decode(rows[0]), markup=False, soft_wrap=True)


def _bar() -> Bar:
    """A bar on stderr, in the place of what it showed before."""
    columns = (BarColumn(bar_width=20), TextColumn("{task.description}"))
    return Bar(*columns, console=err, transient=True, disable=not err.is_terminal)


def _told_to(bar: Bar, words: str) -> Any:
    """Show how much of how much is done, in the same words or in others."""
    task: list[Any] = []

    def told(done: int, total: int, description: str = words) -> None:
        if not task:
            task.append(bar.add_task(words))
        # What is done takes no line any more.
        bar.update(task[0], completed=done, total=total, description=description, visible=done < total)

    return told
