"""The scene's side of the module: nodes in, nodes out. It knows MRML, never qt, and reads no application.

Everything that the slider, the table and the plots need is in the heatmap's node and saved with the scene.
"""

from __future__ import annotations

import slicer
import slicer.util
import vtk

from ToNNOSlicerLib.logic import export, findings, heatmap, inputs, overlay, profile, report, segmentation
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
        self._preview = segmentation.Preview(scene)
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
        return inputs.inputFor(volumeNode)

    def roiFor(self, roiNode, volumeNode=None):
        return inputs.roiFor(roiNode, volumeNode)

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
    ):
        node = heatmap.showHeatmap(
            self.scene, volumeNode, array, ijkToRAS, insideArray, method, className, threshold, heatmapNode, result
        )
        putBeside(node, volumeNode)
        return node

    def heatmaps(self) -> list:
        """All heatmaps in the scene, also those of a scene that was loaded."""
        nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode", self.scene)
        return [node for node in nodes if heatmap.isHeatmap(node)]

    def setOverlay(self, heatmapNode, threshold: float, opacity: float = 0.6, visible: bool = True) -> None:
        overlay.setOverlay(heatmapNode, threshold, opacity, visible)

    def histogram(self, heatmapNode):
        return heatmap.histogram(heatmapNode)

    def otsu(self, heatmapNode) -> float:
        return heatmap.otsu(heatmapNode)

    def modelThreshold(self, heatmapNode) -> float | None:
        return heatmap.modelThreshold(heatmapNode)

    def noiseFloor(self, heatmapNode) -> float | None:
        return heatmap.noiseFloor(heatmapNode)

    # Segmentation

    def previewMask(self, heatmapNode, threshold: float, minMm3: float = 0.0) -> None:
        self._preview.show(heatmapNode, threshold, minMm3)

    def hidePreview(self) -> None:
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
        written = self._segments.write(heatmapNode, threshold, minMm3, segmentationNode, segmentId, overwrite)
        self._preview.hide()
        return written

    def newSegment(self, heatmapNode, threshold: float, minMm3: float = 0.0, segmentationNode=None) -> tuple:
        written = self._segments.writeNew(heatmapNode, threshold, minMm3, segmentationNode)
        self._preview.hide()
        return written

    def segmentOf(self, heatmapNode) -> tuple | None:
        return segmentation.segmentOf(heatmapNode)

    def isEditedByHand(self, segmentationNode, segmentId: str) -> bool:
        return segmentation.isEditedByHand(segmentationNode, segmentId)

    def thresholdOf(self, segmentationNode, segmentId: str) -> float | None:
        return segmentation.thresholdOf(segmentationNode, segmentId)

    @property
    def canUndo(self) -> bool:
        return self._segments.canUndo

    def undo(self, overwrite: bool = False) -> tuple | None:
        return self._segments.undo(overwrite)

    def show3D(self, segmentationNode, on: bool) -> None:
        segmentation.show3D(segmentationNode, on)

    # Findings

    def findings(self, segmentationNode, segmentId: str, heatmapNode) -> list[Finding]:
        return findings.findings(segmentationNode, segmentId, heatmapNode)

    def jumpTo(self, finding: Finding) -> None:
        findings.jumpTo(self.scene, finding)

    def removeFinding(self, segmentationNode, segmentId: str, finding: Finding) -> None:
        crop = findings.without(segmentationNode, segmentId, finding)
        self._segments.replace(segmentationNode, segmentId, crop)

    # Why

    def profileAlong(self, heatmapNode, normalRAS, pointRAS=None) -> Profile | None:
        return profile.profileAlong(heatmapNode, normalRAS, pointRAS)

    def profileFor(self, heatmapNode, sliceNode) -> Profile | None:
        return profile.profileFor(heatmapNode, sliceNode)

    def why(self, heatmapNode) -> Why:
        return profile.why(heatmapNode)

    # Export

    def exportSegmentation(self, segmentationNode, path) -> None:
        export.exportSegmentation(segmentationNode, path, self._dicomFile)

    def exportHeatmap(self, heatmapNode, path) -> None:
        export.exportHeatmap(heatmapNode, path)

    def exportFindings(self, listed: list[Finding], path) -> None:
        export.exportFindings(listed, path)

    def exportReport(self, folder, heatmapNode, segmentationNode, segmentId: str) -> None:
        report.exportReport(folder, heatmapNode, segmentationNode, segmentId)

    # What happens to the scene

    def _onSceneClosing(self, _scene, _event) -> None:
        self._preview.hide()
        self._segments.forget()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeLeaving(self, _scene, _event, node) -> None:
        if heatmap.isHeatmap(node) and not self.scene.IsClosing():
            self._preview.hide()
            overlay.removeTraces(node)
