"""Stand-ins for Slicer's own widgets: the Segment Editor, the button Show 3D, the widget that has the scene."""

from __future__ import annotations

from typing import Any

import slicer
import slicer.util
import vtk
from node_selector import qMRMLNodeComboBox
from observations import Observations
from PySide6 import QtCore, QtWidgets
from pythonqt import errors

_SURFACE, _LABELMAP = "Closed surface", "Binary labelmap"
# After the observers of the module.
_LAST = -10.0


class qMRMLWidget(QtWidgets.QWidget):
    """Passes its scene on to the widgets that the .ui file connects with it."""

    mrmlSceneChanged = QtCore.Signal(object)
    OBJECT = "vtkMRMLScene*"
    _scene: Any = None

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        return self._scene


class qMRMLSegmentEditorWidget(QtWidgets.QWidget):
    """What a module has to do around Slicer's editor; painting is the application's, its undo is Slicer's own history.

    The parameter node is set before the scene. Before the scene closes, no effect may be active, no segmentation
    selected and no view observed, in this order: what is left of that is an exception in a slot, so it fails the test.
    While `autoShowSourceVolumeNode` is on, a source volume that no view shows takes the overlay's place. A widget that
    was put into a layout stays there when Python forgets it.
    """

    # What a test sees of the settings, by the setter's name.
    _SETTINGS = (
        *("undoEnabled", "readOnly", "effectNameOrder", "unorderedEffectsVisible"),
        *("segmentationNodeSelectorVisible", "sourceVolumeNodeSelectorVisible", "maskingSectionVisible"),
        *("switchToSegmentationsButtonVisible", "addRemoveSegmentButtonsVisible", "show3DButtonVisible"),
        "specifyGeometryButtonVisible",
    )

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self.settings: dict[str, Any] = {}
        self.areViewsObserved = self.hasShortcuts = False
        self._auto_show = True
        self._scene = self._node = None
        self._history = slicer.vtkSegmentationHistory()
        self._observations = Observations()

    # --- the scene and its node

    def setMRMLSegmentEditorNode(self, node: Any) -> None:
        self._node = node

    def mrmlSegmentEditorNode(self) -> Any:
        return self._node

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._scene:
            return
        if scene is not None and self._node is None:
            raise AssertionError("qMRMLSegmentEditorWidget: set the parameter node before the scene")
        if scene is None:
            self._check_rest()
        self._observations.clear()
        self._scene = scene
        if scene is not None:
            self._observations.add(scene, scene.StartCloseEvent, self._on_closing, _LAST)

    def mrmlScene(self) -> Any:
        return self._scene

    def _on_closing(self, _scene: Any, _event: str) -> None:
        try:
            self._check_rest()
        except AssertionError as error:  # VTK would print and go on
            errors.append(error)

    def _check_rest(self) -> None:
        left = {
            "setActiveEffect(None)": self.activeEffect() is not None,
            "setSegmentationNode(None)": self.segmentationNode() is not None,
            "removeViewObservations()": self.areViewsObserved,
        }
        if any(left.values()):
            missing = ", ".join(step for step, isLeft in left.items() if isLeft)
            raise AssertionError(f"qMRMLSegmentEditorWidget: before the scene goes, call {missing}")

    # --- what is edited

    def setSegmentationNode(self, node: Any) -> None:
        if self._node is None:
            raise AssertionError("qMRMLSegmentEditorWidget: there is no parameter node")
        if node is not self.segmentationNode():
            self._node.SetAndObserveSegmentationNode(node)
            self.setActiveEffect(None)

    def segmentationNode(self) -> Any:
        return None if self._node is None else self._node.GetSegmentationNode()

    def setSourceVolumeNode(self, node: Any) -> None:
        self._node.SetAndObserveSourceVolumeNode(node)
        if self._auto_show and node is not None:
            for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
                if node.GetID() not in (view.GetBackgroundVolumeID(), view.GetForegroundVolumeID()):
                    view.SetBackgroundVolumeID(node.GetID())
                    view.SetForegroundVolumeID(None)
                    view.SetLabelVolumeID(None)

    def sourceVolumeNode(self) -> Any:
        return None if self._node is None else self._node.GetSourceVolumeNode()

    def setCurrentSegmentID(self, segmentID: str) -> None:
        self._node.SetSelectedSegmentID(segmentID)

    def currentSegmentID(self) -> str:
        return "" if self._node is None else self._node.GetSelectedSegmentID() or ""

    def setActiveEffect(self, effect: Any) -> None:
        if effect is not None:
            raise NotImplementedError("effects are modelled by their names: setActiveEffectByName")
        self.setActiveEffectByName("")

    def setActiveEffectByName(self, name: str) -> None:
        if self._node is None and name:
            raise AssertionError("qMRMLSegmentEditorWidget: there is no parameter node")
        if self._node is not None:
            self._node.SetActiveEffectName(name)

    def activeEffect(self) -> str | None:
        """The effect's name, where the application gives the effect."""
        return None if self._node is None else self._node.GetActiveEffectName() or None

    # --- views, shortcuts, settings

    def setupViewObservations(self) -> None:
        self.areViewsObserved = True

    def removeViewObservations(self) -> None:
        self.areViewsObserved = False

    def installKeyboardShortcuts(self, _parent: Any = None) -> None:
        self.hasShortcuts = True

    def uninstallKeyboardShortcuts(self) -> None:
        self.hasShortcuts = False

    def setAutoShowSourceVolumeNode(self, on: bool) -> None:
        self._auto_show = on

    def setMaximumNumberOfUndoStates(self, count: int) -> None:
        self._history.SetMaximumNumberOfStates(count)

    def saveStateForUndo(self) -> None:
        """What an effect calls before it changes a segment."""
        self._states().SaveState()

    def undo(self) -> None:
        self._states().RestorePreviousState()

    def redo(self) -> None:
        self._states().RestoreNextState()

    def _states(self) -> Any:
        """The states of the segmentation that is edited now; those of another are forgotten."""
        node = self.segmentationNode()
        self._history.SetSegmentation(None if node is None else node.GetSegmentation())
        return self._history

    def _setter(name: str) -> Any:
        def write(self: Any, value: Any) -> None:
            self.settings[name] = value

        return write

    for _setting in _SETTINGS:
        vars()[f"set{_setting[0].upper()}{_setting[1:]}"] = _setter(_setting)

    autoShowSourceVolumeNode = QtCore.Property(bool, lambda self: self._auto_show, setAutoShowSourceVolumeNode)


