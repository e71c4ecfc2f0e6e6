"""The docs are true: their Python runs, and what they say a command prints is what it prints."""

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tools.write_docs import BLOCK, SLOW, block, pages, ran, same

from .commands import run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    monkeypatch.setattr("archport.registry._registered", {})  # what a page registers is gone with it
    monkeypatch.delitem(sys.modules, "nemotron_port", raising=False)
    names: dict = {}
    for lines in blocks(page):
        if "lm_eval" in lines and find_spec("lm_eval") is None:  # a large library that only this block needs
            continue
        exec(compile(lines, str(page), "exec"), names)


def test_the_lines_of_the_readme_are_right_for_a_type_checker(tmp_path):
    (tmp_path / "lines.py").write_text("\n".join(blocks(ROOT / "README.md")))
    words = [sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml", str(tmp_path / "lines.py")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def printed_blocks() -> list:
    """Each block of a page that a command printed; the bugs of a family are planted where all of them are."""
    found = ((page, *match.group(1, 0)) for page in pages() for match in BLOCK.finditer(page.read_text("utf-8")))
    return [
        pytest.param(command, old, id=f"{page.name}: {command}", marks=[pytest.mark.families] * ("faults" in command))
        for page, command, old in found
        if command not in SLOW
    ]


@pytest.mark.parametrize(("command", "old"), printed_blocks())
def test_what_a_command_prints_is_up_to_date(command, old, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, *words = shlex.split(command)
    output = run(*words, seconds=600).stdout if program == "archport" else ran(command)
    assert same(old, block(command, output)), "tools/write_docs.py writes it anew"


def test_every_option_of_the_command_line_is_in_the_readme():
    text = (ROOT / "README.md").read_text()
    for command in (
        "load",
        "build",
        "export",
        "verify",
        "faults",
        "generate",
        "score",
        "train",
        "plan",
        "tokens",
        "tree",
        "diff",
        "explain",
        "rows",
        "plot",
        "models",
        "env",
        "record check",
    ):
        options = re.findall(r"--[a-z][a-z-]+", run(*command.split(), "--help").stdout)
        row = next(line for line in text.splitlines() if line.startswith(f"| `archport {command}"))
        undocumented = set(options) - {
            "--help",
            "--json",
            "--offline",
            "--revision",
            "--variant",
            "--follow-links",
            *re.findall(r"--[a-z][a-z-]+", row),
        }
        assert not undocumented
