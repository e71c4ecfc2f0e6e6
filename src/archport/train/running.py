"""A run from its settings to a folder that transformers loads: tokens, model, Trainer, export."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import TrainingError
from ..generation.text import size as size_of
from ..generation.tokenizers import Tokenizer
from ..layers import Decoder
from ..parallel.ranks import rank, world_size
from .blocks import InOrder, Shuffled
from .card import draw_curve, write_card
from .lora import FOLDER as ADAPTER
from .lora import adapt
from .reading import data_of, parted, reader_of, tokens_of, warn_of_other_ids
from .saves import PARTIAL, last_save, read_save, steps_of, write_save
from .settings import FILE, FIXED, Settings
from .starting import fresh_model, loaded_model, set_dropout
from .token_file import TokenFile

if TYPE_CHECKING:
    from .watching import Progress


def _nothing(*_: Any) -> None:
    pass


@dataclass(frozen=True)
class Told:
    """Who hears what of a run: lines, bytes of how many that are tokenised, steps, validations."""

    line: Callable[[str], None] = _nothing
    tokenised: Callable[[int, int], None] = _nothing
    step: "Callable[[Progress], None]" = _nothing
    validated: "Callable[[Progress, Decoder, Tokenizer | None], None]" = _nothing


def run(settings: Settings, *, resume: bool = False, changed: bool = False, told: Told | None = None) -> Path:
    """Train as the settings say, and return the folder, which `archport.load` and transformers read.

    `resume` goes on from the last whole save in that folder, with the settings it began with, unless `changed` allows
    others. Raises: ArchportError, and leaves the last good save.
    """
    try:
        from .trainer import OurTrainer, arguments_of, is_decayed
        from .watching import LOG, Watcher
    except ImportError as error:
        raise TrainingError(f"training needs {error.name or 'accelerate'}: pip install archport[train]") from None
    told = told if told is not None and rank() == 0 else Told()
    out, parts = Path(settings.out), world_size()
    if settings.log_to == "tensorboard" and not any(map(find_spec, ("tensorboard", "tensorboardX"))):
        raise TrainingError("--log-to tensorboard: found no tensorboard: pip install tensorboard")
    if settings.batch % parts:
        raise TrainingError(f"batch {settings.batch}: found {parts} processes, expected a multiple of that many")
    arguments = arguments_of(settings)
    go_on_from = _checked(settings, out, resume=resume, changed=changed)
    if resume and go_on_from is None:
        told.line(f"{out}: no save yet, so it begins again")
    with _undone(out, resume=resume):
        reader, model, tokens = _begun(settings, out, told, arguments.main_process_first)
        training, validation = parted(tokens, settings)
        step = settings.batch * settings.accumulate
        shuffled = Shuffled(training, settings.context, settings.steps * step, settings.seed)
        watcher = Watcher(
            step * settings.context,
            told.step,
            lambda progress: told.validated(progress, model, reader),
            out / LOG if rank() == 0 and settings.log_to == "csv" else None,
        )
        trainer = OurTrainer(
            model,
            settings,
            arguments,
            train=shuffled,
            validation=InOrder(validation, settings.context),
            # A checkpoint that is trained on keeps all files of its own tokenizer.
            write=partial(write_save, reader=reader if settings.tokenizer or not settings.source else None),
            begins=go_on_from is None,
            read=read_save,
            callbacks=[watcher],
        )
        if trainer.is_fsdp_enabled and settings.sample is not None:
            raise TrainingError("--sample: found a model shared among processes, expected all of it in each")
        if rank() == 0:
            settings.save(out)
    decayed = [one for one in model.parameters() if one.requires_grad and is_decayed(one)]
    others = sum(one.requires_grad for one in model.parameters()) - len(decayed)
    told.line(f"{model.architecture}: {model.num_parameters():,} parameters in {settings.dtype}, {trainer.args.device}")
    told.line(f"weight decay {settings.weight_decay} on {len(decayed)} matrices, none on {others} biases and norms")
    blocks = len(training) // settings.context
    told.line(f"{len(training):,} tokens in {blocks:,} blocks to train on, {len(validation):,} held back")
    if step > shuffled.count:
        told.line(
            f"a step takes {step:,} blocks, more than the {shuffled.count:,} of an epoch: some come more than once"
        )
    if settings.warmup >= settings.steps:
        told.line(
            f"the learning rate rises for {settings.warmup} steps, so in {settings.steps} it stays below {settings.lr}"
        )
    if parts > 1:
        kind = "FSDP2" if trainer.is_fsdp_enabled else "DDP, each process with the whole model"
        told.line(f"{trainer.accelerator.num_processes} processes by {kind}")
    trainer.train(resume_from_checkpoint=str(go_on_from) if go_on_from else None)
    trainer.save_model(str(out))  # the folder of a run is a checkpoint, too
    if rank() == 0:
        shutil.rmtree(out / ADAPTER, ignore_errors=True)
        history = trainer.state.log_history
        about = {"architecture": f"{model.architecture}, {model.num_parameters():,} parameters"}
        about |= {"data": f"{', '.join(settings.data)}: {len(tokens.ids):,} tokens", "steps": str(settings.steps)}
        draw_curve(history, out)
        write_card(settings, about, history, out)
    trainer.accelerator.wait_for_everyone()
    return out


def _checked(settings: Settings, out: Path, *, resume: bool, changed: bool) -> Path | None:
    """The save to go on from, if any. Raises: TrainingError for another run, or for other files."""
    if resume:
        unlike, save = settings.unlike(out), last_save(out)
        if another := [unlike[name] for name in FIXED if name in unlike]:
            raise TrainingError(f"{out}: {'; '.join(another)}: that is another run, in another folder")
        if unlike and not changed:
            raise TrainingError(f"{out}: {'; '.join(unlike.values())}: go on as it began, or with --changed")
        if save and settings.steps < steps_of(save):
            raise TrainingError(f"{out}: steps: found {settings.steps}, but {steps_of(save)} are done")
        return save
    if rank() == 0 and out.exists() and (not out.is_dir() or any(out.iterdir())):
        known = out.is_dir() and (out / FILE).is_file()
        what = "a run: go on with --resume" if known else "other files: choose a new folder"
        raise TrainingError(f"{out}: found {what}")
    return None


@contextmanager
def _undone(out: Path, *, resume: bool) -> Iterator[None]:
    """A run that cannot begin leaves no folder behind."""
    there = out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{out}: cannot be made: {error.strerror}") from None
    try:
        shutil.rmtree(out / PARTIAL, ignore_errors=True)  # of a save that was interrupted
        yield
    except BaseException:
        if not resume and rank() == 0:
            for path in out.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not there:
                out.rmdir()
        raise


def _begun(
    settings: Settings, out: Path, told: Told, first: Callable[..., AbstractContextManager[None]]
) -> tuple[Tokenizer | None, Decoder, TokenFile]:
    """Tokenizer, model and tokens: what takes long comes last.

    In the block that `first` makes, the first process writes, and the others find what it wrote. Raises: ArchportError.
    """
    files, ready = data_of(settings)
    with first(local=False):
        reader = reader_of(settings, out, files, ready)
    vocabulary = ready.vocab_size if ready else size_of(reader)
    torch.manual_seed(settings.seed)
    model = loaded_model(settings) if settings.source else fresh_model(settings, vocabulary, reader)
    if vocabulary > model.config.vocab_size:
        found = f"{settings.tokenizer or settings.data[0]}: found tokens up to {vocabulary - 1}"
        raise TrainingError(f"{found}, expected ids below the model's vocab_size {model.config.vocab_size}")
    if settings.source and settings.tokenizer:
        warn_of_other_ids(settings, reader, model)
    if settings.dropout is not None:
        model = set_dropout(model, settings.dropout)
    model.train()
    if settings.lora:
        trained = adapt(model, settings.lora, seed=settings.seed)
        told.line(f"lora: {trained:,} numbers of {sum(one.numel() for one in model.parameters()):,} are trained")
    with first(local=False):
        return reader, model, ready or tokens_of(files, reader, out, told.tokenised)
