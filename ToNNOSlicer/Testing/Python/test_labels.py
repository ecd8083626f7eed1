"""The engine's messages in the panel's words: each by the function of the engine that says it."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ToNNOSlicerLib import failures, labels
from ToNNOSlicerLib.labels import forPanel

import tonno_core
from tonno_core.bundle.decide import Run, check_zoom, decide
from tonno_core.bundle.file import load_bundle
from tonno_core.bundle.ready import ReadyModel
from tonno_core.encoding.classifier import try_slice
from tonno_core.encoding.device import choose_device
from tonno_core.encoding.encoder import check_finite
from tonno_core.errors import TonnoError
from tonno_core.output import check_output
from tonno_core.reconstruction import run
from tonno_core.reconstruction.planes import NOTHING_INSIDE, zoomed_ball
from tonno_core.reconstruction.projected import Projected
from tonno_core.settings import ReconstructionSettings, combine
from tonno_core.slicing.region import Region
from tonno_core.volume.intensity import normalise
from tonno_core.volume.volume import Volume
from tonno_core.worker.failures import failure_of

PANEL = Path(__file__).parents[2] / "Resources" / "UI" / "ToNNOSlicer.ui"
PACKAGE = Path(tonno_core.__file__).parent
WIDGETS = {
    "volume": "inputLabel", "model": "modelLabel", "class_name": "classLabel", "region": "roiLabel",
    "zoom": "zoomCheck", "method": "methodLabel", "methods": "methodLabel", "preset": "qualityLabel",
    "slices": "slicesLabel", "directions": "directionsLabel", "stage": "stageLabel", "sigma_scale": "sigmaLabel",
    "filter": "filterLabel", "device": "deviceLabel", "threshold": "thresholdLabel", "min_volume_mm3": "smallestLabel",
    "min_peak": "weakCheck",
}  # fmt: skip
VOLUME = Volume(np.zeros((4, 4, 4), np.float32), np.eye(4))
BOX = Region(np.diag([20.0, 20.0, 20.0, 1.0]))
SCALE = "The model sees pixels of {} mm here, it was trained at {} mm. "


def test_the_labels_are_those_of_the_panel() -> None:
    widgets = {widget.get("name"): widget for widget in ET.parse(PANEL).iter("widget")}
    shown = {name: widgets[widget].findtext("property[@name='text']/string") for name, widget in WIDGETS.items()}
    assert shown == labels.LABELS


def _raised(call: Callable[[], Any]) -> str:
    with pytest.raises(TonnoError) as caught:
        call()
    return str(caught.value)


def _settings(**changes: Any) -> Callable[[], Any]:
    return lambda: combine(defaults={}, explicit=changes)


class _Refusing:
    device = torch.device("cpu")

    def logits(self, slices: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such size")


def _zoomed(**changes: Any) -> Callable[[], Any]:
    return lambda: check_zoom(BOX, ReconstructionSettings(**changes))


def _decided(settings: ReconstructionSettings, **wanted: Any) -> Run:
    encoder: Any = SimpleNamespace(classes=("ill", "healthy"), stages=4, stages_with_maps=lambda *_: (1, 2, 3, 4))
    return decide(settings, ReadyModel(encoder, None, 96, torch.device("cpu"), torch.float32), **wanted)


def _staged(*stages: int) -> Callable[[], Any]:
    return lambda: _decided(ReconstructionSettings(methods=("averaged-cam",), stages=stages))


ERRORS: tuple[tuple[Callable[[], Any], str], ...] = (
    (_settings(slices=1), "Slices is 1, expected a whole number from 2 to 1024."),
    (_settings(directions=0), "Directions is 0, expected a whole number from 1 to 50000."),
    (_settings(sigma_scale=-1), "Sigma is -1, expected a number from 0 to 1000."),
    (_staged(5), "Stage 5 does not exist in this encoder, expected 1 to 4."),
    (_staged(1, 2), "Stage 1+2 was not calibrated for this Method and Class. Choose a single Stage."),
    (
        lambda: _decided(ReconstructionSettings(class_name="cyst")),
        "Class 'cyst' is unknown to this model, expected one of ill, healthy.",
    ),
    (
        lambda: check_zoom(None, ReconstructionSettings()),
        "Finer in the region needs a region to zoom into; give Region.",
    ),
    (
        _zoomed(frame="normalized"),
        "Finer in the region does not go with this Quality or Model: its planes always span the whole volume. "
        "Choose another Quality, or untick Finer in the region.",
    ),
    (_zoomed(radius_mm=90.0), "The field of view of this Model is fixed. Untick Finer in the region."),
    (
        lambda: zoomed_ball(
            VOLUME,
            _decided(ReconstructionSettings(slices=6, methods=("tonno",), filter="hann"), region=BOX, zoom=True),
        ),
        "Slices is 6, too few for Finer in the region by this filter; expected more of them.",
    ),
    (lambda: choose_device("tpu"), "Device 'tpu' is unknown, expected one of auto, cpu, cuda, mps."),
    (
        lambda: check_finite(torch.tensor([np.nan])),
        "The model's answers for this volume are not finite numbers. Choose CPU as Device, or another Model.",
    ),
    (
        lambda: try_slice(_Refusing(), 224, "vit_tiny"),
        "The network vit_tiny cannot take slices of 224 pixels (no such size). Choose another Quality or Model.",
    ),
    (
        lambda: normalise(np.ones((2, 2, 2), np.float32), np.ones((2, 2, 2), bool), "zscore"),
        "What is brighter than the background of this volume has no contrast. Choose another Volume.",
    ),
)


@pytest.mark.parametrize(("call", "said"), ERRORS, ids=[said for _call, said in ERRORS])
def test_an_error_is_about_the_panels_controls(call: Callable[[], Any], said: str) -> None:
    message = _raised(call)
    assert forPanel(message) == said
    event = vars(failure_of(TonnoError(message)))
    assert failures.ofError(event, []).message == said


def test_errors_about_files_keep_their_names(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert forPanel(_raised(lambda: load_bundle(tmp_path / "model"))) == (
        f"{tmp_path}/model/model.json is missing. Choose a Model whose folder holds model.json and model.safetensors."
    )
    assert forPanel(_raised(lambda: load_bundle(tmp_path / "none"))) == (
        f"{tmp_path}/none: no such model folder, expected one with model.json and model.safetensors."
    )
    (tmp_path / "file").touch()
    message = _raised(lambda: check_output(tmp_path / "file", overwrite=True))  # of an export
    assert forPanel(message) == f"{tmp_path}/file: is a file, expected the name of a folder."


@pytest.mark.parametrize(
    ("pixel_mm", "zoom", "said"),
    [
        (3.0, False, "Small findings may be missed. Draw a Region around the part in question and tick ZOOM."),
        (3.0, True, "Small findings may be missed. Draw a smaller Region."),
        (1.0, True, "Findings may be false. Compare with a run without Finer in the region, or draw a larger Region."),
        (1.0, False, "Findings may be false. Choose another Quality or Model."),
    ],
)
def test_a_scale_that_differs_has_a_remedy_in_the_panel(pixel_mm: float, zoom: bool, said: str) -> None:
    prepared: Any = SimpleNamespace(radius_mm=pixel_mm * 50)
    made = replace(_decided(ReconstructionSettings()), pixels=101, pixel_mm=2.0, zoom=zoom)
    (warning,) = run.scale_warnings(prepared, made)
    assert forPanel(warning) == SCALE.format(f"{pixel_mm:.2f}", "2.00") + said.replace("ZOOM", labels.LABELS["zoom"])


def test_the_other_warnings() -> None:
    made = SimpleNamespace(run=SimpleNamespace(intensity="window:0:80"))
    seen: Any = SimpleNamespace(slices_blank=9, slices_total=9, planes=made)
    (warning,) = Projected._blank_warning(seen)
    assert forPanel(warning).endswith("Choose a Volume of the kind that the model was trained on.")
    assert forPanel("ended before matched-cam could be made").endswith("Click Apply.")
    assert forPanel(NOTHING_INSIDE) == "The region holds no voxel of what is looked at; move it onto the patient."


def library_texts() -> Iterator[str]:
    """All texts of the engine that name an argument or a command, with 7 for what is put into them."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            arguments = node.args if isinstance(node, ast.Call) else []
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "7" for part in node.values)
            yield from (str(text.value) for text in arguments if isinstance(text, ast.Constant))


