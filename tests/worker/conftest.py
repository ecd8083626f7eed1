"""A process that many tests share, and volumes and models to send it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.analytic import grid_around, make_blobs
from tests.networks import write_random_bundle
from tests.worker.talk import EngineClient, make_client
from tonno_core.volume.volume import Volume


@pytest.fixture(scope="session")
def volume() -> Volume:
    """Six smooth blobs on an oblique, anisotropic, left-handed grid."""
    shape = (24, 30, 36)
    matrix = grid_around((5, -4, 3), shape, (2.0, 2.4, 3.0), turn_degrees=(10, -15, 20), left_handed=True)
    return make_blobs(3, 6, reach=16.0, sigmas=(6.0, 9.0), centre=np.array([5.0, -4.0, 3.0])).on_grid(shape, matrix)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with random weights."""
    thresholds = {"matched-cam": {"threshold": 0.25, "settings": {"filter": "hann"}}}
    return write_random_bundle(tmp_path_factory.mktemp("models") / "random", thresholds=thresholds)


@pytest.fixture(scope="session")
def client() -> Iterator[EngineClient]:
    """One process for all tests that do not harm it."""
    made = make_client()
    yield made
    made.close()
