"""The one state of the module, and all that changes it. No Qt: widgets say what the user wants and render the state.

What is chosen is in the parameter node, what a result is in its nodes; both are saved with the scene. What is known
only here (a run, a drag, a message) ends with the scene. Scene events change the state as the user's do.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from ToNNOSlicerLib import install
from ToNNOSlicerLib import models as modelFolders
from ToNNOSlicerLib.choices import Choices
from ToNNOSlicerLib.exports import Exports
from ToNNOSlicerLib.logic import compare, diameters, summary, verdicts
from ToNNOSlicerLib.logic.errors import EditedByHandError, ToNNOUserError
from ToNNOSlicerLib.logic.findings import hideCrosshair, jumpTo
from ToNNOSlicerLib.logic.heatmap import inputOf, isHeatmap, modelThreshold, otsuThreshold, peakOf
from ToNNOSlicerLib.logic.inputs import firstVolume, fitRegion
from ToNNOSlicerLib.logic.limits import FEWER
from ToNNOSlicerLib.logic.overlay import Layers, keepApart, shownImage
from ToNNOSlicerLib.logic.patient import showSurface
from ToNNOSlicerLib.logic.results import Result, heatmapsOf, resultOf, showOnly, siblingsOf
from ToNNOSlicerLib.logic.scene import nodesByClass
from ToNNOSlicerLib.logic.segmentation import isShown3D, show3D
from ToNNOSlicerLib.notes import notesOf
from ToNNOSlicerLib.reading import Reading
from ToNNOSlicerLib.running import Running
from ToNNOSlicerLib.state import DONE, ERROR, EXPORTING, IDLE, INSTALLING, NOTE, RUNNING, Comparison, Message, State

# A preview has no threshold yet: what is below this share of its peak is not shown.
_PREVIEW_SHARE = 0.2
_LOG_LINES = 2000


def intention(method: Callable[..., None]) -> Callable[..., None]:
    """Mark what a user does: the last message goes, what goes wrong is said, and the state is rendered anew."""

    @wraps(method)
    def call(self, *arguments: Any) -> None:
        self.message, self.status = None, ""
        if self._draft is not None:  # whatever it is, it ends a drag
            self._draft = None
            self.logic.preview.hide()
        with self.telling():
            method(self, *arguments)
        self.refresh()

    return call


class Session:
    """Owns what is chosen, the run, and the result that is shown.

    logic: a ToNNOLogic. ask: the module of questions. choices: the models, devices and Python that can be chosen.
    makeClient: from (command, changed variables) to the engine's client. render: called with each new State.
    wake: called when `tick` is to be called from now on, every 20 to 100 ms, until `isAwake` is False.
    """

    def __init__(self, logic, ask, choices: Choices, makeClient, render: Callable[[State], None], wake) -> None:
        self.logic, self.ask, self.choices = logic, ask, choices
        self._render, self._wake = render, wake
        self.parameters: Any = None
        self.message: Message | None = None
        self.status = ""
        self.logLines: deque[str] = deque(maxlen=_LOG_LINES)
        self.loggedCount = 0
        self._result: Result | None = None
        self._comparison: Comparison | None = None
        self._draft: float | None = None
        self._selected = -1
        self._isStale = True
        self._isChanging = False
        self._installation: install.Installation | None = None
        self._seen: tuple[str, str] = ("", "")  # IDs of the volume and the heatmap that were chosen last
        self._seenPrior = ""
        self._inViews: tuple = ()
        self._observed: list[tuple[Any, int]] = []
        self.running = Running(self, makeClient)
        self.exports = Exports(self)
        self.reading = Reading(self)
        scene = logic.scene
        self._sceneObservers = [
            scene.AddObserver(event, self._onScene) for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent)
        ]
        self._viewObservers: list[tuple[Any, int]] = []
        self._haveViewsChanged = False

    # --- life

    def setParameters(self, parameters) -> None:
        """Follow a parameter node, or none."""
        self.parameters = parameters
        self._seen = ("", "")
        self._isStale = True
        if parameters is None:
            self._watch(())
            self._result = self._comparison = None
            return
        self._inViews = ()
        self.choices.findModels(parameters)
        self._watchViews()
        self._chooseFirstVolume()
        self._followChoices()
        self.refresh()

    def onSceneClosing(self) -> None:
        """End what goes on; nothing of the old scene is kept."""
        self.running.forget()
        self.exports.cancel()
        self.reading.case = None
        self._watch(())
        self._result = self._comparison = self._draft = self.message = None
        self._selected, self.status, self._inViews = -1, "", ()

    def close(self) -> None:
        """The module or the application ends: the engine too."""
        if self._installation is not None:
            self._installation.close()
        self.exports.cancel()
        self.reading.close()
        self.running.close()
        self._watch(())
        for observer in self._sceneObservers:
            self.logic.scene.RemoveObserver(observer)
        for view, observer in self._viewObservers:
            view.RemoveObserver(observer)
        self._sceneObservers, self._viewObservers = [], []
        self.logic.cleanUp()

    # --- time

    @property
    def isAwake(self) -> bool:
        """Whether `tick` has something to do."""
        isBusy = self.running.isBusy or self.exports.isBusy or self.reading.isBusy or self._installation is not None
        return isBusy or self._isStale or self._haveViewsChanged

    def wake(self) -> None:
        self._wake()

    def tick(self) -> None:
        """Do what is due: at most one piece of work on nodes."""
        if self._installation is not None:
            self._followInstallation()
        if self.parameters is None:
            return
        self.running.tick()
        self.exports.tick()
        self.reading.tick()
        if self._haveViewsChanged:
            self._followViews()
        if self._isStale:
            self.refresh()

    # --- the state

    @property
    def state(self) -> State:
        parameters, result = self.parameters, self._result
        if parameters is None:
            return State(message=self.message)
        heatmap = None if result is None else result.heatmapNode
        return State(
            parameters=parameters,
            models=tuple(self.choices.models),
            model=self.choices.modelOf(parameters),
            devices=tuple(self.choices.devices),
            python=self.choices.python,
            expectedS=self.choices.expectedSeconds(parameters),
            progress=self.running.progress,
            isPreview=self.running.preview is not None,
            result=result,
            threshold=self._threshold,
            isDragging=self._draft is not None,
            selected=self._selected,
            sentence="" if result is None else _sentence(result),
            notes=() if result is None else notesOf(result),
            canUndo=self.logic.segments.canUndo(heatmap),
            canRedo=self.logic.segments.canRedo(heatmap),
            comparison=self._comparison,
            message=self.message,
            status=self.status,
            busy=self._busy,
            share=self.exports.share,
            worklist=self.reading.state,
            case=self.reading.case,
        )

    @property
    def _busy(self) -> str:
        if self._installation is not None:
            return INSTALLING
        if self.running.isRunning:
            return RUNNING
        return EXPORTING if self.exports.isBusy else IDLE

    @property
    def _threshold(self) -> float:
        if self._draft is not None:
            return self._draft
        return 0.0 if self._result is None else self._result.threshold

    @property
    def result(self) -> Result | None:
        """What is shown and exported, as the scene has it now."""
        if self._isStale:
            self._readResult()
        return self._result

    def refresh(self) -> None:
        """Read the result again if it has changed, make the views show it, and render."""
        if self.parameters is None:
            self._render(self.state)
            return
        if self._isStale:
            self._readResult()
        with self.telling():
            self._showInViews()
        self._render(self.state)

    def renderOnly(self) -> None:
        """Render what needs no look at the scene: progress."""
        self._render(self.state)

    # --- choices

    def onParameters(self) -> None:
        """Something in the parameter node has changed, by a widget or by anybody else."""
        if self.parameters is None or self._isChanging:
            return
        self.message, self.status = None, ""
        with self.telling():
            self._followChoices()
        self.refresh()

    def _followChoices(self) -> None:
        """Volume and result belong together: who chooses one gets the other."""
        parameters = self.parameters
        volume, heatmap = parameters.inputVolume, parameters.heatmap
        if _id(volume) != self._seen[0] and not (self._seen == ("", "") and _isOf(heatmap, volume)):
            heatmap = (heatmapsOf(self.logic.scene, volume) or [None])[-1] if volume is not None else None
            heatmap = None if self.running.owns(heatmap) else heatmap
            self.running.watch(volume)
        elif _id(heatmap) != self._seen[1]:
            if self.running.owns(heatmap) or not isHeatmap(heatmap):
                heatmap = None
            elif inputOf(heatmap) is not None:
                volume = inputOf(heatmap)
            self.running.watch(None)
        refused = parameters.heatmap is not heatmap or parameters.inputVolume is not volume
        if refused or (_id(volume), _id(heatmap)) != self._seen:
            self._choose(volume, heatmap)
        if _id(parameters.priorHeatmap) != self._seenPrior:
            self._seenPrior, self._isStale = _id(parameters.priorHeatmap), True

    def _choose(self, volume, heatmap) -> None:
        """Make a volume and a result of it (or none) the chosen ones."""
        parameters = self.parameters
        with self._changing():
            if _id(volume) != self._seen[0] and self._seen[0]:
                hideCrosshair(self.logic.scene)
                parameters.secondVolume = parameters.priorHeatmap = None  # they were of another patient
            parameters.inputVolume, parameters.heatmap = volume, heatmap
            if parameters.segmentation is not None:
                parameters.segmentation = None
        self._seen = _id(volume), _id(heatmap)
        self._draft, self._selected, self._isStale = None, -1, True
        self.logic.preview.hide()

    def _chooseFirstVolume(self) -> None:
        """One click less where there is something to look at already: what the first view shows, else the first."""
        parameters = self.parameters
        if parameters.inputVolume is not None:
            return
        volume = firstVolume(self.logic.scene)
        if volume is not None:
            with self._changing():
                parameters.inputVolume = volume

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Inside, changes of the parameter node are the session's own."""
        before, self._isChanging = self._isChanging, True
        try:
            yield
        finally:
            self._isChanging = before

    def set(self, **values: Any) -> None:
        """Change choices as a widget would."""
        with self._changing():
            for name, value in values.items():
                setattr(self.parameters, name, value)
        self.onParameters()

    # --- models, devices, Python

    @intention
    def chooseModel(self, folder: str) -> None:
        with self._changing():
            self.parameters.modelFolder = folder
        self.choices.checkClass(self.parameters)

    @intention
    def openModel(self, _checked=None) -> None:
        """Ask for a model's folder, remember and choose it."""
        folder = self.ask.folder(_("Folder of a model"))
        if not folder:
            return
        try:
            model = self.choices.open(folder)
        except modelFolders.ModelError as error:
            raise ToNNOUserError(
                str(error), _("Choose the folder that holds model.json and model.safetensors.")
            ) from None
        with self._changing():
            self.parameters.modelFolder = str(model.folder)
        self.choices.checkClass(self.parameters)

    @intention
    def choosePython(self, _checked=None) -> None:
        """Ask for an interpreter; the engine starts anew with it."""
        self._askForPython()

    def _askForPython(self) -> bool:
        chosen = self.ask.openFile(_("A Python interpreter with PyTorch and timm"))
        if not chosen:
            return False
        self.choices.python = chosen
        self.running.newEngine()
        return True

    @intention
    def fitRegion(self, roiNode) -> None:
        """A box that was made just now begins around the whole image."""
        if self.parameters.inputVolume is not None:
            fitRegion(roiNode, self.parameters.inputVolume)

    @intention
    def describe(self, _checked=None) -> None:
        """Ask the engine for its devices."""
        if self.hasPackages():
            self.running.describe()

    def hasPackages(self) -> bool:
        """Whether the engine can start. Asks where packages are missing, and begins what is answered.

        An interpreter of the user's own is trusted.
        """
        if self.choices.python is not None:
            return True
        if self._installation is not None:
            raise ToNNOUserError(_("An installation is under way."), _("Wait until it has ended, or cancel it."))
        missing = install.missing(self.choices.requirements)
        if not missing:
            return True
        answer = self.ask.howToInstall(missing.rows())
        if answer == "python":
            return self._askForPython()
        wheels = self.ask.folder(_("Folder of wheel files")) if answer == "wheels" else None
        if answer == self.ask.CANCEL or wheels == "":
            raise ToNNOUserError(_("Nothing was installed."), _("Click Apply when you want to be asked again."))
        self._install(missing, wheels)
        return False

    def _install(self, missing, wheels) -> None:
        """Begin an installation; `tick` follows it, and the panel is busy until it has ended."""
        place = self.choices.temporaryPath
        installation = install.Installation(missing, self.choices.requirements, wheels, self.log, temporaryPath=place)
        try:
            installation.start()
        except install.InstallError as error:
            raise ToNNOUserError(error.cause, error.nextStep) from None
        self._installation = installation
        self.status = _("Installing packages; this takes minutes. The log shows what happens")
        self.wake()

    def _followInstallation(self) -> None:
        installation = self._installation
        try:
            if installation.poll():
                return
            self.message = Message(DONE, _("The packages are installed."), _afterInstallation(installation.restartFor))
        except install.InstallError as error:
            self.message = Message(ERROR, error.cause, error.nextStep)
        self._installation, self.status = None, ""
        self.running.newEngine()
        self.refresh()

    # --- the run

    @intention
    def start(self, _checked=None) -> None:
        """Begin a run with what is chosen."""
        self.running.start(self.choices.request(self.parameters))

    @intention
    def cancel(self, _checked=None) -> None:
        """End the run, or the installation; nothing of it stays."""
        if self._installation is not None:
            self._installation.cancel()
        else:
            self.running.cancel()

    @intention
    def stop(self, _checked=None) -> None:
        """End the run early and keep what is there."""
        self.running.stop()

    def onRunShown(self) -> None:
        """The run has a preview, or has none any more."""
        self._isStale = True
        self.refresh()

    def onOutcome(self, heatmapNode, isWatched: bool) -> None:
        """A run has left a result. It is shown where its volume is still the one that is looked at."""
        if self.parameters is None:
            return
        volume = inputOf(heatmapNode)
        if not (isWatched or self.parameters.inputVolume is volume):
            name = volume.GetName() if volume is not None else heatmapNode.GetName()
            text = _("The result of {name} is ready.").format(name=name)
            self.message = Message(NOTE, text, _("Select that volume to look at it."))
            self._inViews = ()  # its outline is not to be seen there
            self.refresh()
            return
        self._choose(volume, heatmapNode)
        self._readResult()
        self._selectFirst()
        self.refresh()

    def _selectFirst(self) -> None:
        """Go to the first finding of a result that has just come, and show all of them in 3D."""
        with self.telling():
            self._showInViews()  # first: another image is fitted into the views, which moves their planes
        if self._result is not None and self._result.findings:
            self._selected = 0
            self._goTo(self._result.findings[0])
            self._show3D(True)

    # --- threshold and segment

    def drag(self, value: float) -> None:
        """The slider moves: the outline, no segment yet."""
        if self._result is None:
            return
        self._draft = value
        with self.telling():
            self.logic.preview.show(self._result.heatmapNode, value, self._result.smallestMm3)
        self._render(self.state)

    @intention
    def setThreshold(self, value: float) -> None:
        """The slider was let go, or a number typed: the segment is written."""
        self._write(value, None)

    @intention
    def setSmallest(self, mm3: float) -> None:
        """Leave parts below a volume out, here and in the runs to come."""
        with self._changing():
            self.parameters.minMm3 = mm3
        if self.result is not None:
            self._write(None, mm3)

    @intention
    def toModelThreshold(self, _checked=None) -> None:
        result = self._needResult()
        value = modelThreshold(result.heatmapNode)
        if value is None:
            raise ToNNOUserError(_("The model has no threshold for this method."), _("Set it by hand, or use Otsu."))
        self._write(value, None)

    @intention
    def toOtsu(self, _checked=None) -> None:
        self._write(otsuThreshold(self._needResult().heatmapNode), None)

    @intention
    def newSegment(self, _checked=None) -> None:
        """The present threshold, into a segment of its own."""
        result = self._needResult()
        self._writeNew(result, result.threshold, result.smallestMm3)

    @intention
    def undo(self, _checked=None) -> None:
        self._repeatable(self.logic.segments.undo, self._needResult().heatmapNode)

    @intention
    def redo(self, _checked=None) -> None:
        self._repeatable(self.logic.segments.redo, self._needResult().heatmapNode)

    def _write(self, threshold: float | None, smallest: float | None) -> None:
        """The segment anew; asks before it overwrites what was painted. Cancelled, all is as before."""
        result = self._needResult()
        threshold = result.threshold if threshold is None else threshold
        smallest = result.smallestMm3 if smallest is None else smallest
        try:
            self.logic.writeSegment(result.heatmapNode, threshold, smallest)
        except EditedByHandError as error:
            answer = self.ask.aboutHandWork(error)
            if answer == "overwrite":
                self.logic.writeSegment(result.heatmapNode, threshold, smallest, overwrite=True)
            elif answer == "new":
                self._writeNew(result, threshold, smallest)
            else:
                self.logic.preview.hide()
        self._isStale = True

    def _writeNew(self, result: Result, threshold: float, smallest: float) -> None:
        """Into the segmentation that was chosen for it, else the result's own."""
        node = self.parameters.segmentation or result.segmentationNode
        self.logic.newSegment(result.heatmapNode, threshold, smallest, node)
        self._isStale = True

    def _repeatable(self, step, heatmapNode) -> None:
        try:
            step(heatmapNode)
        except EditedByHandError as error:
            if self.ask.aboutHandWork(error, canBeNew=False) == "overwrite":
                step(heatmapNode, overwrite=True)
        self._isStale = True

    # --- findings

    @intention
    def select(self, index: int) -> None:
        """Select a finding and go there."""
        listed = self._needResult().findings
        if 0 <= index < len(listed):
            self._selected = index
            self._goTo(listed[index])

    @intention
    def step(self, by: int) -> None:
        """The next (1) or previous (-1) finding, around the end."""
        listed = self._needResult().findings
        if listed:
            self._selected = (self._selected + by) % len(listed) if self._selected >= 0 else (0 if by > 0 else -1)
            self._selected %= len(listed)
            self._goTo(listed[self._selected])

    def _goTo(self, finding) -> None:
        """All views at a finding's peak; where diameters are drawn, at the plane in which they are."""
        if diameters.isDrawn(self._result.heatmapNode):
            first, last = finding.longestRAS
            jumpTo(self.logic.scene, tuple((a + b) / 2 for a, b in zip(first, last, strict=True)))
        else:
            jumpTo(self.logic.scene, finding.peakRAS)

    @intention
    def judge(self, verdict: str) -> None:
        """Accept, reject or doubt the selected finding; the same verdict again takes it back."""
        finding = self._needSelected()
        result = self._needResult()
        verdicts.setVerdict(result.heatmapNode, finding, "" if finding.verdict == verdict else verdict)
        self._isStale = True

    @intention
    def removeFinding(self, _checked=None) -> None:
        finding = self._needSelected()
        self.logic.removeFinding(self._needResult().heatmapNode, finding)
        self._isStale = True

    @intention
    def jumpToHighest(self, _checked=None) -> None:
        """Go to the heatmap's highest voxel, also where it is below the threshold."""
        peak = summary.highest(self._needResult().heatmapNode)
        if peak is not None:
            jumpTo(self.logic.scene, peak.ras)

    @intention
    def showDiameters(self, on: bool) -> None:
        result = self._needResult()
        diameters.draw(self.logic.scene, result.heatmapNode, result.findings if on else ())
        if on and 0 <= self._selected < len(result.findings):
            self._goTo(result.findings[self._selected])

    @intention
    def copyReport(self, _checked=None) -> None:
        """The report as text, to the clipboard."""
        self.ask.toClipboard(self.exports.reportText(self._needFresh()))
        self.message = Message(DONE, _("The report is in the clipboard."))

    # --- views

    @intention
    def show3D(self, on: bool) -> None:
        self._needResult()
        self._show3D(on)

    def _show3D(self, on: bool) -> None:
        result = self._result
        if result is None or result.segmentationNode is None:
            return
        with self.telling():
            show3D(result.segmentationNode, on)
        self._showSurface()

    def _showSurface(self) -> None:
        """The patient around the findings, where these are shown in 3D."""
        result = self._result
        if result is not None and result.inputNode is not None and result.segmentationNode is not None:
            on = isShown3D(result.segmentationNode)
            showSurface(result.inputNode, on and self.parameters.surfaceVisible)

    def _shownHeatmap(self):
        """What the views show: the preview that is waited for, else the chosen result."""
        if self.running.preview is not None:
            return self.running.preview
        return None if self._result is None else self._result.heatmapNode

    def _showInViews(self) -> None:
        """Whatever is not of the shown result is hidden; nothing is touched where nothing has changed."""
        parameters, heatmap = self.parameters, self._shownHeatmap()
        volume = parameters.inputVolume
        isPreview = self.running.preview is not None
        visible = heatmap is not None and parameters.overlayVisible
        threshold = self._result.threshold if self._result is not None else 0.0
        if isPreview:
            threshold = max(_PREVIEW_SHARE * peakOf(heatmap), 1e-9)
        second = parameters.secondVolume if volume is not None else None
        layers = Layers(volume, heatmap if visible else None, threshold, parameters.opacity, second, parameters.fade)
        shown = None if isPreview else heatmap
        segments = () if shown is None else tuple(_id(node) for node in siblingsOf(shown))
        inViews = layers, segments, None if self._result is None else self._result.identity, parameters.surfaceVisible
        if inViews == self._inViews:
            return
        self.logic.showLayers(layers)
        showOnly(self.logic.scene, shown, volume)
        self._showSurface()
        self._inViews = inViews
        self._haveViewsChanged = False  # that was us

    def _watchViews(self) -> None:
        """Observe the slice views' layers: somebody may put another image there."""
        for view, observer in self._viewObservers:
            view.RemoveObserver(observer)
        views = nodesByClass(self.logic.scene, "vtkMRMLSliceCompositeNode")
        event = vtk.vtkCommand.ModifiedEvent
        self._viewObservers = [(view, view.AddObserver(event, self._onView)) for view in views]

    def _onView(self, _view, _event) -> None:
        if self.parameters is not None and not self._haveViewsChanged:
            self._haveViewsChanged = True
            self.wake()

    def _followViews(self) -> None:
        """An image that all views show now (one that was just loaded, say) is what is looked at: it becomes the volume.

        A single view that shows another image keeps it, without the heatmap.
        """
        self._haveViewsChanged = False
        volume = self.parameters.inputVolume
        image = shownImage(self.logic.scene)
        if image is not None and image is not volume:
            self.set(inputVolume=image)
        elif volume is not None:
            keepApart(self.logic.scene, volume)
            self._haveViewsChanged = False

    # --- exports

    @intention
    def export(self, kind: str) -> None:
        """Ask for a file, and write the shown result into it: see Exports.KINDS."""
        self.exports.start(kind, self._needFresh())

    @intention
    def cancelExport(self, _checked=None) -> None:
        if self.exports.isBusy:
            self.exports.cancel()
            self.status = _("The export was canceled")

    # --- another time point

    def _compare(self) -> Comparison | None:
        """The result beside the prior one that is chosen, or None."""
        prior = self.parameters.priorHeatmap
        if self._result is None or prior is None or not isHeatmap(prior) or prior is self._result.heatmapNode:
            return None
        other = resultOf(prior)
        if self._result.segment is None or other.segment is None:
            return None
        compared = compare.changes(self._result, other)
        return Comparison(other.name, compared.changes, compare.sentence(compared.changes), compared.notes)

    @intention
    def goToChange(self, row: int) -> None:
        """Go to a finding of the comparison: to where it is now, or where it was."""
        changes = () if self._comparison is None else self._comparison.changes
        if not 0 <= row < len(changes):
            return
        change = changes[row]
        labels = [finding.label for finding in self._needResult().findings]
        self._selected = labels.index(change.present.label) if change.present is not None else -1
        jumpTo(self.logic.scene, change.placeRAS)

    # --- one patient after the other

    @intention
    def openWorklist(self, kind: str) -> None:
        """Ask for studies ("folder" or "list") and for a folder for the results, and run them in the background."""
        if kind == "folder":
            source = self.ask.folder(_("Folder of studies (NIfTI, NRRD, DICOM)"))
        else:
            source = self.ask.openFile(_("List of volumes (CSV with a column volume)"))
        output = self.ask.folder(_("Folder for the results and what you read")) if source else ""
        if output:
            self.reading.open(source, output)

    @intention
    def cancelWorklist(self, _checked=None) -> None:
        self.reading.cancel()

    @intention
    def openCase(self, row: int) -> None:
        listed = self.reading.state.cases
        if 0 <= row < len(listed):
            self._openCase(listed[row])

    @intention
    def nextCase(self, _checked=None) -> None:
        self._openCase(self.reading.nextCase())

    @intention
    def saveAndNext(self, _checked=None) -> None:
        """Keep verdicts and segment of the open case, and go to the next that nobody has read."""
        result = self._needFresh()
        self.reading.save(result.heatmapNode, result.findings)
        self._openCase(self.reading.nextCase())

    def _openCase(self, case) -> None:
        heatmap = self.reading.openCase(case)
        if heatmap is not None:
            self.running.watch(None)
            self._choose(inputOf(heatmap), heatmap)
            self._readResult()
            self._selectFirst()

    # --- reading the scene

    def _readResult(self) -> None:
        """The chosen result as the scene has it now; none where its image is gone or a preview is shown."""
        self._isStale = False
        parameters = self.parameters
        heatmap = parameters.heatmap if parameters is not None else None
        before = self._result
        isThere = isHeatmap(heatmap) and heatmap.GetScene() is self.logic.scene and inputOf(heatmap) is not None
        self._result = self._comparison = None
        with self.telling():
            if isThere and self.running.preview is None:
                self._result = resultOf(heatmap, parameters.minMm3)
            self._followWithDiameters(before)
        with self.telling():  # what cannot be compared is no reason to show old diameters
            self._comparison = self._compare() if self._result is not None else None
        self._keepSelection(before)
        self._watch(self._nodesToWatch())

    def _followWithDiameters(self, before: Result | None) -> None:
        """Lines that are drawn are those of the findings as they are now."""
        result = self._result
        if result is None or not diameters.isDrawn(result.heatmapNode):
            return
        if before is None or before.heatmapNode is not result.heatmapNode or before.findings != result.findings:
            diameters.draw(self.logic.scene, result.heatmapNode, result.findings)

    def _keepSelection(self, before: Result | None) -> None:
        """The same finding stays selected while the list changes around it."""
        listed = () if self._result is None else self._result.findings
        if self._selected < 0 or before is None or self._selected >= len(before.findings):
            self._selected = self._selected if 0 <= self._selected < len(listed) and before is None else -1
            return
        peak = before.findings[self._selected].peakRAS
        self._selected = next((n for n, finding in enumerate(listed) if finding.peakRAS == peak), -1)

    def _nodesToWatch(self) -> tuple:
        result = self._result
        if result is None:
            return ()
        prior = self.parameters.priorHeatmap
        return tuple(node for node in (result.heatmapNode, result.segmentationNode, result.inputNode, prior) if node)

    def _watch(self, nodes) -> None:
        """Observe these nodes and no others."""
        for node, observer in self._observed:
            node.RemoveObserver(observer)
        self._observed = []
        segmentEvents = (
            slicer.vtkSegmentation.SourceRepresentationModified,
            slicer.vtkSegmentation.SegmentModified,
            slicer.vtkSegmentation.SegmentRemoved,
        )
        for node in nodes:
            events = segmentEvents if node.IsA("vtkMRMLSegmentationNode") else (vtk.vtkCommand.ModifiedEvent,)
            self._observed += [(node, node.AddObserver(event, self._onNode)) for event in events]
            if node.IsA("vtkMRMLTransformableNode"):
                event = slicer.vtkMRMLTransformableNode.TransformModifiedEvent
                self._observed.append((node, node.AddObserver(event, self._onNode)))

    def _onNode(self, _node, _event) -> None:
        """The result has changed in the scene: it is read again at the next tick, or before it is needed."""
        if not self._isStale:
            self._isStale = True
            self.wake()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onScene(self, scene, _event, node) -> None:
        if self.parameters is None or scene.IsClosing() or scene.IsBatchProcessing():
            return
        if isHeatmap(node) or node.IsA("vtkMRMLSegmentationNode"):
            self._inViews = ()  # it may have come, or gone, with something to hide
        elif node.IsA("vtkMRMLSliceCompositeNode"):
            self._watchViews()
        self._onNode(None, None)

    # --- needs

    def _needResult(self) -> Result:
        if self.running.isRunning and self.running.preview is not None:
            raise ToNNOUserError(_("The run is under way."), _("Wait for its end, stop it, or cancel it."))
        if self._isStale:
            self._readResult()
        if self._result is None:
            raise ToNNOUserError(_("There is no result to work on."), _("Click Apply, or select a result."))
        return self._result

    def _needFresh(self) -> Result:
        """The result as the scene has it at this very moment."""
        self._isStale = True
        return self._needResult()

    def _needSelected(self):
        result = self._needResult()
        if not 0 <= self._selected < len(result.findings):
            raise ToNNOUserError(_("No finding is selected."), _("Click one in the table."))
        return result.findings[self._selected]

    # --- words

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Say in the panel what goes wrong inside, with the next click."""
        try:
            yield
        except ToNNOUserError as error:
            self.message = Message(ERROR, error.message, error.nextStep)
        except OSError as error:
            text = _("A file could not be written ({error}).").format(error=error.strerror or error)
            self.message = Message(ERROR, text, _("Choose another place, or free space."))

    def fail(self, error: Exception) -> None:
        """Something that nobody foresaw: words instead of a timer that throws for ever."""
        self.log(traceback.format_exc())
        self.message = Message(ERROR, f"{type(error).__name__}: {error}", _("Send the log below."))

    def log(self, text: str) -> None:
        """Add to the log; the section Log shows it."""
        if text:
            lines = text.splitlines()
            self.logLines.extend(lines)
            self.loggedCount += len(lines)
            self._render(self.state)


def _sentence(result: Result) -> str:
    """What came out: the findings, or how near the highest voxel comes to being one."""
    if result.listing.gap:
        return f"{result.listing.gap} {FEWER}"
    if result.findings:
        return summary.sentence(result.findings, result.record)
    peak = summary.highest(result.heatmapNode)
    return summary.nothing(peak, result.record, result.threshold, result.smallestMm3)


def _afterInstallation(replaced: tuple[str, ...]) -> str:
    if replaced:
        text = _("Restart the application first: it still uses the old {names}.")
        return text.format(names=", ".join(replaced))
    return _("Click Apply.")


def _id(node) -> str:
    return node.GetID() or "" if node is not None else ""


def _isOf(heatmap, volume) -> bool:
    """Whether a heatmap is one of a volume (or both are missing)."""
    return isHeatmap(heatmap) and inputOf(heatmap) is volume
