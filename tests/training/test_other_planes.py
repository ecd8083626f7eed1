"""Thresholds for the planes of presets, against heatmaps made one by one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.networks import random_network, spec_of
from tests.runs import executed
from tests.training.toy import toy_scan
from tonno_core.bundle import calibration
from tonno_core.bundle.decide import Run
from tonno_core.bundle.file import Bundle
from tonno_core.bundle.ready import prepare_model
from tonno_core.settings import PRESETS, ReconstructionSettings, Variant, model_defaults
from tonno_core.training import calibration as choosing
from tonno_core.training import look as looking
from tonno_core.training.calibration import FLOOR_QUANTILE
from tonno_core.training.look import Look
from tonno_core.training.other_planes import COMPARED_VOLUMES, measure_other_planes
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.io import read_volume, write_volume

OWN = {"slices": 12, "directions": 6}
SETTINGS = ReconstructionSettings(**OWN)
QUANTILE = 0.75
# The untrained network sees more in the scans without a lesion, which are the positive ones here.
LABELS = (1, 0, 1, 0, 1, 0)
POSITIVE, NEGATIVE = (0, 2, 4), (1, 3, 5)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, int]]:
    folder = tmp_path_factory.mktemp("scans")
    cases = [(folder / f"{index}.nii.gz", label) for index, label in enumerate(LABELS)]
    for index, (path, label) in enumerate(cases):
        write_volume(toy_scan(index, 1 - label), path)
    return cases


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "CALIBRATED_PRESETS", ("fast", "balanced"))
    monkeypatch.setitem(PRESETS, "fast", {"slices": 8, "directions": 4})
    monkeypatch.setitem(PRESETS, "balanced", OWN)


def bundle_with(thresholds: dict[str, float], **settings: Any) -> Bundle:
    """A random network, calibrated with the planes of `OWN` at stage 2."""
    planes = {**OWN, "lattice": "hemisphere", "frame": "physical", "stage": 2, **settings}
    records = {
        key: {"threshold": value, "volume_quantile": QUANTILE, "settings": planes} for key, value in thresholds.items()
    }
    network = random_network("test_resnet", classes=2)
    spec = spec_of(
        "test_resnet", classes=("a", "b"), intensity="zscore", defaults=model_defaults(**OWN), thresholds=records
    )
    return Bundle(spec, network.state_dict(), Path("random"))


def measure(bundle: Bundle, scans: list[tuple[Path, int]], **options: Any) -> dict[str, dict[str, Any]]:
    return measure_other_planes(bundle, scans, SETTINGS, Look("cpu", "float32", progress=False), **options)


def foreground_of(bundle: Bundle, index: int, planes: dict[str, int], class_name: str = "a") -> Any:
    """The Matched CAM of a scan, its foreground voxels."""
    scan = toy_scan(index, LABELS[index])
    settings = ReconstructionSettings(**planes, class_name=class_name)
    variants = {"it": Variant("matched-cam", (2,))}
    result = executed(scan, bundle, settings, variants=variants)
    return result.heatmaps["it"].array[foreground_mask(scan) & result.inside]


@pytest.fixture(scope="module")
def foregrounds() -> dict[str, list[Any]]:
    """The foreground voxels of all scans' Matched CAMs with the model's own planes and with the preset's."""
    network = bundle_with({})
    planes = {"own": OWN, "fast": {"slices": 8, "directions": 4}}
    made: dict[str, list[Any]] = {}
    for name, chosen in planes.items():
        settings = ReconstructionSettings(**chosen, class_name="a")
        ready = prepare_model(network, settings, "cpu", "float32")
        for index, label in enumerate(LABELS):
            scan = toy_scan(index, 1 - label)
            result = executed(scan, ready, settings, variants={"it": Variant("matched-cam", (2,))})
            inside = foreground_mask(scan) & result.inside
            made.setdefault(name, []).append(result.heatmaps["it"].array[inside])
    return made


