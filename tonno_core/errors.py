"""The one exception that a user's mistake raises."""

from __future__ import annotations

import re
from collections.abc import Mapping

_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)`")


class TonnoError(Exception):
    """What was wrong, in one line: which file or argument, what was found, what was expected, what to do.

    An argument has its Python name in backquotes, as in a warning: whoever shows it to somebody who typed or clicked
    something else calls `rename`. The command line prints it and exits with status 2; the Slicer module shows it.
    Anything else that escapes is a bug and keeps its traceback.
    """


def rename(message: str, names: Mapping[str, str]) -> str:
    """Name the arguments in a message as its reader knows them.

    Args:
        message: Of an error or a warning, such as "`slice_size` is 7, expected ...".
        names: What stands for an argument, backquotes included: {"slice_size": "--slice-size"}. The others stay.
    """
    return _ARGUMENT.sub(lambda match: names.get(match[1], match[0]), message)


def plain(message: object) -> str:
    """A message without backquotes: what it names is no argument, such as a key of a file."""
    return _ARGUMENT.sub(r"\1", str(message))


def first_line(error: BaseException) -> str:
    """The first line of what a library says, or the error's kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# What torch says where it has no type of its own for it: CPU, MPS, and drivers behind CUDA.
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or what caused it, says that a device's memory, or the machine's, ran out."""
    if error is None:
        return False
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, RuntimeError):
        return any(word in str(error) for word in _MEMORY_WORDS)
    return isinstance(error, TonnoError) and is_out_of_memory(error.__cause__)
