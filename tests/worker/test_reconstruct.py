"""The real process: results equal to those of a direct call, previews, an early end, refinements, regions."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.analytic import correlation, slope
from tests.networks import write_random_bundle
from tests.worker.talk import EngineClient, Event, answer, box_around, fields, heatmap, relative_error, wait
from tonno_core import load_bundle, reconstruct
from tonno_core.reconstruction import Reconstruction
from tonno_core.segmentation.binarize import otsu_threshold
from tonno_core.settings import Variant, combine
from tonno_core.volume.volume import Volume

ALL_FOUR = ["tonno", "averaged-cam", "tomographic-cam", "matched-cam"]
SMALL = {"slices": 14, "directions": 12, "methods": ALL_FOUR}
ADDED = Variant("averaged-cam", (2, 3), weights=(0.75, 0.25))


def directly(volume: Volume, model: Path, **options: Any) -> Reconstruction:
    """The same by a call in this process."""
    bundle = load_bundle(model)
    settings = combine(defaults=bundle.spec.defaults, explicit=options)
    return reconstruct(volume, bundle, settings, device="cpu", precision="float32")


def test_the_result_is_that_of_a_direct_call(client: EngineClient, volume: Volume, bundle: Path) -> None:
    found = answer(client, client.submit("reconstruct", **fields(client, volume, bundle, options=SMALL)))
    assert found["type"] == "result", found
    expected = directly(volume, bundle, **SMALL)
    for method in ALL_FOUR:
        array = heatmap(found, method)
        assert array.dtype == np.float32
        # The process keeps the terms of a sum apart, so that only rounding differs (1e-6; the second derivative more).
        assert relative_error(array, expected.heatmaps[method].array) < 1e-4, method
        otsu = otsu_threshold(Volume(array, volume.ijk_to_ras), expected.inside)
        assert found["heatmaps"][method]["otsu"] == pytest.approx(otsu)
    np.testing.assert_array_equal(np.load(found["inside"]), expected.inside)
    assert np.load(found["inside"]).dtype == np.uint8
    assert found["score"] == pytest.approx(expected.score, rel=1e-5)
    assert found["explained"] == pytest.approx(expected.explained, rel=1e-4)
    matched = found["heatmaps"]["matched-cam"]
    assert matched["threshold"]["threshold"] == 0.25
    assert matched["variant"]["filter"] == "hann"  # the model's choice for the method
    assert found["heatmaps"]["tonno"]["threshold"] is None
    assert (found["directions"], found["stopped"], found["class_name"]) == (12, False, "finding")
    assert found["slices"] == expected.slices_total == (3 + 12) * 16
    assert found["model"]["sha256"] == load_bundle(bundle).spec.sha256


def test_a_threshold_says_for_which_planes_it_is(client: EngineClient, volume: Volume, tmp_path: Path) -> None:
    other = {"threshold": 0.5, "noise_floor": 0.1, "settings": {"slices": 16, "directions": 4}}
    record = {
        "threshold": 0.25, "noise_floor": 0.05, "settings": {"slices": 24, "directions": 6}, "other_planes": [other],
    }  # fmt: skip
    model = write_random_bundle(tmp_path / "model", thresholds={"tonno": record})

    def threshold(slices: int, directions: int, **more: Any) -> Event:
        options = {"slices": slices, "directions": directions, "methods": ["tonno"]}
        found = answer(client, client.submit("reconstruct", **fields(client, volume, model, options=options, **more)))
        return found["heatmaps"]["tonno"]["threshold"]

    own, small, between = threshold(24, 6), threshold(16, 4), threshold(20, 4)
    assert (own["threshold"], own["source"], own["note"]) == (0.25, "calibrated", "")
    assert (small["threshold"], small["noise_floor"], small["source"]) == (0.5, 0.1, "calibrated")
    assert (small["planes"]["slices"], small["planes"]["directions"]) == (16, 4)
    assert between["source"] == "scaled"
    assert 0.25 < between["threshold"] < 0.5
    assert between["calibrated_planes"]["slices"] in (16, 24)
    zoomed = threshold(16, 4, roi=box_around([5, -4, 3], [15, 15, 15]), zoom=True)
    assert (zoomed["threshold"], zoomed["source"], zoomed["changed"]) == (0.5, "unscaled", ["scale"])


def test_profiles_lie_where_their_planes_do(client: EngineClient, volume: Volume) -> None:
    """Pixel-sum of one bright voxel: each profile has its peak at the voxel's distance along the normal."""
    array = np.zeros_like(volume.array)
    array[:] = 1e-3  # else the ball would be that of one voxel
    array[8, 19, 22] = 100.0
    position = volume.ijk_to_ras[:3] @ [22, 19, 8, 1]
    for frame in ("physical", "normalized"):
        asked = fields(
            client, volume.with_array(array), "pixel-sum", options={"directions": 20, "frame": frame, "slices": 60}
        )
        profiles = answer(client, client.submit("reconstruct", **asked))["profiles"]
        assert len(profiles) == 3 + 20
        # In the normalized frame of an oblique volume "R, A, S" are the axes nearest to them.
        if frame == "physical":
            np.testing.assert_allclose([one["normal_ras"] for one in profiles[:3]], np.eye(3), atol=1e-6)
        for one in profiles:
            assert np.linalg.norm(one["normal_ras"]) == pytest.approx(1.0, abs=1e-5)
            peak = one["positions_mm"][int(np.argmax(one["logits"]))]
            # To a step between planes, 3 mm at most, and a trilinear voxel's half width.
            assert peak == pytest.approx(float(np.dot(one["normal_ras"], position)), abs=3.0)


