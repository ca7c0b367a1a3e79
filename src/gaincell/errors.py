"""The exceptions a user meets.

Every message is one line and says what was given, what is allowed and what to do next. The command line
prints it and leaves with exit code 2 (with the traceback under ``--debug``). A defect of the program itself
is none of these: it stays an ordinary Python exception.
"""

import re

LONGEST_ECHO = 120
"""Characters of one thing that was given that a message repeats."""
LONGEST_MESSAGE = 1000
_QUOTED = re.compile(r"(?<!\w)(['\"])(?:(?!\1)[^\\]|\\.)*\1(?!\w)")
_UNBROKEN = re.compile(r"\S+")


def one_line(message: str) -> str:
    """A message on one line, without control characters, in which what was given is cut to about a line.

    Cut are quotations, lists and tables in brackets, and words without a space.
    """
    line = " ".join(message.split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    line = _UNBROKEN.sub(_cut, _QUOTED.sub(_cut, line))
    for begin, end in reversed(_brackets(line)):
        line = line[:begin] + _shortened(line[begin:end]) + line[end:]
    return _shortened(line, LONGEST_MESSAGE)


def _cut(found: re.Match[str]) -> str:
    return _shortened(found.group())


def _shortened(text: str, most: int = LONGEST_ECHO) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}...{text[3 - most // 2 :]}"


def _brackets(line: str) -> list[tuple[int, int]]:
    """Where the outermost [lists] and {tables} of a line begin and end."""
    spans: list[tuple[int, int]] = []
    depth = begin = 0
    for place, character in enumerate(line):
        if character in "[{":
            begin = begin if depth else place
            depth += 1
        elif character in "]}" and depth:
            depth -= 1
            if depth == 0:
                spans.append((begin, place + 1))
    return spans


class GaincellError(Exception):
    """Base of everything gaincell refuses on purpose; catch this one to catch them all."""

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class DesignError(GaincellError):
    """A design or device file, or a change made to a design, is not acceptable."""


class InputError(GaincellError):
    """An argument, a text or a tensor given to gaincell is not acceptable."""


class ModelError(GaincellError):
    """A model cannot be found, read, or mapped onto gain-cell attention."""


class RunError(GaincellError):
    """A RUN directory cannot be written, read, or does not fit the model it was made from."""


class UncalibratedWarning(UserWarning):
    """An attached model computed with the gains and offsets that `gaincell.attach` begins with."""


class SimulationError(GaincellError):
    """A circuit simulation cannot be started, was stopped, or gave no usable result."""
