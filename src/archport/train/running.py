"""A run from its settings to a folder that transformers loads: tokens, model, Trainer, export."""

import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from .. import port
from ..errors import ArchportError, AsideWarning, TrainingError
from ..exporting import export
from ..generation.text import size as size_of
from ..generation.text import tokenizer as tokenizer_of
from ..generation.tokenizers import Tokenizer
from ..interop.saving import filled, to_write
from ..layers import Decoder
from ..parallel.ranks import rank, world_size
from .blocks import InOrder, Shuffled
from .card import draw_curve, write_card
from .lora import FOLDER as ADAPTER
from .lora import adapt, is_adapted, load_adapter, merged, save_adapter
from .made_tokenizers import is_made, made_beside, make_tokenizer
from .saves import PARTIAL, last_save, steps_of
from .settings import FILE, FIXED, Settings
from .starting import fresh_model, loaded_model, set_dropout
from .token_file import TokenFile, hash_of, is_token_file, read_tokens, write_tokens
from .tokenizing import digest_of, text_files, tokenised

if TYPE_CHECKING:
    from .watching import Progress

TOKENS = "data.tokens"
TOKENIZER = "tokenizer"  # a folder of its own: one that was made


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
        training, validation = _parts(tokens, settings)
        needed = settings.steps * settings.batch * settings.accumulate
        watcher = Watcher(
            settings.batch * settings.accumulate * settings.context,
            told.step,
            lambda progress: told.validated(progress, model, reader),
            out / LOG if rank() == 0 and settings.log_to == "csv" else None,
        )
        trainer = OurTrainer(
            model,
            settings,
            arguments,
            train=Shuffled(training, settings.context, needed, settings.seed),
            validation=InOrder(validation, settings.context),
            # A checkpoint that is trained on keeps all files of its own tokenizer.
            write=lambda decoder, folder, weights: _write(
                decoder, folder, weights, reader if settings.tokenizer or not settings.source else None
            ),
            begins=go_on_from is None,
            read=_read,
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
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(f"{out}: cannot be made: {error.strerror}") from None
        shutil.rmtree(out / PARTIAL, ignore_errors=True)  # of a save that was interrupted
        yield
    except BaseException:
        if not resume and rank() == 0 and out.is_dir():
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
    paths = [Path(name) for name in settings.data]
    made = [path for path in paths if path.is_file() and is_token_file(path)]
    if made and len(paths) > 1:
        raise TrainingError(f"{made[0]}: found a file of tokens beside other data, expected it alone")
    ready = read_tokens(made[0]) if made else None
    files = [] if ready else text_files(paths)
    with first(local=False):
        reader = _reader(settings, out, files, ready)
    vocabulary = ready.vocab_size if ready else size_of(reader)
    torch.manual_seed(settings.seed)
    model = loaded_model(settings) if settings.source else fresh_model(settings, vocabulary, reader)
    if vocabulary > model.config.vocab_size:
        found = f"{settings.tokenizer or paths[0]}: found tokens up to {vocabulary - 1}"
        raise TrainingError(f"{found}, expected ids below the model's vocab_size {model.config.vocab_size}")
    if settings.dropout is not None:
        model = set_dropout(model, settings.dropout)
    model.train()
    if settings.lora:
        trained = adapt(model, settings.lora, seed=settings.seed)
        told.line(f"lora: {trained:,} numbers of {sum(one.numel() for one in model.parameters()):,} are trained")
    with first(local=False):
        return reader, model, ready or _tokens(files, reader, out, told)


def _reader(settings: Settings, out: Path, files: Sequence[Path], ready: TokenFile | None) -> Any:
    """The tokenizer, made if it is one to make; None for ids of which none is named. Raises: ArchportError."""
    name: str | Path | None = settings.tokenizer or settings.source or (None if ready else "bytes")
    if ready and name is None:
        beside = made_beside(ready.path)
        if not beside.is_dir():
            warnings.warn(AsideWarning(f"{ready.path}: no --tokenizer, so the saves have none"), stacklevel=2)
            return None
        name = beside
    if is_made(str(name)):
        if ready and name != "bytes":
            found = f"{ready.path}: found token ids already, expected texts to make a tokenizer of"
            raise TrainingError(f"{found}, or --tokenizer with the folder of the one that they were made with")
        if not (out / TOKENIZER).is_dir():
            make_tokenizer(str(name), files, out / TOKENIZER)
        name = out / TOKENIZER
    try:
        reader = tokenizer_of(name)
    except ArchportError as error:
        if settings.tokenizer is None:
            raise
        raise TrainingError(f"--tokenizer {error}; others are bytes, characters, train:VOCAB") from None
    if ready and hash_of(reader) != ready.tokenizer:
        raise TrainingError(f"{ready.path}: made with another tokenizer than {name}: make it anew")
    return reader


def _tokens(files: Sequence[Path], reader: Tokenizer, out: Path, told: Told) -> TokenFile:
    """Those of the texts, made once. Raises: ArchportError."""
    digest = digest_of(files)
    if (out / TOKENS).is_file():
        tokens = read_tokens(out / TOKENS)
        if (tokens.data, tokens.tokenizer) == (digest, hash_of(reader)):
            return tokens
    return write_tokens(out / TOKENS, tokenised(files, reader, told.tokenised), reader, data=digest)


def _parts(tokens: TokenFile, settings: Settings) -> tuple[Tensor, Tensor]:
    """What is trained on, and the tail that is held back. Raises: TrainingError."""
    count = len(tokens.ids)
    held = max(int(count * settings.held_back), settings.context + 1)
    if count - held <= settings.context:
        least = 2 * (settings.context + 1)
        found = f"{', '.join(settings.data)}: found {count:,} tokens, expected {least:,} at least"
        raise TrainingError(f"{found}, for blocks of {settings.context} and {held:,} tokens held back")
    return tokens.ids[: count - held], tokens.ids[count - held :]


def _write(model: Decoder, folder: Path, weights: Mapping[str, Tensor] | None, reader: Tokenizer | None) -> None:
    """A save: what transformers reads, and where only adapters are trained, these too. Raises: ExportError."""
    adapted = is_adapted(model)
    written = merged(model) if adapted else model if weights is None else to_write(model, weights, {})
    with filled(folder) as new:
        export(written, new, tokenizer=getattr(reader, "folder", reader) if reader is not None else None)
        if adapted:
            save_adapter(model, new)


def _read(model: Decoder, folder: Path) -> None:
    """The weights of a save, back into the model. Raises: ArchportError."""
    if is_adapted(model):
        load_adapter(model, folder)
        return
    read = port.load(folder, dtype=model.dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value: Tensor = read.get_parameter(name)
            if isinstance(parameter, DTensor):  # of FSDP2: each process takes its part
                value = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
            parameter.copy_(value)
