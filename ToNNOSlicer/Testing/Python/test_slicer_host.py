"""The host itself: every test has a scene of its own, and what is not modelled raises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from slicer_host import Host


def test_each_host_has_a_scene_of_its_own() -> None:
    first = Host()
    slicer.util.addVolumeFromArray(np.ones((2, 2, 2), np.float32), name="left behind")
    folder = first.temporaryPath
    first.close()
    assert not hasattr(slicer, "mrmlScene") and not hasattr(slicer, "app")
    second = Host()
    assert slicer.mrmlScene is second.scene is not first.scene
    assert not slicer.util.getNodes("left behind*")
    second.close()
    assert not Path(folder).exists()


def test_closing_twice_does_no_harm() -> None:
    host = Host()
    host.close()
    host.close()


def test_the_logics_are_slicers_own(host) -> None:
    assert slicer.modules.segmentations.logic().IsA("vtkSlicerSegmentationsModuleLogic")
    assert slicer.modules.colors.logic().IsA("vtkSlicerColorLogic")
    assert {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSliceNode")} == {"Red", "Yellow", "Green"}
    assert slicer.util.getNode("Red").GetOrientation() == "Axial"


def test_what_is_not_modelled_raises(host) -> None:
    with pytest.raises(AttributeError):
        slicer.app.mainWindow()
    with pytest.raises(AttributeError):
        slicer.modules.dicom.logic()


def test_messages_are_heard_and_can_be_taken(host) -> None:
    vtk.vtkOutputWindow.GetInstance().DisplayErrorText("something is wrong")
    assert "something is wrong" in host.messages.take()
    assert host.messages.text == ""


@pytest.mark.parametrize("ending", [".mrml", ".mrb"])
def test_a_scene_is_saved_and_loaded(host, tmp_path, ending: str) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    slicer.util.addVolumeFromArray(array, ijkToRAS=np.diag([-1, -2, 3, 1.0]), name="kept")
    if ending == ".mrml":
        path = host.save(tmp_path / "scene")
    else:
        path = tmp_path / "scene.mrb"
        assert host.scene.WriteToMRB(str(path))
    host.load(path)
    assert np.array_equal(slicer.util.arrayFromVolume(slicer.util.getNode("kept")), array)
