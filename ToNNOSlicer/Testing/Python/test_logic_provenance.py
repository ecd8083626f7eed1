"""What a segment says about itself: who made it, at which threshold, with which code."""

from __future__ import annotations

import json

import numpy as np
import pytest
import slicer
from scenes import SHAPE_ZYX, THRESHOLD, addHeatmap, addVolume, mask, paint, replace
from ToNNOSlicerLib.logic.export import exportSegmentation
from ToNNOSlicerLib.logic.findings import findingsOf
from ToNNOSlicerLib.logic.labelmap import TERMINOLOGY
from ToNNOSlicerLib.logic.provenance import ALGORITHM_NAME, ALGORITHM_TYPE, RESULT, tagOf
from ToNNOSlicerLib.logic.segmentation import isEditedByHand, noteEditing
from vtk import vtkStringArray


def tags(segmentation, segmentId: str) -> tuple[str, str, str]:
    segment = segmentation.GetSegmentation().GetSegment(segmentId)
    return tagOf(segment, ALGORITHM_TYPE), tagOf(segment, ALGORITHM_NAME), tagOf(segment, RESULT)


def speck() -> np.ndarray:
    voxels = np.zeros(SHAPE_ZYX, np.uint8)
    voxels[12, 2, 3] = 1
    return voxels


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (THRESHOLD, "AUTOMATIC"),
        (THRESHOLD + 0.0005, "AUTOMATIC"),  # what a slider of three decimals makes of it
        (THRESHOLD + 0.1, "SEMIAUTOMATIC"),
        (5.0, "SEMIAUTOMATIC"),
    ],
)
def test_only_the_models_own_threshold_is_automatic(logic, threshold: float, expected: str) -> None:
    """DICOM PS3.3, C.8.20.2.3: calculated, or calculated with user assistance."""
    written = logic.segments.write(addHeatmap(logic, addVolume(), result={"model": {"name": "demo"}}), threshold)
    result = f"CT, lesion, ToNNO Matched CAM, model demo, threshold {threshold:.4g}"
    assert tags(*written) == (expected, "ToNNO 0.1.0 matched-cam demo", result)


def test_without_a_threshold_of_the_models_a_person_has_chosen_it(logic) -> None:
    heatmap = addHeatmap(logic, addVolume(), threshold=None)
    assert tags(*logic.segments.write(heatmap, THRESHOLD))[0] == "SEMIAUTOMATIC"


def test_the_slider_takes_it_back_and_forth_and_undo_too(logic) -> None:
    heatmap = addHeatmap(logic, addVolume())
    written = logic.segments.write(heatmap, THRESHOLD)
    logic.segments.write(heatmap, 5.0)
    assert tags(*written)[0] == "SEMIAUTOMATIC" and tags(*written)[2].endswith("threshold 5")
    logic.segments.undo(heatmap)
    assert tags(*written)[0] == "AUTOMATIC" and tags(*written)[2].endswith("threshold 3")


def test_work_by_hand_is_semiautomatic(logic) -> None:
    heatmap = addHeatmap(logic, addVolume())
    segmentation, segmentId = logic.segments.write(heatmap, THRESHOLD)
    noteEditing(segmentation)
    assert tags(segmentation, segmentId)[0] == "AUTOMATIC"  # nobody has touched it
    paint(segmentation, segmentId, speck(), heatmap)
    for _ in range(2):
        noteEditing(segmentation)
        assert tags(segmentation, segmentId)[0] == "SEMIAUTOMATIC"
        assert tags(segmentation, segmentId)[2].endswith("threshold 3, edited by hand")
    assert isEditedByHand(segmentation, segmentId)  # and it is still known what was written


def test_a_finding_that_was_removed_is_work_by_hand(logic) -> None:
    heatmap = addHeatmap(logic, addVolume())
    written = logic.segments.write(heatmap, THRESHOLD)
    logic.removeFinding(heatmap, findingsOf(*written, heatmap)[0])
    assert tags(*written)[0] == "SEMIAUTOMATIC"
    logic.segments.undo(heatmap)
    assert tags(*written)[0] == "AUTOMATIC"


