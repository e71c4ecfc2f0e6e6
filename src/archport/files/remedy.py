"""What to do about a damaged file: the Hub can be asked again, a file that somebody saved here cannot."""

from pathlib import Path


def of_the_hub(path: Path) -> bool:
    """Whether a file lies in the Hub's cache."""
    return path.parent.parent.name == "snapshots"


def get_again(path: Path) -> str:
    """How to come by a whole file in the place of this one."""
    return "delete it and fetch it again" if of_the_hub(path) else "copy or save it again"
