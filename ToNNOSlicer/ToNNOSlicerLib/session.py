"""The state of the module, and everything that changes it. No Qt: sections call intentions and render the session.

Choices are kept in the parameter node and results in their own nodes; both are saved with the scene. A run, a drag of
the slider and a message are known only here and end with the scene. Events of the scene change the state as well.
"""

from __future__ import annotations

import math
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from ToNNOSlicerLib.choices import Choices
from ToNNOSlicerLib.exports import Exports
from ToNNOSlicerLib.installing import Installing
from ToNNOSlicerLib.logic import compare, diameters, summary, verdicts
from ToNNOSlicerLib.logic.errors import EditedByHandError, ToNNOUserError
from ToNNOSlicerLib.logic.findings import hideCrosshair, jumpTo
from ToNNOSlicerLib.logic.heatmap import calibrationOf, inputOf, isHeatmap, modelsMinPeak, otsuThreshold
from ToNNOSlicerLib.logic.inputs import firstVolume, fitRegion
from ToNNOSlicerLib.logic.results import Result, heatmapsOf, resultOf
from ToNNOSlicerLib.reading import Reading
from ToNNOSlicerLib.running import Running
from ToNNOSlicerLib.state import DONE, ERROR, NOTE, Message
from ToNNOSlicerLib.views import Views

_LOG_LINES = 2000


def intention(method: Callable[..., None]) -> Callable[..., None]:
    """Decorate a method that a user's action calls.

    Before it, the last message is cleared and a drag of the slider ends; after it, the panel is rendered. An error
    becomes the panel's message.

    Args:
        method: A method of the Session.

    Returns:
        The method, which now ignores arguments beyond its own, such as the `checked` of a click.
    """
    argumentCount = method.__code__.co_argcount - 1

    @wraps(method)
    def call(self, *arguments: Any) -> None:
        self.message, self.status = None, ""
        if self.draft is not None:
            self.draft = None
            self.logic.preview.hide()
        with self.reportErrors():
            method(self, *arguments[:argumentCount])
        self.refresh()

    return call