def test_progress_reaches_the_end_and_is_not_too_much(client: EngineClient, volume: Volume) -> None:
    identifier = client.submit("reconstruct", **fields(client, volume, "pixel-sum", options={"directions": 64}))
    events = wait(client, lambda e: e["type"] == "result")
    steps = [e for e in events if e["type"] == "progress" and e["id"] == identifier]
    assert list(dict.fromkeys(e["step"] for e in steps)) == ["loading", "reconstructing", "finishing"]
    counted = [e for e in steps if e["step"] == "reconstructing" and e["done"]]
    done = [e["done"] for e in counted]
    assert done == sorted(done)
    assert (counted[-1]["done"], counted[-1]["remaining_s"]) == (counted[-1]["total"], 0.0)
    elapsed = [e["elapsed_s"] for e in counted]
    # Ten a second, and each step's first and last.
    assert len(counted) <= 10 * (elapsed[-1] - elapsed[0]) + 3


# --- while it runs


def test_previews_come_early_and_show_the_object(client: EngineClient, volume: Volume) -> None:
    options = {"directions": 128, "methods": ["tonno"], "slices": 40}
    identifier = client.submit("reconstruct", **fields(client, volume, "pixel-sum", options=options, preview=True))
    previews: list[tuple[int, np.ndarray]] = []
    event: Event = {"type": ""}
    while event["type"] != "result":
        event = wait(client, lambda e: e["id"] == identifier and e["type"] in ("preview", "result", "error"))[-1]
        if event["type"] == "preview":
            assert event["of"] == 128
            inside = np.load(event["inside"]) > 0
            previews.append((event["directions"], np.load(event["heatmaps"]["tonno"])))
    final = heatmap(event, "tonno")
    counts = [count for count, _ in previews]
    assert counts[0] <= 8  # a few per cent
    assert len(counts) >= 2
    assert all(2 * one <= other for one, other in itertools.pairwise(counts))
    for count, array in previews:
        assert (array[~inside] == 0).all()
        # Divided by the directions so far, the heatmap is the object at its true height from the start: 0.72 measured
        # with four directions, whose streaks also reach where nothing is.
        assert correlation(array[inside], volume.array[inside]) > 0.5
        assert slope(array[inside], volume.array[inside]) == pytest.approx(1.0, abs=0.5 if count < 16 else 0.15)
    assert correlation(final[inside], volume.array[inside]) > 0.99


