"""A segmenter in the real process: its result, refinements without the network, and an end that leaves nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.mirrors import write_mirror
from tests.worker.talk import EngineClient, answer, box_around, fields, heatmap, wait
from tonno_core import load_bundle, reconstruct
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.volume.volume import Volume

LONG_S = 300.0  # the process imports MONAI before its first answer
RECORD = {
    "threshold": -0.5,
    "settings": {"smooth_mm": 0.0},
    "min_volume_mm3": 40.0,
    "min_peak": 1.5,
    "above_half_peak": -3.0,
}
NETWORK = SegmenterNetwork((3.0, 3.0, 3.0), (32, 32, 32), filters=8, blocks=(1, 1))


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter of two classes that answers its input."""
    folder = tmp_path_factory.mktemp("models") / "mirror"
    return write_mirror(folder, NETWORK, classes=("spot", "cyst"), thresholds={"segmenter": RECORD})


def test_its_result_and_refinements(client: EngineClient, volume: Volume, segmenter: Path) -> None:
    asked = fields(client, volume, segmenter, options={"methods": ["segmenter"]}, preview=True)
    found = answer(client, client.submit("reconstruct", **asked), patience_s=LONG_S)
    assert found["type"] == "result", found
    settings = load_bundle(segmenter).spec.choices.settings({"class_name": "spot"})
    expected = reconstruct(volume, segmenter, settings, device="cpu", precision="float32", progress=False)
    np.testing.assert_allclose(heatmap(found, "segmenter"), expected.heatmaps["segmenter"].array, rtol=0, atol=1e-6)
    assert np.load(found["inside"]).all()
    threshold = found["heatmaps"]["segmenter"]["threshold"]
    assert (threshold["min_volume_mm3"], threshold["source"], threshold["above_half_peak"]) == (
        40.0,
        "calibrated",
        -3.0,
    )
    own = expected.segment().threshold
    assert threshold["threshold"] == pytest.approx(own, abs=1e-6)
    assert own == pytest.approx(float(expected.heatmaps["segmenter"].array.max()) / 2 - 3.0, abs=1e-6)
    assert threshold["min_peak"] == 1.5
    assert (found["slices"], found["directions"], found["planned"], found["stopped"]) == (0, 0, 0, False)
    assert (found["profiles"], found["explained"], found["class_name"]) == ([], None, "spot")
    assert found["score"] == pytest.approx(expected.score, rel=1e-5)
    assert (found["model"]["kind"], found["model"]["taught_by"]) == ("segmenter", "heatmaps")
    assert found["model"]["sha256"] == load_bundle(segmenter).spec.sha256

    def refined(kind: str = "refine", **changes: object) -> dict[str, object]:
        folder = str(client.newFolder())
        return answer(client, client.submit(kind, **{"options": {}, "folder": folder, "run": found["run"], **changes}))

    smooth = refined(options={"methods": ["segmenter"], "smooth_mm": 6.0})
    assert smooth["type"] == "result", smooth
    assert heatmap(smooth, "segmenter").std() < heatmap(found, "segmenter").std()
    box = box_around([5, -4, 3], [12, 12, 12])
    part = refined("resume", roi=box)
    assert part["type"] == "result", part
    inside = np.load(part["inside"]) > 0  # type: ignore[arg-type]
    assert 0 < inside.sum() < inside.size
    np.testing.assert_array_equal(heatmap(part, "segmenter")[inside], heatmap(found, "segmenter")[inside])
    other = refined(options={"methods": ["tonno"]})
    assert other["type"] == "error"
    assert "segmenter" in str(other["message"])


def test_all_classes(client: EngineClient, volume: Volume, segmenter: Path) -> None:
    found = answer(
        client, client.submit("reconstruct", **fields(client, volume, segmenter, classes="all")), patience_s=LONG_S
    )
    assert set(found["classes"]) == {"spot", "cyst"}
    without = found["classes"]["cyst"]["heatmaps"]["segmenter"]["threshold"]
    assert (without["threshold"], without["source"]) == (0.0, "unscaled")


def test_a_stop_leaves_nothing_and_what_has_no_meaning_is_said(
    client: EngineClient, volume: Volume, tmp_path: Path
) -> None:
    many = SegmenterNetwork((0.5, 0.5, 0.5), (16, 16, 16), filters=8, blocks=(1, 1))  # thousands of windows
    folder = write_mirror(tmp_path / "model", many)
    for end in ("stop", "cancel"):
        number = client.submit("reconstruct", **fields(client, volume, folder))
        wait(client, lambda event: event["type"] == "progress" and event.get("done", 0) > 3, LONG_S)
        getattr(client, end)(number)
        assert answer(client, number)["type"] == "cancelled"
    asked = fields(client, volume, folder, preset="fast")
    assert "has no meaning for a segmenter" in answer(client, client.submit("reconstruct", **asked))["message"]
