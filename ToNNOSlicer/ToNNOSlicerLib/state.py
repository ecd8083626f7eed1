"""What the panel shows: a frozen value that the session makes and the sections render."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tonno_core.output import Json
from ToNNOSlicerLib import worklist
from ToNNOSlicerLib.logic.compare import Change
from ToNNOSlicerLib.logic.results import Result
from ToNNOSlicerLib.models import Model
from ToNNOSlicerLib.run import Progress

ERROR, NOTE, DONE = "error", "note", "done"
# What the module is busy with.
IDLE, RUNNING, INSTALLING, EXPORTING = "", "run", "install", "export"


@dataclass(frozen=True)
class Message:
    """What the panel tells the user.

    Attributes:
        kind: ERROR, NOTE or DONE.
        text: What has happened.
        nextStep: What to do about it, or empty.
    """

    kind: str
    text: str
    nextStep: str = ""


@dataclass(frozen=True)
class Comparison:
    """Compares the result that is shown with that of another time.

    Attributes:
        priorName: The name of the earlier result.
        changes: The changes, finding by finding.
        sentence: A summary.
        notes: Reasons for caution.
    """

    priorName: str
    changes: tuple[Change, ...]
    sentence: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """Holds everything that the sections render.

    Attributes:
        parameters: The parameter node with the user's choices; None while there is no scene.
        models: The models that can be chosen.
        model: The chosen model, or None.
        devices: The devices as the engine described them.
        python: Path of the chosen interpreter; None for Slicer's.
        expectedS: Expected duration of a run in seconds, or None.
        progress: The progress of the run.
        isPreview: Whether the views show the heatmap of a run that has not ended.
        result: The result that is shown and exported, or None.
        threshold: The result's threshold; while the slider is dragged, the slider's value.
        isDragging: Whether the slider is being dragged.
        selected: Index of the selected finding, -1 for none.
        sentence: A summary of the result.
        notes: Reasons for caution with the result.
        canUndo: Whether the last change of the segment can be undone.
        canRedo: Whether the change that was undone last can be made again.
        comparison: The result compared with an earlier one, or None.
        message: What the panel tells the user, or None.
        status: A line for the status, or empty.
        busy: IDLE, RUNNING, INSTALLING or EXPORTING.
        share: The fraction of the export that is done, 0 to 1.
        worklist: The state of the worklist.
        case: The open case of the worklist, or None.
    """

    parameters: Any = None
    models: tuple[Model, ...] = ()
    model: Model | None = None
    devices: tuple[Json, ...] = ()
    python: str | None = None
    expectedS: float | None = None
    progress: Progress = field(default_factory=Progress)
    isPreview: bool = False
    result: Result | None = None
    threshold: float = 0.0
    isDragging: bool = False
    selected: int = -1
    sentence: str = ""
    notes: tuple[str, ...] = ()
    canUndo: bool = False
    canRedo: bool = False
    comparison: Comparison | None = None
    message: Message | None = None
    status: str = ""
    busy: str = IDLE
    share: float = 0.0
    worklist: worklist.State = field(default_factory=worklist.State)
    case: worklist.Case | None = None

    @property
    def isIdle(self) -> bool:
        """Whether a run can begin; an export does not prevent it."""
        return self.busy in (IDLE, EXPORTING)