def test_stop_keeps_what_is_there(client: EngineClient, volume: Volume) -> None:
    options = {"directions": 4000, "methods": ["tonno"], "slices": 40}
    identifier = client.submit("reconstruct", **fields(client, volume, "pixel-sum", options=options, preview=True))
    wait(client, lambda e: e["type"] == "preview")
    client.stop(identifier)
    result = answer(client, identifier, patience_s=5.0)
    assert result["type"] == "result"
    assert result["stopped"]
    assert 4 <= result["directions"] < 4000
    inside = np.load(result["inside"]) > 0
    # 125 directions and more: a whole reconstruction of fewer directions, at the true height.
    assert slope(heatmap(result, "tonno")[inside], volume.array[inside]) == pytest.approx(1.0, abs=0.05)


def test_stop_during_loading_still_gives_the_first_directions(volume: Volume, client: EngineClient) -> None:
    identifier = client.submit("reconstruct", **fields(client, volume, "pixel-sum", options={"directions": 4000}))
    client.stop(identifier)
    result = answer(client, identifier)
    assert (result["type"], result["stopped"]) == ("result", True)
    assert 2 <= result["directions"] < 100


def test_two_volumes_in_a_row_and_a_queued_one_cancelled(client: EngineClient, volume: Volume, bundle: Path) -> None:
    other = volume.with_array(volume.array[::-1])
    first = client.submit("reconstruct", **fields(client, volume, bundle, options=SMALL))
    second = client.submit("reconstruct", **fields(client, other, bundle, options=SMALL))
    third = client.submit("reconstruct", **fields(client, volume, bundle, options=SMALL))
    client.cancel(third)
    events = wait(client, lambda e: e["id"] == second and e["type"] == "result")
    final = {e["id"]: e for e in events if e["type"] in ("result", "cancelled")}
    assert list(final) == [third, first, second]  # a cancel is answered at once, also while another runs
    assert final[third]["type"] == "cancelled"
    expected = directly(other, bundle, **SMALL).heatmaps["tonno"].array
    assert relative_error(heatmap(final[second], "tonno"), expected) < 1e-4
    assert relative_error(heatmap(final[first], "tonno"), expected) > 0.1


def test_the_model_stays(client: EngineClient, volume: Volume, bundle: Path, tmp_path: Path) -> None:
    own = shutil.copytree(bundle, tmp_path / "own")
    loading = [
        answer(client, client.submit("reconstruct", **fields(client, volume, own, options=SMALL)))["seconds"]["loading"]
        for _ in range(2)
    ]
    # 0.2 s to read, check and prepare even this small one; then a comparison of the files' sizes and times.
    assert loading[1] < 0.2 * loading[0]


def test_a_changed_model_is_loaded_anew(client: EngineClient, volume: Volume, tmp_path: Path) -> None:
    from tests.networks import random_network, spec_of
    from tonno_core.bundle.file import save_bundle

    results = []
    for seed in (0, 1):
        folder = tmp_path / "model"
        save_bundle(folder, spec_of(), random_network("resnet10t", seed=seed).state_dict(), overwrite=True)
        found = answer(client, client.submit("reconstruct", **fields(client, volume, folder, options=SMALL)))
        results.append(heatmap(found, "tonno"))
        assert relative_error(results[-1], directly(volume, folder, **SMALL).heatmaps["tonno"].array) < 1e-4
    assert relative_error(results[0], results[1]) > 0.1


