"""transformers' Trainer for our models: what it is given, what a save holds, and when it stops by itself."""

import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import ArchportError, AsideWarning, TrainingError, in_a_line
from ..fast.products import onednn_products
from ..generation.inference import first_overflow
from ..interop.recomputing import recomputed
from ..layers import Decoder
from ..parallel.ranks import world_size
from .blocks import Example, InOrder
from .loss import loss
from .saves import PARTIAL, last_save, remove, remove_old
from .settings import Settings

LOGGED = 50  # lines of a short run; a long one has one every LOG_EVERY steps
LOG_EVERY = 10
HOW = ("weight_decay", "betas")  # of a group of an optimizer: what settings say beside the learning rate
LARGE = 256  # width from which oneDNN's products pay for asking at each


class WithLoss(nn.Module):
    """A Decoder as Trainer takes one: inputs and targets to a loss."""

    def __init__(self, decoder: Decoder, *, recompute: bool = False) -> None:
        super().__init__()
        self.decoder, self.recompute = decoder, recompute
        self._no_split_modules = sorted({type(block).__name__ for block in decoder.blocks})  # what FSDP2 shards by

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:  # (batch, context) twice -> ()
        """The mean loss of the tokens that follow."""
        again = recomputed(self.decoder) if self.recompute and self.training else nullcontext()
        with again:
            return {"loss": loss(self.decoder, input_ids, labels)}


def is_decayed(parameter: nn.Parameter) -> bool:
    """Whether weight decay is for it: matrices, no biases and no norms."""
    return parameter.ndim >= 2


