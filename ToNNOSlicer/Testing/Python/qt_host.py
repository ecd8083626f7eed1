"""A small stand-in for Slicer's Qt side around the module: the application, ScriptedLoadableModule, settings, dialogs.

    host = QtHost()                     # after it, `import qt` and `import slicer.ScriptedLoadableModule` work
    widget = host.loadModule(path)      # as the application does: module, widget, setup
    host.close()

On PySide6, off screen, with the real MRML libraries of slicer_host; pythonqt.py has the manners of Qt's objects,
qt_widgets.py the widgets of CTK and Slicer, parameter_nodes.py the parameter node. Written from the documentation
of Slicer, CTK and PythonQt; what is not modelled raises, so a test that passes has used nothing else. It proves the
module's own logic. Whether PythonQt and the application play along, only ``slicer_smoke.py`` in the application shows.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import parameter_nodes
import pythonqt
import slicer
import slicer.util
import vtk
from PySide6 import QtCore, QtWidgets
from pythonqt import QtModule, QtObject
from qt_widgets import childWidgetVariables, loadUI, qMRMLNodeComboBox, qMRMLSegmentEditorWidget
from slicer_host import Host


class ScriptedLoadableModule:
    def __init__(self, parent: Any) -> None:
        self.parent = parent


class ScriptedLoadableModuleWidget:
    """Made with a parent widget; `layout` is the parent's."""

    moduleName = ""
    _path = ""

    def __init__(self, parent: QtObject | None = None) -> None:
        self.parent = parent
        self.layout = parent.layout()

    def setup(self) -> None:
        """Buttons for developers are the application's."""

    def resourcePath(self, name: str) -> str:
        return str(Path(self._path).parent / "Resources" / name)

    def onReload(self) -> None:
        """The file is executed again, and a new widget takes the place of this one."""
        QtHost.current.reload()


class ScriptedLoadableModuleLogic:
    moduleName = "ToNNOSlicer"

    def __init__(self, parent: Any = None) -> None:
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        """The scene's node of this module; made where it is missing."""
        scene = slicer.mrmlScene
        node = scene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(self.moduleName)
            node.SetModuleName(self.moduleName)
            node.SetName(self.moduleName)
            node = scene.AddNode(node)
        return node


class ScriptedLoadableModuleTest(__import__("unittest").TestCase):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*(arguments or ("runTest",)))

    def runTest(self) -> None:
        """The base class has no tests; a runner collects it all the same, as the module's file names it."""
        assert type(self) is ScriptedLoadableModuleTest, "not modelled"

    def delayDisplay(self, message: str, milliseconds: int = 0) -> None:
        """The application shows the message for a while."""


