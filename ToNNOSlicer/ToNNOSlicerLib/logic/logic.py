"""The scene's side of the module: nodes in, nodes out. It knows MRML, never qt, and reads no application.

Everything that the slider, the table and the plots need is in the heatmap's node and saved with the scene.
"""

from __future__ import annotations

import slicer
import vtk
from slicer.i18n import tr as _

from ToNNOSlicerLib.logic import (
    diameters,
    export,
    findings,
    heatmap,
    inputs,
    overlay,
    patient,
    preview,
    profile,
    report,
    results,
    segmentation,
)
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.findings import Finding
from ToNNOSlicerLib.logic.hierarchy import putBeside
from ToNNOSlicerLib.logic.inputs import Input
from ToNNOSlicerLib.logic.profile import Profile, Why


class ToNNOLogic:
    """What the panel's buttons do to a scene. Made with a scene; `cleanUp` ends it.

    applicationLogic: of the application, or None. dicomFile: from the UID of a DICOM instance to its file's path
    (None where it is unknown); by default Slicer's DICOM database, where there is one.
    """

    def __init__(self, scene, applicationLogic=None, dicomFile=None) -> None:
        self.scene = scene
        self.applicationLogic = applicationLogic
        self._dicomFile = dicomFile
        self._segments = segmentation.Segments(scene)
        self._preview = preview.Preview(scene)
        self._observers = [
            scene.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, self._onSceneClosing),
            scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._onNodeLeaving),
        ]

    def cleanUp(self) -> None:
        """Take the preview away and stop watching the scene. The results stay."""
        self._preview.hide()
        for observer in self._observers:
            self.scene.RemoveObserver(observer)
        self._observers = []
        self._segments.forget()

    # Input

    def inputFor(self, volumeNode) -> Input:
        """The engine's copy of a volume, hardened. Raises ToNNOUserError for what is no 3D image."""
        return inputs.inputFor(volumeNode)

    def roiFor(self, roiNode, volumeNode=None):
        """rasToBox (4 x 4) of a Markups ROI: |x|, |y|, |z| <= 1 is inside. Raises ToNNOUserError, also where it misses
        the volume.
        """
        return inputs.roiFor(roiNode, volumeNode)

    def fitRegion(self, roiNode, volumeNode) -> None:
        """Lay a Markups ROI around a whole volume, in the world."""
        inputs.fitRegion(roiNode, volumeNode)

    def firstVolume(self):
        """The image to begin with: what the first slice view shows, else the first of the scene; None without one."""
        return inputs.firstVolume(self.scene)

    def concerns(self, volumeNode, training) -> list[str]:
        """List in which ways an image differs from those that a model was trained on; none where it is alike.

        Raises ToNNOUserError for what is no single 3D image.
        """
        inputs.checkKind(volumeNode)
        return inputs.concerns(volumeNode, training)

    # Heatmap

    def showHeatmap(
        self,
        volumeNode,
        array,
        ijkToRAS,
        insideArray,
        method,
        className,
        threshold=None,
        heatmapNode=None,
        result=None,
        zoom=False,
        run=None,
    ):
        """The heatmap's volume node, created or updated, beside its volume in the subject hierarchy.

        array: float32 Z Y X on the volume's grid. ijkToRAS: as `inputFor` gave it. insideArray: Z Y X, what the planes
        cover; None for a preview. threshold: the model's record for the method, or None. result: the worker's answer.
        zoom: whether all planes were put into a region. run: what else is remembered of the run.
        """
        node = heatmap.showHeatmap(
            self.scene,
            volumeNode,
            array,
            ijkToRAS,
            insideArray,
            method,
            className,
            threshold,
            heatmapNode,
            result,
            zoom,
            run,
        )
        putBeside(node, volumeNode)
        return node

    def heatmaps(self) -> list:
        """All heatmaps in the scene, also those of a scene that was loaded."""
        return results.heatmapsOf(self.scene)

    def peakOf(self, heatmapNode) -> float:
        """The heatmap's highest value."""
        record = heatmap.recordOf(heatmapNode)
        return float(record.get("high", record["limit"]))

    def setOverlay(self, heatmapNode, threshold: float, opacity: float = 0.6, visible: bool = True) -> None:
        """Show a heatmap over its image where |value| >= threshold, with its legend, or take it away."""
        overlay.setOverlay(heatmapNode, threshold, opacity, visible)

    def showLayers(self, layers: overlay.Layers) -> None:
        """Make all slice views show an image, and over it a heatmap or none. Views of another image are fitted anew."""
        if overlay.show(self.scene, layers) and self.applicationLogic is not None:
            sliceLogics = self.applicationLogic.GetSliceLogics()
            for n in range(sliceLogics.GetNumberOfItems()):
                sliceLogics.GetItemAsObject(n).FitSliceToAll()

    def shownImage(self):
        """The one image that all slice views have in the background, or None."""
        return overlay.shownImage(self.scene)

    def keepApart(self, inputNode) -> None:
        """Take heatmaps out of the views that show another image."""
        overlay.keepApart(self.scene, inputNode)

    def showOnly(self, heatmapNode, inputNode=None) -> None:
        """Show the segments of a heatmap's run (None: of no run), hide those of others; diameters and surfaces too."""
        segmentation.showOnly(self.scene, [] if heatmapNode is None else results.siblingsOf(heatmapNode))
        diameters.showOnly(results.heatmapsOf(self.scene), heatmapNode)
        patient.hideOthers(self.scene, inputNode)

    def showSurface(self, volumeNode, on: bool) -> None:
        """Show an image's translucent outer surface in the 3D views, or hide it."""
        patient.showSurface(volumeNode, on)

    # Results

    def resultOf(self, heatmapNode, smallestMm3: float = 0.0) -> results.Result:
        """A heatmap with its image, settings, segment and findings, as one value. Raises ToNNOUserError."""
        return results.resultOf(heatmapNode, smallestMm3)

    def removeResult(self, heatmapNode) -> None:
        """Take a heatmap and its segment out of the scene."""
        results.remove(heatmapNode, self._segments)

    def histogram(self, heatmapNode):
        """Edges (257, the heatmap's units) and counts (256) over the voxels that the planes cover."""
        return heatmap.histogram(heatmapNode)

    def otsu(self, heatmapNode) -> float:
        """Otsu's threshold. Raises ToNNOUserError where the heatmap is constant, and below the noise floor."""
        return heatmap.otsu(heatmapNode)

    def modelThreshold(self, heatmapNode) -> float | None:
        """The model's own threshold for the method, or None."""
        return heatmap.modelThreshold(heatmapNode)

    def isZoomed(self, heatmapNode) -> bool:
        """Whether all planes were put into a region; the model's threshold was calibrated for the whole volume."""
        return heatmap.isZoomed(heatmapNode)

    def noiseFloor(self, heatmapNode) -> float | None:
        """What a volume without the finding reaches in its noise, or None."""
        return heatmap.noiseFloor(heatmapNode)

    # Segmentation

    def previewMask(self, heatmapNode, threshold: float, minMm3: float = 0.0) -> None:
        """Outline heatmap >= threshold in the slice views, for a slider that moves; no segment changes."""
        self._preview.show(heatmapNode, threshold, minMm3)

    def hidePreview(self) -> None:
        """Take the outline away."""
        self._preview.hide()

    def writeSegment(
        self,
        heatmapNode,
        threshold: float,
        minMm3: float = 0.0,
        segmentationNode=None,
        segmentId: str | None = None,
        overwrite: bool = False,
    ) -> tuple:
        """Write heatmap >= threshold, without components below minMm3, and return (segmentationNode, segmentId).

        Without a node or an ID the heatmap's own segment is rewritten, or made. Raises EditedByHandError where the
        segment was changed since it was written, unless `overwrite`; ToNNOUserError where the node cannot hold it.
        """
        written = self._segments.write(heatmapNode, threshold, minMm3, segmentationNode, segmentId, overwrite)
        self._preview.hide()
        return written

    def newSegment(self, heatmapNode, threshold: float, minMm3: float = 0.0, segmentationNode=None) -> tuple:
        """The same into a new segment (of a new node, where none is given), which is the heatmap's own from now on."""
        written = self._segments.writeNew(heatmapNode, threshold, minMm3, segmentationNode)
        self._preview.hide()
        return written

    def segmentOf(self, heatmapNode) -> tuple | None:
        """(segmentationNode, segmentId) of the heatmap's own segment, also after loading, or None."""
        return segmentation.segmentOf(heatmapNode)

    def isEditedByHand(self, segmentationNode, segmentId: str) -> bool:
        """Whether a segment holds other voxels than those written last."""
        return segmentation.isEditedByHand(segmentationNode, segmentId)

    def thresholdOf(self, segmentationNode, segmentId: str) -> float | None:
        """The threshold that a segment was written with, or None."""
        return segmentation.thresholdOf(segmentationNode, segmentId)

    def canUndo(self, heatmapNode) -> bool:
        """Whether `undo` has something of this heatmap to take back."""
        return self._segments.canUndo(heatmapNode)

    def canRedo(self, heatmapNode) -> bool:
        """Whether `redo` has something of this heatmap to do again."""
        return self._segments.canRedo(heatmapNode)

    def undo(self, heatmapNode, overwrite: bool = False) -> bool:
        """Take the heatmap's last writing or removal back; returns whether there was one.

        Raises EditedByHandError where the segment was changed by hand since, unless `overwrite`.
        """
        return self._segments.undo(heatmapNode, overwrite)

    def redo(self, heatmapNode, overwrite: bool = False) -> bool:
        """Do what was taken back again. Raises as `undo`."""
        return self._segments.redo(heatmapNode, overwrite)

    def show3D(self, segmentationNode, on: bool) -> None:
        """Show a segmentation's surfaces in the 3D views, or hide them."""
        segmentation.show3D(segmentationNode, on)

    def isShown3D(self, segmentationNode) -> bool:
        """Whether a segmentation's surfaces are shown in the 3D views."""
        return segmentation.isShown3D(segmentationNode)

    # Findings

    def findings(self, segmentationNode, segmentId: str, heatmapNode) -> list[Finding]:
        """The segment's components, highest peak first; work by hand included."""
        return findings.findings(segmentationNode, segmentId, heatmapNode)

    def jumpTo(self, finding: Finding) -> None:
        """Move all slice views and the crosshair to a finding's peak."""
        findings.jumpTo(self.scene, finding.peakRAS)

    def jumpToPoint(self, ras) -> None:
        """Move all slice views and the crosshair to a point (RAS mm in the world)."""
        findings.jumpTo(self.scene, ras)

    def hideCrosshair(self) -> None:
        """Switch off the crosshair that a jump switched on."""
        findings.hideCrosshair(self.scene)

    def showDiameters(self, heatmapNode, listed) -> None:
        """Draw the diameters of findings as lines in the views; of none: take the lines away."""
        diameters.remove(self.scene, heatmapNode)
        if listed:
            diameters.draw(self.scene, heatmapNode, listed)

    def hasDiameters(self, heatmapNode) -> bool:
        """Whether diameters of a heatmap are drawn."""
        return diameters.isDrawn(heatmapNode)

    def removeFinding(self, heatmapNode, finding: Finding) -> None:
        """Remove a finding from the heatmap's segment; that counts as work by hand. Raises ToNNOUserError."""
        known = segmentation.segmentOf(heatmapNode)
        if known is None:
            raise ToNNOUserError(
                _("The segment is no longer in the scene."), _("Move the threshold to write it again.")
            )
        crop = findings.without(*known, finding)
        self._segments.replace(heatmapNode, *known, crop)

    # Why

    def profileAlong(self, heatmapNode, normalRAS, pointRAS=None) -> Profile | None:
        """The kept logit profile nearest to a normal, with a point's position on it; None where none was kept."""
        return profile.profileAlong(heatmapNode, normalRAS, pointRAS)

    def profileFor(self, heatmapNode, sliceNode) -> Profile | None:
        """The same for the plane of a slice view."""
        return profile.profileFor(heatmapNode, sliceNode)

    def why(self, heatmapNode) -> Why:
        """The volume's score, and how much of the classifier's output the heatmap explains."""
        return profile.why(heatmapNode)

    # Export

    def exportSegmentation(self, segmentationNode, path) -> list[str]:
        """The segments that are shown, by the ending: .seg.nrrd, .nii.gz, .nii, .stl, .dcm (DICOM SEG). Whole or not.

        Returns what the user should know of the file. Raises ToNNOUserError.
        """
        with export.shownAlone(segmentationNode) as shown:
            return export.exportSegmentation(shown, path, self._dicomFile)

    def exportHeatmap(self, heatmapNode, path) -> None:
        """By the ending: .nrrd, .nii.gz, .nii. Whole or not; raises ToNNOUserError."""
        export.exportHeatmap(heatmapNode, path)

    def heatmapSteps(self, heatmapNode, path, write):
        """The same a little at each step of the iterator, for whoever must not wait; `write`: see export.py."""
        return export.heatmapSteps(heatmapNode, path, write)

    def exportFindings(self, listed: list[Finding], path, identity=None) -> None:
        """A table as CSV, each row with whose it is. Whole or not; raises ToNNOUserError."""
        export.exportFindings(listed, path, identity)

    def exportReport(self, folder, heatmapNode, segmentationNode, segmentId: str) -> None:
        """A folder with pictures, table, heatmap, segmentation and facts. Whole or not; raises ToNNOUserError."""
        report.exportReport(folder, heatmapNode, segmentationNode, segmentId)

    def reportSteps(self, folder, heatmapNode, segmentationNode, segmentId: str, write):
        """The same a little at each step of the iterator; closing it cancels."""
        return report.reportSteps(folder, heatmapNode, segmentationNode, segmentId, write)

    # What happens to the scene

    def _onSceneClosing(self, _scene, _event) -> None:
        self._preview.hide()
        self._segments.forget()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeLeaving(self, _scene, _event, node) -> None:
        if self.scene.IsClosing():
            return
        if heatmap.isHeatmap(node):
            self._preview.hide()
            diameters.remove(self.scene, node)
            overlay.removeTraces(node)
        elif node.IsA("vtkMRMLScalarVolumeNode"):
            patient.removeSurface(node)
