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
