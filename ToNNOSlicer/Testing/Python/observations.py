"""What the stand-ins for Slicer's widgets observe in the scene."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar


class Observations:
    """Observers that are taken away together, at the latest when the host closes."""

    ALL: ClassVar[weakref.WeakSet[Observations]] = weakref.WeakSet()

    def __init__(self) -> None:
        self._tags: list[tuple[Any, int]] = []
        self.ALL.add(self)

    def add(self, subject: Any, event: Any, method: Any, priority: float = 0.0) -> None:
        """method: of a widget, which may die before its observers are taken away."""
        known = weakref.WeakMethod(method)

        def call(*arguments: Any) -> None:
            alive = known()
            if alive is not None:
                alive(*arguments)

        if hasattr(method, "CallDataType"):
            call.CallDataType = method.CallDataType
        self._tags.append((subject, subject.AddObserver(event, call, priority)))

    def clear(self) -> None:
        for subject, tag in self._tags:
            subject.RemoveObserver(tag)
        self._tags = []


def forgetScene() -> None:
    """No widget observes anything any more."""
    for observations in Observations.ALL:
        observations.clear()
