"""The choices of the panel, which are saved with the scene."""

import enum
from typing import Annotated

import slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

# Smallest part of a segment in mm3 where nobody has chosen one.
SMALLEST_MM3 = 50.0


class Method(enum.Enum):
    """Methods of making a heatmap of a classifier. Values are the engine's names."""

    MATCHED_CAM = "matched-cam"
    TONNO = "tonno"
    AVERAGED_CAM = "averaged-cam"
    TOMOGRAPHIC_CAM = "tomographic-cam"

    def label(self):
        """Return the text in the panel's list."""
        return {
            Method.MATCHED_CAM: _("Sharp (recommended)"),
            Method.TONNO: _("From the score alone"),
            Method.AVERAGED_CAM: _("Smooth"),
            Method.TOMOGRAPHIC_CAM: _("Fine detail"),
        }[self]

    def tip(self):
        """Return the method's name and when to use it."""
        return {
            Method.MATCHED_CAM: _("Matched CAM: deblurred activation maps; the best for most models"),
            Method.TONNO: _("ToNNO: needs only the classifier's score; the method of the paper"),
            Method.AVERAGED_CAM: _("Averaged CAM: activation maps without sharpening; robust, for large findings"),
            Method.TOMOGRAPHIC_CAM: _("Tomographic CAM: activation maps sharpened along each direction; noisier"),
        }[self]


class Quality(enum.Enum):
    """Numbers of planes. Values are the engine's presets."""

    FAST = "fast"
    BALANCED = "balanced"
    PAPER = "paper"

    def label(self):
        """Return the text in the panel's list."""
        return {Quality.FAST: _("Fast"), Quality.BALANCED: _("Balanced"), Quality.PAPER: _("Finest")}[self]


class Filter(enum.Enum):
    """Filters along the normal of the planes. Values are the engine's names."""

    MODEL = ""
    SECOND_DIFFERENCE = "second-difference"
    HANN = "hann"
    GAUSSIAN = "gaussian"

    def label(self):
        """Return the text in the panel's list."""
        return {
            Filter.MODEL: _("as the model"),
            Filter.SECOND_DIFFERENCE: _("second difference (the paper's)"),
            Filter.HANN: _("Hann"),
            Filter.GAUSSIAN: _("Gaussian"),
        }[self]


class Colors(enum.Enum):
    """The heatmap's colors. Values are the engine's names."""

    COLD_HOT = "cold-hot"
    BLUE_ORANGE = "blue-orange"

    def label(self):
        """Return the text in the panel's list."""
        return {
            Colors.COLD_HOT: _("Blue to red and yellow"),
            Colors.BLUE_ORANGE: _("Blue to orange (for color blindness)"),
        }[self]


@parameterNodeWrapper
class ToNNOSlicerParameterNode:
    """Holds the user's choices.

    Attributes:
        inputVolume: The volume.
        roi: The region to reconstruct; None for the whole volume.
        zoom: Whether to place all planes in the region, for finer detail; without effect if there is no region.
        modelFolder: Path of the model's folder.
        className: The class; "*" for a result for each class.
        method: How the heatmap is made.
        quality: How many planes are used.
        slices: Slices per direction; 0: the model or the quality decides.
        directions: Number of directions; 0: the model or the quality decides.
        stage: The encoder's stage whose activation maps are used; 0: the model decides.
        sigmaScale: Factor on Matched CAM's sigma; 0: the model decides.
        filter: The filter along the normal.
        device: The engine's name of a device, or "auto".
        heatmap: The result that is shown.
        overlayVisible: Whether the heatmap is drawn over the image.
        opacity: The heatmap's opacity, 0 to 1.
        colors: The heatmap's colors.
        surfaceVisible: Whether the patient's surface is drawn in 3D.
        secondVolume: An image that is blended with the volume.
        fade: Weight of the second image, 0 to 1.
        priorHeatmap: An earlier result to compare with.
        minMm3: Smallest part of a segment in mm3, for coming runs; each result keeps its own value.
        dropWeak: Whether parts are left out whose peak is too low by the model, likewise.
        segmentation: Where a new segment goes; None for the result's segmentation.
    """

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    roi: slicer.vtkMRMLMarkupsROINode
    zoom: bool = False
    modelFolder: str
    className: str
    method: Method = Method.MATCHED_CAM
    quality: Quality = Quality.FAST
    slices: Annotated[int, WithinRange(0, 1024)] = 0
    directions: Annotated[int, WithinRange(0, 50000)] = 0
    stage: Annotated[int, WithinRange(0, 20)] = 0
    sigmaScale: Annotated[float, WithinRange(0.0, 100.0)] = 0.0
    filter: Filter = Filter.MODEL
    device: str = "auto"
    heatmap: slicer.vtkMRMLScalarVolumeNode
    overlayVisible: bool = True
    opacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.6
    colors: Colors = Colors.COLD_HOT
    surfaceVisible: bool = True
    secondVolume: slicer.vtkMRMLScalarVolumeNode
    fade: Annotated[float, WithinRange(0.0, 1.0)] = 0.5
    priorHeatmap: slicer.vtkMRMLScalarVolumeNode
    minMm3: Annotated[float, WithinRange(0.0, 1e6)] = SMALLEST_MM3
    dropWeak: bool = True
    segmentation: slicer.vtkMRMLSegmentationNode


_CHOSEN_BY_NAME = {"method": Method, "quality": Quality, "filter": Filter, "colors": Colors}


def wrapped(node) -> ToNNOSlicerParameterNode:
    """Wrap a parameter node of the scene.

    A choice that this version does not know is removed, because the wrapper would raise an error.

    Args:
        node: A vtkMRMLScriptedModuleNode.

    Returns:
        The choices in the node.
    """
    for name, kind in _CHOSEN_BY_NAME.items():
        stored = node.GetParameter(name)
        if stored and stored not in kind.__members__:
            node.UnsetParameter(name)
    return ToNNOSlicerParameterNode(node)


def optionsOf(node) -> dict:
    """Return the advanced choices.

    Args:
        node: The parameter node.

    Returns:
        Values by the engine's names of its arguments, without those that the model or the quality decides.
    """
    numbers = {
        "slices": node.slices,
        "directions": node.directions,
        "stage": node.stage,
        "sigma_scale": node.sigmaScale,
    }
    chosen = {name: number for name, number in numbers.items() if number > 0}  # older scenes hold negative ones
    return chosen | ({"filter": node.filter.value} if node.filter.value else {})
