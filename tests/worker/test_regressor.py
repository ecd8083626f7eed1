"""A regressor through the process: what a client learns of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.networks import write_random_bundle
from tests.worker.talk import EngineClient, answer, fields, heatmap, relative_error
from tonno_core import reconstruct
from tonno_core.bundle.quantity import Quantity
from tonno_core.settings import ReconstructionSettings
from tonno_core.volume.volume import Volume


def test_a_regressors_result_has_its_prediction_and_no_threshold(
    client: EngineClient, volume: Volume, tmp_path: Path
) -> None:
    quantity = Quantity("load", 50.0, 10.0)
    model = write_random_bundle(tmp_path / "model", classes=("load",), kind="regressor", schema=2, quantity=quantity)
    options = {"slices": 14, "directions": 12, "methods": ["tonno"]}
    found = answer(client, client.submit("reconstruct", **fields(client, volume, model, options=options)))
    assert found["type"] == "result", found
    settings = ReconstructionSettings(methods=("tonno",), slices=14, directions=12)
    expected = reconstruct(volume, model, settings, device="cpu", precision="float32")
    assert expected.prediction is not None
    assert found["model"]["kind"] == "regressor"
    assert found["model"]["quantity"] == quantity.record()
    assert found["class_name"] == found["prediction"]["name"] == "load"
    assert found["score"] == found["prediction"]["value"] == pytest.approx(expected.prediction.value, rel=1e-5)
    assert found["prediction"]["per_mm3"] == pytest.approx(expected.prediction.per_mm3, rel=1e-9)
    assert (found["heatmaps"]["tonno"]["threshold"], found["heatmaps"]["tonno"]["otsu"]) == (None, None)
    # Only rounding differs; the second derivative of numbers around 50 loses a digit more than that of logits.
    assert relative_error(heatmap(found, "tonno"), expected.heatmaps["tonno"].array) < 1e-3
