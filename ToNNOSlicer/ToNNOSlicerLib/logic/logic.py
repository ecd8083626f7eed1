"""What the module keeps of a scene between clicks: undo steps, the outline of a drag, observers. MRML alone, never qt.

All else that happens to a scene are functions of this package, of nodes. Everything that the slider, the table and the
plots need is in the heatmap's node and saved with the scene.
"""

from __future__ import annotations

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from ToNNOSlicerLib.logic import diameters, export, findings, heatmap, overlay, patient
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.findings import Finding
from ToNNOSlicerLib.logic.preview import Preview
from ToNNOSlicerLib.logic.segmentation import Segments, segmentOf


class ToNNOLogic(VTKObservationMixin):
    """Holds what belongs to a scene and is not saved with it; `cleanUp` ends it.

    Attributes:
        scene: The vtkMRMLScene.
        applicationLogic: The application's vtkMRMLApplicationLogic, or None.
        segments: Writes segments, and takes that back.
        preview: The outline while the slider moves.
    """

    def __init__(self, scene, applicationLogic=None, dicomFile=None) -> None:
        """Begin to follow a scene.

        Args:
            scene: The vtkMRMLScene.
            applicationLogic: Fits the views to an image; None where there is no application.
            dicomFile: Returns the path of the file of a DICOM instance's UID, or None where it is unknown. By default
                Slicer's DICOM database is asked, where there is one.
        """
        VTKObservationMixin.__init__(self)
        self.scene = scene
        self.applicationLogic = applicationLogic
        self.segments = Segments(scene)
        self.preview = Preview(scene)
        self._dicomFile = dicomFile
        self.addObserver(scene, slicer.vtkMRMLScene.StartCloseEvent, self._onSceneClosing)
        self.addObserver(scene, slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._onNodeLeaving)

    def cleanUp(self) -> None:
        """Take the preview away and stop watching the scene. The results stay."""
        self.preview.hide()
        self.removeObservers()
        self.segments.forget()

    def showLayers(self, layers: overlay.Layers) -> None:
        """Make all slice views show an image, and over it a heatmap or none. Views of another image are fitted anew.

        Args:
            layers: Nodes, threshold and opacities.
        """
        if overlay.show(self.scene, layers) and self.applicationLogic is not None:
            sliceLogics = self.applicationLogic.GetSliceLogics()
            for n in range(sliceLogics.GetNumberOfItems()):
                sliceLogics.GetItemAsObject(n).FitSliceToAll()

    def removeFinding(self, heatmapNode, finding: Finding) -> None:
        """Remove a finding from the heatmap's segment; that counts as work by hand.

        Args:
            heatmapNode: The heatmap.
            finding: A finding of its segment.

        Raises:
            ToNNOUserError: If the segment, or the finding in it, is gone.
        """
        segment = segmentOf(heatmapNode)
        if segment is None:
            raise ToNNOUserError(
                _("The segment is no longer in the scene."), _("Move the threshold to write it again.")
            )
        self.segments.replace(heatmapNode, *segment, findings.without(*segment, finding))

    def exportSegmentation(self, segmentationNode, path) -> list[str]:
        """Write the segments that are shown, whole or not at all.

        Args:
            segmentationNode: Holds the segments.
            path: The ending tells the format: .seg.nrrd, .nii.gz, .nii, .stl, .dcm (DICOM SEG).

        Returns:
            What the user should know of the file.

        Raises:
            ToNNOUserError: If the format cannot hold the segments, or the file cannot be written.
        """
        with export.shownAlone(segmentationNode) as shown:
            return export.exportSegmentation(shown, path, self._dicomFile)

    def _onSceneClosing(self, _scene, _event) -> None:
        """Drop the outline and the undo steps of the scene that closes."""
        self.preview.hide()
        self.segments.forget()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeLeaving(self, _scene, _event, node) -> None:
        """Remove what belongs to a node that leaves the scene."""
        if self.scene.IsClosing():
            return
        if heatmap.isHeatmap(node):
            self.preview.hide()
            diameters.remove(self.scene, node)
            overlay.removeTraces(node)
        elif node.IsA("vtkMRMLScalarVolumeNode"):
            patient.removeSurface(node)
