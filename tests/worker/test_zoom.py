"""The real process with `zoom`: all offsets and pixels of a run go into its region."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.networks import write_random_bundle
from tests.runs import look_at
from tests.worker.talk import EngineClient, Event, answer, box_around, fields, heatmap, relative_error
from tonno_core import load_bundle, reconstruct
from tonno_core.bundle.decide import decide
from tonno_core.bundle.ready import prepare_model
from tonno_core.reporting import Reporter
from tonno_core.settings import combine
from tonno_core.slicing.region import Region
from tonno_core.volume.volume import Volume

ZOOMED = {"slices": 32, "directions": 12, "filter": "hann", "methods": ["tonno", "averaged-cam", "matched-cam"]}
BOX = box_around([2, -8, 5], [9, 7, 8], turn=0.4)
REGION = Region(np.linalg.inv(BOX["ras_to_box"]))


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that was trained with pixels of 4 mm."""
    return write_random_bundle(tmp_path_factory.mktemp("models") / "scaled", pixel_mm=4.0)


def test_a_zoomed_run_is_that_of_a_direct_call(client: EngineClient, volume: Volume, scaled: Path) -> None:
    asked = fields(client, volume, scaled, options=ZOOMED, roi=BOX, zoom=True)
    found = answer(client, client.submit("reconstruct", **asked))
    bundle = load_bundle(scaled)
    settings = combine(defaults=bundle.spec.defaults, explicit=ZOOMED)
    expected = reconstruct(volume, bundle, settings, region=REGION, zoom=True, device="cpu", precision="float32")
    assert (found["type"], found["zoom"]) == ("result", True), found
    np.testing.assert_array_equal(np.load(found["inside"]), expected.inside)
    for method in ZOOMED["methods"]:
        # Terms of a sum that are kept apart: rounding, as without zoom.
        assert relative_error(heatmap(found, method), expected.heatmaps[method].array) < 1e-4, method
    assert found["slices"] == expected.slices_total
    # A box of 28 mm across its corners on 32 offsets, in place of a head of 100 mm.
    steps = np.diff(found["profiles"][0]["positions_mm"])
    radius = np.linalg.norm(expected.frame_to_ras[:3, 0])
    np.testing.assert_allclose(steps, 2 * radius / 31, atol=2e-3)  # positions have three decimals
    assert steps.max() < 2.0
    assert found["warnings"] == list(expected.warnings)
    assert "the model was trained at 4.00 mm" in found["warnings"][0]


@pytest.mark.parametrize(
    "changes",
    [{"methods": ["matched-cam", "tonno"], "sigma_scale": 2.5}, {"methods": ["tonno"], "filter": "second-difference"}],
)
def test_a_zoomed_run_is_refined_on_its_own_planes(
    client: EngineClient, volume: Volume, scaled: Path, changes: dict[str, Any]
) -> None:
    asked = fields(client, volume, scaled, options={**ZOOMED, "methods": ["matched-cam"]}, roi=BOX, zoom=True)
    first = answer(client, client.submit("reconstruct", **asked))
    same = {"options": changes, "roi": BOX, "zoom": True}  # said once more, it is no change
    refined = answer(client, client.submit("refine", **same, folder=str(client.newFolder())))
    assert (refined["type"], refined["zoom"], refined["slices"]) == ("result", True, first["slices"]), refined
    assert refined["warnings"] == first["warnings"]
    bundle = load_bundle(scaled)
    settings = combine(defaults=bundle.spec.defaults, explicit=asked["options"])
    ready = prepare_model(bundle, settings, "cpu", "float32")
    # The planes are those of the first filter, so the oracle is a projection by it.
    (projected,) = look_at(volume, ready, settings, region=REGION, zoom=True, keep=True)
    settings = replace(settings, **{**changes, "methods": tuple(changes["methods"])})
    variants = decide(settings, ready).targets[0].variants
    expected = projected.finish(variants, settings, Reporter())
    for method in changes["methods"]:
        assert relative_error(heatmap(refined, method), expected.heatmaps[method].array) < 3e-4, method


def test_zoom_and_its_region_belong_to_what_is_kept(client: EngineClient, volume: Volume) -> None:
    options = {"slices": 32, "directions": 6, "methods": ["tonno"]}

    def run(**more: Any) -> None:
        asked = fields(client, volume, "pixel-sum", options=options, **more)
        made = answer(client, client.submit("reconstruct", **asked))
        assert made["type"] == "result", made

    def refined(**more: Any) -> Event:
        return answer(client, client.submit("refine", options={}, folder=str(client.newFolder()), **more))

    part = box_around([2, -8, 5], [6, 5, 6], turn=0.4)
    run(roi=BOX)
    assert refined(roi=part)["zoom"] is False
    assert (refined(zoom=True)["kind"], refined(zoom=False)["type"]) == ("not-kept", "result")
    run(roi=BOX, zoom=True)
    assert refined()["zoom"] is True
    assert refined(zoom=False)["kind"] == "not-kept"
    assert refined(roi=part)["kind"] == "not-kept"  # a run that zooms into the part shows more of it
    run()
    assert refined(zoom=True, roi=BOX)["kind"] == "not-kept"


@pytest.mark.parametrize(
    ("more", "kind", "words"),
    [
        ({}, "protocol", "'zoom' is true without a region"),
        ({"roi": BOX, "options": {"radius_mm": 50.0}}, "user", "`zoom` and `radius_mm` both determine the ball"),
        ({"roi": BOX, "options": {"frame": "normalized"}}, "user", "`zoom` has no meaning with `frame` normalized"),
        ({"roi": BOX, "options": {"slices": 8, "filter": "hann"}}, "user", "too few for `zoom` by this filter"),
    ],
)
def test_a_zoom_that_cannot_be_is_refused(
    client: EngineClient, volume: Volume, more: dict[str, Any], kind: str, words: str
) -> None:
    error = answer(client, client.submit("reconstruct", **fields(client, volume, "pixel-sum", zoom=True, **more)))
    assert (error["type"], error["kind"], words in error["message"]) == ("error", kind, True), error
