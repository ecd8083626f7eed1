"""A stand-in for Slicer's selector of nodes."""

from __future__ import annotations

from typing import Any

import vtk
from observations import Observations
from PySide6 import QtCore, QtWidgets

# Before and after the observers of the module.
_FIRST, _LAST = 10.0, -10.0


def _flag(name: str) -> Any:
    def write(self: Any, on: bool) -> None:
        self._flags[name] = on
        self._fill(self.currentNode())

    return QtCore.Property(bool, lambda self: self._flags[name], write)


class qMRMLSortFilterProxyModel(QtCore.QObject):
    """What decides which nodes are listed; of it, the nodes that are hidden by their IDs."""

    def __init__(self, box: qMRMLNodeComboBox) -> None:
        super().__init__(box)
        self._box, self._hidden = box, []

    def _hide(self, identifiers: list[str]) -> None:
        self._hidden = list(identifiers)
        self._box._fill(self._box.currentNode())

    hiddenNodeIDs = QtCore.Property("QStringList", lambda self: self._hidden, _hide)


class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Nodes of some classes in a QComboBox: "None" above them, actions below, where these are enabled.

    The QComboBox decides what is selected, as in the application: a new node is not, unless the box was empty; when
    the selected node leaves the scene, *the row below it* is, or else the last one. A node that is not listed cannot be
    selected: None is. After a scene was read in, None is selected too. A selected node that is renamed is told again.
    """

    currentNodeChanged = QtCore.Signal((object,), (bool,))
    currentNodeIDChanged = QtCore.Signal(str)
    nodeActivated = QtCore.Signal(object)
    nodeAdded = QtCore.Signal(object)
    nodeAddedByUser = QtCore.Signal(object)
    HELPERS = ("createByHand",)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._types: list[str] = []
        self._hidden_types: list[str] = []
        self._flags = {"noneEnabled": False, "addEnabled": True, "removeEnabled": True, "renameEnabled": False}
        self._flags |= {"editEnabled": False, "showHidden": False, "showChildNodeTypes": True}
        self._flags |= {"selectNodeUponCreation": True}
        self._attributes: dict[str, tuple[str, str | None]] = {}
        self._names: dict[str, str] = {}
        self._none = "None"
        self._scene: Any = None
        self._requested: Any = None
        self._quiet = False
        self._observations, self._of_nodes = Observations(), Observations()
        self._filter = qMRMLSortFilterProxyModel(self)
        self._box = QtWidgets.QComboBox()
        self._box.currentIndexChanged.connect(self._on_current)
        self._box.activated.connect(self._on_activated)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self.setEnabled(False)

    # --- the scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._scene:
            return
        kept = self.currentNode() or self._requested
        self._observations.clear()
        self._scene = scene
        if scene is not None:
            self._observations.add(scene, scene.NodeAddedEvent, self._on_added, _FIRST)
            self._observations.add(scene, scene.NodeAboutToBeRemovedEvent, self._on_leaving, _LAST)
            for event in (scene.EndImportEvent, scene.EndCloseEvent):
                self._observations.add(scene, event, self._on_loaded)
        self._fill(None)
        self._requested = None
        if kept is None and not self._first():
            kept = self.nodeFromIndex(0)
        if kept is not None:
            self.setCurrentNode(kept)
        self.setEnabled(scene is not None)

    def mrmlScene(self) -> Any:
        return self._scene

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_added(self, scene: Any, _event: str, node: Any) -> None:
        if not scene.IsImporting():
            self._observe(node)
            self._list(node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_leaving(self, scene: Any, _event: str, node: Any) -> None:
        row = self._row(node)
        if row >= 0 and not scene.IsClosing():
            self._box.removeItem(row)
            if self.currentNode() is None:
                self.setCurrentNode(None)

    def _on_loaded(self, _scene: Any, _event: str) -> None:
        """All nodes are listed anew, so none of them stays selected."""
        self._box.model().removeRows(self._first(), self.nodeCount())
        self._of_nodes.clear()
        for node in self._all_nodes():
            self._observe(node)
            self._list(node)

    def _on_modified(self, node: Any, _event: str) -> None:
        row = self._row(node)
        if row < 0:
            self._list(node)
        elif not self._accepts(node):
            self._box.removeItem(row)
        elif self._box.itemText(row) != node.GetName():
            self._box.setItemText(row, node.GetName())
            if row == self._box.currentIndex():
                self._on_current()

    def _list(self, node: Any) -> None:
        """Insert a node that has come, where it stands in the scene."""
        if node.GetScene() is self._scene and self._accepts(node) and self._row(node) < 0:
            self._box.insertItem(self._first() + self._nodes().index(node), node.GetName(), node)
            self.nodeAdded.emit(node)

    def _observe(self, node: Any) -> None:
        if any(node.IsA(kind) for kind in self._types):
            self._of_nodes.add(node, vtk.vtkCommand.ModifiedEvent, self._on_modified)

    # --- what is listed

    def sortFilterProxyModel(self) -> qMRMLSortFilterProxyModel:
        return self._filter

    def _accepts(self, node: Any) -> bool:
        if node.GetHideFromEditors() and not self._flags["showHidden"]:
            return False
        if node.GetID() in self._filter.hiddenNodeIDs:
            return False
        for kind in self._types:
            exact = node.GetClassName() == kind
            if node.IsA(kind) and (exact or self._flags["showChildNodeTypes"]):
                if self._flags["showChildNodeTypes"] and any(node.IsA(hidden) for hidden in self._hidden_types):
                    return False
                name, value = self._attributes.get(kind, ("", None))
                there = node.GetAttribute(name) if name else ""
                return there is not None and value in (None, there)
        return False

    def _all_nodes(self) -> list[Any]:
        count = 0 if self._scene is None else self._scene.GetNumberOfNodes()
        return [self._scene.GetNthNode(n) for n in range(count)]

    def _nodes(self) -> list[Any]:
        return [node for node in self._all_nodes() if self._accepts(node)]

    def _first(self) -> int:
        return 1 if self._flags["noneEnabled"] and self._scene is not None else 0

    def _row(self, node: Any) -> int:
        rows = range(self._first(), self._first() + self.nodeCount())
        return next((row for row in rows if self._box.itemData(row) is node), -1)

    def _fill(self, current: Any) -> None:
        """All rows again; what was selected stays so, if it is still listed. Tells only where it is not."""
        self._of_nodes.clear()
        self._quiet = True
        self._box.clear()
        if self._scene is not None:
            if self._flags["noneEnabled"]:
                self._box.addItem(self._none, None)
            for node in self._nodes():
                self._box.addItem(node.GetName(), node)
            self._add_actions()
            for node in self._all_nodes():
                self._observe(node)
        row = -1 if current is None else self._row(current)
        self._box.setCurrentIndex(row if row >= 0 else self._first() - 1)
        self._quiet = False
        if current is not None and row < 0:
            self._on_current()

    def _add_actions(self) -> None:
        kind = "node" if len(self._types) != 1 else self._types[0].removeprefix("vtkMRML").removesuffix("Node")
        texts = {"renameEnabled": "Rename current", "editEnabled": "Edit current", "addEnabled": "Create new"}
        texts |= {"removeEnabled": "Delete current"}
        named = [f"{text} {kind}" for name, text in texts.items() if self._flags[name]]
        if named:
            self._box.insertSeparator(self._box.count())
        for text in named:
            self._box.addItem(text)

    def nodeCount(self) -> int:
        return len([row for row in range(self._box.count()) if self._box.itemData(row) is not None])

    def nodeFromIndex(self, index: int) -> Any:
        return self._box.itemData(self._first() + index) if 0 <= index < self.nodeCount() else None

    # --- the selected node

    def currentNode(self) -> Any:
        return self._box.currentData()

    def setCurrentNode(self, node: Any) -> None:
        if self._scene is None:
            self._requested = node
            return
        row = -1 if node is None else self._row(node)
        self._box.setCurrentIndex(row if row >= 0 else self._first() - 1)

    def setCurrentNodeID(self, nodeID: str) -> None:
        self.setCurrentNode(self._scene.GetNodeByID(nodeID) if nodeID else None)

    def setCurrentNodeIndex(self, index: int) -> None:
        self._box.setCurrentIndex(self._first() + (index if index < self.nodeCount() else -1))

    def _on_current(self, _row: int = -1) -> None:
        if self._quiet:
            return
        node, row = self.currentNode(), self._box.currentIndex()
        if node is None and row != self._first() - 1:  # an action: it cannot be selected
            if self.nodeCount():
                self.setCurrentNode(self.nodeFromIndex(self.nodeCount() - 1))
            return
        self.currentNodeChanged[object].emit(node)
        self.currentNodeChanged[bool].emit(node is not None)
        self.currentNodeIDChanged.emit("" if node is None else node.GetID())

    def _on_activated(self, row: int) -> None:
        node = self._box.itemData(row)
        if node is not None or row == self._first() - 1:
            self.nodeActivated.emit(node)

    # --- what the user adds and removes

    def addNode(self, kind: str | None = None) -> Any:
        kind = kind or self._types[0]
        node = self._scene.CreateNodeByClass(kind)
        node.UnRegister(None)
        name = self._names.get(kind)
        if name:
            node.SetName(self._scene.GetUniqueNameByString(name))
        for attribute, value in self._attributes.values():
            node.SetAttribute(attribute, value or "")
        node = self._scene.AddNode(node)
        if self._flags["selectNodeUponCreation"]:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def createByHand(self) -> Any:
        """What a click on "Create new" does."""
        if not self._flags["addEnabled"]:
            raise AssertionError("the box offers no new node")
        node = self.addNode()
        self.setCurrentNode(node)
        return node

    def removeCurrentNode(self) -> None:
        self._scene.RemoveNode(self.currentNode())

    # --- properties

    def addAttribute(self, nodeType: str, name: str, value: str | None = None) -> None:
        """Only nodes of that type that have the attribute, one for each type; a new node gets it too."""
        self._attributes[nodeType] = (name, value)
        self._fill(self.currentNode())

    def removeAttribute(self, nodeType: str, _name: str) -> None:
        self._attributes.pop(nodeType, None)
        self._fill(self.currentNode())

    def _set_types(self, types: list[str]) -> None:
        self._types = [kind for kind in types if kind]
        self._fill(self.currentNode())

    def _set_hidden_types(self, types: list[str]) -> None:
        self._hidden_types = list(types)
        self._fill(self.currentNode())

    def _set_none(self, text: str) -> None:
        self._none = text
        self._fill(self.currentNode())

    def _set_name(self, name: str) -> None:
        if not self._types:
            raise ValueError("baseName: no node types have been set yet")
        self._names |= dict.fromkeys(self._types, name)

    nodeTypes = QtCore.Property("QStringList", lambda self: self._types, _set_types)
    hideChildNodeTypes = QtCore.Property("QStringList", lambda self: self._hidden_types, _set_hidden_types)
    noneDisplay = QtCore.Property(str, lambda self: self._none, _set_none)
    baseName = QtCore.Property(str, lambda self: self._names.get((*self._types, "")[0], ""), _set_name)
    noneEnabled, addEnabled, removeEnabled = _flag("noneEnabled"), _flag("addEnabled"), _flag("removeEnabled")
    renameEnabled, editEnabled, showHidden = _flag("renameEnabled"), _flag("editEnabled"), _flag("showHidden")
    showChildNodeTypes, selectNodeUponCreation = _flag("showChildNodeTypes"), _flag("selectNodeUponCreation")
