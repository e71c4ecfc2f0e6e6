"""A run of `archport train` beside a bare loop on the same model, and tokenising beside the tokenizers library.

The loop has the same weights, batches, optimizer and clipping, and its losses are checked to be those of the run before
anything is timed. What a run does between steps counts; validation and saves do not. Rates of tokenising are those of
a whole text in one file to a file of ids, beside `encode_batch` on its lines, with nothing written.
"""

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from machine import where
from tokenizers import Tokenizer
from torch.nn import functional as F
from turns import write

import archport
from archport.train.blocks import Shuffled
from archport.train.recipes import RECIPES
from archport.train.running import Told, run
from archport.train.settings import Settings
from archport.train.token_file import read_tokens, write_tokens
from archport.train.tokenizing import tokenised

WARM = 10  # steps that are not timed
GOALS = {"loop": 1.05, "tokens": 0.8}


def main() -> None:
    """Measure, print the tables, and write them into a page where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a text of a megabyte or more")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json; without it, one of 2,000 tokens is learned")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the tables into a page, between its markers")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        rows = [loop_row(options, Path(folder)), tokens_row(options, Path(folder))]
    head = [("what", "archport", "beside it", "ratio", "goal"), ("---",) * 5]
    table = "\n".join("| " + " | ".join(row) + " |" for row in [*head, *rows])
    threads = torch.get_num_threads()
    command = f"`python benchmarks/run.py`: medians of {options.rounds} rounds, {threads} threads; {where()}."
    print(f"{command}\n\n{table}")
    if options.docs:
        write(options.docs, "benchmarks/run.py", f"{command}\n\n{table}")


def loop_row(options: argparse.Namespace, folder: Path) -> tuple[str, ...]:
    """Seconds of a step."""
    recipe = RECIPES["shakespeare_char"]
    values: dict[str, Any] = {**recipe.settings, "arch": "gpt2", "sizes": dict(recipe.sizes["gpt2"])}
    values |= {"data": (str(options.data),), "steps": options.steps, "eval_every": 10**6, "save_every": 10**6}
    ours, theirs = [], []
    for at in range(options.rounds):
        settings = Settings(**values, out=str(folder / f"run-{at}"))
        times: list[float] = []
        losses = []
        run(settings, told=Told(step=lambda _, times=times: times.append(time.perf_counter())))
        lines = (folder / f"run-{at}/log.csv").read_text().splitlines()[1:]
        losses = [float(line.split(",")[1]) for line in lines if line.split(",")[1]]
        ours.append((times[-2] - times[WARM]) / (len(times) - 2 - WARM))
        seconds, bare = bare_loop(settings)
        theirs.append(seconds)
        if not all(abs(a - b) < 1e-3 for a, b in zip(losses, bare, strict=True)):
            raise SystemExit(f"losses are {losses} and {bare}")
    a, b = statistics.median(ours), statistics.median(theirs)
    goal = f"{GOALS['loop']}: {'met' if a / b <= GOALS['loop'] else 'missed'}"
    return "a step of shakespeare_char, gpt2", f"{1e3 * a:.1f} ms", f"bare loop: {1e3 * b:.1f} ms", f"{a / b:.3f}", goal


def bare_loop(settings: Settings) -> tuple[float, list[float]]:
    """Seconds of a step, and the losses of all, as one writes it by hand."""
    ids = read_tokens(Path(settings.out) / "data.tokens").ids
    held = int(len(ids) * settings.held_back)
    data = Shuffled(ids[: len(ids) - held], settings.context, settings.steps * settings.batch, settings.seed)
    torch.manual_seed(settings.seed)
    sizes = {"vocab_size": 1 + int(ids.long().max()), "context": settings.context, **settings.sizes}
    rates = dict.fromkeys(("embed_dropout", "attention_dropout", "residual_dropout"), 0.0)
    model = archport.build(settings.arch, sizes | rates).train()
    groups = [[p for p in model.parameters() if (p.ndim >= 2) == matrices] for matrices in (True, False)]
    decay = (settings.weight_decay, 0.0)
    optimizer = torch.optim.AdamW(
        [{"params": group, "weight_decay": one} for group, one in zip(groups, decay, strict=True)],
        lr=settings.lr,
        betas=(0.9, settings.beta2),
        fused=True,
    )
    times, losses = [], []
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * step / settings.warmup  # all of it is warm-up
        rows = [data[step * settings.batch + n] for n in range(settings.batch)]
        inputs, targets = (torch.stack([row[name] for row in rows]) for name in ("input_ids", "labels"))
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        times.append(time.perf_counter())
    return (times[-2] - times[WARM]) / (len(times) - 2 - WARM), losses


def tokens_row(options: argparse.Namespace, folder: Path) -> tuple[str, ...]:
    """Bytes a second."""
    if options.tokenizer:
        tokenizer = Tokenizer.from_file(str(options.tokenizer))
    else:
        from archport.train.made_tokenizers import make_tokenizer

        make_tokenizer("train:2000", [options.data], folder / "tokenizer")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer/tokenizer.json"))
    text = options.data.read_text("utf-8")
    lines, size = text.splitlines(keepends=True), options.data.stat().st_size
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    ours, theirs = [], []
    for at in range(options.rounds):
        start = time.perf_counter()
        tokens = write_tokens(folder / f"ids-{at}", tokenised([options.data], tokenizer), tokenizer)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        encodings = tokenizer.encode_batch(lines, add_special_tokens=False)
        theirs.append(time.perf_counter() - start)
        del encodings
        if tokens.ids.tolist() != whole:
            raise SystemExit("other ids than those of the whole text")
    rate, beside = (size / statistics.median(one) / 1e6 for one in (ours, theirs))
    goal = f"{GOALS['tokens']}: {'met' if rate / beside >= GOALS['tokens'] else 'missed'}"
    what = f"text to a file of ids, {size / 1e6:.1f} MB"
    return what, f"{rate:.1f} MB/s", f"encode_batch of its lines: {beside:.1f} MB/s", f"{rate / beside:.2f}", goal


if __name__ == "__main__":
    main()
