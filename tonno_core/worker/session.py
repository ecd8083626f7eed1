"""Requests, and what the process remembers between them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tonno_core.output import Json
from tonno_core.worker.exports import write_files
from tonno_core.worker.failures import MissingPackage, NoTorch
from tonno_core.worker.job import Job
from tonno_core.worker.requests import ReconstructRequest, RefineRequest

if TYPE_CHECKING:
    from tonno_core.worker.engine import Engine


class Session:
    """Answers requests. The engine starts with the first that needs it."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    def compute(self, job: Job) -> None:
        """Answer a ``reconstruct``, ``refine``, ``resume`` or ``export`` with ``result``.

        Args:
            job: The request.

        Raises:
            Exception: What `failure_of` knows.
        """
        kind, fields = job.fields["type"], job.fields
        if kind == "export":
            write_files(job)
            return
        request = ReconstructRequest.of(fields) if kind == "reconstruct" else RefineRequest.of(fields)
        job.step("loading")
        engine = self._loaded()
        if isinstance(request, ReconstructRequest):
            engine.reconstruct(request, job)
        elif kind == "refine":
            engine.refine(request, job)
        else:
            engine.resume(request, job)

    def describe(self) -> Json:
        """Describe devices and versions.

        Returns:
            The fields of ``description``.
        """
        _import_torch()
        from tonno_core.worker.devices import describe

        return describe()

    def _loaded(self) -> Engine:
        if self._engine is None:
            _import_torch()
            try:
                from tonno_core.worker.engine import Engine
            except (ImportError, OSError) as error:
                raise MissingPackage(str(error)) from error
            self._engine = Engine()
        return self._engine


def _import_torch() -> None:
    """Import torch and use it once: half an installation often fails only then."""
    importlib.invalidate_caches()  # it may have been installed since the process started
    try:
        import torch

        torch.zeros(1).sum()
    except Exception as error:  # ImportError, OSError of a library, AttributeError of an empty folder
        raise NoTorch(f"{type(error).__name__}: {error}") from error