def test_a_users_own_segment_is_left_alone(logic) -> None:
    heatmap = addHeatmap(logic, addVolume())
    segmentation, _id = logic.segments.write(heatmap, THRESHOLD)
    theirs = segmentation.GetSegmentation().AddEmptySegment("", "organ")
    replace(segmentation, theirs, mask(), heatmap)
    noteEditing(segmentation)
    assert tags(segmentation, theirs) == ("", "", "")


def test_a_long_or_odd_name_fits_into_dicom(logic) -> None:
    model = {"name": "a|b\\c\n" + 100 * "x"}
    record = addHeatmap(logic, addVolume(name="5: T1 | AX"), result={"model": model, "stopped": True, "directions": 38})
    _type, name, result = tags(*logic.segments.write(record, THRESHOLD))
    assert name == ("ToNNO 0.1.0 matched-cam a b c " + 100 * "x")[:64]
    assert result.startswith("5: T1 AX, lesion") and result.endswith("threshold 3, stopped after 38 directions")


def test_the_tags_are_in_slicers_file(logic, tmp_path) -> None:
    import SimpleITK as sitk

    segmentation, _id = logic.segments.write(addHeatmap(logic, addVolume(name="5: T1")), THRESHOLD)
    exportSegmentation(segmentation, tmp_path / "a.seg.nrrd")
    read = dict(
        tag.split(":", 1)
        for tag in sitk.ReadImage(tmp_path / "a.seg.nrrd").GetMetaData("Segment0_Tags").split("|")
        if tag
    )
    assert read[ALGORITHM_TYPE] == "AUTOMATIC" and read[ALGORITHM_NAME] == "ToNNO 0.1.0 matched-cam"
    assert read[RESULT] == "5: T1, lesion, ToNNO Matched CAM, threshold 3"


# Terminology

LIST = "Segmentation category and type - 3D Slicer General Anatomy list"
# What Slicer 5.10 to 5.13 have of altered structures in SegmentationCategoryTypeModifier-SlicerGeneralAnatomy.json.
ALTERED = {
    "75753009": "Blood clot",
    "367643001": "Cyst",
    "79654002": "Edema",
    "55584005": "Embolus",
    "50960005": "Hemorrhage",
    "4147007": "Mass",
    "6574001": "Necrosis",
}
MASS_RGB = (144, 238, 144)


def test_the_terminology_is_an_entry_of_slicers_own_list(host, tmp_path) -> None:
    """Slicer's parser reads it, and finds its type, with the list's color, where the tag says it is."""

    def code(value: str, meaning: str, **more) -> dict:
        return {"CodingSchemeDesignator": "SCT", "CodeValue": value, "CodeMeaning": meaning, **more}

    types = [code(v, m, recommendedDisplayRGBValue=MASS_RGB if m == "Mass" else [1, 2, 3]) for v, m in ALTERED.items()]
    category = code("49755003", "Morphologically Altered Structure", showAnatomy=True, Type=types)
    schema = "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/segment-context-schema.json#"
    context = {
        "SegmentationCategoryTypeContextName": LIST,
        "@schema": schema,
        "SegmentationCodes": {"Category": [category]},
    }
    (tmp_path / "list.json").write_text(json.dumps(context))
    terms = host.logics["Terminologies"]
    assert terms.LoadTerminologyFromFile(str(tmp_path / "list.json")) == LIST
    entry = slicer.vtkSlicerTerminologyEntry()
    assert terms.DeserializeTerminologyEntry(TERMINOLOGY, entry)
    assert entry.GetTerminologyContextName() == LIST
    assert entry.GetRegionContextName() == "Anatomic codes - DICOM master list"
    assert entry.GetTypeObject().GetCodeMeaning() == ALTERED[entry.GetTypeObject().GetCodeValue()]
    assert terms.UpdateEntryFromLoadedTerminologies(entry, vtkStringArray(), vtkStringArray())
    assert tuple(entry.GetTypeObject().GetRecommendedDisplayRGBValue()) == MASS_RGB
    assert terms.SerializeTerminologyEntry(entry) == TERMINOLOGY
