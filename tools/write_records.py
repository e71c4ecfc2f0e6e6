"""Write docs/records: what verify says of the bundled checkpoint and of the loud models of every architecture.

Run from the repository root: ``python -m tools.write_records [bundled or ARCH ...]``; `make records` writes all.
``archport record check docs/records/*.json`` says which of them hold no more.
"""

import sys
from pathlib import Path

import torch

from archport import architectures
from archport.parity import records

FOLDER = Path("docs/records")
BUNDLED = "bundled"
SETTINGS = {"dtype": "float32", "against": "eager", "device": "cpu", "quick": False, "packed": False, "by_block": False}


def main() -> None:
    """Write those named, or all."""
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or [BUNDLED, *architectures()]:
        source, of_architecture = (None, False) if name == BUNDLED else (name, True)
        reports = records.verified(source, SETTINGS, of_architecture=of_architecture)
        record = records.made(source, SETTINGS, reports, of_architecture=of_architecture)
        (FOLDER / f"{name}.json").write_text(record.to_json())
        print(name, "the same model" if record.ok else "NOT the same model", flush=True)


if __name__ == "__main__":
    main()
