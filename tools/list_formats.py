"""Print the table of docs/formats.md: a row a format of another library. Run by tools/write_docs.py."""

from archport.formats import formats
from archport.translate.formats import Format

ROWS = ("`--format`", "library", "config", "architectures")


def main() -> None:
    """Print the table."""
    for cells in (ROWS, ("---",) * len(ROWS), *(_row(name, kind) for name, kind in formats().items())):
        print(f"| {' | '.join(cells)} |")


def _row(name: str, kind: Format) -> tuple[str, ...]:
    place = f"`{kind.settings_key}` in the file" if kind.settings_key else "`model_config.yaml` beside it"
    families = ", ".join(f"`{family}`" for family in dict.fromkeys(family for family, _ in kind.tables))
    return f"`{name}`", kind.title, place, families


if __name__ == "__main__":
    main()
