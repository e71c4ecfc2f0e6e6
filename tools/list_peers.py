"""Print the table of other libraries' ports from docs/peers.json; with a folder of results, write that file from them.

Run from the repository root: ``python tools/list_peers.py [FOLDER]``, which `make peers` does last.
"""

import json
import sys
from pathlib import Path
from typing import Any

KEPT = Path("docs/peers.json")
HEADINGS = ("library", "class", "checkpoint", "error", "transformers' own", "the same model", "what differs")


def row(port: dict[str, Any]) -> tuple[str, ...]:
    """A port as a row of the table."""
    differs = "; ".join(filter(None, (port["differs"].partition(", ruled out:")[0], port["why"])))
    kind = f"`{port['class']}`" + (f", {port['how']}" if port["how"] else "")
    figures = (f"{port['error']:.1e}", f"{port['reference_error']:.1e}")
    return (
        f"{port['library']} {port['release']}",
        kind,
        port["checkpoint"],
        *figures,
        "yes" if port["same"] else "no",
        differs,
    )


def main() -> None:
    """Collect, if there is something to collect, and print."""
    if sys.argv[1:]:
        found = [
            one for path in sorted(Path(sys.argv[1]).glob("*.json")) for one in json.loads(path.read_text()).values()
        ]
        KEPT.write_text(json.dumps(found, indent=2) + "\n")
    rows = [HEADINGS, ("---",) * len(HEADINGS), *map(row, json.loads(KEPT.read_text()))]
    print("\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in rows))


if __name__ == "__main__":
    main()