class QtHost(Host):
    """The scene of `slicer_host.Host`, and an application around it.

    answers: what a test says to the next questions, first in first out: ("message", text of a button),
    ("folder", path), ("open", path), ("save", path). A question without an answer raises. asked: the questions.
    errors: exceptions that escaped from slots.
    """

    answers = pythonqt.answers
    asked = pythonqt.asked
    errors = pythonqt.errors
    current: typing.ClassVar[Any] = None

    def __init__(self) -> None:
        self.application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["host"])
        super().__init__()
        self._settings = tempfile.TemporaryDirectory(prefix="slicer-settings-")
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
        QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, self._settings.name)
        self.application.setOrganizationName("host")
        self.application.setApplicationName("host")
        for kept in (self.answers, self.asked, self.errors):
            kept.clear()
        type(self).current = self
        self.widget = self._module = self.frame = self._source = None
        self._startup: list[Callable[[], None]] = []
        self._library_before = {name: sys.modules[name] for name in _library()}
        leaving = slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent
        self._leaving = self.scene.AddObserver(leaving, self._forget_item)
        self._provide()

    @staticmethod
    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _forget_item(scene: Any, _event: str, node: Any) -> None:
        """The application's subject hierarchy plugins take a node's item away with the node."""
        hierarchy = scene.GetSubjectHierarchyNode()
        item = hierarchy.GetItemByDataNode(node) if hierarchy is not None and hierarchy is not node else 0
        if item:
            hierarchy.RemoveItem(item, False, False)

    def loadModule(self, path: str | Path) -> Any:
        """Execute a module's file and set its widget up, as the application does when a module is opened."""
        self._source = Path(path)
        parent = types.SimpleNamespace(title="", categories=[], dependencies=[], contributors=[])
        name = self._source.stem
        spec = importlib.util.spec_from_file_location(name, self._source)
        self._module = importlib.util.module_from_spec(spec)
        sys.modules[name] = self._module
        spec.loader.exec_module(self._module)
        getattr(self._module, name)(parent)
        if not parent.title:
            raise AssertionError("the module has no title")
        self.frame = QtWidgets.QWidget()
        QtWidgets.QVBoxLayout(self.frame)
        widget_class = getattr(self._module, f"{name}Widget")
        widget_class._path, widget_class.moduleName = str(self._source), name
        self.widget = widget_class(QtObject(self.frame))
        self.widget.setup()
        module = types.SimpleNamespace(widgetRepresentation=lambda: types.SimpleNamespace(self=lambda: self.widget))
        setattr(slicer.modules, name.lower(), module)
        return self.widget

    def completeStartup(self) -> None:
        """The application has started."""
        for receiver in self._startup:
            receiver()

    def _connect(self, signal: str, receiver: Callable[[], None]) -> bool:
        if signal != "startupCompleted()":
            raise NotImplementedError(f"the application's signal {signal} is not modelled")
        self._startup.append(receiver)
        return True

    def reload(self) -> None:
        self.widget.cleanup()
        self._drop_frame()
        self.loadModule(self._source)

    def process(self, seconds: float = 0.0, until: Callable[[], bool] = lambda: False) -> bool:
        """Run the event loop until `until` holds or the time is over; a slot's exception is raised here."""
        clock = QtCore.QElapsedTimer()
        clock.start()
        while True:
            self.application.processEvents(QtCore.QEventLoop.AllEvents, 20)
            if self.errors:
                raise self.errors.pop(0)
            if until():
                return True
            if clock.elapsed() >= 1000 * seconds:
                return False
            QtCore.QThread.msleep(2)

    def close(self) -> None:
        if self.widget is not None:
            self.widget.cleanup()
            self.widget = None
        self._drop_frame()
        if self._source is not None:
            sys.modules.pop(self._source.stem, None)
        for name in _library():  # as before a Reload, so that other tests meet the classes that they imported
            del sys.modules[name]
        sys.modules.update(self._library_before)
        parameter_nodes.connections.clear()
        if self.logics:
            self.scene.RemoveObserver(self._leaving)
            super().close()
        self._settings.cleanup()

    def _drop_frame(self) -> None:
        if self.frame is not None:
            for box in self.frame.findChildren(qMRMLNodeComboBox):
                box.setMRMLScene(None)
            self.frame.deleteLater()
            self.frame = None
            self.application.sendPostedEvents(None, QtCore.QEvent.DeferredDelete)

    def _provide(self) -> None:
        sys.modules["qt"] = QtModule("qt")
        sys.modules["slicer.ScriptedLoadableModule"] = slicer.ScriptedLoadableModule = _module_of(
            "slicer.ScriptedLoadableModule",
            ScriptedLoadableModule,
            ScriptedLoadableModuleWidget,
            ScriptedLoadableModuleLogic,
            ScriptedLoadableModuleTest,
        )
        sys.modules["slicer.parameterNodeWrapper"] = slicer.parameterNodeWrapper = _module_of(
            "slicer.parameterNodeWrapper", parameter_nodes.WithinRange, parameter_nodes.parameterNodeWrapper
        )
        slicer.util.loadUI, slicer.util.childWidgetVariables = loadUI, childWidgetVariables
        slicer.util.mainWindow = lambda verbose=True: None
        slicer.util.startupEnvironment = lambda: dict(os.environ)
        slicer.util.setSliceViewerLayers = self._set_layers
        slicer.qMRMLSegmentEditorWidget = lambda: QtObject(qMRMLSegmentEditorWidget())
        slicer.app.slicerUserSettingsFilePath = str(Path(self._settings.name) / "Slicer.ini")
        slicer.app.slicerHome = self._settings.name
        slicer.app.testingEnabled = lambda: False
        slicer.app.processEvents = self.application.processEvents
        slicer.app.connect = self._connect
        dialogs = {"getExistingDirectory": "folder", "getOpenFileName": "open", "getSaveFileName": "save"}
        for name, kind in dialogs.items():
            pythonqt.statics["QFileDialog", name] = self._dialog(kind)
        pythonqt.statics["QApplication", "clipboard"] = lambda: QtObject(self.application.clipboard())

    def _dialog(self, kind: str) -> Callable[..., str]:
        return lambda _parent, title, *_more: pythonqt.answer(kind, title)

    def _set_layers(self, background: Any = None, fit: bool = False, **unknown: Any) -> None:
        if unknown:
            raise NotImplementedError(f"setSliceViewerLayers: {sorted(unknown)} is not modelled")
        for logic in self.sliceLogics.values():
            logic.GetSliceCompositeNode().SetBackgroundVolumeID(background.GetID())
            if fit:
                logic.FitSliceToAll()


def _library() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "ToNNOSlicerLib"]


def _module_of(name: str, *members: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    for member in members:
        setattr(module, member.__name__, member)
    return module
