"""Habits of the house that a machine can check."""

import ast
import importlib.metadata
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import archport
from archport import errors

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def test_public_names_are_those_of_all():
    public = {name for name in vars(archport) if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(archport, name))}
    assert public - modules | {"propose"} == set(archport.__all__)  # which is imported where it is asked for
    assert archport.propose.__module__ == "archport.proposing.proposal"
    with pytest.raises(AttributeError, match="module 'archport' has no attribute 'proposed'"):
        archport.proposed  # noqa: B018
    assert archport.__all__ == sorted(archport.__all__)


def test_the_error_tree_in_the_docstring_is_the_tree():
    drawn = re.findall(r"^( *)(\w+Error)\b", errors.__doc__, re.M)
    stack, tree = [], set()
    for indent, name in drawn:
        depth = len(indent) // 4
        stack[depth:] = [name]
        if depth:
            tree.add((stack[depth - 1], name))
    real = {
        (cls.__base__.__name__, name)
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and issubclass(cls, errors.ArchportError) and cls is not errors.ArchportError
    }
    assert tree == real


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_errors_are_raised_never_asserted_and_only_the_cli_prints(path):
    tree = ast.parse(path.read_text())
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree))
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert "print" not in calls or path.parent.name == "cli"


def test_importing_archport_imports_nothing_heavy_beyond_torch():
    code = "import sys, torch; before = set(sys.modules); import archport; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    top = {name.partition(".")[0] for name in done.stdout.split()}
    assert not top & {"transformers", "huggingface_hub", "tokenizers", "typer", "rich", "numpy", "safetensors"}


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "__init__.py"], ids=lambda p: p.parent.name)
def test_no_public_function_or_class_shares_its_name_with_a_submodule(path):
    """Or which of the two one gets would depend on what was imported before."""
    submodules = {other.stem for other in path.parent.glob("*.py")} | {
        other.parent.name for other in path.parent.glob("*/__init__.py")
    }
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    assert not names & submodules


# A room, and the rooms it may not look into.
WALLS = {
    "layers": {"files", "translate", "mappings", "models", "fast", "generation", "parity", "view", "cli", "observing"},
    "observing": {"files", "translate", "mappings", "models", "generation", "parity", "view", "cli"},
}


@pytest.mark.parametrize("room", WALLS)
def test_rooms_look_one_way(room):
    top = ROOT / "src/archport"
    for path in sorted((top / room).rglob("*.py")):
        package = path.relative_to(top).parent.parts
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            parts = (*package[: len(package) - node.level + 1], *(node.module or "").split("."))
            names = [parts[0]] if parts[0] else [alias.name for alias in node.names]
            assert not WALLS[room] & set(names), f"{path.relative_to(top)}, line {node.lineno}"


def test_only_observing_hangs_hooks_on_modules():
    hooks = {
        f"{path.relative_to(ROOT / 'src/archport')}: {node.attr}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and re.fullmatch(r"register_\w*hook\w*", node.attr)
    }
    assert hooks == {f"observing/hooks.py: register_forward_{kind}" for kind in ("hook", "pre_hook")}


def test_each_architecture_is_one_file_of_models_and_one_of_mappings():
    names = [
        {path.stem for path in (ROOT / "src/archport" / room).glob("[a-z]*.py")} for room in ("models", "mappings")
    ]
    assert names[0] == names[1] == set(archport.architectures())


def test_the_card_of_the_bundled_checkpoint_says_it_has_learnt_something():
    card = (ROOT / "src/archport/demo/README.md").read_text()
    loss, unigram = map(float, re.search(r"\*\*([\d.]+)\*\*; a unigram model: (\d+\.\d+)", card).groups())
    assert loss < unigram / 2


def test_every_library_that_is_asked_for_is_pinned():
    pinned = re.findall(r"^([\w.-]+)==\d[\w.]*$", (ROOT / "constraints.txt").read_text(), re.M)
    asked = [re.match(r"[\w.-]+", words)[0] for words in importlib.metadata.requires("archport")]
    pinned, asked = ({name.lower().replace("_", "-") for name in names} for names in (pinned, asked))
    assert asked | {"numpy"} <= pinned
