"""What the slice views and the 3D view show of a result. No Qt."""

from __future__ import annotations

import vtk
from slicer.util import VTKObservationMixin

from ToNNOSlicerLib.logic.heatmap import recordOf
from ToNNOSlicerLib.logic.overlay import Layers, keepApart, shownImage
from ToNNOSlicerLib.logic.patient import showSurface
from ToNNOSlicerLib.logic.results import Result, showOnly, siblingsOf
from ToNNOSlicerLib.logic.scene import nodesByClass
from ToNNOSlicerLib.logic.segmentation import isShown3D, show3D

# A preview has no threshold yet: it is drawn above this fraction of its peak.
_PREVIEW_SHARE = 0.2


class Views:
    """Shows image, heatmap and segments in the views, and notices another image there.

    Args:
        session: The Session.
    """

    def __init__(self, session) -> None:
        self._session = session
        self._shown: tuple = ()
        self._observations = VTKObservationMixin()
        self.haveChanged = False

    def observe(self) -> None:
        """Observe all slice views, because other modules may put another image into them."""
        self.close()
        for node in nodesByClass(self._session.logic.scene, "vtkMRMLSliceCompositeNode"):
            self._observations.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._onChange)

    def close(self) -> None:
        """Stop observing the views."""
        self._observations.removeObservers()

    def forget(self) -> None:
        """Let the next `show` set the views even if nothing seems to have changed."""
        self._shown = ()

    def show(self, result: Result | None) -> None:
        """Show the preview that the user waits for, else a result, and hide all others.

        Args:
            result: The result, or None.
        """
        session = self._session
        parameters, preview = session.parameters, session.running.preview
        volume = parameters.inputVolume
        heatmap = None if result is None else result.heatmapNode
        overlay, threshold = heatmap, 0.0 if result is None else result.threshold
        if preview is not None:
            heatmap, overlay, threshold = None, preview, max(_PREVIEW_SHARE * recordOf(preview)["high"], 1e-9)
        second = parameters.secondVolume if volume is not None else None
        if not parameters.overlayVisible:
            overlay = None
        layers = Layers(
            volume, overlay, threshold, parameters.opacity, second, parameters.fade, parameters.colors.value
        )
        segments = () if heatmap is None else tuple(node.GetID() for node in siblingsOf(heatmap))
        shown = layers, segments, None if result is None else result.identity, parameters.surfaceVisible
        if shown == self._shown:
            return
        session.logic.showLayers(layers)
        showOnly(session.logic.scene, heatmap, volume)
        self._showSurface(result)
        self._shown = shown
        self.haveChanged = False  # the change was made here

    def show3D(self, result: Result, on: bool) -> None:
        """Show the findings and the patient's surface in 3D, or hide them.

        Args:
            result: The result.
            on: Whether to show them.
        """
        if result.segmentationNode is not None:
            with self._session.reportErrors():
                show3D(result.segmentationNode, on)
            self._showSurface(result)

    def _showSurface(self, result: Result | None) -> None:
        """Show the patient's surface around findings that are shown in 3D."""
        if result is not None and result.inputNode is not None and result.segmentationNode is not None:
            on = isShown3D(result.segmentationNode)
            showSurface(result.inputNode, on and self._session.parameters.surfaceVisible)

    def tick(self) -> None:
        """Choose an image that all views show now, such as one just loaded.

        A single view with another image keeps it, without the heatmap.
        """
        if not self.haveChanged:
            return
        self.haveChanged = False
        volume = self._session.parameters.inputVolume
        image = shownImage(self._session.logic.scene)
        if image is not None and image is not volume:
            self._session.set(inputVolume=image)
        elif volume is not None:
            keepApart(self._session.logic.scene, volume)
            self.haveChanged = False  # the change was made here

    def _onChange(self, _node, _event) -> None:
        if self._session.parameters is not None and not self.haveChanged:
            self.haveChanged = True
            self._session.wake()
