"""What the process remembers between requests, and the requests themselves."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tonno_core.worker.failures import MissingPackage, NoTorch
from tonno_core.worker.job import Job
from tonno_core.worker.requests import ReconstructRequest, RefineRequest

if TYPE_CHECKING:
    from tonno_core.worker.engine import Engine


class Session:
    """Starts the engine when the first request needs it."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    def reconstruct(self, job: Job) -> None:
        """Answer ``result``. Raises what `failure_of` knows."""
        request = ReconstructRequest.of(job.fields)
        job.step("loading")
        self._loaded().reconstruct(request, job)

    def refine(self, job: Job) -> None:
        """Answer ``result`` from the last projections."""
        request = RefineRequest.of(job.fields)
        job.step("loading")
        self._loaded().refine(request, job)

    def describe(self) -> dict[str, Any]:
        """The fields of ``description``."""
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