def test_no_message_of_the_engine_shows_code_in_the_panel() -> None:
    # What begins with a semicolon is put after another text.
    texts = [text for text in library_texts() if re.search(r"`\w+`|`tonno \w+`", text) and text[0] != ";"]
    assert len(texts) > 60
    for text in texts:
        said = forPanel(text)
        assert not re.search(r"`|--\w|\btonno (train|bundle|calibrate)\b|[a-z]_[a-z]", said), said
        assert said.endswith((".", "?")), said


def test_advice_without_a_control_is_dropped_and_the_rest_is_kept() -> None:
    assert forPanel("`device` cuda was asked for; use `device` cpu; give `batch_size` 4") == (
        "Device cuda was asked for; use Device cpu."
    )
    assert forPanel("Every voxel is the same.") == "Every voxel is the same."
    assert forPanel("") == ""


def test_what_is_a_bug_keeps_the_engines_words() -> None:
    event = {"kind": "internal", "message": "KeyError: `slices`; `x_y` is gone", "next": "Start again"}
    failure = failures.ofError(event, ["a line"])
    assert failure == failures.Failure(event["message"], "Start again.", ("a line",))


def test_the_next_step_is_about_the_panels_controls() -> None:
    event = vars(failure_of(MemoryError()))
    assert failures.ofError(event, []).nextStep == (
        "Close other programs that use it; choose Quality fast, or Device cpu."
    )