# --- refinements


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": ["matched-cam"], "filter": "gaussian", "sigma_scale": 2.5},
        {"methods": ["averaged-cam", "tomographic-cam"], "filter": "hann"},
        {"methods": ["tonno"], "filter": "hann"},
        {"methods": ["matched-cam", "tonno"], "smooth_mm": 4.0, "filter": "second-difference"},
    ],
)
def test_refinements_are_what_a_new_run_gives(
    client: EngineClient, volume: Volume, bundle: Path, changes: dict[str, Any]
) -> None:
    asked = {**SMALL, "methods": ["matched-cam"], "stage": 2}
    first = answer(client, client.submit("reconstruct", **fields(client, volume, bundle, options=asked)))
    refined = answer(client, client.submit("refine", options=changes, folder=str(client.newFolder())))
    assert refined["type"] == "result", refined
    expected = directly(volume, bundle, **{**asked, **changes})
    assert list(refined["heatmaps"]) == changes["methods"]
    for method in changes["methods"]:
        # Sums in another order: rounding, magnified by the second derivative.
        assert relative_error(heatmap(refined, method), expected.heatmaps[method].array) < 3e-4, method
    assert refined["slices"] == first["slices"]  # no further pass through the network
    assert "encoder" not in refined["seconds"]


def test_added_stages_are_refined_without_a_new_pass(client: EngineClient, volume: Volume, tmp_path: Path) -> None:
    tried = {"class": "finding", "threshold": 1.0, "auc": 0.5, **ADDED.record()}
    bundle = write_random_bundle(tmp_path / "model", calibration=[tried])
    asked = {**SMALL, "methods": ["averaged-cam"], "stage": "2+3"}
    first = answer(client, client.submit("reconstruct", **fields(client, volume, bundle, options=asked)))
    assert first["type"] == "result", first
    expected = directly(volume, bundle, **asked)
    assert expected.variants["averaged-cam"] == ADDED
    assert relative_error(heatmap(first, "averaged-cam"), expected.heatmaps["averaged-cam"].array) < 3e-4
    for changes in ({"smooth_mm": 4.0}, {"stage": 3}, {"methods": ["tomographic-cam"], "stage": 2}):
        refined = answer(client, client.submit("refine", options=changes, folder=str(client.newFolder())))
        assert refined["type"] == "result", refined
        (method,) = refined["heatmaps"]
        array = directly(volume, bundle, **{**asked, **changes}).heatmaps[method].array
        assert relative_error(heatmap(refined, method), array) < 3e-4, changes  # as above


def test_what_was_not_kept_is_said(client: EngineClient, volume: Volume, bundle: Path) -> None:
    asked = {**SMALL, "methods": ["matched-cam"], "stage": 2}
    answer(client, client.submit("reconstruct", **fields(client, volume, bundle, options=asked)))
    for changes in ({"stage": 3}, {"slices": 20}, {"directions": 13}, {"methods": ["slicewise-cam"]},
                    {"cam": "gradcam"}, {"lattice": "sphere"}, {"slice_size": 64}):  # fmt: skip
        error = answer(client, client.submit("refine", options=changes, folder=str(client.newFolder())))
        assert (error["type"], error["kind"]) == ("error", "not-kept"), changes
        assert error["next"]
    # What is the same as in the last run is no change, also where the model had chosen it.
    same = {"stage": 2, "slices": 14, "slice_size": 32, "class_name": "finding", "sigma_scale": 2.0}
    assert answer(client, client.submit("refine", options=same, folder=str(client.newFolder())))["type"] == "result"


def test_nothing_is_kept_of_a_run_that_failed(client: EngineClient, volume: Volume, bundle: Path) -> None:
    answer(client, client.submit("reconstruct", **fields(client, volume, bundle, options=SMALL)))
    answer(client, client.submit("reconstruct", **fields(client, volume, bundle, options={**SMALL, "stage": 99})))
    error = answer(client, client.submit("refine", options={}, folder=str(client.newFolder())))
    assert error["kind"] == "not-kept"


