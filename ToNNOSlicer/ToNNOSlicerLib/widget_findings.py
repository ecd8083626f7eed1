"""What follows from a segment: the table of findings, why, and corrections by hand."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _

from ToNNOSlicerLib import plots

_COLUMNS = ("#", "mm³", "Peak", "Mean", "Extent in mm")


class FindingsSection:
    """The components of the segment; a click moves the views."""

    def __init__(self, panel) -> None:
        self._panel, self._table = panel, panel.ui.findingsTable
        self.findings: list = []
        table = self._table
        table.setColumnCount(len(_COLUMNS))
        table.setHorizontalHeaderLabels([_(name) for name in _COLUMNS])
        table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        table.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        table.verticalHeader().visible = False
        table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        table.horizontalHeader().stretchLastSection = True
        table.horizontalHeader().highlightSections = False
        table.connect("cellClicked(int,int)", self._onClick)
        panel.ui.removeFindingButton.connect("clicked(bool)", self._onRemove)

    def update(self) -> None:
        """Read the components of the segment again."""
        known = self._panel.result.segment
        self.findings = []
        if known is not None:
            with self._panel.telling():
                self.findings = self._panel.logic.findings(*known, self._panel.result.heatmap)
        self._table.setRowCount(len(self.findings))
        for row, one in enumerate(self.findings):
            extent = " x ".join(f"{mm:.0f}" for mm in one.extentMm)
            for column, text in enumerate(
                (str(one.label), f"{one.volumeMm3:.0f}", f"{one.peak:.3g}", f"{one.mean:.3g}", extent)
            ):
                self._table.setItem(row, column, qt.QTableWidgetItem(text))
        self._panel.ui.removeFindingButton.enabled = bool(self.findings)
        self._panel.ui.findingsSection.text = _("Findings ({count})").format(count=len(self.findings))

    def _onClick(self, row, _column) -> None:
        if 0 <= row < len(self.findings):
            self._panel.logic.jumpTo(self.findings[row])

    def _onRemove(self, _on) -> None:
        row, known = self._table.currentRow(), self._panel.result.segment
        if known is None or not 0 <= row < len(self.findings):
            self._panel.showMessage(_("No finding is selected."), _("Click one in the table."))
            return
        with self._panel.telling():
            self._panel.logic.removeFinding(*known, self.findings[row])
            self._panel.onSegment()


class EditorSection:
    """Slicer's own Segment Editor, made when the section is opened first."""

    def __init__(self, panel) -> None:
        self._panel = panel
        self._editor = None
        self._node = None
        panel.ui.editorSection.connect("contentsCollapsed(bool)", self._onCollapsed)

    def _onCollapsed(self, collapsed) -> None:
        if collapsed:
            self.rest()
            self._panel.onSegment()
        else:
            self.update()

    def update(self) -> None:
        """Point the editor at the segment, if the section is open."""
        if self._panel.ui.editorSection.collapsed:
            return
        if self._editor is None:
            self._editor = slicer.qMRMLSegmentEditorWidget()
            self._editor.setMaximumNumberOfUndoStates(10)
            self._panel.ui.editorSection.layout().addWidget(self._editor)
        if self._node is None or self._node.GetScene() is None:
            self._node = slicer.vtkMRMLSegmentEditorNode()
            self._node.SetSingletonTag("ToNNO")
            self._node = slicer.mrmlScene.AddNode(self._node)
        self._editor.setMRMLScene(slicer.mrmlScene)
        self._editor.setMRMLSegmentEditorNode(self._node)
        known, heatmap = self._panel.result.segment, self._panel.result.heatmap
        if known is not None:
            self._editor.setSegmentationNode(known[0])
            self._editor.setSourceVolumeNode(heatmap.GetNodeReference("ToNNO.input") or heatmap)
            self._node.SetSelectedSegmentID(known[1])

    def rest(self) -> None:
        """No effect stays active while nobody sees the editor."""
        if self._editor is not None:
            self._editor.setActiveEffect(None)

    def cleanUp(self) -> None:
        if self._editor is not None:
            self._editor.setMRMLScene(None)
            self._editor = None
        self._node = None


class WhySection:
    """The logits along the normal of a slice view, and what is known of the whole volume."""

    def __init__(self, panel) -> None:
        self._panel, self._ui = panel, panel.ui
        panel.ui.whySection.connect("contentsCollapsed(bool)", lambda _collapsed: self.update())
        panel.ui.viewSelector.connect("currentIndexChanged(int)", lambda _index: self.update())

    def findViews(self) -> None:
        """The slice views of the scene."""
        box = self._ui.viewSelector
        names = [node.GetLayoutName() for node in self._views()]
        if [box.itemText(n) for n in range(box.count)] != names:
            box.clear()
            box.addItems(names)

    @property
    def view(self):
        """The slice node of the chosen view, or None."""
        chosen = self._ui.viewSelector.currentText
        return next((node for node in self._views() if node.GetLayoutName() == chosen), None)

    def update(self) -> None:
        """Draw again, if the section is open."""
        if self._ui.whySection.collapsed:
            return
        heatmap = self._panel.result.heatmap
        if heatmap is None:
            self._ui.whyLabel.text = _("Reconstruct first, or select a heatmap.")
            self._ui.profilePlotLabel.clear()
            return
        why = self._panel.logic.why(heatmap)
        lines = [] if why.score is None else [_("Score of the volume: {score:.3g}").format(score=why.score)]
        lines.append(_selfCheck(why))
        view = self.view
        profile = None if view is None else self._panel.logic.profileFor(heatmap, view)
        if profile is None or len(profile.logits) < 2:
            lines.append(_("No logits were kept along this direction"))
            self._ui.profilePlotLabel.clear()
        else:
            self._draw(profile, lines)
        self._ui.whyLabel.text = "\n".join(lines)

    def _draw(self, profile, lines) -> None:
        if profile.angleDeg > 1:
            lines.append(
                _("The nearest direction that was kept is {angle:.0f} degrees away").format(angle=profile.angleDeg)
            )
        label = self._ui.profilePlotLabel
        width = max(label.width, 200)
        label.setPixmap(plots.profilePixmap(profile.positionsMm, profile.logits, profile.currentMm, width, 120))

    def _views(self):
        return [node for node in slicer.util.getNodesByClass("vtkMRMLSliceNode") if node.GetLayoutName()]


def _selfCheck(why) -> str:
    """How much the heatmap explains, or why nobody can say."""
    if why.explained is not None:
        return _("The heatmap explains {share:.0f} % of the classifier's output").format(share=100 * why.explained)
    if why.isSum:
        return _("No self-check: it needs the whole heatmap (a run that was not stopped, no region of interest)")
    return _(
        "No self-check: only the heatmap of the method ToNNO can be added up to the classifier's output again. "
        "Class activation maps say where it looks and do not reconstruct its logit"
    )