class OurTrainer(Trainer):  # type: ignore[misc]  # of which mypy knows no types
    """Trainer whose saves are our exports, whole or not there, and which stops at numbers that are not finite.

    `write(decoder, folder, state_dict)` writes a model, `read(decoder, folder)` its weights back.
    """

    def __init__(
        self,
        decoder: Decoder,
        settings: Settings,
        told: TrainingArguments,
        *,
        train: Dataset[Example],
        validation: InOrder,
        begins: bool,
        write: Callable[[Decoder, Path, Mapping[str, Tensor] | None], None],
        read: Callable[[Decoder, Path], None],
        callbacks: Any = None,
    ) -> None:
        self.decoder, self.settings, self._write, self._read = decoder, settings, write, read
        self._saving_into: Path | None = None
        told.per_device_eval_batch_size = max(1, validation.at_once // told.world_size)
        model = WithLoss(decoder, recompute=settings.recompute)
        super().__init__(model, told, train_dataset=train, eval_dataset=validation, callbacks=callbacks)
        self.remove_callback(PrinterCallback)
        self.args.eval_on_start = begins

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Those of matrices."""
        return [name for name, parameter in model.named_parameters() if is_decayed(parameter)]

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        """In order: the data set is shuffled already."""
        return SequentialSampler(train_dataset or self.train_dataset)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """A step, by oneDNN's products where these are faster. Raises: TrainingError when its loss is not finite."""
        ids = inputs["input_ids"]
        with onednn_products() if self._by_onednn else nullcontext():
            found: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if (ids.device.type == "cpu" or self.state.global_step % self.args.logging_steps == 0) and not found.isfinite():
            # With a part of the model here, the place would have to be looked for by all processes at once.
            where = "" if self.is_fsdp_enabled else f": {first_overflow(self.decoder, ids.to(found.device), None)}"
            self._stop(f"the loss is {found.item()}{where}")
        return found

    @property
    def _by_onednn(self) -> bool:
        """Whether a step has products of float32 on a CPU with AVX-512, large enough to be worth asking oneDNN."""
        able = torch.backends.cpu.get_cpu_capability() == "AVX512"
        fits = self.decoder.config.width >= LARGE and self.args.device.type == "cpu"
        return able and fits and not self.args.bf16 and not self.args.torch_compile

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        norm = self._get_grad_norm(model)
        nn.utils.clip_grads_with_norm_(model.parameters(), self.args.max_grad_norm, norm)
        return norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | None = None) -> Tensor:
        """Looked at before anything is clipped, for a norm that is not finite would spoil all gradients."""
        if grad_norm is not None:
            return grad_norm
        gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        norm = nn.utils.get_total_norm(gradients.values())
        if not norm.isfinite():
            first = next((name for name, one in gradients.items() if not one.isfinite().all()), "all of them")
            self._stop(f"the gradients are not finite, the first that of {first.rpartition('decoder.')[2]}")
        return norm

    def _stop(self, what: str) -> None:
        save = last_save(Path(self.args.output_dir))
        kept = f"the last good save is {save}" if save else "nothing was saved before"
        raise TrainingError(f"step {self.state.global_step + 1}: {what}; {kept}")

    # Saving

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._saving_into or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a save beside its place, and move it there when it is whole; where the disk refuses, go on."""
        out = Path(self.args.output_dir)
        self._saving_into = out / PARTIAL
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        failed = None
        try:
            self._saving_into.mkdir(parents=True, exist_ok=True)
            super()._save_checkpoint(model, trial)
        except (OSError, ArchportError, SafetensorError, RuntimeError) as error:
            failed = error
        finally:
            self._saving_into = None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            if failed is None:
                if (out / name).exists():  # of an earlier run that came as far
                    remove(out / name)
                (out / PARTIAL / name).rename(out / name)
                remove_old(out, self.settings.keep)
            else:
                kept = last_save(out)
                words = f"the last good save is {kept}" if kept else "nothing is saved yet"
                line = f"step {self.state.global_step}: not saved: {in_a_line(failed)}; training goes on, {words}"
                warnings.warn(AsideWarning(line), stacklevel=2)
            shutil.rmtree(out / PARTIAL, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            self._write(self.decoder, Path(output_dir or self.args.output_dir), state_dict)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """What the optimizer has seen comes from the save, how fast it goes from the settings, which may be others."""
        told = [{name: one[name] for name in (*HOW, "initial_lr")} for one in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        schedule: Any = self.lr_scheduler
        schedule.base_lrs = [one["initial_lr"] for one in told]
        rates = [rate(schedule.last_epoch) for rate in schedule.lr_lambdas]
        schedule._last_lr = [base * rate for base, rate in zip(schedule.base_lrs, rates, strict=True)]
        for group, how, lr in zip(self.optimizer.param_groups, told, schedule._last_lr, strict=True):
            group.update(how, lr=lr)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ARG002
        self._read(self.decoder, Path(resume_from_checkpoint))


def arguments_of(settings: Settings) -> TrainingArguments:
    """What Trainer is told; where torchrun started several processes, they know each other from here on."""
    schedules: dict[str, dict[str, Any]] = {
        "cosine": {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": settings.last_lr}},
        "linear": {"lr_scheduler_type": "linear"},
        "constant": {"lr_scheduler_type": "constant_with_warmup"},
    }
    on_gpu = settings.device != "cpu" and torch.accelerator.is_available()
    options: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": settings.eval_every}
    options |= {"save_strategy": "steps", "save_steps": settings.save_every, "save_total_limit": None}
    options |= {"logging_steps": max(1, min(LOG_EVERY, settings.steps // LOGGED)), "logging_nan_inf_filter": False}
    options |= {"report_to": ["tensorboard"] if settings.log_to == "tensorboard" else [], "disable_tqdm": True}
    options |= {"bf16": settings.dtype == "bfloat16", "torch_compile": settings.compile}
    options |= {"seed": settings.seed, "remove_unused_columns": False, "use_cpu": not on_gpu}
    options |= {"ddp_find_unused_parameters": False}
    parts = world_size()
    if parts > 1 and on_gpu:
        options |= {"fsdp": "full_shard", "fsdp_config": {"fsdp_version": 2}}
    return TrainingArguments(
        output_dir=settings.out,
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch // parts,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.lr,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        adam_beta2=settings.beta2,
        max_grad_norm=settings.clip,
        dataloader_pin_memory=on_gpu,
        **options,
        **schedules[settings.schedule],
    )
