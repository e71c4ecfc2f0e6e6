"""What lies beside a trained model: its curve, and a card that says how it came to be."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..files.write import whole_file
from .settings import Settings

CURVE = "loss.png"


def draw_curve(history: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Losses by step, of training and of validation."""
    from io import BytesIO

    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axes = figure.add_subplot(xlabel="step", ylabel="loss, nats a token")
    for key, label in (("loss", "training"), ("eval_loss", "validation")):
        points = [(row["step"], row[key]) for row in history if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="." if key == "eval_loss" else "")
    axes.legend()
    axes.grid(alpha=0.3)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    whole_file(folder / CURVE, picture.getvalue())


def write_card(
    settings: Settings, about: Mapping[str, str], history: Sequence[Mapping[str, Any]], folder: Path
) -> None:
    """A README.md with settings, data and losses."""
    losses = [row["eval_loss"] for row in history if "eval_loss" in row]
    lines = ["---", "library_name: transformers", "tags: [archport]", "---", "", f"# {folder.resolve().name}", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    if losses:
        lines += [f"- validation loss: {losses[-1]:.4f} nats a token (perplexity {math.exp(losses[-1]):.2f})"]
        lines += [f"- before the first step: {losses[0]:.4f}"]
    lines += ["", f"![loss by step]({CURVE})", "", "| setting | value |", "| --- | --- |"]
    lines += [
        f"| {name} | `{value}` |"
        for name, value in asdict(settings).items()
        if value is not False and value not in (None, {})
    ]
    lines += [
        "",
        "Trained by `archport train`; `archport load`, `archport generate` and transformers read this folder.",
    ]
    whole_file(folder / "README.md", ("\n".join(lines) + "\n").encode())
