"""Write docs/kill_scores.json: of the faults planted in each architecture, how many are noticed, located and named.

Each is planted in a right port, and those of code and settings in the architecture's own code too. Run from the
repository root: ``python tools/count_kills.py [ARCH ...]``, about a minute an architecture; without names those that
are missing are counted. tests/test_verify.py and tests/test_repairs.py plant every eighth of them, all in gpt2.
"""

import json
import sys
from pathlib import Path

import torch

from archport import registry
from archport.parity.kill import kill_counts, kill_table

SCORES = Path("docs/kill_scores.json")


def main() -> None:
    """Count, and write after each."""
    torch.set_num_threads(1)
    scores = json.loads(SCORES.read_text()) if SCORES.exists() else {}
    known = registry.architectures()
    for name in sys.argv[1:] or [name for name in known if "in_build" not in scores.get(name, {})]:
        scores[name] = kill_counts(kill_table(name)) | {"in_build": kill_counts(kill_table(name, in_build=True))}
        kept = {name: scores[name] for name in known if name in scores}
        SCORES.write_text(json.dumps(kept, indent=2) + "\n")
        print(name, scores[name])


if __name__ == "__main__":
    main()
