"""The one exception that a user's mistake raises."""

from __future__ import annotations


class TonnoError(Exception):
    """What was wrong, in one line: which file or option, what was found, what was expected, what to do.

    The command line prints it and exits with status 2; the Slicer module shows it. Anything else that
    escapes is a bug and keeps its traceback.
    """


def first_line(error: BaseException) -> str:
    """The first line of what a library says, or the error's kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
