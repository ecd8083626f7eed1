"""Volumes and regions for the engine: checked voxels with their place in the world, and boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import slicer.util
from slicer.i18n import tr as _

from ToNNOSlicerLib.labels import forPanel
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.geometry import fileOf, ijkToNode, nodeToWorld
from ToNNOSlicerLib.logic.heatmap import isHeatmap
from ToNNOSlicerLib.logic.scene import nodesByClass

# The engine's own limits for files.
SPACING_LIMITS_MM = (0.001, 100.0)
ORIGIN_LIMIT_MM = 1e6
_AMPERSAND = _(
    "The volume's name holds an ampersand: Slicer cannot open a scene that is saved with it. Rename it first."
)


@dataclass(frozen=True)
class Input:
    """A volume as the engine takes it.

    Attributes:
        array: Float32 voxels, Z Y X, all finite.
        ijkToRAS: 4 x 4, from voxels to the world, parent transforms included.
        warnings: Sentences for the user.
    """

    array: np.ndarray
    ijkToRAS: np.ndarray
    warnings: tuple[str, ...] = ()


def inputFor(volumeNode) -> Input:
    """Copy a scalar volume node for the engine, with its transforms applied; the node itself is left as it is.

    Args:
        volumeNode: The volume.

    Returns:
        Voxels and their place.

    Raises:
        ToNNOUserError: If it is not a single 3D image with contrast and a plausible geometry.
    """
    checkKind(volumeNode)
    ijkToRAS = _checkedGeometry(volumeNode)
    array, bad = _checkedVoxels(volumeNode)
    warnings = [*_frameWarnings(volumeNode), *_orientationWarnings(volumeNode)]
    if "&" in (volumeNode.GetName() or ""):  # slicer-core 5.13 saves such a scene without a word
        warnings.append(_AMPERSAND)
    if bad:
        text = _("{bad} voxels of {name} are NaN or infinite; they count as its lowest value.")
        warnings.append(text.format(bad=bad, name=volumeNode.GetName()))
    return Input(array, ijkToRAS, tuple(warnings))


def roiFor(roiNode, volumeNode=None) -> np.ndarray:
    """Return the matrix of a Markups ROI, in whose frame |x|, |y|, |z| <= 1 is inside.

    Args:
        roiNode: The region; it may be rotated and transformed.
        volumeNode: A volume that the region must share space with, or None.

    Returns:
        rasToBox, 4 x 4, from the world to the box.

    Raises:
        ToNNOUserError: If it is not a ROI with an extent, is under a warp, or lies outside of the volume.
    """
    redraw = _("Draw the box again (Markups module), or choose no region of interest.")
    if roiNode is None or not roiNode.IsA("vtkMRMLMarkupsROINode"):
        raise ToNNOUserError(_("The region of interest is not a Markups ROI."), redraw)
    size = np.array(roiNode.GetSize())
    if roiNode.GetNumberOfDefinedControlPoints() < 1 or not (size > 0).all():
        raise ToNNOUserError(_("The region of interest {name} has no extent.").format(name=roiNode.GetName()), redraw)
    try:
        nodeToWorld(roiNode)
    except ValueError:
        raise ToNNOUserError(
            _("The region of interest {name} is under a warping transform.").format(name=roiNode.GetName()),
            _("Take it out of the transform (Transforms module), or draw another."),
        ) from None
    boxToRAS = slicer.util.arrayFromVTKMatrix(roiNode.GetObjectToWorldMatrix()) @ np.diag([*size / 2, 1.0])
    rasToBox = np.linalg.inv(boxToRAS)
    if volumeNode is not None and not _meets(rasToBox, volumeNode):
        raise ToNNOUserError(
            _("The region of interest {roi} lies outside of the volume {volume}.").format(
                roi=roiNode.GetName(), volume=volumeNode.GetName()
            ),
            _("Move the box over the volume, or choose no region of interest."),
        )
    return rasToBox


def fitRegion(roiNode, volumeNode) -> None:
    """Lay a Markups ROI around a whole volume: the box of its bounds in the world.

    Args:
        roiNode: The region.
        volumeNode: The volume.
    """
    bounds = [0.0] * 6
    volumeNode.GetRASBounds(bounds)
    low, high = np.array(bounds[::2]), np.array(bounds[1::2])
    roiNode.SetXYZ(*((low + high) / 2).tolist())
    roiNode.SetRadiusXYZ(*((high - low) / 2).tolist())


def firstVolume(scene):
    """Choose the image to begin with: what the first slice view shows, else the first of the scene.

    Args:
        scene: The vtkMRMLScene.

    Returns:
        The vtkMRMLScalarVolumeNode, or None where there is none.
    """
    for view in nodesByClass(scene, "vtkMRMLSliceCompositeNode"):
        node = scene.GetNodeByID(view.GetBackgroundVolumeID()) if view.GetBackgroundVolumeID() else None
        if _isImage(node):
            return node
    return next((node for node in nodesByClass(scene, "vtkMRMLScalarVolumeNode") if _isImage(node)), None)


def dicomModalityOf(volumeNode) -> str | None:
    """Return the modality that the subject hierarchy keeps of a volume from DICOM.

    Args:
        volumeNode: The volume.

    Returns:
        The value of DICOM's attribute Modality, such as "MR", or None.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volumeNode.GetScene())
    item = hierarchy.GetItemByDataNode(volumeNode) if hierarchy is not None else 0
    return hierarchy.GetItemAttribute(item, "DICOM.Modality") or None if item else None