# --- a region


@pytest.mark.parametrize("kind", ["second-difference", "hann", "gaussian"])
@pytest.mark.parametrize("model", ["pixel-sum", "network"])
def test_in_a_region_the_heatmap_is_that_of_a_whole_run(
    client: EngineClient, volume: Volume, bundle: Path, model: str, kind: str
) -> None:
    options = {"slices": 64, "directions": 12, "methods": ALL_FOUR, "filter": kind, "radius_mm": 50.0}
    encoder = bundle if model == "network" else model
    whole = answer(client, client.submit("reconstruct", **fields(client, volume, encoder, options=options)))
    roi = box_around([2, -8, 5], [9, 7, 8], turn=0.4)
    part = answer(client, client.submit("reconstruct", **fields(client, volume, encoder, options=options, roi=roi)))
    inside = np.load(part["inside"]) > 0
    assert 100 < inside.sum() < 0.2 * (np.load(whole["inside"]) > 0).sum()
    # Fewer planes: a box of about 20 mm of the ball's 100 mm, what the filters need around it, and the three axes.
    assert part["slices"] < {"second-difference": 0.5, "hann": 0.62, "gaussian": 0.66}[kind] * whole["slices"]
    for method in ALL_FOUR:
        full, limited = heatmap(whole, method), heatmap(part, method)
        assert (limited[~inside] == 0).all()
        errors = np.abs(full - limited)[inside] / np.abs(full).max()
        # The project's bar is 1e-3 of the peak; measured 4e-4. A map's ReLU opens or not by the slices' rounding, and a
        # cell of the few of random weights is a large part of so small a region: there only most of it agrees.
        smooth = model == "pixel-sum" or method == "tonno"
        assert errors.max() < (1e-3 if smooth else 0.05), method
        assert np.median(errors) < 1e-3, method
    assert part["explained"] is None


def test_smoothing_at_a_regions_rim_takes_what_lies_beyond(client: EngineClient, volume: Volume) -> None:
    options = {"slices": 40, "directions": 30, "methods": ["tonno"], "smooth_mm": 5.0}
    whole = answer(client, client.submit("reconstruct", **fields(client, volume, "pixel-sum", options=options)))
    roi = box_around([2, -8, 5], [6, 6, 6])
    part = answer(client, client.submit("reconstruct", **fields(client, volume, "pixel-sum", options=options, roi=roi)))
    inside = np.load(part["inside"]) > 0
    full, limited = heatmap(whole, "tonno"), heatmap(part, "tonno")
    # A Gaussian's tail beyond the four sigmas that are looked at.
    assert np.abs(full - limited)[inside].max() < 1e-3 * np.abs(full).max()
    wider = answer(client, client.submit("refine", options={"smooth_mm": 6.0}, folder=str(client.newFolder())))
    assert wider["kind"] == "not-kept"


def test_a_region_of_a_whole_run_needs_no_new_one(client: EngineClient, volume: Volume) -> None:
    options = {"directions": 12, "methods": ["tonno"]}
    whole = answer(client, client.submit("reconstruct", **fields(client, volume, "pixel-sum", options=options)))
    roi = box_around([2, -8, 5], [9, 7, 8])
    part = answer(client, client.submit("refine", options={}, roi=roi, folder=str(client.newFolder())))
    inside = np.load(part["inside"]) > 0
    assert 0 < inside.sum() < 0.2 * inside.size
    np.testing.assert_array_equal(heatmap(part, "tonno"), np.where(inside, heatmap(whole, "tonno"), 0))


def test_a_region_beside_the_patient_is_refused(client: EngineClient, volume: Volume) -> None:
    roi = box_around([500, 0, 0], [9, 7, 8])
    error = answer(client, client.submit("reconstruct", **fields(client, volume, "pixel-sum", roi=roi)))
    assert (error["kind"], "region" in error["message"]) == ("user", True)
