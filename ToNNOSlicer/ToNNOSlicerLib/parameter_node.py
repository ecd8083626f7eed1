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
            Method.MATCHED_CAM: _("Matched CAM"),
            Method.TONNO: _("ToNNO"),
            Method.AVERAGED_CAM: _("Averaged CAM"),
            Method.TOMOGRAPHIC_CAM: _("Tomographic CAM"),
        }[self]


class Quality(enum.Enum):
    """How many planes; the values are tonno_core's presets."""

    FAST = "fast"
    BALANCED = "balanced"
    PAPER = "paper"

    def label(self):
        return {Quality.FAST: _("Fast"), Quality.BALANCED: _("Balanced"), Quality.PAPER: _("Paper")}[self]


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

    The ranges are those of the .ui file: Slicer sets a number's range, or none at all, on its widget.

    zoom: finer in the region; it means nothing while there is none.
    """

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    roi: slicer.vtkMRMLMarkupsROINode
    zoom: bool = False
    modelFolder: str
    className: str
    method: Method = Method.MATCHED_CAM
    quality: Quality = Quality.FAST
    slices: Annotated[int, WithinRange(0, 1024)]
    directions: Annotated[int, WithinRange(0, 50000)]
    stage: Annotated[int, WithinRange(0, 20)]
    sigmaScale: Annotated[float, WithinRange(0.0, 100.0)]
    filter: Filter = Filter.MODEL
    device: str = "auto"
    heatmap: slicer.vtkMRMLScalarVolumeNode
    overlayVisible: bool = True
    opacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.6
    threshold: float
    minMm3: Annotated[float, WithinRange(0.0, 1e6)] = 50.0
    segmentation: slicer.vtkMRMLSegmentationNode
    segmentId: str


def optionsOf(node) -> dict:
    """The advanced choices by tonno_core's names; None where the model decides."""
    return {
        "slices": node.slices or None,
        "directions": node.directions or None,
        "stage": node.stage or None,
        "sigma_scale": node.sigmaScale or None,
        "filter": node.filter.value or None,
    }