class qMRMLSegmentationShow3DButton(QtWidgets.QPushButton):
    """Shows and hides the closed surfaces of a segmentation; pressed while there are some."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__("Show 3D", parent)
        self._node, self._is_locked, self._observations = None, False, Observations()
        self.setCheckable(True)
        self.setEnabled(False)
        self.toggled.connect(self._on_toggled)

    def setSegmentationNode(self, node: Any) -> None:
        if node is self._node:
            return
        self._observations.clear()
        self._node = node
        if node is not None:
            kind = slicer.vtkSegmentation
            changes = (kind.SegmentAdded, kind.SegmentRemoved, kind.ContainedRepresentationNamesModified)
            for event in (vtk.vtkCommand.ModifiedEvent, *changes):
                self._observations.add(node, event, self._update)
        self._update()

    def segmentationNode(self) -> Any:
        return self._node

    def setLocked(self, on: bool) -> None:
        self._is_locked = on
        self._update()

    def _update(self, *_what: Any) -> None:
        segmentation = None if self._node is None else self._node.GetSegmentation()
        if segmentation is None:
            self.setEnabled(False)
            return
        isSource = segmentation.GetSourceRepresentationName() == _SURFACE
        self.setEnabled(not self._is_locked and segmentation.GetNumberOfSegments() > 0 and not isSource)
        with QtCore.QSignalBlocker(self):
            self.setChecked(segmentation.ContainsRepresentation(_SURFACE))

    def _on_toggled(self, on: bool) -> None:
        segmentation = None if self._node is None else self._node.GetSegmentation()
        if segmentation is None:
            return
        wasModifying = self._node.StartModify()
        if on and segmentation.CreateRepresentation(_SURFACE):
            display = self._node.GetDisplayNode()
            if display is not None:
                display.SetPreferredDisplayRepresentationName3D(_SURFACE)
                if segmentation.ContainsRepresentation(_LABELMAP):
                    display.SetPreferredDisplayRepresentationName2D(_LABELMAP)
        elif not on and segmentation.GetSourceRepresentationName() != _SURFACE:
            segmentation.RemoveRepresentation(_SURFACE)
        self._node.EndModify(wasModifying)

    locked = QtCore.Property(bool, lambda self: self._is_locked, setLocked)


MRML = {
    kind.__name__: kind
    for kind in (qMRMLWidget, qMRMLNodeComboBox, qMRMLSegmentEditorWidget, qMRMLSegmentationShow3DButton)
}
