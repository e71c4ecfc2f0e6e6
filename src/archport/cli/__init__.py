"""The command line: parses and prints, no logic of its own."""

import gc
import os
import sys
import warnings

from ..errors import ArchportError, MappingError, plain


def main() -> None:
    """Run the command line; an error of ours is one message on stderr and exit code 1."""
    gc.freeze()  # torch's objects stay to the end: looking through them for garbage takes as long as a command
    from . import checkpoints, machine, modules, parity, plans, proposals, records, texts, train, views  # noqa: F401  # each adds its commands
    from .app import app, err, say

    if not err.is_terminal:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.showwarning = lambda message, *_: say(f"archport: {message}", err)
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # for terminals that have not every character
    try:
        app()
    except MappingError as error:  # all of its faults, as nobody can ask for them here
        say("\n  ".join((f"archport: {error.head}", *map(plain, error.faults))), err)
        sys.exit(1)
    except (ArchportError, OSError) as error:
        say(f"archport: {error}", err)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
