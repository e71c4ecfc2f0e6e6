"""Every error archport raises on purpose, in one tree.

ArchportError
    ConfigError           a size or a field is missing, of the wrong type or out of range
        UnsupportedError  the field is well formed, but says something archport does not build
    SourceError           a folder or a Hub repository cannot be had
    CheckpointError       a file is missing, damaged or not what its name says
    MappingError          the checkpoint's tensors and the model's parameters do not match
    ExportError           the target cannot be written
    GenerationError       a prompt cannot be continued, or the model makes no numbers
    TrainingError         a run cannot begin, go on, or be gone on with

NotFiniteWarning          weights that were loaded hold NaN or infinities
AsideWarning              something of a folder was left aside, taken for something else, or not followed
"""

import textwrap
from collections.abc import Sequence

SHOWN = 10  # faults in a message
LONG = 300  # letters of a fault
LINE = 1500  # letters of a line with the names of several files, whose paths may be long


def plain(text: str, longest: int = LONG) -> str:
    """Text of an untrusted file as one line of at most about so many letters, without terminal control codes."""
    half = longest // 2
    return printable(text if len(text) <= longest else f"{text[:half]} ... {text[-half:]}")


def printable(text: str) -> str:
    """Text with whatever is invisible, as ends of lines and changes of direction, escaped."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def in_a_line(error: BaseException, longest: int = 200) -> str:
    """The message of any exception, in one line of at most so many letters."""
    return textwrap.shorten(str(error), longest, placeholder="...")


class ArchportError(Exception):
    """Base of all: its text is one clear message for the person at the keyboard."""


class ConfigError(ArchportError):
    """A config that cannot describe a model.

    `faults` maps each field to what is wrong with it.
    """

    def __init__(self, faults: dict[str, str], where: str = "config") -> None:
        messages = [plain(f"{field}: {text}") for field, text in faults.items()]
        more = f"; and {len(messages) - SHOWN} more" if len(messages) > SHOWN else ""
        super().__init__(f"{where}: {'; '.join(messages[:SHOWN])}{more}")
        self.faults = faults


class UnsupportedError(ConfigError):
    """A config that describes a model archport does not build."""


class SourceError(ArchportError):
    """A folder or a Hub repository that cannot be had."""


class CheckpointError(ArchportError):
    """A file that is missing, damaged or not what its name says."""


class MappingError(ArchportError):
    """Tensors and parameters that do not match; `faults` lists every one of them, after the `head` of the message."""

    def __init__(self, faults: Sequence[str], where: str, outcome: str = "nothing was loaded") -> None:
        self.faults = tuple(faults)
        count = f"{len(self.faults)} fault{'s' if len(self.faults) > 1 else ''}"
        self.head = f"{where}: {count} between checkpoint and model, {outcome}"
        more = f"\n  and {len(self.faults) - SHOWN} more: see faults" if len(self.faults) > SHOWN else ""
        listed = "; ".join(plain(fault) for fault in self.faults[:SHOWN])
        super().__init__(f"{self.head}\n  {listed}{more}")


class ExportError(ArchportError):
    """A target that cannot be written."""


class GenerationError(ArchportError):
    """A prompt that cannot be continued, or a model that makes no numbers of it."""


class TrainingError(ArchportError):
    """A run that cannot begin, go on, or be gone on with."""


class NotFiniteWarning(UserWarning):
    """Weights with NaN or infinities; `names` are the parameters."""

    def __init__(self, names: Sequence[str], where: str) -> None:
        self.names = tuple(names)
        super().__init__(f"{where}: not finite: {', '.join(self.names[:SHOWN])}")


class AsideWarning(UserWarning):
    """What was done with a part of a folder that is not simply used: one line, with the file's name."""

    def __init__(self, line: str) -> None:
        super().__init__(plain(line, LINE))
