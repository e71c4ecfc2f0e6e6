"""The command line in processes of their own, forked from one that has imported what takes seconds to import."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([f"{__package__}.imported"])


def _of_the_hub(environment: Mapping[str, str]) -> dict[str, str]:
    """What huggingface_hub reads when it is imported, and never again."""
    return {name: value for name, value in environment.items() if name.startswith("HF_")}


IMPORTED = _of_the_hub(os.environ)


def run(
    *words: str, code: int = 0, cwd: Path | None = None, env: Mapping[str, str] | None = None, seconds: float = 120
) -> subprocess.CompletedProcess[str]:
    """What `archport WORDS` prints, where it ends with this code and not in a traceback.

    With an environment of its own, which libraries may read when they are imported, it is started and not forked.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (env or {})
    ran = _started if env or _of_the_hub(environment) != IMPORTED else _forked
    done = ran(words, cwd or Path.cwd(), environment, seconds)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def _started(
    words: tuple[str, ...], cwd: Path, environment: dict[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "archport", *words]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )


def _forked(
    words: tuple[str, ...], cwd: Path, environment: dict[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    with tempfile.NamedTemporaryFile("w+") as out, tempfile.NamedTemporaryFile("w+") as err:
        process = FORKS.Process(target=_main, args=(words, (out.name, err.name), cwd, environment))
        process.start()
        process.join(seconds)
        process.kill()
        process.join()
        return subprocess.CompletedProcess(words, process.exitcode, out.read(), err.read())


def _main(words: tuple[str, ...], files: tuple[str, str], cwd: Path, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY), number)
    sys.argv = ["archport", *words]
    from archport.cli import main

    main()