@pytest.mark.parametrize("share", [0.1, 0.999])
def test_a_threshold_leaves_as_many_voxels_as_the_models_own_planes_do(
    share: float, scans: list[tuple[Path, int]], foregrounds: dict[str, list[Any]]
) -> None:
    own, fast = foregrounds["own"], foregrounds["fast"]
    value = float(np.quantile(np.concatenate([own[i] for i in POSITIVE]), share))
    found = measure(bundle_with({"matched-cam": value}), scans)
    assert set(found) == {"matched-cam"}
    record = found["matched-cam"]
    assert record["threshold"] == value  # that of the model's own planes stays
    (other,) = record["other_planes"]  # the preset balanced has just those
    voxels = {i: int((own[i] >= value).sum()) for i in POSITIVE}
    equal = float(np.median([np.sort(fast[i])[-voxels[i]] for i in POSITIVE if voxels[i]]))
    negatives = float(np.quantile([fast[i].max() for i in NEGATIVE], QUANTILE))
    # With a low threshold the negative volumes ask for more; with a high one they do not.
    assert (equal > negatives) == (share > 0.9)
    # float32 through the network in other company, as in the tests of the calibration.
    assert other["threshold"] == pytest.approx(max(negatives, equal), rel=1e-3)
    assert other["negatives_threshold"] == pytest.approx(negatives, rel=1e-3)
    floors = [np.quantile(fast[i], FLOOR_QUANTILE) for i in NEGATIVE]
    assert other["noise_floor"] == pytest.approx(np.mean(floors), rel=1e-3)
    assert (other["negative_volumes"], other["positive_volumes"]) == (3, sum(map(bool, voxels.values())))
    assert other["settings"] == {"slices": 8, "directions": 4, "lattice": "hemisphere", "frame": "physical"}


def test_without_positive_volumes_it_is_the_models_own_or_what_negatives_ask_for(
    scans: list[tuple[Path, int]], foregrounds: dict[str, list[Any]]
) -> None:
    negative = [scans[i] for i in NEGATIVE]
    negatives = float(np.quantile([foregrounds["fast"][i].max() for i in NEGATIVE], QUANTILE))
    for value, expected in ((2 * negatives, 2 * negatives), (negatives / 2, negatives)):
        found = measure(bundle_with({"matched-cam": value}), negative)
        (other,) = found["matched-cam"]["other_planes"]
        assert other["threshold"] == pytest.approx(expected, rel=1e-3)
        assert other["positive_volumes"] == 0


def test_only_methods_whose_planes_are_others_are_looked_at(
    scans: list[tuple[Path, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "fast", {**OWN, "directions": 4})
    bundle = bundle_with({"tonno": 1.0, "slicewise-cam": 1.0, "center": 1.0, "tonno/b": 1.0})
    found = measure(bundle, scans[:2])  # of the first class
    assert {key: len(record.get("other_planes", [])) for key, record in found.items()} == {
        "tonno": 1, "slicewise-cam": 0, "center": 0,
    }  # fmt: skip
    # What was calibrated with other planes than the model's is not what these would be compared with.
    bundle = bundle_with({"tonno": 1.0}, slices=99)
    assert measure(bundle, scans[:2]) == bundle.spec.thresholds
    # Without negative volumes there is no noise to measure.
    bundle = bundle_with({"tonno": 1.0})
    assert measure(bundle, scans[:1]) == bundle.spec.thresholds


def test_a_few_positive_volumes_are_enough(scans: list[tuple[Path, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(looking, "read_volume", lambda path, **how: read.append(path) or read_volume(path, **how))
    cases = [scans[1], *[scans[0]] * (COMPARED_VOLUMES + 3)]
    found = measure(bundle_with({"tonno": 0.0}), cases)
    assert len(read) == 1 + COMPARED_VOLUMES
    assert found["tonno"]["other_planes"][0]["positive_volumes"] <= COMPARED_VOLUMES


def test_what_the_calibration_projected_is_not_projected_again(
    scans: list[tuple[Path, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, settings = bundle_with({}), ReconstructionSettings(methods=("matched-cam", "slicewise-cam"), **OWN)
    monkeypatch.setattr(choosing, "WEIGHING_VOLUMES", 1)
    look, variants = (
        Look("cpu", "float32", progress=False),
        [Variant("matched-cam", (2,)), Variant("slicewise-cam", (2,))],
    )
    chosen = choosing.calibrate(bundle, scans, settings, choosing.Search(variants), look)
    calibrated = dataclasses.replace(bundle, spec=dataclasses.replace(bundle.spec, thresholds=chosen.thresholds))
    runs: list[Run] = []
    original = choosing.project

    def counted(volume: Any, encoder: Any, run: Run, *rest: Any) -> Any:
        runs.append(run)
        return original(volume, encoder, run, *rest)

    monkeypatch.setattr(choosing, "project", counted)
    found = measure_other_planes(calibrated, scans, settings, look)
    # The preset's planes alone; of the positive volumes not those along S, which are there by now and the same.
    assert {run.asked.slices for run in runs} == {8}
    assert [len(run.variants) for run in runs] == [2, 2, 2, 1, 1, 1]
    runs.clear()
    alone = measure_other_planes(calibrated, scans, settings, Look("cpu", "float32", progress=False))
    assert [run.asked.slices for run in runs] == [8, 8, 8, 12, 8, 12, 8, 12, 8]
    for method, record in found.items():
        (one,), (other,) = record["other_planes"], alone[method]["other_planes"]
        assert one["threshold"] == pytest.approx(other["threshold"], rel=1e-5)  # float32, in other company
