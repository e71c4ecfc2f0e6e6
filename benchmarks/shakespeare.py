"""The recipe `shakespeare_char` for each of its architectures, beside the loss that nanoGPT's README reports.

A run that is in the folder already is read, one that was broken off goes on, any other is made: a few minutes each on
two cores. The loss is that of the last validation, over the tail of the text that no run was trained on.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from machine import where
from turns import write

import archport
from archport.train.recipes import RECIPES
from archport.train.watching import LOG

NANOGPT = 1.88  # https://github.com/karpathy/nanoGPT, "I only have a macbook": the same sizes, steps and rates
WITHIN = 0.03
RECIPE = "shakespeare_char"


def main() -> None:
    """Train, print the table, and write it into a page where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="tinyshakespeare's input.txt")
    parser.add_argument("--runs", type=Path, required=True, help="a folder for the runs")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the table into a page, between its markers")
    options = parser.parse_args()
    rows = [("architecture", "parameters", "steps", "validation loss", "before the first step", "nanoGPT's 1.88")]
    rows += [("---",) * 6]
    for arch in RECIPES[RECIPE].sizes:
        folder = options.runs / arch
        if not (folder / "README.md").exists():
            words = ["train", "--arch", arch, "--recipe", RECIPE, "--data", str(options.data), "--out", str(folder)]
            words += ["--resume"] if folder.exists() else []
            subprocess.run([sys.executable, "-m", "archport", *words], check=True)
        lines = [line.split(",") for line in (folder / LOG).read_text().splitlines()[1:]]
        losses = [(int(line[0]), float(line[2])) for line in lines if line[2]]
        (_, first), (steps, last) = losses[0], losses[-1]
        parameters = archport.load(folder).num_parameters()
        reached = "reached" if last <= NANOGPT + WITHIN else "missed"
        rows.append((arch, f"{parameters:,}", f"{steps:,}", f"{last:.4f}", f"{first:.4f}", reached))
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    text = f"`python benchmarks/shakespeare.py`, {where()}.\n\n{table}"
    print(text)
    if options.docs:
        write(options.docs, "benchmarks/shakespeare.py", text)


if __name__ == "__main__":
    main()
