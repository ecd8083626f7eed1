"""Corrections by hand: Slicer's own Segment Editor, on the shown result's segment."""

from __future__ import annotations

import slicer


class EditorSection:
    """ui: the widgets by name. session: the Session. The editor is made once, when the section is opened first."""

    def __init__(self, ui, session) -> None:
        self._ui, self._session = ui, session
        self._editor = None
        self._node = None
        self._shown: tuple = ()
        ui.editorSection.connect("contentsCollapsed(bool)", self._onCollapsed)
        session.logic.segments.beforeChange = self._saveState

    def render(self) -> None:
        """Point the editor at the result's segment, if the section is open."""
        if self._session.parameters is None or self._ui.editorSection.collapsed:
            return
        result = self._session.shownResult
        shown = () if result is None or result.segmentationNode is None else result.identity
        if shown == self._shown and self._node is not None and self._node.GetScene() is not None:
            return
        self._shown = shown
        editor = self._made()
        editor.setActiveEffect(None)  # it was on another result
        if shown:
            editor.setSegmentationNode(result.segmentationNode)
            editor.setSourceVolumeNode(result.inputNode)
            self._node.SetSelectedSegmentID(result.segmentId)
        else:
            editor.setSegmentationNode(None)
            editor.setSourceVolumeNode(None)

    def rest(self) -> None:
        """No effect stays active while nobody sees the editor."""
        if self._node is not None:
            self._editor.setActiveEffect(None)

    def release(self) -> None:
        """The scene closes, or the module ends: let go of everything in it. The widget itself stays for the next."""
        if self._node is not None:
            self._editor.setActiveEffect(None)
            self._editor.setSegmentationNode(None)
            self._editor.removeViewObservations()
            self._editor.setMRMLScene(None)
        self._node, self._shown = None, ()

    def _made(self):
        """The editor with a parameter node in the present scene."""
        if self._editor is None:
            self._editor = slicer.qMRMLSegmentEditorWidget()
            self._editor.setMaximumNumberOfUndoStates(10)
            self._editor.setAutoShowSourceVolumeNode(False)  # it would take the heatmap out of the views
            self._ui.editorSection.layout().addWidget(self._editor)
        if self._node is None or self._node.GetScene() is None:
            scene = self._session.logic.scene
            node = scene.GetSingletonNode("ToNNO", "vtkMRMLSegmentEditorNode")
            if node is None:
                node = slicer.vtkMRMLSegmentEditorNode()
                node.SetSingletonTag("ToNNO")
                node = scene.AddNode(node)
            self._node = node
            self._editor.setMRMLSegmentEditorNode(node)
            self._editor.setMRMLScene(scene)
        return self._editor

    def _saveState(self, segmentationNode) -> None:
        """Make what we write a step of the editor's own: else its Undo takes our segments away with the last stroke."""
        if self._node is not None and self._editor.segmentationNode() is segmentationNode:
            self._editor.saveStateForUndo()

    def _onCollapsed(self, collapsed) -> None:
        if collapsed:
            self.rest()
        self._session.refresh()
