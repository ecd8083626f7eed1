"""Files by request: what a client describes comes as it would be written here, whole or not at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.worker.talk import ENVIRONMENT, EngineClient, answer, make_client, wait
from tonno_core.pictures.drawing import Scene
from tonno_core.slicing.profile import Profile
from tonno_core.volume.io import read_volume
from tonno_core.volume.volume import Forms, Volume
from tonno_core.worker.exports import Export, Picture

MATRIX = np.diag([1.0, 2.0, 3.0, 1.0])
FORMS = Forms(1, 2, 10, (1.0, 1.0, 2.0, 3.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), tuple(MATRIX[:3].ravel().tolist()))


@pytest.fixture
def export() -> Export:
    heatmap = Volume(np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32), MATRIX, FORMS)
    scene = Scene(
        heatmap.with_array(100 * heatmap.array), heatmap, (heatmap.array > 1).astype(np.uint8), 1.0, (-150, 200)
    )
    lines = (((2.0, 4.0, 6.0), (5.0, 4.0, 6.0)),)
    profiles = (Profile("R", np.arange(5.0), np.arange(5.0) ** 2),)
    pictures = (Picture("a.png", (3.0, 4.0, 6.0), lines), Picture("b.png", (1.0, 4.0, 6.0)))
    return Export(heatmap, "h.nrrd", scene, pictures, profiles, "p.png", (("1", (3.0, 4.0, 6.0)),))


def test_an_export_is_read_as_it_was(export: Export, tmp_path: Path) -> None:
    read = Export.of(json.loads(json.dumps(export.fields(tmp_path))))
    assert read.files == export.files == ["h.nrrd", "a.png", "b.png", "p.png"]
    assert read.volume is not None and read.scene is not None and export.volume is not None and export.scene is not None
    for volume, expected in (
        (read.volume, export.volume),
        (read.scene.image, export.scene.image),
        (read.scene.heatmap, export.scene.heatmap),
    ):
        np.testing.assert_array_equal(volume.array, expected.array)
        np.testing.assert_array_equal(volume.ijk_to_ras, expected.ijk_to_ras)
        assert volume.array.dtype == np.float32
        assert volume.forms == expected.forms
    np.testing.assert_array_equal(read.scene.mask, export.scene.mask)
    assert (read.scene.threshold, read.scene.window) == (1.0, (-150, 200))
    np.testing.assert_array_equal(read.pictures[0].lines, export.pictures[0].lines)
    assert list(read.pictures[1].centre_ras) == [1.0, 4.0, 6.0] and not read.pictures[1].lines
    assert [(name, list(place)) for name, place in read.marks] == [("1", [3.0, 4.0, 6.0])]
    np.testing.assert_array_equal(read.profiles[0].logits, export.profiles[0].logits)


def test_files_are_written_and_counted(client: EngineClient, export: Export, tmp_path: Path) -> None:
    number = client.submit("export", folder=str(tmp_path), **export.fields(client.newFolder()))
    events = wait(client, lambda event: event["id"] == number and event["type"] != "progress")
    assert (events[-1]["type"], events[-1].get("files")) == ("result", export.files), events[-1]
    progress = [event for event in events if event["type"] == "progress"]
    assert [event["total"] for event in progress] == [4] * len(progress)
    assert (progress[0]["step"], progress[0]["done"], progress[-1]["done"]) == ("writing", 0, 4)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(export.files)
    assert export.volume is not None
    np.testing.assert_allclose(read_volume(tmp_path / "h.nrrd").array, export.volume.array)


def test_a_volume_alone_can_be_asked_for_by_hand(client: EngineClient, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 3, 4), np.float32))
    volume = {"array": str(tmp_path / "a.npy"), "ijk_to_ras": MATRIX.tolist()}
    number = client.submit("export", folder=str(tmp_path), volume=volume, volume_file="a.nii.gz")
    assert answer(client, number)["files"] == ["a.nii.gz"] and (tmp_path / "a.nii.gz").exists()


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"folder": None}, "protocol", "'folder' is missing"),
        ({"folder": "/no/such/folder"}, "user", "cannot be written"),
        (
            {"volume": {"array": 3, "ijk_to_ras": MATRIX.tolist()}},
            "protocol",
            "a field of the export is missing or wrong",
        ),
        ({"pictures": [{"file": "a.png"}]}, "protocol", "centre_ras"),
        ({"volume_file": "other folder/h.nrrd"}, "protocol", "expected the name of one in its folder"),
    ],
)
def test_what_cannot_be_written_is_said(
    client: EngineClient, export: Export, tmp_path: Path, changes: dict[str, Any], kind: str, text: str
) -> None:
    fields = {"folder": str(tmp_path), **export.fields(client.newFolder()), **changes}
    error = answer(client, client.submit("export", **fields))
    assert (error["type"], error["kind"]) == ("error", kind) and text in error["message"]
    assert not any(tmp_path.iterdir())


def test_a_package_that_is_missing_is_said(export: Export, tmp_path: Path) -> None:
    lacking = "import sys; sys.modules['matplotlib'] = None; from tonno_core.worker.__main__ import main; main()"
    client = make_client(command=[sys.executable, "-c", lacking], environment=ENVIRONMENT)
    error = answer(client, client.submit("export", folder=str(tmp_path), **export.fields(client.newFolder())))
    client.close()
    assert error["kind"] == "missing-package" and "matplotlib" in error["message"]


def test_a_canceled_export_ends_with_its_file(client: EngineClient, tmp_path: Path) -> None:
    noise = Volume(np.random.default_rng(0).normal(size=(100, 100, 100)).astype(np.float32), MATRIX)
    scene = Scene(noise, noise, np.zeros(noise.array.shape, np.uint8))
    pictures = tuple(Picture(f"{n}.png", (1.0, 2.0, 3.0)) for n in range(50))
    fields = Export(scene=scene, pictures=pictures).fields(client.newFolder())
    number = client.submit("export", folder=str(tmp_path), **fields)
    wait(client, lambda event: event["type"] == "progress" and event["step"] == "writing")
    client.cancel(number)
    assert answer(client, number)["type"] == "cancelled"
    assert answer(client, client.submit("describe"))["type"] == "description"
    assert len(list(tmp_path.iterdir())) < 50
