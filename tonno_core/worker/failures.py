"""Exceptions as ``error`` events: the kind, what was wrong, what to do next."""

from __future__ import annotations

import errno
import platform
import sys
import traceback
from dataclasses import dataclass, field

from tonno_core.errors import TonnoError, first_line, is_out_of_memory
from tonno_core.protocol import ProtocolError

_NO_SPACE = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_ARCHITECTURE_WORDS = (
    "no kernel image is available",
    "invalid device function",
    "not compatible with the current PyTorch",
)


class NoTorch(Exception):
    """Says that torch is missing, or there and broken."""


class MissingPackage(Exception):
    """Says that another package of the engine is missing or broken."""


class NotKept(Exception):
    """Says that the kept projections cannot give a refinement."""


class StoppedEarly(NotKept):
    """Says that a refinement is of a run that was stopped and can be resumed.

    Args:
        directions: The directions that are done.
        planned: The directions of the whole run.
    """

    def __init__(self, directions: int, planned: int) -> None:
        super().__init__(f"the last run was stopped at {directions} of {planned} directions")
        self.extent = {"directions": directions, "planned": planned}


@dataclass(frozen=True)
class Failure:
    """The content of an ``error`` event.

    Attributes:
        kind: The kind of error, as docs/worker.md lists them.
        message: What was wrong, in one line.
        next: What to do about it.
        extent: ``directions`` and ``planned`` of a run that can be resumed; empty otherwise.
    """

    kind: str
    message: str
    next: str
    extent: dict[str, int] = field(default_factory=dict)

    def fields(self) -> dict[str, str | int]:
        """Return the event's fields.

        Returns:
            Strings, and the numbers of `extent`.
        """
        return {"kind": self.kind, "message": self.message, "next": self.next, **self.extent}


def failure_of(error: BaseException) -> Failure:
    """Say in an event's words why a request failed. The traceback of a bug goes to the log.

    Args:
        error: What the request raised.

    Returns:
        The kind, a message of one line, and the next step.
    """
    text = first_line(error)
    if isinstance(error, NoTorch):
        return Failure(
            "no-torch",
            f"PyTorch cannot be used in this Python {platform.python_version()} ({text})",
            "Install PyTorch (in Slicer: module PyTorch Util, which first removes a broken one), then start again",
        )
    if isinstance(error, MissingPackage):
        return Failure("missing-package", f"a package is missing or broken ({text})", "Install it, then start again")
    if isinstance(error, StoppedEarly):
        return Failure("not-kept", text, "Resume it, or run Reconstruct", error.extent)
    if isinstance(error, NotKept):
        return Failure("not-kept", text, "Run Reconstruct with these settings")
    if isinstance(error, ProtocolError):
        return Failure("protocol", text, "Use the module and the engine of the same version")
    if is_out_of_memory(error):
        return Failure(
            "out-of-memory",
            "the device has not enough memory, even for the smallest batch",
            "Close other programs that use it; choose `preset` fast, or `device` cpu",
        )
    cause = error.__cause__ if isinstance(error, TonnoError) else error
    if isinstance(cause, OSError) and cause.errno in _NO_SPACE:
        return Failure("disk-full", f"a result could not be written ({cause.strerror})", "Free space, then start again")
    if isinstance(error, RuntimeError) and any(word in str(error) for word in _ARCHITECTURE_WORDS):
        return Failure(
            "gpu-architecture",
            f"this PyTorch has no code for the graphics card ({text})",
            "Choose `device` cpu, or install a PyTorch build for this card",
        )
    if isinstance(error, TonnoError):
        return Failure("user", str(error), "Change what the message names, then start again")
    traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
    return Failure("internal", f"{type(error).__name__}: {text}", "Start again; if it comes back, send the log")
