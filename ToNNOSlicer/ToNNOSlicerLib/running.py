"""The run as the session sees it: questions before it, progress and preview while it goes on, the result at its end."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from tonno_core.output import Json
from tonno_core.settings import SEGMENTER
from ToNNOSlicerLib import models
from ToNNOSlicerLib.controller import RunController
from ToNNOSlicerLib.failures import Failure
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.inputs import concerns, dicomModalityOf
from ToNNOSlicerLib.run import IDLE, Outcome, Progress, RunRequest
from ToNNOSlicerLib.state import ERROR, NOTE, Message
from ToNNOSlicerLib.words import timeText


class Running:
    """Starts, follows and ends runs.

    Args:
        session: The Session.
        makeClient: Makes the engine's client from the Choices.
    """

    def __init__(self, session, makeClient) -> None:
        self._session, self._makeClient = session, makeClient
        self.progress = Progress()
        self._previewNode: Any = None
        self._isWatched = False
        self._volume: Any = None
        self._askedForDevices = False
        self.controller = self._newController()

    # --- what is so

    @property
    def isRunning(self) -> bool:
        """Whether a run is under way."""
        return self.controller.state != IDLE

    @property
    def isWhole(self) -> bool:
        """Whether the run under way gives all or nothing: a segmenter's."""
        under = self.controller.request
        return under is not None and under.method == SEGMENTER

    @property
    def elsewhere(self) -> str:
        """The name of the volume of the run under way, if the user looks at another; else ""."""
        volume = self._volume
        isElsewhere = self.isRunning and not self._isWatched and volume is not None and volume.GetScene() is not None
        return volume.GetName() if isElsewhere else ""

    @property
    def isBusy(self) -> bool:
        """Whether `tick` has something to wait for."""
        return self.controller.isBusy

    @property
    def preview(self):
        """Return the heatmap that is being made if the user looks at its volume and waits; else None."""
        node = self._previewNode
        # Whoever removes it from the scene gets the next one.
        return node if self._isWatched and node is not None and node.GetScene() is not None else None

    def owns(self, node) -> bool:
        """Tell whether a node belongs to a run that has not ended.

        Args:
            node: A heatmap node, or None.

        Returns:
            True for the preview.
        """
        return node is not None and node is self._previewNode

    def watch(self, volume) -> None:
        """Note what the user looks at while a run may go on.

        Args:
            volume: The volume node; None for an earlier result.
        """
        self._isWatched = self.isRunning and volume is not None and volume is self._volume

    # --- what the user does

    def start(self, request: RunRequest) -> None:
        """Begin a run, after the questions that must be asked.

        Args:
            request: What is asked for.

        Raises:
            ToNNOUserError: If the run cannot begin.
        """
        session = self._session
        model = session.choices.modelOf(session.parameters)
        problem = session.choices.problemOf(request.device)
        if problem:
            raise ToNNOUserError(problem, _("Choose another device under Advanced."))
        if not (self._confirmed(request, model) and session.installing.hasPackages()):
            return
        if request.volumeNode.GetScene() is not session.logic.scene:
            return  # closed while packages were installed
        self._volume, self._isWatched = request.volumeNode, True
        self.controller.start(request)
        if not self._askedForDevices:
            self.describe()
        session.wake()

    def startAhead(self) -> None:
        """Start the engine where a run is likely and nothing must be asked: importing PyTorch takes seconds."""
        if self._session.installing.isComplete:
            self.controller.startAhead()

    def _confirmed(self, request: RunRequest, model) -> bool:
        """Ask where the image is plainly of another kind than the model's."""
        modality = dicomModalityOf(request.volumeNode)
        expected = models.otherModality(model, modality)
        if expected and not self._session.ask.otherModality(expected, modality):
            return False
        differences = concerns(request.volumeNode, model.training) if not expected else []
        return not differences or self._session.ask.otherImage(differences)

    def forget(self) -> None:
        """End the run because the scene closes."""
        self.controller.forget()
        self._previewNode, self._isWatched, self._volume = None, False, None

    def close(self) -> None:
        """End the run and the engine."""
        self.controller.close()
        self._previewNode, self._isWatched, self.progress = None, False, Progress()

    def newEngine(self) -> None:
        """End the engine; the next click starts one with the present choice of Python."""
        self.close()
        self.controller = self._newController()
        self._askedForDevices = False

    def describe(self) -> None:
        """Ask the engine for its devices."""
        self._askedForDevices = True
        self.controller.describe()
        self._session.wake()

    def tick(self) -> None:
        """Do what is due; what goes wrong ends the run with words."""
        try:
            self.controller.tick()
        except Exception as error:  # the run ends with words instead of a timer that throws for ever
            self.close()
            self._session.fail(error)
            self._session.onRunShown()

    def _newController(self) -> RunController:
        return RunController(self._makeClient(self._session.choices), self._session.logic, self)

    # --- what the run says

    def onProgress(self, progress: Progress) -> None:
        """Show how far the run is; at its end, no longer its preview.

        Args:
            progress: How far it is.
        """
        wasShown = self.preview is not None
        self.progress = progress
        if progress.state == IDLE:
            self._previewNode = None
            if wasShown:
                self._session.onRunShown()
                return
        self._session.render()

    def onPreview(self, node) -> None:
        """Show the preview if the user waits for it.

        Args:
            node: The heatmap node with new voxels.
        """
        self._previewNode = node
        if self._isWatched:
            self._session.onRunShown()

    def onOutcome(self, outcome: Outcome) -> None:
        """Hand the result to the session.

        Args:
            outcome: What the run has left in the scene.
        """
        session, isWatched = self._session, self._isWatched
        self._previewNode, self._isWatched = None, False
        if outcome.kind == "reconstruct":
            session.choices.remember(outcome.request, outcome.record)
        device = outcome.record.get("device", "?")
        if outcome.request.method == SEGMENTER:
            session.log(_("Done on {device}.").format(device=device))
        else:
            slices = outcome.record.get("slices", "?")
            session.log(_("Done: {slices} planes on {device}.").format(slices=slices, device=device))
        session.onOutcome(outcome.heatmapNodes[0], isWatched)

    def onFailure(self, failure: Failure) -> None:
        """Tell the user why the run has ended.

        Args:
            failure: Why.
        """
        session = self._session
        self._previewNode, self._isWatched = None, False
        session.message = Message(ERROR, failure.message, failure.nextStep)
        session.log("\n".join((failure.message, *failure.log)))
        session.onRunShown()

    def onDescription(self, description: Json) -> None:
        """List the devices; advise quality Fast where there is no graphics card.

        Args:
            description: The engine's devices and versions.
        """
        session = self._session
        session.choices.devices = list(description.get("devices") or ())
        versions = (f"{name} {description[name]}" for name in ("python", "torch", "timm") if name in description)
        session.log(", ".join(versions))
        parameters = session.parameters
        if parameters is not None and session.choices.hasNoGPU and parameters.quality.value != "fast":
            seconds = session.choices.expectedSeconds(parameters, "fast")
            advice = _("Quality Fast is made for this.")
            if seconds is not None:
                advice = _("Quality Fast is made for this (about {time}).").format(time=timeText(seconds))
            text = _("No graphics card can be used: the run computes on the CPU.")
            session.message = Message(NOTE, text, advice)
        session.render()
