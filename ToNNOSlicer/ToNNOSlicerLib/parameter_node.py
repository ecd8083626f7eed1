"""The choices of the panel; they are saved with the scene."""

import enum
from typing import Annotated

import slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper


class Method(enum.Enum):
    """How heatmaps are made; the values are tonno_core's names."""

    MATCHED_CAM = "matched-cam"
    TONNO = "tonno"
    AVERAGED_CAM = "averaged-cam"
    TOMOGRAPHIC_CAM = "tomographic-cam"

    def label(self):
        return {
            Method.MATCHED_CAM: _("Sharp (recommended)"),
            Method.TONNO: _("From the score alone"),
            Method.AVERAGED_CAM: _("Smooth"),
            Method.TOMOGRAPHIC_CAM: _("Fine detail"),
        }[self]

    def tip(self):
        """The method's name, and when to take it."""
        return {
            Method.MATCHED_CAM: _("Matched CAM: activation maps whose blur is taken back; the best for most models"),
            Method.TONNO: _("ToNNO: needs nothing but the classifier's score; the method of the paper"),
            Method.AVERAGED_CAM: _("Averaged CAM: activation maps as they are; steady, for large findings"),
            Method.TOMOGRAPHIC_CAM: _("Tomographic CAM: activation maps, sharpened along each direction; noisier"),
        }[self]


class Quality(enum.Enum):
    """How many planes; the values are tonno_core's presets."""

    FAST = "fast"
    BALANCED = "balanced"
    PAPER = "paper"

    def label(self):
        return {Quality.FAST: _("Fast"), Quality.BALANCED: _("Balanced"), Quality.PAPER: _("Finest")}[self]


class Filter(enum.Enum):
    """Along the normal; the values are tonno_core's names."""

    MODEL = ""
    SECOND_DIFFERENCE = "second-difference"
    HANN = "hann"
    GAUSSIAN = "gaussian"

    def label(self):
        return {
            Filter.MODEL: _("as the model"),
            Filter.SECOND_DIFFERENCE: _("second difference (the paper's)"),
            Filter.HANN: _("Hann"),
            Filter.GAUSSIAN: _("Gaussian"),
        }[self]


@parameterNodeWrapper
class ToNNOSlicerParameterNode:
    """A number of 0 among slices, directions, stage and sigmaScale: as the model and the quality say.

    zoom: finer in the region; it means nothing while there is none. minMm3: of the runs to come; each result knows its
    own. segmentation: where a new segment goes; none for the result's own.
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
    surfaceVisible: bool = True
    secondVolume: slicer.vtkMRMLScalarVolumeNode
    fade: Annotated[float, WithinRange(0.0, 1.0)] = 0.5
    priorHeatmap: slicer.vtkMRMLScalarVolumeNode
    minMm3: Annotated[float, WithinRange(0.0, 1e6)] = 50.0
    segmentation: slicer.vtkMRMLSegmentationNode


_CHOSEN_BY_NAME = {"method": Method, "quality": Quality, "filter": Filter}


def wrapped(node) -> ToNNOSlicerParameterNode:
    """Wrap a scene's node. A choice that this version does not know any more (the wrapper would raise) is forgotten."""
    for name, kind in _CHOSEN_BY_NAME.items():
        stored = node.GetParameter(name)
        if stored and stored not in kind.__members__:
            node.UnsetParameter(name)
    return ToNNOSlicerParameterNode(node)


def optionsOf(node) -> dict:
    """The advanced choices by tonno_core's names; None where the model decides."""
    return {
        "slices": _positive(node.slices),
        "directions": _positive(node.directions),
        "stage": _positive(node.stage),
        "sigma_scale": _positive(node.sigmaScale),
        "filter": node.filter.value or None,
    }


def _positive(number):
    """A number that was chosen; None for 0, and for what an older scene may hold below it."""
    return number if number > 0 else None
