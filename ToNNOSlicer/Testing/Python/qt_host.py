"""A small stand-in for Slicer's Qt side around the module: the application, ScriptedLoadableModule, settings, dialogs.

    host = QtHost()                     # after it, `import qt` and `import slicer.ScriptedLoadableModule` work
    widget = host.loadModule(path)      # as the application does: module, widget, setup
    host.close()

On PySide6, off screen, with the real MRML libraries of slicer_host; pythonqt.py has the manners of Qt's objects,
qt_widgets.py, mrml_widgets.py and node_selector.py the widgets of CTK and Slicer, parameter_nodes.py the parameter
node, event_loop.py the event loop. `slicer.util` is Slicer's own. Written from the documentation and the behavior of
Slicer, CTK and PythonQt; what is not modelled raises, so a test that passes has used nothing else. It proves the
module's own logic. Whether PythonQt and the application play along, only ``slicer_smoke.py`` in the application shows.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import event_loop
import parameter_nodes
import pythonqt
import sample_data_module
import slicer
import slicer.util
import vtk
from mrml_widgets import MRML, qMRMLSegmentEditorWidget
from observations import forgetScene
from PySide6 import QtCore, QtGui, QtWidgets
from pythonqt import QtModule, kindOf, wrap
from qt_widgets import CTK, loadUI
from scripted_modules import (
    ModuleManager,
    ModuleWidget,
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer_host import Host


class QtHost(Host):
    """The scene of `slicer_host.Host`, and an application around it.

    answers: what a test says to the next questions, first in first out: ("message", text of a button),
    ("folder", path), ("open", path), ("save", path), ("text", what is typed). A question without an answer raises, as
    nobody would answer it on a build machine either. asked: the questions. errors: exceptions that escaped from slots.
    opened: addresses that a browser was to show. testing: whether the application was started for its own tests.
    """

    answers = pythonqt.answers
    asked = pythonqt.asked
    errors = pythonqt.errors
    opened = pythonqt.opened

    def __init__(self) -> None:
        self.application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["host"])
        super().__init__()
        self._settings = tempfile.TemporaryDirectory(prefix="slicer-settings-")
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
        QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, self._settings.name)
        self.application.setOrganizationName("host")
        self.application.setApplicationName("host")
        for kept in (self.answers, self.asked, self.errors, self.opened):
            kept.clear()
        self.testing = False
        self.widget = self.frame = self._source = None
        self._startup: list[Callable[[], None]] = []
        self._modules = ModuleManager()
        self._library_before = {name: sys.modules[name] for name in _library()}
        self._path_before = list(sys.path)
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

    # --- the module

    def loadModule(self, path: str | Path, enter: bool = True) -> Any:
        """Execute a module's file and set its widget up, as the application does when a module is opened.

        enter: whether it is then shown too; without it, somebody only asked for its widget.
        """
        self._source, name = Path(path), Path(path).stem
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
        parent = types.SimpleNamespace(path=str(path))
        getattr(sys.modules[name], name)(parent)
        if not parent.title:
            raise AssertionError("the module has no title")
        self.frame = ModuleWidget(lambda: self.widget, self._set_up)
        place = wrap(self.frame)
        module = types.SimpleNamespace(path=str(path), widgetRepresentation=lambda: place)
        setattr(slicer.modules, name.lower(), module)
        self._set_up()
        if enter:
            self.enterModule()
        return self.widget

    def enterModule(self) -> None:
        self.frame.enter()

    def exitModule(self) -> None:
        self.frame.exit()

    def reload(self) -> None:
        """As Slicer's button does it: the old widget stays hidden in its place, and nobody enters the new one."""
        slicer.util.reloadScriptedModule(self._source.stem)

    def segmentEditors(self) -> list[qMRMLSegmentEditorWidget]:
        """Those that are in the module's panel, whether somebody remembers them or not."""
        return self.frame.findChildren(qMRMLSegmentEditorWidget)

    def _set_up(self) -> None:
        name = f"{self._source.stem}Widget"
        self.widget = getattr(self._module, name)(wrap(self.frame))
        setattr(slicer.modules, name, self.widget)
        self.widget.setup()

    @property
    def _module(self) -> Any:
        """The module's file, as it was executed last."""
        return sys.modules[self._source.stem]

    # --- the application

    def completeStartup(self) -> None:
        """The application has started."""
        for receiver in self._startup:
            receiver()

    def process(self, seconds: float = 0.0, until: Callable[[], bool] = lambda: False) -> bool:
        """Run the event loop until `until` holds or the time is over; a slot's exception is raised here."""
        event_loop.turn()
        held = bool(self.errors) or until()
        if not held and seconds > 0:
            held = event_loop.run(1000 * seconds, lambda: bool(self.errors) or until())
        if self.errors:
            raise self.errors.pop(0)
        return held

    def close(self) -> None:
        if self.widget is not None:
            self.widget.cleanup()
            self.widget = None
        forgetScene()
        self._drop_frame()
        if self._source is not None:
            sys.modules.pop(self._source.stem, None)
        for name in _library():  # as before a Reload, so that other tests meet the classes that they imported
            package, _dot, module = name.rpartition(".")
            if package in sys.modules and hasattr(sys.modules[package], module):
                delattr(sys.modules[package], module)
        for name in _library():
            del sys.modules[name]
        sys.modules.update(self._library_before)
        for name, module in self._library_before.items():
            package, _dot, last = name.rpartition(".")
            if package:
                setattr(sys.modules[package], last, module)
        sys.modules.pop("SampleData", None)
        sys.path[:] = self._path_before
        if self.logics:
            self.scene.RemoveObserver(self._leaving)
            super().close()
        self._settings.cleanup()

    def _drop_frame(self) -> None:
        if self.frame is not None:
            self.frame.deleteLater()
            self.frame = None
            self.application.sendPostedEvents(None, QtCore.QEvent.DeferredDelete)

    def _connect(self, signal: str, receiver: Callable[[], None]) -> bool:
        if signal != "startupCompleted()":
            raise NotImplementedError(f"the application's signal {signal} is not modelled")
        self._startup.append(receiver)
        return True

    def _provide(self) -> None:
        sys.modules["qt"] = QtModule("qt")
        sys.modules["ctk"] = _module_of("ctk", *map(kindOf, CTK.values()))
        sys.modules["SampleData"] = sample_data_module.module()
        sys.modules["slicer.ScriptedLoadableModule"] = slicer.ScriptedLoadableModule = _module_of(
            "slicer.ScriptedLoadableModule",
            ScriptedLoadableModule,
            ScriptedLoadableModuleWidget,
            ScriptedLoadableModuleLogic,
            ScriptedLoadableModuleTest,
        )
        sys.modules["slicer.parameterNodeWrapper"] = slicer.parameterNodeWrapper = _module_of(
            "slicer.parameterNodeWrapper",
            parameter_nodes.WithinRange,
            parameter_nodes.Minimum,
            parameter_nodes.Maximum,
            parameter_nodes.parameterNodeWrapper,
        )
        for kind in MRML.values():
            setattr(slicer, kind.__name__, kindOf(kind))
        slicer.selfTests = {}
        slicer.util.loadUI = loadUI  # its other functions are Slicer's own
        for name, value in self._application().items():
            setattr(slicer.app, name, value)
        dialogs = {"getExistingDirectory": "folder", "getOpenFileName": "open", "getSaveFileName": "save"}
        for name, kind in dialogs.items():
            pythonqt.statics["QFileDialog", name] = self._dialog(kind)
        pythonqt.statics["QApplication", "clipboard"] = lambda: wrap(self.application.clipboard())

    def _application(self) -> dict[str, Any]:
        views = types.SimpleNamespace(
            mrmlSliceLogics=self.applicationLogic.GetSliceLogics, sliceViewNames=lambda: tuple(self.sliceLogics)
        )
        environment = types.SimpleNamespace(keys=lambda: list(os.environ), value=os.environ.get)
        return {
            "slicerUserSettingsFilePath": str(Path(self._settings.name) / "Slicer.ini"),
            "slicerHome": self._settings.name,
            "applicationName": "host",
            "documentationBaseUrl": "https://slicer.readthedocs.io/en/latest/",
            "moduleDocumentationUrl": lambda name: (
                f"https://slicer.readthedocs.io/en/latest/modules/{name.lower()}.html"
            ),
            "processEvents": self.application.processEvents,
            "connect": self._connect,
            "testingEnabled": lambda: self.testing,
            "moduleManager": lambda: self._modules,
            "layoutManager": lambda: views,
            "startupEnvironment": lambda: environment,
            "topLevelWidgets": lambda: (),  # there is no main window
            "palette": lambda: wrap(self.application.palette()),
            "clipboard": lambda: wrap(self.application.clipboard()),
            "settings": sys.modules["qt"].QSettings,
            "userSettings": sys.modules["qt"].QSettings,
        }

    def _dialog(self, kind: str) -> Callable[..., str]:
        return lambda _parent, title, *_more: pythonqt.answer(kind, title)


