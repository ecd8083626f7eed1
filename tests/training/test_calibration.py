"""What a calibration chooses and stores, against heatmaps made one by one and peaks made up."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.networks import random_network, spec_of
from tests.runs import executed
from tests.training.toy import toy_scan
from tonno_core.bundle.calibration import LEAST_TO_CHOOSE
from tonno_core.bundle.decide import decide
from tonno_core.bundle.file import Bundle
from tonno_core.bundle.ready import prepare_model
from tonno_core.reconstruction import execute
from tonno_core.segmentation.metrics import dice
from tonno_core.settings import ReconstructionSettings, Variant, model_defaults
from tonno_core.training import calibration
from tonno_core.training import look as looking
from tonno_core.training.calibration import FLOOR_QUANTILE, SHARE_OF_VOLUMES, Calibration, Search, calibrate
from tonno_core.training.candidates import default_candidates
from tonno_core.training.look import Look
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.io import write_volume
from tonno_core.volume.volume import Volume

QUIETLY = Look("cpu", "float32", progress=False)
SETTINGS = ReconstructionSettings(methods=("tonno", "matched-cam"), slices=10, directions=6)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, int]]:
    """Three negative and two positive scans."""
    folder = tmp_path_factory.mktemp("scans")
    cases = [(folder / f"{index}.nii.gz", label) for index, label in enumerate((0, 1, 0, 1, 0))]
    for index, (path, label) in enumerate(cases):
        write_volume(toy_scan(index, label), path)
    return cases


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    network = random_network("resnet10t", classes=2)
    return Bundle(spec_of(classes=("a", "b"), intensity="zscore"), network.state_dict(), Path("random"))


def run(bundle: Bundle, cases: list[tuple[Path, int]], **options: Any) -> Calibration:
    search = Search(candidates=options.pop("candidates", None), stages=options.pop("stages", ()))
    return calibrate(bundle, cases, options.pop("settings", SETTINGS), search, QUIETLY, **options)


def test_records_are_the_peaks_and_floors_of_each_candidate(bundle: Bundle, scans: list[tuple[Path, int]]) -> None:
    candidates = [
        Variant("matched-cam", (1,)), Variant("tonno"), Variant("matched-cam", smooth_mm=6.0),
        Variant("slicewise-cam", (2,)), Variant("center"),
    ]  # fmt: skip
    found = run(bundle, scans, candidates=candidates, class_index=1)
    peaks, floors = np.zeros((5, len(candidates))), np.zeros((5, len(candidates)))
    settings = dataclasses.replace(SETTINGS, class_name="b")
    ready = prepare_model(bundle, settings, "cpu", "float32")
    for row, (_, label) in enumerate(scans):
        scan = toy_scan(row, label)
        for column, one in enumerate(candidates):
            result = executed(scan, ready, settings, variants={"it": one})
            values = result.heatmaps["it"].array[foreground_mask(scan) & result.inside]
            peaks[row, column], floors[row, column] = values.max(), np.quantile(values, FLOOR_QUANTILE)
    negative = np.array([label == 0 for _, label in scans])
    assert [record["class"] for record in found.records] == ["b"] * 5
    for column, (one, record) in enumerate(zip(candidates, found.records, strict=True)):
        stage = 3 if column == 2 else one.record()["stage"]  # decided: the last but one
        assert {name: record[name] for name in one.record()} == one.record() | {"stage": stage}
        # float32 through the network in other company, as in the tests of the reconstruction.
        threshold = np.quantile(peaks[negative, column], SHARE_OF_VOLUMES)
        assert record["threshold"] == pytest.approx(threshold, rel=1e-3)
        assert record["noise_floor"] == pytest.approx(floors[negative, column].mean(), rel=1e-3)
        wins = np.greater.outer(peaks[~negative, column], peaks[negative, column])
        draws = np.equal.outer(peaks[~negative, column], peaks[negative, column])
        assert record["auc"] == pytest.approx((wins + draws / 2).mean())


def test_the_choice_is_stored_with_all_that_moves_the_threshold(
    bundle: Bundle, scans: list[tuple[Path, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "LEAST_TO_CHOOSE", 2)
    found = run(bundle, scans, class_index=1)
    assert set(found.thresholds) == {"tonno/b", "matched-cam/b"}  # not of the bundle's first class
    tried = default_candidates(bundle, SETTINGS)
    assert [{name: one[name] for name in tried[0].record()} for one in found.records[: len(tried)]] == [
        one.record() for one in tried
    ]
    for method in SETTINGS.methods:
        record = found.thresholds[f"{method}/b"]
        assert (record["negative_volumes"], record["positive_volumes"]) == (3, 2)
        assert record["agreement"] == max(one["agreement"] for one in found.records if one["method"] == method)
        assert record["chosen_by"] == "agreement"
        assert (record["settings"]["slices"], record["settings"]["directions"]) == (10, 6)
        # With it the bundle makes this variant, and finds its threshold.
        spec = dataclasses.replace(bundle.spec, thresholds=found.thresholds, calibration=found.records)
        made = spec.choices.variant(method, dataclasses.replace(SETTINGS, class_name="b"))
        candidate = spec.choices.tried_variants("b")[made]
        assert candidate["threshold"] == record["threshold"]
        assert candidate["auc"] == record["auc"]


def test_neighbouring_stages_are_added_up_each_as_much_as_its_noise_is_weak(
    bundle: Bundle, scans: list[tuple[Path, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "WEIGHING_VOLUMES", 2)  # of the three negatives
    methods = ("averaged-cam", "slicewise-cam")
    settings = dataclasses.replace(SETTINGS, methods=(*methods, "tonno"), smooth_mm=0.0)
    found = run(bundle, scans, settings=settings, stages=(4, 1, 3))
    pairs = [(1, 3), (3, 4)]
    added = [one for one in found.records if isinstance(one["stage"], str)]
    assert [(one["method"], one["stage"]) for one in added] == [
        (method, f"{a}+{b}") for method in methods for a, b in pairs
    ]
    assert {one["stage"] for one in found.records if one not in added} == {None, 1, 3, 4}
    variants = {f"{method} {stage}": Variant(method, (stage,)) for method in methods for stage in (1, 3, 4)}
    seen = []
    asked = dataclasses.replace(settings, class_name="a")
    ready = prepare_model(bundle, asked, "cpu", "float32")
    for row in range(5):
        scan = toy_scan(row, scans[row][1])
        result = executed(scan, ready, asked, variants=variants)
        where = foreground_mask(scan) & result.inside
        seen.append({name: one.array[where] for name, one in result.heatmaps.items()})
    negative = [one for one, (_, label) in zip(seen, scans, strict=True) if not label]
    for record in added:
        a, b = (f"{record['method']} {stage}" for stage in record["stage"].split("+"))
        floors = [np.mean([np.quantile(one[name], FLOOR_QUANTILE) for one in negative[:2]]) for name in (a, b)]
        first = (1 / floors[0]) / (1 / floors[0] + 1 / floors[1])
        # float32 through the network in other company, as above.
        assert record["weights"] == pytest.approx((first, 1 - first), rel=1e-3)
        one, other = record["weights"]
        peaks = [(one * values[a] + other * values[b]).max() for values in negative]
        assert record["threshold"] == pytest.approx(np.quantile(peaks, SHARE_OF_VOLUMES), rel=1e-3)


def test_each_volume_is_projected_once_unless_there_is_no_memory_for_those_that_weigh(
    bundle: Bundle, scans: list[tuple[Path, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(SETTINGS, methods=("averaged-cam",), smooth_mm=5.0)
    projected, original = [], calibration.foreground_of
    monkeypatch.setattr(calibration, "foreground_of", lambda *given: projected.append(1) or original(*given))
    found = run(bundle, scans, settings=settings, stages=(3, 4))
    assert len(projected) == len(scans)
    assert [one["stage"] for one in found.records] == [3, 4, "3+4"]
    monkeypatch.setattr(looking, "HELD_BYTES", 0)
    again = run(bundle, scans, settings=settings, stages=(3, 4))
    assert len(projected) == len(scans) + len(scans) + 3  # negatives
    for one, other in zip(found.records, again.records, strict=True):
        assert one["threshold"] == pytest.approx(other["threshold"], rel=1e-5)  # float32, in other company


def test_what_was_kept_of_another_way_to_measure_agreement_is_measured_anew(
    bundle: Bundle, scans: list[tuple[Path, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(SETTINGS, methods=("tonno",), slices=6, directions=4)
    measured, original = [], calibration.foreground_of
    monkeypatch.setattr(calibration, "foreground_of", lambda scan, *given: measured.append(1) or original(scan, *given))
    found = []
    # What an earlier build kept has no such mark at all, and may serve for negatives, whose numbers are the same.
    for mark, expected in ((1, 5), (1, 5), (2, 7)):
        monkeypatch.setattr(calibration, "AGREEMENT", mark)
        look, search = dataclasses.replace(QUIETLY, kept=tmp_path / "kept"), Search(candidates=[Variant("tonno")])
        found.append(calibrate(bundle, scans, settings, search, look))
        assert len(measured) == expected
    assert found[0] == found[1] == found[2]


def test_nothing_is_added_up_where_there_is_no_noise_to_weigh_by(
    bundle: Bundle, peaks: dict[Variant, tuple[float, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks.update({A: (0.0, 1.0, 2.0, 3.0), B: (0.0, 1.0, 2.0, 3.0)})  # their floors are - 1
    monkeypatch.setattr(calibration, "default_candidates", lambda *_, **__: [A, B])
    found = run(bundle, [(Path(str(index)), label) for index, label in enumerate(LABELS)])
    assert [one["stage"] for one in found.records] == [1, 2]


def test_default_candidates_are_the_default_and_then_the_ladder() -> None:
    network = random_network("resnet10t")
    defaults = model_defaults(stage=2, filter="gaussian")
    bundle = Bundle(spec_of(defaults=defaults), network.state_dict(), Path("random"))
    methods = ("matched-cam", "averaged-cam", "tonno", "slicewise-cam", "tomographic-cam", "center")
    found = default_candidates(bundle, dataclasses.replace(SETTINGS, methods=methods))
    counts = {method: sum(one.method == method for one in found) for method in methods}
    # Each with 4 widths: 4 stages x 2 filters x 3 sigmas; 4 stages; 2 filters; 4 stages; 4 stages x 2 filters. Where a
    # filter matters the default, with its own, comes to it. The centre has nothing to choose.
    assert list(counts.values()) == [97, 16, 9, 16, 33, 1]
    assert len(set(found)) == len(found)
    assert found[0] == Variant("matched-cam", (2,), "gaussian")
    assert all(one == one for one in found)
    # What was asked for is not up for choice.
    asked = dataclasses.replace(SETTINGS, stages=(3,), smooth_mm=5.0, sigma_scale=1.5)
    assert default_candidates(bundle, asked) == [
        *(Variant("tonno", filter=kind, smooth_mm=5.0) for kind in ("gaussian", "second-difference", "hann")),
        *(Variant("matched-cam", (3,), kind, 1.5, 5.0) for kind in ("gaussian", "second-difference", "hann")),
    ]


def test_stages_without_maps_are_no_candidates() -> None:
    network = random_network("vit_tiny_patch16_224", size=32)
    bundle = Bundle(spec_of("vit_tiny_patch16_224"), network.state_dict(), Path("random"))
    found = default_candidates(bundle, dataclasses.replace(SETTINGS, methods=("averaged-cam",)))
    assert {one.stages for one in found} == {(stage,) for stage in range(1, 12)}
    assert found[0].stages == (11,)


# -------------------- the choice, where blur tells best whether, and not where


def findings(index: int, label: int) -> tuple[Volume, np.ndarray]:
    """A noisy ball, with label 1 a finding of 2 to 3 voxels' radius in it; and where that is.

    The first has a speck that is brighter than a finding and much smaller: only a sharp heatmap mistakes it for one.
    """
    rng = np.random.default_rng(index)
    zyx = np.stack(np.mgrid[-8:8, -8:8, -8:8]) + 0.5
    truth = (np.square(zyx - rng.uniform(-3, 3, (3, 1, 1, 1))).sum(0) < rng.uniform(2, 3) ** 2) & (label > 0)
    array = 1.0 * truth + 0.15 * rng.normal(size=truth.shape)
    if index == 0:
        array[8, 8, 8] += 18.0
    array[np.square(zyx).sum(0) >= 60] = 0.0
    return Volume(array.astype(np.float32), np.diag([4.0, 4.0, 4.0, 1.0])), truth


def test_the_sharp_variant_is_chosen_where_a_blurred_one_has_the_higher_auc(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The means of slices are all that the model sees, so that ToNNO's heatmap is the volume itself.
    model = prepare_model("pixel-sum", SETTINGS, "cpu", "float32")
    monkeypatch.setattr(calibration, "prepare_model", lambda *_: model)
    spec = dataclasses.replace(bundle.spec, classes=model.encoder.classes)
    settings = ReconstructionSettings(methods=("tonno",), slices=16, directions=48, frame="normalized")
    cases = [(tmp_path / f"{index}.nii.gz", int(index >= 20)) for index in range(26)]
    for index, (path, label) in enumerate(cases):
        write_volume(findings(index, label)[0], path)
    sharp, blurred = Variant("tonno", smooth_mm=4.0), Variant("tonno", smooth_mm=8.0)
    found = run(dataclasses.replace(bundle, spec=spec), cases, settings=settings, candidates=[blurred, sharp])
    by_width = {one["smooth_mm"]: one for one in found.records}
    assert by_width[8.0]["auc"] == 1.0 > by_width[4.0]["auc"] > 0.9
    overlap: dict[float, list[float]] = {4.0: [], 8.0: []}
    for index in (20, 21):
        scan, truth = findings(index, 1)
        made = execute(scan, model.encoder, decide(settings, model, variants={"4": sharp, "8": blurred}))
        for width, values in overlap.items():
            values.append(dice(made.heatmaps[f"{width:g}"].array >= by_width[width]["threshold"], truth))
    assert np.mean(overlap[4.0]) > 0.7 > 0.55 > np.mean(overlap[8.0])
    assert by_width[4.0]["agreement"] > by_width[8.0]["agreement"]
    record = found.thresholds["tonno"]
    assert (record["settings"]["smooth_mm"], record["chosen_by"]) == (4.0, "agreement")
    assert record["agreement"] == by_width[4.0]["agreement"]
    # Where agreement is best, masks are better still than at what the negatives ask for.
    best = []
    for index in (20, 21):
        scan, truth = findings(index, 1)
        made = execute(scan, model.encoder, decide(settings, model, variants={"it": sharp})).heatmaps["it"].array
        best.append(dice(made >= record["agreement_threshold"], truth))
    assert np.mean(best) > np.mean(overlap[4.0])


# -------------------- the choice, on peaks made up

A, B, C = (Variant("averaged-cam", (stage,)) for stage in (1, 2, 3))
LABELS = (0, 0, 1, 1)


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> Iterator[dict[Variant, tuple[float, ...]]]:
    """By variant the peaks of four volumes, to be filled in; no heatmap is made."""
    made_up: dict[Variant, tuple[float, ...]] = {}

    class Read:
        """In place of a foreground: the number of the volume."""

        nbytes = 0

        def __init__(self, volume: int) -> None:
            self.volume = volume

    def values(read: Read, variants: dict[str, Variant], watched: Any) -> dict[str, tuple[float, float]]:
        return {name: (made_up[variant][read.volume], -1.0) for name, variant in variants.items()}

    def without_agreement(read: Read, variants: dict[str, Variant], watched: Any) -> dict[str, tuple[float]]:
        return {name: (made_up[variant][read.volume],) for name, variant in variants.items()}

    monkeypatch.setattr(calibration, "LEAST_TO_CHOOSE", 1)
    monkeypatch.setattr(Look, "read", lambda look, path, run: Read(int(path.name)))
    monkeypatch.setattr(calibration, "foreground_of", lambda scan, *_: scan)
    monkeypatch.setattr(calibration, "peaks_and_floors", values)
    monkeypatch.setattr(calibration, "peaks_and_agreements", without_agreement)
    yield made_up


def chosen(bundle: Bundle, peaks: dict[Variant, tuple[float, ...]], labels: tuple[int, ...] = LABELS) -> dict[str, Any]:
    cases = [(Path(str(index)), label) for index, label in enumerate(labels)]
    found = run(bundle, cases, candidates=list(peaks))
    assert [record["stage"] for record in found.records] == [one.record()["stage"] for one in peaks]
    return found.thresholds["averaged-cam"]


def test_the_highest_auc_wins(bundle: Bundle, peaks: dict[Variant, tuple[float, ...]]) -> None:
    # B ranks all four right, by a hair (separation 1.0); A, better separated (1.4), does not.
    peaks.update({A: (0.0, 2.0, 1.99, 5.0), B: (1.0, 2.0, 2.01, 2.02), C: (3.0, 0.0, 2.0, 2.5)})
    record = chosen(bundle, peaks)
    assert (record["settings"]["stage"], record["auc"]) == (2, 1.0)
    assert record["threshold"] == pytest.approx(1.95)  # 95 % of the way from 1 to 2
    assert record["noise_floor"] == -1.0


WELL, FAIRLY, BADLY = (0.0, 1.0, 2.0, 3.0), (0.0, 2.0, 1.0, 3.0), (2.0, 3.0, 0.0, 1.0)  # AUC 1, 3/4, 0


@pytest.mark.parametrize(
    ("single", "both", "found"),
    [
        (WELL, WELL, "1+2"),
        (WELL, FAIRLY, 1),  # an AUC of 1 has no error
        (FAIRLY, WELL, "1+2"),
        (FAIRLY, (0.0, 2.0, 1.0, 1.5), "1+2"),  # 1/2, within the 0.26 of four volumes
        (FAIRLY, BADLY, 1),
    ],
)
def test_the_best_stage_and_its_neighbour_are_added_up_unless_that_is_clearly_worse(
    bundle: Bundle,
    peaks: dict[Variant, tuple[float, ...]],
    single: tuple[float, ...],
    both: tuple[float, ...],
    found: int | str,
) -> None:
    peaks.update({A: single, B: BADLY, Variant("averaged-cam", (1, 2), weights=(0.75, 0.25)): both})
    assert chosen(bundle, peaks)["settings"]["stage"] == found


def test_only_sums_of_the_best_stage_single_stages_go_before_it(
    bundle: Bundle, peaks: dict[Variant, tuple[float, ...]]
) -> None:
    smooth = Variant("averaged-cam", (1, 2), smooth_mm=4.0, weights=(0.5, 0.5))
    others = Variant("averaged-cam", (2, 3), weights=(0.5, 0.5))
    peaks.update({A: FAIRLY, B: BADLY, smooth: WELL, others: WELL})
    assert chosen(bundle, peaks)["settings"]["stage"] == 1


def test_the_error_of_an_auc_is_that_of_hanley_and_mcneil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration._Tried, "auc", 0.893)
    # Their example: 58 normal and 51 abnormal images, an area of 0.893 with an error of 0.032.
    tried = calibration._Tried(A, ([0.0] * 58, [1.0] * 51))
    assert tried.auc_error == pytest.approx(0.0325, abs=1e-4)


def guesses(seed: int, volumes: int, variants: int = 97) -> list[calibration._Tried]:
    """Variants of a classifier that has learned nothing: all peaks are chance."""
    rng = np.random.default_rng(seed)
    draws = rng.normal(size=(variants, 2, volumes)).tolist()
    return [
        calibration._Tried(Variant("averaged-cam", (1,), smooth_mm=float(index)), (low, high))
        for index, (low, high) in enumerate(draws)
    ]


def test_the_best_of_a_hundred_guesses_is_told_as_a_guess() -> None:
    chosen, nested = [], []
    for seed in range(6):
        tried = guesses(seed, 6)
        chosen.append(calibration._best(tried).auc)
        nested.append(calibration.nested_auc(tried))
    assert min(area for area in chosen if area is not None) > 0.8  # what was reported
    # 36 pairs of six repetitions, a standard error of the mean of some 0.07.
    assert np.mean([area for area in nested if area is not None]) == pytest.approx(0.5, abs=0.2)


def test_what_tells_all_volumes_apart_stays_so() -> None:
    tried = [calibration._Tried(A, ([0.0, 1.0, 2.0, 0.5, 1.5], [30.0, 31.0, 32.0, 30.5, 31.5])), *guesses(0, 5)[:10]]
    assert calibration.nested_auc(tried) == 1.0
    low, high = calibration.auc_interval(1.0, 5, 5)
    assert (0.5 < low < 0.85, high) == (True, 1.0)  # five and five volumes do not prove it
    assert calibration.auc_interval(1.0, 50, 50)[0] > low
    for end in calibration.auc_interval(0.893, 58, 51):  # 0.810 and 0.941, to the grid's 1/2000
        assert abs(end - 0.893) == pytest.approx(1.96 * calibration.auc_error(end, 58, 51), abs=1e-3)


@pytest.mark.parametrize(("each", "stage"), [(4, 1), (5, 2)])
def test_few_volumes_choose_nothing(
    bundle: Bundle, peaks: dict[Variant, tuple[float, ...]], monkeypatch: pytest.MonkeyPatch, each: int, stage: int
) -> None:
    monkeypatch.setattr(calibration, "LEAST_TO_CHOOSE", LEAST_TO_CHOOSE)
    apart = tuple(float(index) for index in range(2 * each))
    peaks.update({A: apart[::-1], B: apart})
    record = chosen(bundle, peaks, labels=(0,) * each + (1,) * each)
    assert record["settings"]["stage"] == stage
    assert record["chosen_from"] == stage
    assert record["nested_auc"] == record["auc"] == float(stage == 2)


def test_of_equal_aucs_the_larger_separation_wins_then_the_first(
    bundle: Bundle, peaks: dict[Variant, tuple[float, ...]]
) -> None:
    # Differences of 2, 4 and 40; pooled standard deviations of sqrt(0.5), sqrt(0.5) and 10 sqrt(0.5).
    peaks.update({A: (0.0, 1.0, 2.0, 3.0), B: (0.0, 1.0, 4.0, 5.0), C: (0.0, 10.0, 40.0, 50.0)})
    assert chosen(bundle, peaks)["settings"]["stage"] == 2
    peaks[A] = (0.0, 2.0, 8.0, 10.0)  # B's, twice
    assert chosen(bundle, peaks)["settings"]["stage"] == 1
    # No spread within the labels: as far apart as can be, or not at all.
    peaks[C] = (1.0, 1.0, 2.0, 2.0)
    assert chosen(bundle, peaks)["settings"]["stage"] == 3
    peaks.update(dict.fromkeys((A, B, C), (1.0, 1.0, 1.0, 1.0)))
    record = chosen(bundle, peaks)
    assert (record["settings"]["stage"], record["auc"], record["threshold"]) == (1, 0.5, 1.0)


def test_without_positive_volumes_it_is_the_first(bundle: Bundle, peaks: dict[Variant, tuple[float, ...]]) -> None:
    peaks.update({B: (0.0, 1.0, 2.0, 3.0), A: (0.0, 1.0, 1.0, 1.0)})
    record = chosen(bundle, peaks, labels=(0, 0, 0, 0))
    assert (record["settings"]["stage"], record["auc"], record["positive_volumes"]) == (2, None, 0)


def test_without_negative_volumes_there_is_nothing_to_calibrate(bundle: Bundle, scans: list[tuple[Path, int]]) -> None:
    for cases in ([], [case for case in scans if case[1] == 1]):
        assert run(bundle, cases) == Calibration({}, [])
