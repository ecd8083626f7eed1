"""What is said when a run fails: the cause, and the next click."""

from __future__ import annotations

from dataclasses import dataclass

from slicer.i18n import tr as _

from tonno_core.output import Json
from ToNNOSlicerLib.labels import forPanel

_LOG_LINES = 10


@dataclass(frozen=True)
class Failure:
    """Why a run has ended.

    Attributes:
        message: What went wrong.
        nextStep: What to click next.
        log: The last lines of the engine's log.
    """

    message: str
    nextStep: str
    log: tuple[str, ...] = ()


def ofError(event: Json, log: list[str]) -> Failure:
    """Say that the engine refused: what the user can mend in the panel's words, the rest in the engine's.

    Args:
        event: The engine's ``error``.
        log: The lines of the engine's log.

    Returns:
        The failure.
    """
    message, kind = str(event.get("message", "")), str(event.get("kind", "internal"))
    said, step = forPanel(message) if kind == "user" else message, forPanel(str(event.get("next", "")))
    return Failure(said, step, tuple(log[-_LOG_LINES:]))


def ofLostEngine(event: Json) -> Failure:
    """Say that the process has ended, hangs, or speaks garbage.

    Args:
        event: An ``exited``, ``hung`` or ``garbage``.

    Returns:
        The failure.
    """
    message = {
        "exited": _("The engine has ended unexpectedly (exit code {code}).").format(code=event.get("code")),
        "hung": _("The engine does not answer any more and was ended."),
        "garbage": _("The engine does not speak this module's language ({text}).").format(
            text=event.get("message", "")
        ),
    }[event["type"]]
    log = tuple(event.get("log") or ())[-_LOG_LINES:]
    return Failure(message, _("Click Apply: it starts a new engine."), log)


def ofStart(error: OSError) -> Failure:
    """Say that the engine could not be started.

    Args:
        error: What the system says.

    Returns:
        The failure.
    """
    return Failure(
        _("The engine could not be started ({error}).").format(error=error),
        _("Choose a Python interpreter under Engine, or install the packages again."),
    )


def ofWriting(error: Exception) -> Failure:
    """Say that the volume's file could not be written.

    Args:
        error: What the system says.

    Returns:
        The failure.
    """
    return Failure(
        _("The volume could not be handed to the engine ({error}).").format(error=error),
        _("Free space on the disk, then click Apply."),
    )


def ofReading(error: Exception) -> Failure:
    """Say that the result's files could not be read.

    Args:
        error: What the system says.

    Returns:
        The failure.
    """
    message = _("The result cannot be read ({error}).").format(error=error)
    return Failure(message, _("Click Apply to try again."))


def ofRemovedVolume(name: str) -> Failure:
    """Say that the volume was removed during the run.

    Args:
        name: The volume's name.

    Returns:
        The failure.
    """
    return Failure(
        _("The volume {name} was removed from the scene; the run has ended.").format(name=name),
        _("Select another volume."),
    )
