"""A region as a person gives it: corners, and files that 3D Slicer wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tonno_core.errors import TonnoError
from tonno_core.slicing.roi import read_region

# As 3D Slicer 5.13 wrote a box of 10 x 20 x 40 mm around R 5, A -3, S 2, turned by 30 degrees about S after 0.3 rad
# about its own first axis, with what is of no matter here left out; and its vtkMRMLMarkupsROINode's ObjectToWorld.
LPS: dict[str, Any] = {
    "type": "ROI", "coordinateSystem": "LPS", "coordinateUnits": "mm", "roiType": "Box", "center": [-5.0, 3.0, 2.0],
    "orientation": [
        -0.8660254037844387, 0.477668244562803, -0.14776010333066977,
        -0.5, -0.8273456687450109, 0.25592800630034734,
        0.0, 0.29552020666133955, 0.955336489125606,
    ],
    "size": [10.0, 20.0, 40.0], "insideOut": False, "controlPoints": [{"id": "1", "position": [-5.0, 3.0, 2.0]}],
}  # fmt: skip
RAS = {
    **LPS, "coordinateSystem": "RAS", "center": [5.0, -3.0, 2.0], "controlPoints": [{"position": [5.0, -3.0, 2.0]}],
    "orientation": [
        0.8660254037844387, -0.477668244562803, 0.14776010333066977,
        0.5, 0.8273456687450109, -0.25592800630034734,
        0.0, 0.29552020666133955, 0.955336489125606,
    ],
}  # fmt: skip
OBJECT_TO_WORLD = [
    [0.8660254, -0.47766824, 0.1477601, 5.0],
    [0.5, 0.82734567, -0.25592801, -3.0],
    [0.0, 0.29552021, 0.95533649, 2.0],
    [0.0, 0.0, 0.0, 1.0],
]


def write(path: Path, *markups: dict[str, Any]) -> str:
    path.write_text(json.dumps({"markups": list(markups)}))
    return str(path)


def test_two_corners_in_any_order() -> None:
    expected = [[20, 0, 0, 10], [0, 5, 0, -15], [0, 0, 50, 0], [0, 0, 0, 1]]
    for text in ("-10,-20,-50:30,-10,50", "30,-10,-50:-10,-20,50", " -10.0, -20,-5e1 : 30,-10,50"):
        np.testing.assert_allclose(read_region(text).box_to_ras, expected)


@pytest.mark.parametrize("markup", [LPS, RAS], ids=["LPS", "RAS"])
def test_a_box_of_slicer_is_where_slicer_has_it(markup: dict[str, Any], tmp_path: Path) -> None:
    region = read_region(write(tmp_path / "box.mrk.json", {"type": "Fiducial"}, markup))
    expected = np.array(OBJECT_TO_WORLD) @ np.diag([5.0, 10.0, 20.0, 1.0])
    np.testing.assert_allclose(region.box_to_ras, expected, atol=2e-7)  # the digits written above, times 20


@pytest.mark.parametrize(
    ("orientation", "inside", "outside"),
    [
        # 10 x 20 x 40 mm around R 5, A -3, S 2; a turn by 90 degrees about S: 20 mm along R and 10 mm along A.
        ([0, -1, 0, 1, 0, 0, 0, 0, 1], [(14.5, -3, 2), (5, 1.5, 21.5)], [(15.5, -3, 2), (5, 2.5, 2)]),
        # Mirrored along its first axis, in whichever file: the same box as without.
        ([-1, 0, 0, 0, 1, 0, 0, 0, 1], [(9.5, -3, 2), (5, 6.5, -17.5)], [(10.5, -3, 2), (5, 7.5, 2)]),
        # By 45 degrees: 5 mm along (1, 1, 0) / sqrt 2 from the centre, 10 mm along (-1, 1, 0) / sqrt 2.
        (
            [0.7071, -0.7071, 0, 0.7071, 0.7071, 0, 0, 0, 1],
            [(8.5, 0.5, 2), (-2, 4, 2)],
            [(8.6, 0.6, 2), (-2.1, 4.1, 2), (9, -6, 25)],
        ),
    ],
)  # fmt: skip
def test_a_turned_or_mirrored_box_is_the_one_that_was_drawn(
    orientation: list[float], inside: list[Any], outside: list[Any], tmp_path: Path
) -> None:
    region = read_region(write(tmp_path / "box.mrk.json", {**RAS, "orientation": orientation}))
    to_box = np.linalg.inv(region.box_to_ras)
    for point, holds in [*((point, True) for point in inside), *((point, False) for point in outside)]:
        assert bool((np.abs(to_box @ [*point, 1.0])[:3] <= 1.0).all()) is holds, point


def test_what_a_file_leaves_out_is_as_slicer_takes_it(tmp_path: Path) -> None:
    short = {"type": "ROI", "size": [2, 4, 6], "controlPoints": [{"position": [1, 2, 3]}]}
    region = read_region(write(tmp_path / "box.mrk.json", short))
    np.testing.assert_allclose(region.ball[0], [-1, -2, 3])
    np.testing.assert_allclose(np.abs(np.diag(region.box_to_ras)), [1, 2, 3, 1])


def test_the_ball_goes_through_the_corners() -> None:
    centre, radius = read_region("-3,-4,-12:3,4,12").ball
    np.testing.assert_array_equal(centre, [0, 0, 0])
    assert radius == pytest.approx(13.0)  # 3, 4, 12


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3:4,5", "1,2,3:4,5,6:7,8,9", "a,b,c:1,2,3", "1;2;3:4;5;6", "a\nb"])
def test_what_is_no_pair_of_corners_is_refused(text: str) -> None:
    expected = r"expected two opposite corners in RAS mm as -10,20,5:30,60,45, or a Markups"
    with pytest.raises(TonnoError, match=expected) as caught:
        read_region(text)
    assert "\n" not in str(caught.value)


def test_a_box_may_be_thinner_than_a_millimetre() -> None:
    np.testing.assert_array_equal(np.diag(read_region("0,0,0:0.5,1,4").box_to_ras), [0.25, 0.5, 2, 1])


@pytest.mark.parametrize("text", ["0,0,0:0,5,5", "0,0,0:inf,5,5", "nan,0,0:1,5,5"])
def test_a_box_without_extent_is_refused(text: str) -> None:
    with pytest.raises(TonnoError, match="the box has no extent"):
        read_region(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "Plane"}, "holds 0 ROIs, expected one"),
        ({"roiType": "Sphere"}, "its roiType is 'Sphere', expected 'Box'"),
        ({"insideOut": True}, "its insideOut is True, expected False"),
        ({"coordinateUnits": "um"}, "its coordinateUnits is 'um', expected 'mm'"),
        ({"coordinateSystem": "XYZ"}, "coordinateSystem LPS or RAS; draw"),
        ({"size": [1, 2]}, "size of 3 numbers"),
        ({"size": [1, 2, 0]}, "the box has no extent"),
        ({"center": None}, "center and size"),
        ({"orientation": [0.0] * 9}, "its orientation is slanted or scaled, expected axes of length 1 at right angles"),
        ({"orientation": [2, 0, 0, 0, 1, 0, 0, 0, 1]}, "slanted or scaled"),  # would be 20 mm wide, its size says 10
        ({"orientation": [0.1, 0, 0, 0, 0.1, 0, 0, 0, 0.1]}, "slanted or scaled"),
        ({"orientation": [1, 0.5, 0, 0, 1, 0, 0, 0, 1]}, "slanted or scaled"),  # 3D Slicer draws a box of right angles
        ({"orientation": [1, 0, 0, 1, 0, 0, 0, 0, 1]}, "slanted or scaled"),
        ({"orientation": [float("nan"), 0, 0, 0, 1, 0, 0, 0, 1]}, "slanted or scaled"),
        ({"orientation": [float("inf"), 0, 0, 0, 1, 0, 0, 0, 1]}, "slanted or scaled"),  # and no warning of NumPy's
        ({"orientation": [1e200] * 9}, "slanted or scaled"),
    ],
)
def test_boxes_that_cannot_be_used(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TonnoError, match=message):
        read_region(write(tmp_path / "box.mrk.json", {**LPS, **change}))


@pytest.mark.parametrize("text", ["{", "[]", '{"markups": 3}', "{}", '{"markups": [3]}'])
def test_files_of_something_else(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(TonnoError, match="not readable as markups of 3D Slicer"):
        read_region(str(tmp_path / "other.json"))


def test_a_missing_file_and_two_boxes(tmp_path: Path) -> None:
    with pytest.raises(TonnoError, match="no such file, expected two opposite corners"):
        read_region(str(tmp_path / "none.mrk.json"))
    with pytest.raises(TonnoError, match="holds 2 ROIs, expected one; save each"):
        read_region(write(tmp_path / "two.mrk.json", LPS, RAS))
