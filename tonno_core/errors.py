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


class TonnoWarning(UserWarning):
    """What whoever reads a result should know, as the command line prints it."""


def rename(message: str, names: Mapping[str, str]) -> str:
    """Name the arguments in a message as its reader knows them.

    Args:
        message: An error or a warning, such as "`slice_size` is 7, expected ...".
        names: What stands for an argument, backquotes included: {"slice_size": "--slice-size"}. The others stay.

    Returns:
        The message with other names.
    """
    return _ARGUMENT.sub(lambda match: names.get(match[1], match[0]), message)


def arguments_in(message: str) -> list[str]:
    """List the arguments that a message names.

    Args:
        message: An error or a warning.

    Returns:
        The names.
    """
    return _ARGUMENT.findall(message)


def plain(message: object) -> str:
    """Remove the backquotes where what a message names is no argument but, say, a key of a file.

    Args:
        message: The message, or an exception with it.

    Returns:
        The message without backquotes.
    """
    return _ARGUMENT.sub(r"\1", str(message))


def one_line(message: object) -> str:
    """Put a message into one line; spaces stay as they are, as names of files may have two in a row.

    Args:
        message: The message, or an exception with it.

    Returns:
        The line.
    """
    return " ".join(line.strip() for line in str(message).splitlines() if line.strip())


def first_line(error: BaseException) -> str:
    """Return the first line of what a library says.

    Args:
        error: The exception.

    Returns:
        The line, or the exception's class where it says nothing.
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def reason_of(error: OSError) -> str:
    """Say why the system refused something, also where a library has raised its error anew with other words.

    Args:
        error: The exception.

    Returns:
        Such as "No space left on device".
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__
    return first_line(error)


# What torch says where it has no type of its own for it: CPU, MPS, and drivers behind CUDA.
_MEMORY_WORDS = (
    "out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED", "unable to find an engine",  # cuDNN, each of whose engines lacked memory for its work
    "could not create a primitive",  # oneDNN
    "can't start new thread",  # Python, for whose stack there is none
    "failed to map segment from shared object",  # the loader, of a library that is imported
)  # fmt: skip


def is_out_of_memory(error: BaseException | None) -> bool:
    """Tell whether an exception, or what caused it, says that the memory of a device or of the machine ran out.

    Args:
        error: The exception; None says nothing.

    Returns:
        Whether it does.
    """
    if error is None:
        return False
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, (RuntimeError, ImportError)):
        return any(word in str(error) for word in _MEMORY_WORDS)
    return isinstance(error, TonnoError) and is_out_of_memory(error.__cause__)
