"""Another library's port of one of the checkpoints: run, verified, and put down for the table in docs/parity.md."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

import archport
from archport.foreign.sizes import Sizes
from archport.translate.table import Cell

from .checkpoints import LOGITS

# Written by python -m tests.peers.checkpoints, and where the results go: see the Makefile.
FOLDER = Path(os.environ.get("ARCHPORT_PEERS", ".venv-peers"))
SAME = 1e-4  # of the largest logit, in float32


@dataclass(frozen=True)
class Checkpoint:
    """One of the checkpoints, as a peer reads it."""

    name: str

    @property
    def folder(self) -> Path:
        return FOLDER / "checkpoints" / self.name

    @cached_property
    def sizes(self) -> Any:
        """Its sizes, under whatever name."""
        plan = archport.plan(self.folder)
        return Sizes(plan.architecture, plan.config)

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "model.safetensors")

    @cached_property
    def logits(self) -> dict[str, torch.Tensor]:
        """`ids`, and transformers' logits of them in float32, `single`, and in float64, `exact`."""
        return load_file(self.folder / LOGITS)


@dataclass(frozen=True)
class Port:
    """A module of another library's with a checkpoint's weights, put there by its own means, and its rows."""

    library: str
    module: nn.Module
    rows: Mapping[str, Cell]
    forward: Callable[[nn.Module, torch.Tensor], torch.Tensor] | None = None
    how: str = ""  # beside the class, for the table
    why: str = ""  # it differs, where verify knows only the place


def put_down(port: Port, name: str) -> dict[str, Any]:
    """What comes out of a port: how far its logits are from those in the file, and what verify says of it.

    The first is an oracle for the second, which loads the checkpoint in transformers of the peer's environment.
    """
    checkpoint = Checkpoint(name)
    known = checkpoint.logits
    run = port.forward or (lambda module, ids: module(ids))
    with torch.no_grad():
        theirs = run(port.module.eval(), known["ids"])
    largest = known["exact"].abs().max()
    report = archport.verify(port.module, reference=checkpoint.folder, rows=port.rows, forward=port.forward)
    result = {
        "library": port.library,
        "release": version(port.library.replace("_", "-")),
        "how": port.how,
        "class": type(port.module).__name__,
        "checkpoint": name,
        "error": ((theirs - known["exact"]).abs().max() / largest).item(),
        "reference_error": ((known["single"] - known["exact"]).abs().max() / largest).item(),
        "same": report.ok,
        "fault": report.fault.fault.name if report.fault and report.fault.fault else None,
        "differs": "" if report.ok else (report.fault.words if report.fault else report.verdict),
        "why": port.why,
    }
    path = FOLDER / "results" / f"{port.library}.json"
    path.parent.mkdir(exist_ok=True)
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(kept | {f"{result['class']} {name}": result}, indent=2))
    print(f"{port.library}, {name}: {result['error']:.1e}\n{report}")
    assert all(check.ok for check in report.checks if check.name.startswith("logits")) == (result["error"] < SAME)
    return result
