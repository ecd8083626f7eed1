"""Several classes of a model in one run: each as if it had been asked for alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.analytic import grid_around, make_blobs
from tests.networks import write_random_bundle
from tests.runs import finished, look_at
from tonno_core.bundle.file import load_bundle
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.errors import TonnoError
from tonno_core.reconstruction import run as run_module
from tonno_core.settings import ReconstructionSettings, Variant
from tonno_core.slicing.region import Region

SHAPE = (24, 26, 28)
VOLUME = make_blobs(0, 5, reach=14.0, sigmas=(6.0, 9.0)).on_grid(SHAPE, grid_around((0, 0, 0), SHAPE, (2, 2, 2)))
NAMES = ("third", "first", "second")
SETTINGS = ReconstructionSettings(
    methods=("tonno", "matched-cam", "averaged-cam", "slicewise-cam"), slices=20, directions=12, cam_directions=8
)
# The calibration of each class has chosen otherwise: filters of other reach, maps of other stages.
CHOSEN = {
    "matched-cam": {"threshold": 1.0, "settings": {"stage": 3, "filter": "hann", "sigma_scale": 2.0}},
    "matched-cam/third": {"threshold": 2.0, "settings": {"stage": 2, "filter": "second-difference"}},
    "averaged-cam/second": {"threshold": 3.0, "settings": {"stage": 4, "smooth_mm": 2.0}},
}


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> ReadyModel:
    folder = tmp_path_factory.mktemp("models") / "three"
    write_random_bundle(folder, classes=("first", "second", "third"), thresholds=CHOSEN)
    return prepare_model(load_bundle(folder), SETTINGS, "cpu", "float32")


@pytest.mark.parametrize("region", [None, Region(np.diag([12.0, 14.0, 13.0, 1.0]))])
def test_each_class_is_what_it_is_alone(ready: ReadyModel, region: Region | None) -> None:
    together = look_at(VOLUME, ready, SETTINGS, classes=NAMES, region=region, keep=True)
    assert [each.target.name for each in together] == list(NAMES)
    for each in together:
        settings = replace(SETTINGS, class_name=each.target.name)
        (alone,) = look_at(VOLUME, ready, settings, region=region, keep=True)
        assert dict(each.target.variants) == dict(alone.target.variants)
        found = finished(each, settings)
        expected = finished(alone, settings)
        for name, heatmap in expected.heatmaps.items():
            peak = np.abs(heatmap.array).max()
            errors = np.abs(found.heatmaps[name].array - heatmap.array) / peak
            if region is None:
                # float32: where another class's stage is finer, the graph begins earlier and adds in another order.
                assert errors.max() < 1e-4, (each.target.name, name)
            else:
                # All classes are shown the planes that the one with the widest filter needs; a map's ReLU opens or not
                # by the rounding of the batches (as in tests/worker/test_reconstruct.py).
                assert np.median(errors) < 1e-3 and errors.max() < 0.05, (each.target.name, name)
        if region is None:
            assert found.score == pytest.approx(expected.score, rel=1e-5)
            assert found.explained == pytest.approx(expected.explained, rel=1e-4)
            assert found.slices_total == expected.slices_total


def test_a_plane_goes_through_the_network_once_for_all(ready: ReadyModel) -> None:
    entered: list[int] = []
    stem = next(layer for layer in ready.encoder.model.modules() if isinstance(layer, torch.nn.Conv2d))  # type: ignore[attr-defined]
    hook = stem.register_forward_hook(lambda layer, inputs, output: entered.append(len(inputs[0])))
    counts = []
    for classes in (NAMES, ("third",), NAMES):
        entered.clear()
        look_at(VOLUME, ready, SETTINGS, classes=classes)
        counts.append(sum(entered))
    hook.remove()
    # The first time the network is also asked once at which stages its gradients are constant.
    assert counts[0] >= counts[1] == counts[2]


def test_a_class_that_the_model_does_not_know_is_named(ready: ReadyModel) -> None:
    with pytest.raises(TonnoError, match=r"'fourth' is unknown to this model, expected one of first, second, third"):
        look_at(VOLUME, ready, SETTINGS, classes=("first", "fourth"))


def test_the_memory_for_what_may_be_asked_later_is_shared(ready: ReadyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, methods=("matched-cam",))
    monkeypatch.setattr(run_module, "_KEPT_NUMBERS", 2 * 4 * 20**3)  # all terms of two classes
    later = Variant("matched-cam", (3,), "gaussian")
    for names, kept in ((("first", "second"), True), (("first", "second", "third"), False)):
        assert look_at(VOLUME, ready, settings, classes=names, keep=True)[0].gives(later) is kept
