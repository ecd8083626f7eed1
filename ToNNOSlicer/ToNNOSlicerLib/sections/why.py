"""Why: the classifier's answers along the normal of a slice view, and what is known of the whole volume."""

from __future__ import annotations

from slicer.i18n import tr as _

from tonno_core.bundle.kind import teaching
from tonno_core.settings import SEGMENTER
from ToNNOSlicerLib import plots
from ToNNOSlicerLib.logic.heatmap import recordOf
from ToNNOSlicerLib.logic.profile import profileFor
from ToNNOSlicerLib.logic.scene import nodesByClass
from ToNNOSlicerLib.sections.look import setText, tall
from ToNNOSlicerLib.words import shortNumber

_PLOT_HEIGHT = 140


class WhySection:
    """A section of the panel.

    Args:
        ui: The widgets by name.
        session: The Session.
    """

    def __init__(self, ui, session) -> None:
        self._ui, self._session = ui, session
        self._heatmapNode = None
        ui.whySection.connect("contentsCollapsed(bool)", lambda _collapsed: self._draw())
        ui.viewSelector.connect("currentIndexChanged(int)", lambda _index: self._draw())

    def render(self) -> None:
        """Follow the result, if the section is open."""
        result = self._session.shownResult
        self._heatmapNode = None if result is None else result.heatmapNode
        if self._session.parameters is not None:
            self._listViews()
        self._draw()

    @property
    def view(self):
        """The slice node of the chosen view, or None."""
        chosen = self._ui.viewSelector.currentText
        return next((node for node in self._views() if node.GetLayoutName() == chosen), None)

    def onViewMoved(self, sliceNode) -> None:
        """Move the mark of the current plane.

        Args:
            sliceNode: Of the view that moved.
        """
        if not self._ui.whySection.collapsed and sliceNode is self.view:
            self._draw()

    def _listViews(self) -> None:
        box = self._ui.viewSelector
        names = [node.GetLayoutName() for node in self._views()]
        if [box.itemText(n) for n in range(box.count)] != names:
            box.clear()
            box.addItems(names)

    def _views(self) -> list:
        return [node for node in nodesByClass(self._session.logic.scene, "vtkMRMLSliceNode") if node.GetLayoutName()]

    def _draw(self) -> None:
        ui, heatmap = self._ui, self._heatmapNode
        if ui.whySection.collapsed:
            return
        if heatmap is None or heatmap.GetScene() is None:
            setText(ui.whyLabel, _("Click Apply first, or select a result."))
            ui.profilePlotLabel.clear()
            return
        record = recordOf(heatmap)
        score = record.get("score")
        lines = [] if score is None else [_("Score of the volume: {score}").format(score=shortNumber(score))]
        lines.append(_selfCheck(record))
        view = self.view
        profile = None if view is None else profileFor(heatmap, view)
        if profile is None or len(profile.logits) < 2:
            if record["method"] != SEGMENTER:
                lines.append(_("No answers were kept along this direction"))
            ui.profilePlotLabel.clear()
        else:
            self._drawProfile(profile, lines)
        setText(ui.whyLabel, "\n".join(lines))

    def _drawProfile(self, profile, lines: list[str]) -> None:
        if profile.angleDeg > 1:
            text = _("The nearest direction that was kept is {angle:.0f} degrees away")
            lines.append(text.format(angle=profile.angleDeg))
        label = self._ui.profilePlotLabel
        canvas = plots.Canvas(max(label.width, 240), tall(label, _PLOT_HEIGHT), label.palette)
        label.setPixmap(plots.profilePixmap(profile.positionsMm, profile.logits, profile.currentMm, canvas))


def _selfCheck(record) -> str:
    """How much the heatmap explains, or why nobody can say."""
    share = record.get("explained")
    if share is not None:
        return _("The heatmap explains {share:.0f} % of the classifier's output").format(share=100 * share)
    if record["method"] == SEGMENTER:
        taught = teaching({"taught_by": (record.get("model") or {}).get("taught_by")})
        said = _("A segmenter answers each voxel, and looks at no planes; the score is what 100 mm3 of it reach")
        return f"{said}\n{taught[:1].upper()}{taught[1:]}" if taught else said
    if record["method"] == "tonno":
        return _("No self-check: it needs the whole heatmap (a run that was not stopped, no region of interest)")
    return _(
        "No self-check: only the heatmap of the method ToNNO can be added up to the classifier's output again. "
        "Class activation maps say where it looks, and do not add up to its logit"
    )
