"""A DICOM SEG by the package highdicom, with all that the scene knows about each segment."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _

from tonno_core import __version__
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.provenance import (
    ALGORITHM_NAME,
    ALGORITHM_TYPE,
    AUTOMATIC,
    LONG_STRING,
    MANUAL,
    RESULT,
    SEMIAUTOMATIC,
    plain,
    tagOf,
)

TRACKING_UID = "ToNNO.TrackingUID"  # a segment's tag: exported again, or from a saved scene, it is the same finding
_OURS = "ToNNO "
# Slicer gives this code to a segment that has no terminology.
_TISSUE = ("85756007", "SCT", "Tissue")


def write(segmentationNode, ids: list[str], masks: np.ndarray, sources: list, path: Path) -> None:
    """Write a BINARY segmentation: other kinds are mirrored, scaled or refused by some readers.

    Args:
        segmentationNode: The segmentation.
        ids: The segments' IDs, in the order of the masks.
        masks: Uint8, N rows columns segments, N as the sources.
        sources: The series' data sets.
        path: The file.

    Raises:
        ToNNOUserError: If highdicom does not take the series.
    """
    import highdicom

    segments = [segmentationNode.GetSegmentation().GetSegment(n) for n in ids]
    try:
        written = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=masks,
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_description(segment, k) for k, segment in enumerate(segments, start=1)],
            series_instance_uid=highdicom.UID(),
            series_number=1000,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="ToNNO",
            manufacturer_model_name="ToNNO for 3D Slicer",
            software_versions=__version__,
            device_serial_number="none",
            series_description=plain(segmentationNode.GetName())[:LONG_STRING],
            content_description=tagOf(segments[0], RESULT)[:LONG_STRING] or None,
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # what a series may lack or contradict
        raise ToNNOUserError(
            _("The package highdicom cannot refer to this series: {reason}.").format(reason=str(error).rstrip(".")),
            _("Export .seg.nrrd or NIfTI: they hold the same voxels."),
        ) from error
    written.ContentCreatorName = ""  # must be there, may be empty: nobody is named unasked
    written.save_as(path)


def _description(segment, number: int):
    """Describe a segment by its name and color, and the terminology and origin in its tags."""
    import highdicom

    category, kind, kindModifier, region, regionModifier = _codes(segment)
    algorithmType = tagOf(segment, ALGORITHM_TYPE)
    if algorithmType not in (AUTOMATIC, SEMIAUTOMATIC):
        algorithmType = MANUAL  # as Slicer's own exporter takes a segment of which nothing is said
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=plain(segment.GetName())[:LONG_STRING],
        segmented_property_category=category or highdicom.sr.CodedConcept(*_TISSUE),
        segmented_property_type=kind or highdicom.sr.CodedConcept(*_TISSUE),
        algorithm_type=algorithmType,
        algorithm_identification=None if algorithmType == MANUAL else _algorithm(segment),
        tracking_uid=_trackingUID(segment),
        tracking_id=f"ToNNO {plain(segment.GetName())}",
        anatomic_regions=[region] if region else None,
        display_color=highdicom.color.CIELabColor.from_rgb(*(255 * channel for channel in segment.GetColor())),
    )
    if not tagOf(segment, ALGORITHM_NAME).startswith(_OURS):
        description.pop("SegmentationAlgorithmIdentificationSequence", None)  # whose family and version nobody knows
    if kindModifier:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [kindModifier]
    if region and regionModifier:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [regionModifier]
    if tagOf(segment, RESULT):
        description.SegmentDescription = tagOf(segment, RESULT)
    return description


def _algorithm(segment):
    import highdicom
    from pydicom.sr.codedict import codes

    return highdicom.AlgorithmIdentificationSequence(
        name=tagOf(segment, ALGORITHM_NAME) or "unknown", family=codes.DCM.ArtificialIntelligence, version=__version__
    )


def _codes(segment) -> list:
    """Return coded concepts of category, type, its modifier, anatomic region, its modifier; None where unknown."""
    entry = slicer.vtkSlicerTerminologyEntry()
    terminology = tagOf(segment, slicer.vtkSegment.GetTerminologyEntryTagName())
    slicer.vtkSlicerTerminologiesModuleLogic.DeserializeTerminologyEntry(terminology, entry)
    names = ("Category", "Type", "TypeModifier", "Region", "RegionModifier")
    return [_code(getattr(entry, f"Get{name}Object")()) for name in names]


def _code(entry):
    import highdicom

    value = entry and (entry.GetCodeValue(), entry.GetCodingSchemeDesignator(), entry.GetCodeMeaning())
    return highdicom.sr.CodedConcept(value[0], value[1], value[2][:LONG_STRING]) if value and all(value) else None


def _trackingUID(segment) -> str:
    """Return the UID that is kept with the segment, made of a UUID at its first export (DICOM PS3.5, B.2)."""
    uid = tagOf(segment, TRACKING_UID) or f"2.25.{uuid.uuid4().int}"
    segment.SetTag(TRACKING_UID, uid)
    return uid
