"""A person's own code in styles and with mistakes that a stranger brought: rows, sizes, bad input."""

from functools import cache
from pathlib import Path

import pytest
from torch import nn
from typer.testing import CliRunner

from archport.parity.by_name import verify_by_name

from .styles import STYLES, Style

ROOT = Path(__file__).parents[1]
LLAMA, NANO = STYLES["llama_separate"], STYLES["gpt2_nano"]


@cache
def reference(variant: str) -> nn.Module:
    return next(style for style in STYLES.values() if style.variant == variant).reference()


def command(*words: str):
    from archport.cli import modules, parity  # noqa: F401  # each adds its commands
    from archport.cli.app import app

    return CliRunner().invoke(app, words)


def written(folder: Path, style: Style, *changes: tuple[str, str]) -> str:
    """A style's code with changes, in a file, by the name of its model."""
    code = style.path.read_text()
    for old, new in changes:
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    (folder / "mine.py").write_text(code)
    return f"{folder}/mine.py:{style.build.__name__}"


# --- keys and values in one map, beside queries ---

KEYS_AND_VALUES = {
    "llama_separate": [
        ("        self.wk = nn.Linear(args.dim, self.n_kv_heads * self.head_dim, bias=False)\n", ""),
        ("self.wv = nn.Linear(args.dim, self.n_kv", "self.wkv = nn.Linear(args.dim, 2 * self.n_kv"),
        ("xk = self.wk(x)", "xk, xv = self.wkv(x).chunk(2, -1)\n        xk = xk"),
        ("xv = self.wv(x).view", "xv = xv.reshape"),
        ("xk = xk.view", "xk = xk.reshape"),
    ],
    "gpt2_nano": [
        ("self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)",
         "self.q, self.kv = (nn.Linear(config.n_embd, many * config.n_embd) for many in (1, 2))"),
        ("q, k, v = self.c_attn(x).split(C, dim=2)", "q, (k, v) = self.q(x), self.kv(x).chunk(2, -1)"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS_AND_VALUES)
def test_keys_and_values_may_be_fused_beside_queries(name, tmp_path):
    own = written(tmp_path, STYLES[name], *KEYS_AND_VALUES[name])
    report = verify_by_name(own, like=STYLES[name].like)  # its rows are found, it is filled by them and read by them
    assert report.ok, str(report)
    assert not report.problems
    assert "kv" in command("rows", own, "--like", STYLES[name].like).stdout
