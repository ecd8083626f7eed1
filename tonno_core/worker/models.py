"""The last model, which stays on its device between requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tonno_core.bundle.file import SPEC_NAME, WEIGHTS_NAME, Bundle
from tonno_core.bundle.ready import PIXEL_SUM, ReadyModel, choices_of_model, load_model, prepare_model
from tonno_core.errors import TonnoError
from tonno_core.settings import ReconstructionSettings
from tonno_core.volume.intensity import by_channel
from tonno_core.worker.requests import ReconstructRequest

_Key = tuple[Any, ...]


class Models:
    """Loads a model when it is another than the last: folder, its files, device, precision, slice size."""

    def __init__(self) -> None:
        self._files: _Key | None = None
        self._loaded: Bundle | str = PIXEL_SUM
        self._key: _Key | None = None
        self._ready: ReadyModel | None = None

    def get(self, request: ReconstructRequest, check: Callable[[], None]) -> tuple[ReadyModel, ReconstructionSettings]:
        """Return the model of a request, and the settings that it makes of the request's options.

        Args:
            request: What is asked.
            check: Raises Cancelled to end it.

        Returns:
            The model on its device, and the settings.

        Raises:
            TonnoError: The model cannot be loaded, or cannot serve the options.
        """
        files = _files(request.model)
        if files is None or files != self._files:
            self.forget()
            check()
            self._loaded = _of_one_channel(load_model(request.model))
            self._files = files
        settings = choices_of_model(self._loaded).settings(request.options, request.preset)
        key = (files, request.device, request.precision, settings.slice_size)
        if self._ready is None or key != self._key:
            self._ready = None  # two at once might not fit
            check()
            self._ready = prepare_model(self._loaded, settings, request.device, request.precision)
            self._key = key
        return self._ready, settings

    def forget(self) -> None:
        """Free the model's memory."""
        self._files = self._key = self._ready = None
        self._loaded = PIXEL_SUM


def _of_one_channel(model: Bundle | str) -> Bundle | str:
    """Refuse a model of volumes of several channels: a request brings one."""
    if isinstance(model, Bundle) and (count := len(by_channel(model.spec.intensity))) > 1:
        raise TonnoError(
            f"`model` {model.path.name}: is for volumes of {count} channels, here a volume has one; use it with "
            "`tonno reconstruct`"
        )
    return model


def _files(model: str) -> _Key | None:
    """What changes when a model's files do; None for what cannot be told, which is then loaded, or refused, anew."""
    if model == PIXEL_SUM:
        return (PIXEL_SUM,)
    try:
        folder = Path(model)
        spec, weights = (folder / SPEC_NAME).read_bytes(), (folder / WEIGHTS_NAME).stat()
        return (model, spec, json.loads(spec)["sha256"], weights.st_size, weights.st_mtime_ns)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
