"""Stand-ins for slicer.ScriptedLoadableModule, and for what the application keeps of a module."""

from __future__ import annotations

import sys
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
import slicer.util
from PySide6 import QtCore, QtGui, QtWidgets
from pythonqt import QtObject, kindOf


class ScriptedLoadableModule:
    """Made when the application starts; `parent` describes the module."""

    def __init__(self, parent: Any) -> None:
        self.parent, self.moduleName = parent, type(self).__name__
        parent.title, parent.categories, parent.dependencies = "", [], []
        parent.contributors, parent.helpText, parent.acknowledgementText = [], "", ""
        parent.icon = kindOf(QtGui.QIcon)(self.resourcePath(f"Icons/{self.moduleName}.svg"))
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, name: str) -> str:
        return str(Path(self.parent.path).parent / "Resources" / name)

    def getDefaultModuleDocumentationLink(self, docPage: str | None = None) -> str:
        base = slicer.app.documentationBaseUrl
        page = base + docPage if docPage else slicer.app.moduleDocumentationUrl(self.moduleName)
        return f'<p>For more information, see the <a href="{page}">online documentation</a>.</p>'

    def runTest(self, msec: int = 100, **options: Any) -> None:
        test = getattr(sys.modules[type(self).__module__], f"{self.moduleName}Test")()
        test.messageDelay = msec
        test.runTest(**options)


class ScriptedLoadableModuleWidget:
    """Made with a parent widget; `layout` is the parent's."""

    def __init__(self, parent: QtObject | None = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        self.parent = parent
        self.layout = parent.layout()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def setup(self) -> None:
        """Buttons for developers are the application's."""

    def cleanup(self) -> None:
        """Before the module is unloaded or loaded again."""

    def resourcePath(self, name: str) -> str:
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / name)

    def onReload(self) -> None:
        """The file is executed again, and a new widget takes the place of this one."""
        slicer.util.reloadScriptedModule(self.moduleName)

    def _onModuleAboutToBeUnloaded(self, moduleName: str) -> None:
        if moduleName == self.moduleName:
            self.cleanup()


class ScriptedLoadableModuleLogic:
    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        """The scene's node of this module; made where it is missing."""
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.AddNode(self.createParameterNode())
        node.SetAttribute("ModuleName", self.moduleName)
        return node

    def createParameterNode(self) -> Any:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """Without a method `runTest` of its own a module's test runs all that have "test" in their names."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*(arguments or ("runTest",)))
        self.moduleTestNames = [name for name in dir(self) if "test" in name and callable(getattr(self, name))]

    def runTest(self) -> None:
        for name in self.moduleTestNames:
            self.setUp()
            getattr(self, name)()
            self.tearDown()

    def delayDisplay(self, message: str, requestedDelay: int | None = None, msec: int | None = None) -> None:
        """The application shows the message for a while; the reload-and-test buttons say for how long."""
        slicer.util.delayDisplay(message, min(100, getattr(self, "messageDelay", msec or requestedDelay or 100)))


class ModuleWidget(QtWidgets.QWidget):
    """The module's place in the application's panel.

    python: gives the module's widget. setUp: makes a new one.
    """

    def __init__(self, python: Callable[[], Any], setUp: Callable[[], None]) -> None:
        super().__init__()
        QtWidgets.QVBoxLayout(self)
        self._python, self._set_up, self._entered = python, setUp, False

    def self(self) -> Any:
        return self._python()

    def reload(self) -> None:
        self._set_up()

    def enter(self) -> None:
        """The module is shown. A module need not care."""
        self._entered = True
        getattr(self._python(), "enter", lambda: None)()

    def exit(self) -> None:
        """Another module is shown."""
        self._entered = False
        getattr(self._python(), "exit", lambda: None)()

    isEntered = QtCore.Property(bool, lambda self: self._entered)


class ModuleManager:
    """Keeps what the widgets want to be told of."""

    def __init__(self) -> None:
        self.connected: list[tuple[str, Callable[..., Any]]] = []

    def connect(self, signal: str, receiver: Callable[..., Any]) -> bool:
        self.connected.append((signal, receiver))
        return True

    def disconnect(self, signal: str, receiver: Callable[..., Any]) -> bool:
        self.connected.remove((signal, receiver))
        return True
