"""Requests, and what the process remembers between them."""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import TYPE_CHECKING

from tonno_core.imports import uncollected
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

    def load_ahead(self) -> None:
        """Import what a reconstruction needs, before one is asked for; what is missing is told to who asks."""
        with suppress(Exception):
            self._loaded()
            from tonno_core import kernels

            kernels.import_ahead()

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
        engine = self._loaded(request.device if isinstance(request, ReconstructRequest) else None)
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

    def _loaded(self, device: str | None = None) -> Engine:
        """Return the engine. Kernels for the device that is asked for are tested while it is imported."""
        if self._engine is None:
            with uncollected():
                _import_torch()
                if device is not None:
                    _prove_ahead(device)
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


def _prove_ahead(device: str) -> None:
    """Begin the self-tests of kernels if the device is a GPU that has them; a name that is none is refused later."""
    import torch

    from tonno_core import kernels

    with suppress(RuntimeError):
        kernels.prove_ahead(torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device))