def setDark(application: QtWidgets.QApplication, on: bool = True) -> None:
    """The application's dark theme, or the light one again, for all that takes its colors from the palette."""
    application.setStyle("Fusion")
    palette, role = QtGui.QPalette("#353535" if on else "#efefef"), QtGui.QPalette.ColorRole
    if on:
        for kind in (role.WindowText, role.Text, role.ButtonText, role.ToolTipText):
            palette.setColor(kind, QtGui.QColor("#f0f0f0"))
            palette.setColor(QtGui.QPalette.Disabled, kind, QtGui.QColor("#808080"))
        palette.setColor(role.Base, QtGui.QColor("#232323"))
        palette.setColor(role.AlternateBase, QtGui.QColor("#303030"))
        palette.setColor(role.ToolTipBase, QtGui.QColor("#303030"))
        palette.setColor(role.PlaceholderText, QtGui.QColor("#909090"))
        palette.setColor(role.Highlight, QtGui.QColor("#2a82da"))
        palette.setColor(role.Link, QtGui.QColor("#6cb2ff"))
    application.setPalette(palette)
    application.processEvents()  # then the widgets that are there follow


def _library() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "ToNNOSlicerLib"]


def _module_of(name: str, *members: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    for member in members:
        setattr(module, member.__name__, member)
    return module
