"""The scene side of 3D Slicer without the application: its real MRML libraries from the wheel ``slicer-core``.

    host = Host()           # slicer.mrmlScene, slicer.modules.NAME.logic() and slicer.app work from here
    host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    host.close()

No Qt. Whatever is not modelled raises AttributeError. What this proves holds for Slicer's libraries; that the
application itself plays along is for ``slicer_smoke.py`` to show.
"""

from __future__ import annotations

import atexit
import sys
import tempfile
import types
from pathlib import Path

import slicer
import slicer.util
import vtk

MODULES = {
    "Colors": "vtkSlicerColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Models": "vtkSlicerModelsLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
}
SLICE_VIEWS = ("Red", "Yellow", "Green")
_SET_BY_US = ("mrmlScene", "modules", "app")


class Messages:
    """What VTK and MRML say: nothing on the terminal, everything in `text`."""

    def __init__(self) -> None:
        vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)  # it would say everything a second time
        self._previous = vtk.vtkOutputWindow.GetInstance()
        self._window = vtk.vtkStringOutputWindow()
        vtk.vtkOutputWindow.SetInstance(self._window)

    @property
    def text(self) -> str:
        return self._window.GetOutput()

    def take(self) -> str:
        """The text, which is expected and forgotten."""
        text = self._window.GetOutput()
        self._window = vtk.vtkStringOutputWindow()
        vtk.vtkOutputWindow.SetInstance(self._window)
        return text

    def close(self) -> None:
        vtk.vtkOutputWindow.SetInstance(self._previous)


class Host:
    """A fresh scene with the logics that the application would have made, and the three slice views.

    scene, applicationLogic, logics (by module name), sliceLogics (by view name), temporaryPath.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="slicer-host-")
        self.temporaryPath = self._folder.name
        provide_i18n()
        # The wheel lacks the application's tables of colours and terms, and its logics complain about that.
        startup = Messages()
        self.scene = slicer.vtkMRMLScene()
        self.applicationLogic = slicer.vtkSlicerApplicationLogic()
        self._start_application()
        self.logics = {name: self._start_module(name, kind) for name, kind in MODULES.items()}
        self.sliceLogics = {name: self._start_slice_view(name) for name in SLICE_VIEWS}
        startup.close()
        self.messages = Messages()
        slicer.mrmlScene = self.scene
        slicer.modules = types.SimpleNamespace(**{name.lower(): _module(logic) for name, logic in self.logics.items()})
        slicer.app = types.SimpleNamespace(
            applicationLogic=lambda: self.applicationLogic,
            mrmlScene=lambda: self.scene,
            temporaryPath=self.temporaryPath,
            testingEnabled=lambda: False,
        )
        atexit.register(self.close)  # a scene that outlives the interpreter ends in a crash

    def close(self) -> None:
        """End it all: nothing of this scene is seen by the next one. A second call does nothing."""
        atexit.unregister(self.close)
        if not self.logics:
            return
        self.scene.Clear(1)
        for name in _SET_BY_US:
            if hasattr(slicer, name):
                delattr(slicer, name)
        for logic in (*self.sliceLogics.values(), *self.logics.values(), self._data_io):
            logic.SetMRMLScene(None)
        self.applicationLogic.SetMRMLScene(None)
        self.logics, self.sliceLogics = {}, {}
        self.messages.close()
        self._folder.cleanup()

    def save(self, folder: str | Path) -> Path:
        """The scene as a .mrml file with its data beside it, in a new folder."""
        Path(folder).mkdir()
        if not self.applicationLogic.SaveSceneToSlicerDataBundleDirectory(str(folder), None):
            raise OSError(f"{folder}: the scene was not saved: {self.messages.text}")
        return next(Path(folder).glob("*.mrml"))

    def load(self, path: str | Path) -> None:
        """Close the scene and open a .mrml or .mrb file."""
        self.scene.Clear(0)
        if str(path).endswith(".mrb"):
            done = self.scene.ReadFromMRB(str(path), True)
        else:
            self.scene.SetURL(str(path))
            done = self.scene.Connect()
        if not done:
            raise OSError(f"{path}: the scene was not read: {self.messages.text}")

    def _start_application(self) -> None:
        application, scene = self.applicationLogic, self.scene
        application.SetTemporaryPath(self.temporaryPath)
        application.SetMRMLScene(scene)
        self._slice_logics, self._view_logics = vtk.vtkCollection(), vtk.vtkCollection()
        application.SetSliceLogics(self._slice_logics)
        application.SetViewLogics(self._view_logics)
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
        self._remote_io, self._data_io = slicer.vtkMRMLRemoteIOLogic(), slicer.vtkDataIOManagerLogic()
        self._remote_io.GetCacheManager().SetRemoteCacheDirectory(self.temporaryPath)
        self._remote_io.SetMRMLScene(scene)
        self._data_io.SetMRMLApplicationLogic(application)
        self._data_io.SetAndObserveDataIOManager(self._remote_io.GetDataIOManager())
        application.SetMRMLSceneDataIO(scene, self._remote_io, self._data_io)

    def _start_module(self, name: str, kind: str) -> vtk.vtkObject:
        logic = getattr(slicer, kind)()
        logic.SetMRMLApplicationLogic(self.applicationLogic)
        logic.SetMRMLScene(self.scene)
        self.applicationLogic.SetModuleLogic(name, logic)
        if name == "Colors":
            self.applicationLogic.SetColorLogic(logic)
            logic.AddDefaultColorNodes()
        return logic

    def _start_slice_view(self, name: str) -> vtk.vtkObject:
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(self.applicationLogic)
        logic.SetMRMLScene(self.scene)
        node = logic.AddSliceNode(name)
        node.SetOrientation({"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}[name])
        self._slice_logics.AddItem(logic)
        return logic


def _module(logic: vtk.vtkObject) -> types.SimpleNamespace:
    return types.SimpleNamespace(logic=lambda: logic)


def provide_i18n() -> None:
    """``slicer.i18n``, which the wheel lacks: its `language` makes a text of another, or leaves it as it is."""
    if "slicer.i18n" not in sys.modules:
        module = types.ModuleType("slicer.i18n")
        module.language = lambda text: text
        module.tr = lambda text: module.language(text)
        module.translate = lambda context, text: module.language(text)
        sys.modules["slicer.i18n"] = slicer.i18n = module
