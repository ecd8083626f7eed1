"""What is said when a run fails: the cause, and the next click."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _

from ToNNOSlicerLib.labels import forPanel

_LOG_LINES = 10


@dataclass(frozen=True)
class Failure:
    """What went wrong, what to click next, and what the log said last."""

    message: str
    nextStep: str
    kind: str = "user"
    log: tuple[str, ...] = ()


def ofError(event: dict[str, Any], log: list[str]) -> Failure:
    """The engine refused. What the user can mend is said in the panel's words, the rest in the engine's own."""
    message, kind = str(event.get("message", "")), str(event.get("kind", "internal"))
    said, step = forPanel(message) if kind == "user" else message, forPanel(str(event.get("next", "")))
    return Failure(said, step, kind, tuple(log[-_LOG_LINES:]))


def ofLostEngine(event: dict[str, Any]) -> Failure:
    """The process has ended, hangs, or speaks garbage."""
    message = {
        "exited": _("The engine has ended unexpectedly (exit code {code}).").format(code=event.get("code")),
        "hung": _("The engine does not answer any more and was ended."),
        "garbage": _("The engine does not speak this module's language ({text}).").format(
            text=event.get("message", "")
        ),
    }[event["type"]]
    log = tuple(event.get("log") or ())[-_LOG_LINES:]
    return Failure(message, _("Click Apply: it starts a new engine."), event["type"], log)


def ofStart(error: OSError) -> Failure:
    return Failure(
        _("The engine could not be started ({error}).").format(error=error),
        _("Choose a Python interpreter under Engine, or install the packages again."),
        "no-engine",
    )


def ofWriting(error: Exception) -> Failure:
    return Failure(
        _("The volume could not be handed to the engine ({error}).").format(error=error),
        _("Free space on the disk, then click Apply."),
        "disk-full",
    )


def ofReading(error: Exception) -> Failure:
    message = _("The result cannot be read ({error}).").format(error=error)
    return Failure(message, _("Click Apply to try again."), "no-result")


def ofRemovedVolume(name: str) -> Failure:
    return Failure(
        _("The volume {name} was removed from the scene; the run has ended.").format(name=name),
        _("Select another volume."),
        "volume-gone",
    )