class Session:
    """Owns the choices, the run, and the result that is shown.

    Args:
        logic: The ToNNOLogic.
        ask: The module of questions.
        choices: The models, devices and Python interpreters to choose from.
        makeClient: Makes the engine's client from the Choices.
        render: Called when the panel must show what is here now.
        wake: Called when `tick` must be called from now on, every 20 to 100 ms, until `isAwake` is False.

    Attributes:
        parameters: The parameter node with the user's choices; None while there is no scene.
        message: What the panel tells the user, or None.
        status: A line for the status, or empty.
        shownResult: The result as it was read last, or None.
        comparison: That result compared with an earlier one, or None.
        draft: While the threshold is dragged, the slider's value; else None.
        selected: Index of the selected finding, -1 for none.
    """

    def __init__(self, logic, ask, choices: Choices, makeClient, render, wake) -> None:
        self.logic, self.ask, self.choices = logic, ask, choices
        self.render, self.wake = render, wake
        self.parameters: Any = None
        self.message: Message | None = None
        self.status = ""
        self.logLines: deque[str] = deque(maxlen=_LOG_LINES)
        self.loggedCount = 0
        self.shownResult: Result | None = None
        self.comparison: compare.Comparison | None = None
        self.draft: float | None = None
        self.selected = -1
        self._isStale = True
        self._isChanging = False
        self._seen: tuple[str, str] = ("", "")  # IDs of the volume and the heatmap that were chosen last
        self._seenPrior = ""
        self._sceneObservations, self._resultObservations = VTKObservationMixin(), VTKObservationMixin()
        self.installing = Installing(self)
        self.running = Running(self, makeClient)
        self.exports = Exports(self)
        self.reading = Reading(self)
        self.views = Views(self)
        for event in (logic.scene.NodeAddedEvent, logic.scene.NodeRemovedEvent):
            self._sceneObservations.addObserver(logic.scene, event, self._onScene)
        self._sceneObservations.addObserver(logic.scene, logic.scene.NodeAboutToBeRemovedEvent, self._onLeaving)

    # --- life

    def setParameters(self, parameters) -> None:
        """Follow another parameter node.

        Args:
            parameters: The parameter node, or None.
        """
        self.parameters = parameters
        self._seen = ("", "")
        self._isStale = True
        if parameters is None:
            self._resultObservations.removeObservers()
            self.shownResult = self.comparison = None
            return
        self.views.forget()
        self.choices.findModels(parameters)
        self.views.observe()
        if parameters.inputVolume is None:  # it saves a click
            with self._changing():
                parameters.inputVolume = firstVolume(self.logic.scene)
        self._followChoices()
        self.refresh()

    def onSceneClosing(self) -> None:
        """End the run and the export, and forget everything about the scene."""
        self.running.forget()
        self.exports.cancel()
        self.reading.case = None
        self._resultObservations.removeObservers()
        self.shownResult = self.comparison = self.draft = self.message = None
        self.selected, self.status = -1, ""
        self.views.forget()

    def close(self) -> None:
        """End the engine, and stop observing the scene, when the module or the application ends."""
        self.installing.close()
        self.exports.cancel()
        self.reading.close()
        self.running.close()
        self._resultObservations.removeObservers()
        self._sceneObservations.removeObservers()
        self.views.close()
        self.logic.cleanUp()

    # --- time

    @property
    def isAwake(self) -> bool:
        """Whether `tick` must be called."""
        parts = self.installing, self.running, self.exports, self.reading
        return any(part.isBusy for part in parts) or self.views.haveChanged or self._isStale

    def tick(self) -> None:
        """Do what is due, in small steps, so that the window stays responsive."""
        self.installing.tick()
        if self.parameters is None:
            return
        self.running.tick()
        self.exports.tick()
        self.reading.tick()
        self.views.tick()
        if self._isStale:
            self.refresh()

    # --- the result

    @property
    def isIdle(self) -> bool:
        """Whether a run can begin; an export does not prevent it."""
        return not (self.installing.isBusy or self.running.isRunning)

    @property
    def result(self) -> Result | None:
        """The result that is shown and exported, as the scene has it now; None if there is none."""
        if self._isStale:
            self._readResult()
        return self.shownResult

    def refresh(self) -> None:
        """Read the result again if it has changed, show it in the views, and render the panel."""
        if self.parameters is not None:
            with self.reportErrors():
                self.views.show(self.result)
        self.render()

    # --- choices

    def onParameters(self) -> None:
        """Follow a change of the parameter node, whoever made it."""
        if self.parameters is None or self._isChanging:
            return
        self.message, self.status = None, ""
        with self.reportErrors():
            self._followChoices()
        self.refresh()

    def _followChoices(self) -> None:
        """Keep volume and result together: choosing one of them chooses the other."""
        parameters = self.parameters
        volume, heatmap = parameters.inputVolume, parameters.heatmap
        # A scene that was read brings both.
        isFromScene = self._seen == ("", "") and isHeatmap(heatmap) and inputOf(heatmap) is volume
        if _id(volume) != self._seen[0] and not isFromScene:
            results = heatmapsOf(self.logic.scene, volume) if volume is not None else []
            heatmap = results[-1] if results and not self.running.owns(results[-1]) else None
            self.running.watch(volume)
        elif _id(heatmap) != self._seen[1]:
            if self.running.owns(heatmap) or not isHeatmap(heatmap):
                heatmap = None
            elif inputOf(heatmap) is not None:
                volume = inputOf(heatmap)
            self.running.watch(None)
        isCorrected = parameters.heatmap is not heatmap or parameters.inputVolume is not volume
        if isCorrected or (_id(volume), _id(heatmap)) != self._seen:
            self._choose(volume, heatmap)
        if _id(parameters.priorHeatmap) != self._seenPrior:
            self._seenPrior, self._isStale = _id(parameters.priorHeatmap), True

    def _choose(self, volume, heatmap) -> None:
        """Choose a volume and a result of it, or None."""
        parameters = self.parameters
        with self._changing():
            if _id(volume) != self._seen[0] and self._seen[0]:
                hideCrosshair(self.logic.scene)
                parameters.secondVolume = parameters.priorHeatmap = None  # they belong to the volume before
            parameters.inputVolume, parameters.heatmap = volume, heatmap
            if parameters.segmentation is not None:
                parameters.segmentation = None
        self._seen = _id(volume), _id(heatmap)
        self.draft, self.selected, self._isStale = None, -1, True
        self.logic.preview.hide()
        if volume is not None and heatmap is None:  # what comes next is a run
            self.running.startAhead()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Do not react to changes of the parameter node inside the `with` block."""
        before, self._isChanging = self._isChanging, True
        try:
            yield
        finally:
            self._isChanging = before

    def set(self, **values: Any) -> None:
        """Change choices as a widget would.

        Args:
            **values: Values by the names of the parameter node.
        """
        with self._changing():
            for name, value in values.items():
                setattr(self.parameters, name, value)
        self.onParameters()

    # --- models, devices, Python

    @intention
    def chooseModel(self, folder: str) -> None:
        """Choose a model of the list.

        Args:
            folder: The model's folder.
        """
        with self._changing():
            self.parameters.modelFolder = folder
        self.choices.checkClass(self.parameters)

    @intention
    def openModel(self) -> None:
        """Ask for a model's folder, remember it and choose its model."""
        folder = self.ask.folder(_("Folder of a model"))
        if folder:
            self.chooseModel(str(self.choices.open(folder).folder))

    @intention
    def choosePython(self) -> None:
        """Ask for an interpreter, and restart the engine with it."""
        self.installing.askForPython()

    @intention
    def fitRegion(self, roiNode) -> None:
        """Fit a new region around the whole image.

        Args:
            roiNode: The region that the user has just made.
        """
        if self.parameters.inputVolume is not None:
            fitRegion(roiNode, self.parameters.inputVolume)

    @intention
    def describe(self) -> None:
        """Ask the engine for its devices."""
        if self.installing.hasPackages():
            self.running.describe()

    # --- the run

    @intention
    def start(self) -> None:
        """Begin a run with the present choices."""
        self.running.start(self.choices.request(self.parameters))

    @intention
    def cancel(self) -> None:
        """End the run or the installation, and discard what it made."""
        if self.installing.isBusy:
            self.installing.cancel()
        else:
            self.running.controller.cancel()

    @intention
    def stop(self) -> None:
        """End the run early and keep the heatmap that it has so far."""
        self.running.controller.stop()

    def onRunShown(self) -> None:
        """Show the preview that the run has now, or stop showing it."""
        self._isStale = True
        self.refresh()

    def onOutcome(self, heatmapNode, isWatched: bool) -> None:
        """Show the result of a run if the user still looks at its volume; else say that it is ready.

        Args:
            heatmapNode: The new result.
            isWatched: Whether the user has waited for it.
        """
        if self.parameters is None:
            return
        volume = inputOf(heatmapNode)
        if not (isWatched or self.parameters.inputVolume is volume):
            name = volume.GetName() if volume is not None else heatmapNode.GetName()
            text = _("The result of {name} is ready.").format(name=name)
            self.message = Message(NOTE, text, _("Select that volume to look at it."))
            self.views.forget()  # so that they hide the new outline
            self.refresh()
            return
        self._choose(volume, heatmapNode)
        self._readResult()
        self._selectFirst()
        self.refresh()

    def _selectFirst(self) -> None:
        """Go to the first finding of a new result, and show all findings in 3D."""
        with self.reportErrors():
            self.views.show(self.shownResult)  # first, because fitting another image into the views moves their planes
        if self.shownResult is not None and self.shownResult.findings:
            self.selected = 0
            self._goTo(self.shownResult.findings[0])
            self.views.show3D(self.shownResult, True)

    # --- threshold and segment

    def drag(self, value: float) -> None:
        """Preview a threshold while the slider moves: draw the outline, write no segment yet.

        Args:
            value: The slider's value.
        """
        if self.shownResult is None:
            return
        self.draft = value
        with self.reportErrors():
            self.logic.preview.show(
                self.shownResult.heatmapNode, value, self.shownResult.smallestMm3, self.shownResult.minPeak
            )
        self.render()

    @intention
    def setThreshold(self, value: float) -> None:
        """Write the segment when the slider is released or a number is typed.

        Args:
            value: The threshold.
        """
        self._write(value, None)

    @intention
    def setSmallest(self, mm3: float) -> None:
        """Leave small parts out of the segment, and of those of coming runs.

        Args:
            mm3: The smallest volume that is kept, in mm3.
        """
        with self._changing():
            self.parameters.minMm3 = mm3
        if self.result is not None:
            self._write(None, mm3)

    @intention
    def setDropWeak(self, on: bool) -> None:
        """Leave weak parts out of the segment, and of those of coming runs, or keep them.

        Args:
            on: Whether those are left out whose peak is too low by the model.
        """
        with self._changing():
            self.parameters.dropWeak = on
        if self.result is not None:
            self._write(None, None, modelsMinPeak(self.result.record) if on else -math.inf)

    @intention
    def toModelThreshold(self) -> None:
        """Write the segment at the model's threshold.

        Raises:
            ToNNOUserError: If the model has none for this method; shown as the panel's message.
        """
        value = calibrationOf(self._needResult().record).get("threshold")
        if value is None:
            raise ToNNOUserError(_("The model has no threshold for this method."), _("Set it by hand, or use Otsu."))
        self._write(value, None)

    @intention
    def toOtsu(self) -> None:
        """Write the segment at Otsu's threshold."""
        self._write(otsuThreshold(self._needResult().heatmapNode), None)

    @intention
    def newSegment(self) -> None:
        """Write another segment at the present threshold."""
        result = self._needResult()
        self._writeNew(result, result.threshold, result.smallestMm3, result.minPeak)

    @intention
    def undo(self) -> None:
        """Undo the last change of the segment."""
        self._repeatable(self.logic.segments.undo, self._needResult().heatmapNode)

    @intention
    def redo(self) -> None:
        """Make the change again that was undone last."""
        self._repeatable(self.logic.segments.redo, self._needResult().heatmapNode)

    def _write(self, threshold: float | None, smallest: float | None, minPeak: float | None = None) -> None:
        """Write the segment again; ask before edits by hand are overwritten, and change nothing after Cancel."""
        result = self._needResult()
        threshold = result.threshold if threshold is None else threshold
        smallest = result.smallestMm3 if smallest is None else smallest
        minPeak = result.minPeak if minPeak is None else minPeak
        try:
            self.logic.segments.write(result.heatmapNode, threshold, smallest, minPeak=minPeak)
        except EditedByHandError as error:
            answer = self.ask.aboutHandWork(error)
            if answer == "overwrite":
                self.logic.segments.write(result.heatmapNode, threshold, smallest, overwrite=True, minPeak=minPeak)
            elif answer == "new":
                self._writeNew(result, threshold, smallest, minPeak)
        self._isStale = True

    def _writeNew(self, result: Result, threshold: float, smallest: float, minPeak: float) -> None:
        """Write a segment into the segmentation chosen for it, else into the result's."""
        node = self.parameters.segmentation or result.segmentationNode
        self.logic.segments.writeNew(result.heatmapNode, threshold, smallest, node, minPeak)
        self._isStale = True

    def _repeatable(self, step, heatmapNode) -> None:
        """Undo or redo; ask before edits by hand are overwritten."""
        try:
            step(heatmapNode)
        except EditedByHandError as error:
            if self.ask.aboutHandWork(error, canBeNew=False) == "overwrite":
                step(heatmapNode, overwrite=True)
        self._isStale = True

    # --- findings

    @intention
    def select(self, index: int) -> None:
        """Select a finding and show it in the views.

        Args:
            index: Its row in the table.
        """
        findings = self._needResult().findings
        if 0 <= index < len(findings):
            self.selected = index
            self._goTo(findings[index])

    @intention
    def step(self, by: int) -> None:
        """Select the next or previous finding; the first follows the last.

        Args:
            by: 1 for the next, -1 for the previous.
        """
        findings = self._needResult().findings
        if findings:
            before = self.selected if self.selected >= 0 or by > 0 else 0
            self.selected = (before + by) % len(findings)
            self._goTo(findings[self.selected])

    def _goTo(self, finding) -> None:
        """Show a finding's peak in all views; the plane of its diameters where these are drawn."""
        if diameters.isDrawn(self.shownResult.heatmapNode):
            first, last = finding.longestRAS
            jumpTo(self.logic.scene, tuple((a + b) / 2 for a, b in zip(first, last, strict=True)))
        else:
            jumpTo(self.logic.scene, finding.peakRAS)

    @intention
    def judge(self, verdict: str) -> None:
        """Accept, reject or doubt the selected finding; the same verdict again takes it back.

        Args:
            verdict: One of the verdicts in logic.verdicts.
        """
        finding = self._needSelected()
        result = self._needResult()
        verdicts.setVerdict(result.heatmapNode, finding, "" if finding.verdict == verdict else verdict)
        self._isStale = True

    @intention
    def removeFinding(self) -> None:
        """Remove the selected finding from the segment."""
        finding = self._needSelected()
        self.logic.removeFinding(self._needResult().heatmapNode, finding)
        self._isStale = True

    @intention
    def jumpToHighest(self) -> None:
        """Show the heatmap's highest voxel, even if it is below the threshold."""
        peak = summary.highest(self._needResult().heatmapNode)
        if peak is not None:
            jumpTo(self.logic.scene, peak.ras)

    @intention
    def showDiameters(self, on: bool) -> None:
        """Draw or remove the diameters of all findings.

        Args:
            on: Whether to draw them.
        """
        result = self._needResult()
        diameters.draw(self.logic.scene, result.heatmapNode, result.findings if on else ())
        if on and 0 <= self.selected < len(result.findings):
            self._goTo(result.findings[self.selected])

    @intention
    def copyReport(self) -> None:
        """Copy the report as text to the clipboard."""
        self.ask.toClipboard(self.exports.reportText(self._needFresh()))
        self.message = Message(DONE, _("The report is in the clipboard."))

    # --- views

    @intention
    def show3D(self, on: bool) -> None:
        """Show the findings in 3D, or hide them.

        Args:
            on: Whether to show them.
        """
        self.views.show3D(self._needResult(), on)

    # --- exports

    @intention
    def export(self, kind: str) -> None:
        """Ask for a file and write the result into it.

        Args:
            kind: One of the kinds of exports.py.
        """
        self.exports.start(kind, self._needFresh())

    @intention
    def cancelExport(self) -> None:
        """Cancel the export; no file is left."""
        if self.exports.isBusy:
            self.exports.cancel()
            self.status = _("The export was canceled")

    # --- another time point

    def _compare(self) -> compare.Comparison | None:
        """Compare the result with the earlier one that is chosen; None if they cannot be compared."""
        prior = self.parameters.priorHeatmap
        if self.shownResult is None or prior is None or not isHeatmap(prior) or prior is self.shownResult.heatmapNode:
            return None
        other = resultOf(prior)
        if self.shownResult.segment is None or other.segment is None:
            return None
        return compare.changes(self.shownResult, other)

    @intention
    def goToChange(self, row: int) -> None:
        """Show a finding of the comparison in the views: where it is now, else where it was.

        Args:
            row: Its row in the table.
        """
        changes = () if self.comparison is None else self.comparison.changes
        if not 0 <= row < len(changes):
            return
        change = changes[row]
        labels = [finding.label for finding in self._needResult().findings]
        self.selected = labels.index(change.present.label) if change.present is not None else -1
        jumpTo(self.logic.scene, change.placeRAS)

    # --- the worklist

    @intention
    def openWorklist(self, kind: str) -> None:
        """Ask for studies and a folder for the results, and run the studies in the background.

        Args:
            kind: "folder" for a folder of studies, "list" for a CSV file.
        """
        if kind == "folder":
            source = self.ask.folder(_("Folder of studies (NIfTI, NRRD, DICOM)"))
        else:
            source = self.ask.openFile(_("List of volumes (CSV with a column volume)"))
        output = self.ask.folder(_("Folder for the results and your readings")) if source else ""
        if output:
            self.reading.open(source, output)

    @intention
    def cancelWorklist(self) -> None:
        """End the runs of the worklist."""
        self.reading.cancel()

    @intention
    def openCase(self, row: int) -> None:
        """Open a case of the worklist.

        Args:
            row: Its row in the table.
        """
        cases = self.reading.state.cases
        if 0 <= row < len(cases):
            self._openCase(cases[row])

    @intention
    def nextCase(self) -> None:
        """Open the next case that nobody has read."""
        self._openCase(self.reading.nextCase())

    @intention
    def saveAndNext(self) -> None:
        """Save verdicts and segment of the open case, and open the next that nobody has read."""
        result = self._needFresh()
        self.reading.save(result.heatmapNode, result.findings)
        try:
            case = self.reading.nextCase()
        except ToNNOUserError as end:
            self.message = Message(DONE, _("The reading is saved; there is no further case to read."), end.nextStep)
        else:
            self._openCase(case)

    def _openCase(self, case) -> None:
        heatmap = self.reading.openCase(case)
        if heatmap is not None:
            self.running.watch(None)
            self._choose(inputOf(heatmap), heatmap)
            self._readResult()
            self._selectFirst()

    # --- reading the scene

    def _readResult(self) -> None:
        """Read the chosen result from the scene; there is none while a preview is shown or if its image is gone."""
        self._isStale = False
        parameters = self.parameters
        heatmap = parameters.heatmap if parameters is not None else None
        before = self.shownResult
        isThere = isHeatmap(heatmap) and heatmap.GetScene() is self.logic.scene and inputOf(heatmap) is not None
        self.shownResult = self.comparison = None
        with self.reportErrors():
            if isThere and self.running.preview is None:
                self.shownResult = resultOf(heatmap, parameters.minMm3)
            self._followWithDiameters(before)
        with self.reportErrors():  # apart, so that diameters are drawn even if nothing can be compared
            self.comparison = self._compare() if self.shownResult is not None else None
        self._keepSelection(before)
        self._watch()

    def _followWithDiameters(self, before: Result | None) -> None:
        """Draw diameters again where they are shown and the findings have changed."""
        result = self.shownResult
        if result is None or not diameters.isDrawn(result.heatmapNode):
            return
        if before is None or before.heatmapNode is not result.heatmapNode or before.findings != result.findings:
            diameters.draw(self.logic.scene, result.heatmapNode, result.findings)

    def _keepSelection(self, before: Result | None) -> None:
        """Keep the same finding selected when the list changes."""
        findings = () if self.shownResult is None else self.shownResult.findings
        if before is not None and 0 <= self.selected < len(before.findings):
            peak = before.findings[self.selected].peakRAS
            self.selected = next((row for row, finding in enumerate(findings) if finding.peakRAS == peak), -1)
        elif before is not None or self.selected >= len(findings):
            self.selected = -1

    def _watch(self) -> None:
        """Observe the nodes of the result, and no others."""
        self._resultObservations.removeObservers()
        result = self.shownResult
        if result is None:
            return
        segmentEvents = (
            slicer.vtkSegmentation.SourceRepresentationModified,
            slicer.vtkSegmentation.SegmentModified,
            slicer.vtkSegmentation.SegmentRemoved,
        )
        nodes = {result.heatmapNode, result.segmentationNode, result.inputNode, self.parameters.priorHeatmap} - {None}
        for node in nodes:
            events = segmentEvents if node is result.segmentationNode else (vtk.vtkCommand.ModifiedEvent,)
            for event in (*events, slicer.vtkMRMLTransformableNode.TransformModifiedEvent):
                self._resultObservations.addObserver(node, event, self._onNode)

    def _onNode(self, _node, _event) -> None:
        """Mark the result as changed: it is read again at the next tick, or before it is needed."""
        if not self._isStale:
            self._isStale = True
            self.wake()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onLeaving(self, scene, _event, node) -> None:
        """Choose another result of the same volume: the list would choose its neighbor, maybe of another patient."""
        if self.parameters is None or scene.IsClosing() or not self._seen[1] or _id(node) != self._seen[1]:
            return
        others = [each for each in heatmapsOf(scene, self.parameters.inputVolume) if each is not node]
        self.set(heatmap=others[-1] if others else None)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onScene(self, scene, _event, node) -> None:
        if self.parameters is None or scene.IsClosing() or scene.IsBatchProcessing():
            return
        if isHeatmap(node) or node.IsA("vtkMRMLSegmentationNode"):
            self.views.forget()  # it may have come or gone with something to hide
        elif node.IsA("vtkMRMLSliceCompositeNode"):
            self.views.observe()
        self._onNode(None, None)

    # --- needs

    def _needResult(self) -> Result:
        if self.running.isRunning and self.running.preview is not None:
            raise ToNNOUserError(_("The run is under way."), _("Wait for its end, stop it, or cancel it."))
        result = self.result
        if result is None:
            raise ToNNOUserError(_("There is no result to work on."), _("Click Apply, or select a result."))
        return result

    def _needFresh(self) -> Result:
        """Read the result again and return it."""
        self._isStale = True
        return self._needResult()

    def _needSelected(self):
        result = self._needResult()
        if not 0 <= self.selected < len(result.findings):
            raise ToNNOUserError(_("No finding is selected."), _("Click one in the table."))
        return result.findings[self.selected]

    # --- words

    @contextmanager
    def reportErrors(self) -> Iterator[None]:
        """Turn an error inside the `with` block into a message with the next step.

        Yields:
            Nothing.
        """
        try:
            yield
        except ToNNOUserError as error:
            self.message = Message(ERROR, error.message, error.nextStep)
        except OSError as error:
            text = _("A file could not be written ({error}).").format(error=error.strerror or error)
            self.message = Message(ERROR, text, _("Choose another folder, or free disk space."))

    def fail(self, error: Exception) -> None:
        """Turn an unexpected error into a message, so that the timer does not raise it forever.

        Args:
            error: The error.
        """
        self.log(traceback.format_exc())
        self.message = Message(ERROR, f"{type(error).__name__}: {error}", _("Report it together with the log below."))

    def log(self, text: str) -> None:
        """Add lines to the log, which the section Log shows.

        Args:
            text: One or more lines.
        """
        if text:
            lines = text.splitlines()
            self.logLines.extend(lines)
            self.loggedCount += len(lines)
            self.render()


def _id(node) -> str:
    return node.GetID() or "" if node is not None else ""
