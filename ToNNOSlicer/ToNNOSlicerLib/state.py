"""What the panel shows: one frozen value, made by the session and rendered by the sections."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ToNNOSlicerLib import worklist
from ToNNOSlicerLib.logic.compare import Change
from ToNNOSlicerLib.logic.results import Result
from ToNNOSlicerLib.models import Model
from ToNNOSlicerLib.run import Progress

ERROR, NOTE, DONE = "error", "note", "done"
# What the module is busy with; "" for nothing.
IDLE, RUNNING, INSTALLING, EXPORTING = "", "run", "install", "export"


@dataclass(frozen=True)
class Message:
    """kind: ERROR, NOTE or DONE. text: what is so. nextStep: what to click, or empty."""

    kind: str
    text: str
    nextStep: str = ""


@dataclass(frozen=True)
class Comparison:
    """The shown result beside an earlier one. changes: finding by finding. sentence: in short. notes: what to mind."""

    priorName: str
    changes: tuple[Change, ...]
    sentence: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """parameters: the choices (the parameter node), None while there is no scene.

    models, model: the list, and the chosen one or None. devices: as the engine described them. python: another
    interpreter, or None. expectedS: seconds that a run would take, None where that is not known. progress: of the run.
    isPreview: whether the views show a heatmap that is still being made. result: what is shown and exported, or None.
    threshold: the result's, or where the slider is dragged to (isDragging). selected: index of a finding, -1 for none.
    sentence: what came out. notes: what to mind about this result. busy: IDLE, RUNNING, INSTALLING, EXPORTING. share:
    of the export that is done, 0 to 1. worklist, case: the studies that are run one after the other, and the open one.
    """

    parameters: Any = None
    models: tuple[Model, ...] = ()
    model: Model | None = None
    devices: tuple[dict[str, Any], ...] = ()
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
        """Whether a run can begin: an export goes on beside it."""
        return self.busy in (IDLE, EXPORTING)