def concerns(volumeNode, training: dict) -> list[str]:
    """List in which ways an image differs from those that a model was trained on.

    Args:
        volumeNode: The volume.
        training: What the model's file says of its training images.

    Returns:
        Sentences; none where the image is alike.

    Raises:
        ToNNOUserError: If the volume is not a single 3D image.
    """
    from tonno_core.volume.appearance import image_concerns

    checkKind(volumeNode)
    return image_concerns(training, slicer.util.arrayFromVolume(volumeNode), ijkToNode(volumeNode))


def _isImage(node) -> bool:
    """Tell whether a node is a scalar volume with voxels, and no heatmap of ours."""
    isScalar = node is not None and node.GetClassName() == "vtkMRMLScalarVolumeNode"
    return isScalar and not isHeatmap(node) and node.GetImageData() is not None


def checkKind(volumeNode) -> None:
    """Refuse anything but a single 3D image.

    Args:
        volumeNode: Any node, or None.

    Raises:
        ToNNOUserError: If it is something else.
    """
    select = _("Select a scalar volume.")
    if volumeNode is None:
        raise ToNNOUserError(_("No volume is selected."), select)
    name = volumeNode.GetName()
    if volumeNode.IsA("vtkMRMLSequenceNode"):
        raise ToNNOUserError(
            _("{name} is a sequence of volumes (4D).").format(name=name),
            _("Show one time point with the Sequences module and select that volume."),
        )
    if volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
        raise ToNNOUserError(_("{name} is a label map, not an image.").format(name=name), select)
    if not volumeNode.IsA("vtkMRMLScalarVolumeNode"):
        raise ToNNOUserError(_("{name} is not a volume.").format(name=name), select)
    image = volumeNode.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None or 0 in image.GetDimensions():
        raise ToNNOUserError(_("{name} holds no voxels.").format(name=name), _("Load it again, or select another."))
    components = image.GetNumberOfScalarComponents()
    if components != 1:
        raise ToNNOUserError(
            _("{name} has {number} values in each voxel (color, vector or 4D image).").format(
                name=name, number=components
            ),
            _("Extract one with the module Vector to Scalar Volume and select the result."),
        )
    if min(image.GetDimensions()) < 2:
        raise ToNNOUserError(
            _("{name} is a single slice ({size} voxels).").format(
                name=name, size=" x ".join(str(n) for n in image.GetDimensions())
            ),
            _("ToNNO needs a 3D volume: load the whole series."),
        )


def _checkedGeometry(volumeNode) -> np.ndarray:
    """Return ijkToRAS (4 x 4, to the world); raises ToNNOUserError where it is no plausible matrix."""
    name = volumeNode.GetName()
    try:
        ijkToRAS = nodeToWorld(volumeNode) @ ijkToNode(volumeNode)
    except ValueError:
        raise ToNNOUserError(
            _("{name} is under a warping (non-linear) transform.").format(name=name),
            _("In the Data module, right-click it and harden the transform; then reconstruct."),
        ) from None
    spacing = np.linalg.norm(ijkToRAS[:3, :3], axis=0)
    low, high = SPACING_LIMITS_MM
    sane = np.isfinite(ijkToRAS).all() and low <= spacing.min() and spacing.max() <= high
    sane = sane and abs(np.linalg.det(ijkToRAS[:3, :3] / spacing)) >= 1e-3
    if not (sane and np.abs(ijkToRAS[:3, 3]).max() <= ORIGIN_LIMIT_MM):
        raise ToNNOUserError(
            _("The geometry of {name} is broken (spacing {spacing} mm).").format(
                name=name, spacing=" x ".join(f"{mm:.4g}" for mm in spacing)
            ),
            _("Repair it in the Volumes module (Volume Information), or its parent transform."),
        )
    return ijkToRAS


def _checkedVoxels(volumeNode) -> tuple[np.ndarray, int]:
    """Return finite float32 voxels, and how many were none; raises ToNNOUserError where there is no contrast."""
    name = volumeNode.GetName()
    array = np.array(slicer.util.arrayFromVolume(volumeNode), dtype=np.float32, order="C")
    finite = np.isfinite(array)
    bad = array.size - int(np.count_nonzero(finite))
    if bad == array.size:
        raise ToNNOUserError(
            _("{name} holds no finite number.").format(name=name), _("Load it again, or select another.")
        )
    if bad:
        array[~finite] = array[finite].min()
    if array.min() == array.max():
        raise ToNNOUserError(
            _("Every voxel of {name} is {value:g}.").format(name=name, value=array.flat[0]), _("Select another volume.")
        )
    return array, bad


def _frameWarnings(volumeNode) -> list[str]:
    """Warn of a volume that a sequence browser drives: it is one time point of several."""
    scene = volumeNode.GetScene()
    for browser in nodesByClass(scene, "vtkMRMLSequenceBrowserNode") if scene else ():
        if browser.IsProxyNodeID(volumeNode.GetID()):
            number = browser.GetSelectedItemNumber() + 1
            return [_("{name} is time point {number} of a sequence.").format(name=volumeNode.GetName(), number=number)]
    return []


def _orientationWarnings(volumeNode) -> tuple[str, ...]:
    """Warn where the file that a volume was loaded from states no orientation, or two."""
    from tonno_core.volume.orientation import orientation_concerns, read_forms

    path = fileOf(volumeNode)
    try:
        forms = read_forms(path) if path.name.lower().endswith((".nii", ".nii.gz")) else None
        concerns = orientation_concerns(path, forms, (ijkToNode(volumeNode), volumeNode.GetImageData().GetDimensions()))
    except OSError:  # the file is gone, or there was none
        return ()
    return tuple(forPanel(text) for text in concerns)


def _meets(rasToBox: np.ndarray, volumeNode) -> bool:
    """Tell whether a box and a volume share space: no plane separates them.

    The separating axes of two parallelepipeds are their face normals and the cross products of their edges.
    """
    ijkToBox = rasToBox @ nodeToWorld(volumeNode) @ ijkToNode(volumeNode)
    size = np.array(volumeNode.GetImageData().GetDimensions())
    center = ijkToBox[:3, :3] @ ((size - 1) / 2) + ijkToBox[:3, 3]
    edges = ijkToBox[:3, :3] * (size / 2)  # half edges as columns
    axes = [*np.eye(3), *np.linalg.inv(edges), *(np.cross(a, b) for a in np.eye(3) for b in edges.T)]
    return all(abs(axis @ center) <= np.abs(axis).sum() + np.abs(axis @ edges).sum() for axis in axes)
