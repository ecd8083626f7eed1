"""Two time points: what a finding was, what has become of it, what may mislead. Numbers by hand and by an oracle."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
from scenes import GRIDS, RIGID, SCALED, SPACING, addHeatmap, addVolume, affine, paint, rotation
from ToNNOSlicerLib.logic import ToNNOUserError
from ToNNOSlicerLib.logic.compare import (
    GONE,
    LARGER,
    MERGED,
    NEW,
    OUTSIDE,
    SMALLER,
    SPLIT,
    UNCHANGED,
    changes,
    match,
    sentence,
)
from ToNNOSlicerLib.logic.findings import findingsOf
from ToNNOSlicerLib.logic.geometry import toVTK
from ToNNOSlicerLib.logic.heatmap import recordOf, writeRecord
from ToNNOSlicerLib.logic.results import resultOf
from ToNNOSlicerLib.logic.timepoint import TimePoint, timePoint, timePointOf
from ToNNOSlicerLib.logic.verdicts import REJECT, setVerdict

ROOT = Path(__file__).parents[3]
SHAPE = (30, 32, 34)  # Z Y X
MM = np.eye(4)


@dataclass(frozen=True)
class Lesion:
    """The part of a finding that matters here."""

    label: int
    volumeMm3: float
    peakRAS: tuple[float, float, float]
    longestMm: float | None = None


def labelled(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The oracle: SciPy's components of 26 neighbors."""
    from scipy import ndimage

    return ndimage.label(mask, np.ones((3, 3, 3)))


def at(mask: np.ndarray, ijkToRAS: np.ndarray = MM) -> TimePoint:
    """A time point of all components of a mask."""
    labels, count = labelled(mask)
    listed = []
    for n in range(1, count + 1):
        voxels = np.argwhere(labels == n)[:, ::-1]
        mm3 = len(voxels) * abs(np.linalg.det(ijkToRAS[:3, :3]))
        listed.append(Lesion(n, mm3, tuple(ijkToRAS[:3, :3] @ voxels[0] + ijkToRAS[:3, 3])))
    return timePoint(listed, mask, ijkToRAS)


def boxes(*corners: tuple, shape=SHAPE) -> np.ndarray:
    """A mask of boxes, each (first i, j, k, size i, j, k)."""
    mask = np.zeros(shape, dtype=np.uint8)
    for i, j, k, a, b, c in corners:
        mask[k : k + c, j : j + b, i : i + a] = 1
    return mask


def ratio(change) -> float:
    return change.presentMm3 / change.priorMm3


def kinds(listed) -> list[str]:
    return [change.kind for change in listed]


# --- one by one


def test_each_kind_by_hand() -> None:
    """Boxes of 1 mm voxels in the order k, j, i."""
    prior = boxes((3, 3, 3, 4, 4, 4), (20, 20, 3, 6, 6, 6), (3, 20, 20, 5, 5, 5), (20, 3, 20, 4, 4, 4))
    now = boxes((2, 2, 2, 7, 7, 7), (21, 21, 3, 4, 4, 3), (4, 20, 20, 5, 5, 5), (28, 10, 10, 3, 3, 3))
    listed = match(at(now), at(prior))
    assert kinds(listed) == [LARGER, SMALLER, NEW, UNCHANGED, GONE]
    larger, smaller, new, same, gone = listed
    assert (larger.presentMm3, larger.priorMm3) == (343, 64)
    assert larger.prior[0].volumeMm3 == 64 and larger.present.volumeMm3 == 343
    assert (ratio(smaller), smaller.growth) == (pytest.approx(48 / 216), SMALLER)
    assert (new.present.volumeMm3, new.prior, new.matchedBy, new.growth) == (27, (), "", "")
    assert (same.matchedBy, ratio(same)) == ("overlap", 1)
    assert gone.present is None and gone.prior[0].volumeMm3 == 64
    assert gone.placeRAS == pytest.approx((21.5, 4.5, 21.5))
    assert len({change.group for change in listed}) == 5
    assert sentence(listed) == "1 new, 1 larger, 1 smaller, 1 unchanged, 1 gone"


def test_what_was_several_and_what_has_become_several() -> None:
    two, bridge = ((4, 4, 4, 5, 5, 5), (12, 4, 4, 5, 5, 5)), (9, 5, 5, 3, 2, 2)
    alone = (4, 20, 20, 4, 4, 4)
    (merged, same) = match(at(boxes(*two, bridge, alone)), at(boxes(*two, alone)))
    assert (merged.kind, same.kind) == (MERGED, UNCHANGED)
    assert len(merged.prior) == 2 and merged.growth == UNCHANGED  # 262 mm3 of 250
    assert ratio(merged) == pytest.approx(262 / 250)
    listed = match(at(boxes(*two, alone)), at(boxes(*two, bridge, alone)))
    assert kinds(listed) == [SPLIT, SPLIT, UNCHANGED]
    assert listed[0].group == listed[1].group != listed[2].group
    assert listed[0].presentMm3 == 250 and listed[0].prior == listed[1].prior
    assert sentence(listed) == "1 split, 1 unchanged"
    assert sentence([merged, same]) == "1 merged, 1 unchanged"


def test_two_that_have_become_two_others() -> None:
    """The first three of a row of four pieces were together, now the last three are."""
    pieces = [(3, 8 * n + 2, 4, 4, 4, 4) for n in range(4)]
    bridges = [(4, 8 * n + 6, 5, 2, 4, 2) for n in range(3)]
    prior = at(boxes(*pieces, *bridges[:2], shape=(12, 40, 12)))
    now = at(boxes(*pieces, *bridges[1:], shape=(12, 40, 12)))
    listed = match(now, prior)
    assert kinds(listed) == [SPLIT, MERGED]
    assert [len(change.prior) for change in listed] == [1, 2]
    assert len({change.group for change in listed}) == 1
    assert listed[0].presentMm3 == listed[0].priorMm3 == 4 * 64 + 2 * 16


def test_neighbors_one_voxel_apart_are_told_apart_though_all_has_moved() -> None:
    """A registration that is a voxel off; any dilation would have merged them."""
    prior = boxes((4, 4, 4, 6, 6, 6), (11, 4, 4, 6, 6, 6))
    for step in ((1, 0, 0), (0, 1, 1), (1, 1, 1)):
        now = np.roll(prior, step[::-1], (0, 1, 2))
        listed = match(at(now), at(prior))
        assert kinds(listed) == [UNCHANGED] * 2


@pytest.mark.parametrize(("mm", "how"), [(1, "near"), (2, "near"), (3, "centroid"), (5, "centroid"), (6, "")])
def test_what_shares_no_voxel_is_matched_within_stated_distances(mm: int, how: str) -> None:
    """One voxel thick and moved: half of it within 2 mm, else centroids within 5 mm."""
    listed = match(at(boxes((10 + mm, 5, 5, 1, 2, 2))), at(boxes((10, 5, 5, 1, 2, 2))))
    assert listed[0].matchedBy == how
    assert kinds(listed) == ([UNCHANGED] if how else [NEW, GONE])


def test_thick_slices_reach_to_the_next() -> None:
    grid = affine(np.diag([1, 1, 5.0]), (0, 0, 0))
    listed = match(at(boxes((10, 10, 6, 3, 3, 1)), grid), at(boxes((10, 10, 5, 3, 3, 1)), grid))
    assert [(change.kind, change.matchedBy) for change in listed] == [(UNCHANGED, "near")]


def test_a_new_one_beside_a_known_one_is_new() -> None:
    known = (5, 5, 5, 6, 6, 6)
    listed = match(at(boxes(known, (13, 5, 5, 6, 6, 6))), at(boxes(known)))
    assert kinds(listed) == [UNCHANGED, NEW]


def test_a_chip_that_lies_by_what_it_split_from_belongs_to_it() -> None:
    """All has moved by 2 voxels; the chip's own voxels held nothing before."""
    listed = match(at(boxes((7, 5, 5, 6, 6, 6), (14, 6, 6, 1, 2, 2))), at(boxes((5, 5, 5, 8, 6, 6))))
    assert kinds(listed) == [SPLIT, SPLIT]
    assert sorted(change.matchedBy for change in listed) == ["near", "overlap"]


# --- limits


def ellipsoid(radii, turn: np.ndarray, shift: np.ndarray) -> np.ndarray:
    half = int(np.ceil(max(radii))) + 2
    axis = np.arange(2 * half + 1) - half
    x = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1) + shift
    return (((x @ turn.T) / radii) ** 2).sum(axis=-1) <= 1


def test_the_same_object_moved_by_half_a_voxel_is_unchanged() -> None:
    """What the limits are for; and one whose border has moved by two voxels all around has changed."""
    random = np.random.default_rng(0)
    for mean in (1.5, 2, 3, 4, 6, 9):
        for _n in range(8):
            radii = mean * random.uniform(0.75, 1.3, 3)
            turn = rotation(tuple(random.normal(size=3)), random.uniform(0, 180))
            shift = random.uniform(-0.5, 0.5, 3)
            before = at(ellipsoid(radii, turn, shift).astype(np.uint8))
            for half in np.array([(0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5), (0.5, 0.5, 0.5)]):
                now = at(ellipsoid(radii, turn, shift + half).astype(np.uint8))
                assert kinds(match(now, before)) == [UNCHANGED], (radii, half)
            grown = ellipsoid(radii + 2, turn, shift)
            cut = (np.array(grown.shape) - before.size[::-1]) // 2
            moved = affine(np.eye(3), tuple(-cut[::-1].astype(float)))
            assert kinds(match(at(grown.astype(np.uint8), moved), before)) == [LARGER], radii
            assert kinds(match(before, at(grown.astype(np.uint8), moved))) == [SMALLER], radii


def test_a_volume_must_change_by_a_quarter_and_by_a_layer() -> None:
    before = boxes((5, 5, 5, 10, 10, 10))  # 1000 mm3, 488 of them with a face to the outside
    for planes, kind in ((2, UNCHANGED), (3, UNCHANGED), (4, UNCHANGED), (5, LARGER)):
        now = boxes((5, 5, 5, 10, 10, 10 + planes))
        assert kinds(match(at(now), at(before))) == [kind], planes
    rims = at(before).rims
    assert rims.tolist() == [1000 - 512]
    # Voxels of a quarter of a mm: a layer of 1 mm is four of theirs, so 400 more of 1000 are not enough.
    fine = affine(np.eye(3) / 4, (0, 0, 0))
    assert kinds(match(at(boxes((5, 5, 5, 10, 10, 20)), fine), at(before, fine))) == [UNCHANGED]
    # Where all has a large surface to its volume the quarter alone would do: the layer decides.
    assert kinds(match(at(boxes((5, 5, 5, 2, 2, 3))), at(boxes((5, 5, 5, 2, 2, 2))))) == [UNCHANGED]
    # In a large one the quarter decides: its layer is a seventh of it.
    large = (60, 60, 60)
    big = at(boxes((5, 5, 5, 40, 40, 40), shape=large))
    for planes, kind in ((9, UNCHANGED), (10, LARGER)):
        assert kinds(match(at(boxes((5, 5, 5, 40, 40, 40 + planes), shape=large)), big)) == [kind]


@pytest.mark.parametrize(
    ("now", "before", "kind"),
    [
        (25, 20, LARGER),
        (24.9, 20, UNCHANGED),  # 24.5 %, but not 5 mm
        (35.9, 30, UNCHANGED),  # 5.9 mm, but not 20 %
        (36, 30, LARGER),
        (30, 36, SMALLER),
    ],
)
def test_a_diameter_must_change_by_a_fifth_and_by_5_mm(now: float, before: float, kind: str) -> None:
    """RECIST's rule counts where the volume alone says nothing."""

    def measured(mm: float) -> TimePoint:
        time = at(boxes((5, 5, 5, 10, 10, 10)))
        return replace(time, findings=(replace(time.findings[0], longestMm=mm),))

    (change,) = match(measured(now), measured(before))
    assert change.kind == kind


def test_from_there_it_looks_the_other_way_round() -> None:
    """Random masks: exchanging the two exchanges every word, and the ratio with it."""
    mirror = {NEW: GONE, GONE: NEW, LARGER: SMALLER, SMALLER: LARGER, UNCHANGED: UNCHANGED}
    random = np.random.default_rng(3)
    seen = set()
    for _n in range(20):
        corners = [(*random.integers(1, 22, 3), *random.integers(1, 9, 3)) for _ in range(12)]
        now, before = (at(boxes(*(c for c in corners if random.random() < 0.6))) for _ in range(2))
        there, back = match(now, before), match(before, now)
        for change in there:
            if change.kind not in mirror:
                continue
            if change.present is None:
                (same,) = [b for b in back if b.present is change.prior[0]]
            else:
                (same,) = [b for b in back if change.present in ((b.present,) if b.kind == GONE else b.prior)] or [
                    b for b in back if b.kind == GONE and b.prior == (change.present,)
                ]
            assert same.kind == mirror[change.kind]
            if change.presentMm3 and change.priorMm3:
                assert ratio(same) == pytest.approx(1 / ratio(change))
            seen.add(change.kind)
    assert seen == set(mirror)


def test_every_finding_of_both_times_is_in_the_answer() -> None:
    random = np.random.default_rng(4)
    for _n in range(20):
        masks = [boxes(*((*random.integers(0, 25, 3), *random.integers(1, 9, 3)) for _ in range(15))) for _ in (0, 1)]
        now, before = map(at, masks)
        listed = match(now, before)
        assert [c.present for c in listed if c.present is not None] == list(now.findings)
        assert {f.label for c in listed for f in c.prior} == {f.label for f in before.findings}
        for group in {c.group for c in listed}:
            of = [c for c in listed if c.group == group]
            assert sum(c.present.volumeMm3 for c in of if c.present) == pytest.approx(of[0].presentMm3)
            priors = {f.label: f.volumeMm3 for c in of for f in c.prior}
            assert sum(priors.values()) == pytest.approx(of[0].priorMm3)


# --- the voxels


@pytest.mark.parametrize("density", [0.02, 0.1, 0.2, 0.5])
def test_voxels_are_those_of_the_oracles_components(density: float) -> None:
    mask = (np.random.default_rng(5).random((9, 10, 11)) < density).astype(np.uint8)
    labels, count = labelled(mask)
    time = at(mask)
    assert time.counts.tolist() == np.bincount(labels.reshape(-1))[1:].tolist()
    i, j, k = time.voxels
    assert (labels[k, j, i] == time.owner + 1).all()
    everywhere = np.stack(np.meshgrid(*map(np.arange, mask.shape), indexing="ij"))[::-1].reshape(3, -1)
    assert (time.ownersAt(everywhere.astype(float)) == labels.reshape(-1) - 1).all()
    outside = everywhere.astype(float) + np.array([[11.0], [0], [0]])  # the next row's voxels must not answer
    assert (time.ownersAt(outside) == -1).all() and not time.covers(outside).any()
    from scipy import ndimage

    rims = mask.astype(bool) & ~ndimage.binary_erosion(mask)
    assert time.rims.tolist() == [int(rims[labels == n].sum()) for n in range(1, count + 1)]


def test_nothing_at_either_time() -> None:
    empty = at(boxes())
    assert match(empty, empty) == [] and sentence([]) == "no findings at either time"
    some = at(boxes((3, 3, 3, 3, 3, 3), (20, 20, 20, 1, 1, 1)))
    assert kinds(match(some, empty)) == [NEW, NEW]
    assert kinds(match(empty, some)) == [GONE, GONE]


def test_scipy_is_not_imported() -> None:
    """It would hold the window for half a second."""
    code = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "ToNNOSlicer")!r}, {str(Path(__file__).parent)!r}]
from slicer_host import provide_i18n
provide_i18n()
from types import SimpleNamespace
import numpy as np
from ToNNOSlicerLib.logic.compare import match
from ToNNOSlicerLib.logic.timepoint import timePoint
mask = np.zeros((9, 9, 9), np.uint8)
mask[2:5, 2:5, 2:5] = 1
time = timePoint([SimpleNamespace(peakRAS=(3, 3, 3))], mask, np.eye(4))
assert [change.kind for change in match(time, time)] == ["unchanged"]
print(sorted(set("scipy SimpleITK torch".split()) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


# --- in the scene


NOISE = 0.5


def scan(logic, corners, grid=GRIDS["plain"], name="now", head=(2, 2, 2, 30, 28, 26), shape=SHAPE, **options):
    """A scan of a bright box (the head) with a result whose segment is the given boxes. Returns the three arguments."""
    image = np.random.default_rng(1).uniform(0, 10, shape).astype(np.float32)
    image += 100 * boxes(head, shape=shape)
    volume = addVolume(grid, image, name)
    heatmap = np.random.default_rng(2).uniform(-NOISE, NOISE, shape).astype(np.float32)
    heatmap += 6 * boxes(*corners, shape=shape)
    node = addHeatmap(logic, volume, heatmap, **options)
    return node, *logic.segments.write(node, 3.0)


def under(node, matrix: np.ndarray):
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(toVTK(matrix))
    node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def comparison(here, there):
    """Compares the results of two heatmaps, given as `scan` returns them."""
    return changes(resultOf(here[0]), resultOf(there[0]))


BEFORE = ((6, 6, 6, 4, 4, 4), (20, 18, 8, 6, 6, 6), (8, 20, 18, 5, 5, 5))
NOW = ((5, 5, 5, 8, 8, 8), (8, 20, 18, 5, 5, 5), (24, 8, 20, 3, 3, 3))
WORDS = "1 new, 1 larger, 1 unchanged, 1 gone"


@pytest.mark.parametrize("place", ["results too", "volume alone"])
@pytest.mark.parametrize("grid", ["oblique", "left-handed", "as DICOM has it"])
def test_the_prior_scan_is_registered_by_the_transform_above_it(logic, grid: str, place: str) -> None:
    """The prior scan lies elsewhere, turned; the transform above it brings it back."""
    here = scan(logic, NOW, GRIDS[grid])
    there = scan(logic, BEFORE, np.linalg.inv(RIGID) @ GRIDS[grid], "before")
    volume = slicer.util.getNode("before")
    transform = under(volume, RIGID)
    if place == "results too":
        for node in there[:2]:
            node.SetAndObserveTransformNodeID(transform.GetID())
    compared = comparison(here, there)
    assert sentence(compared.changes) == WORDS
    assert compared.notes == ()
    listed = {change.kind: change for change in compared.changes}
    assert ratio(listed[LARGER]) == pytest.approx(512 / 64)
    # The findings are those of the table.
    assert [c.present for c in compared.changes[:3]] == findingsOf(*here[1:], here[0])


def test_scans_on_other_grids_are_compared_in_the_world(logic) -> None:
    """The prior scan has voxels of 2 mm, turned by a right angle: its boxes have the same places in mm."""
    here = scan(logic, ((6, 6, 6, 8, 8, 8), (20, 18, 8, 6, 6, 6)))
    coarse = affine(np.array([[0, 2.0, 0], [2.0, 0, 0], [0, 0, 2.0]]), (0.5, 0.5, 0.5))
    half = (16, 17, 17)
    there = scan(
        logic, ((3, 3, 3, 4, 4, 4), (9, 10, 4, 3, 3, 3)), coarse, "before", head=(1, 1, 1, 14, 15, 13), shape=half
    )
    compared = comparison(here, there)
    assert kinds(compared.changes) == [UNCHANGED, UNCHANGED]
    assert [ratio(c) for c in compared.changes] == pytest.approx([1, 1])
    assert any("Voxels are 1 mm3 now, 8 mm3 before" in note for note in compared.notes)


def test_sizes_are_the_scans_own_under_a_scaling_transform(logic) -> None:
    here = scan(logic, BEFORE)
    there = scan(logic, BEFORE, name="before")
    # Of the volume only; it is scaled about its middle, so that all overlap.
    middle = np.array([17, 16, 15.0])
    under(slicer.util.getNode("before"), affine(1.2 * np.eye(3), tuple(-0.2 * middle)))
    compared = comparison(here, there)
    assert sentence(compared.changes) == "3 unchanged"
    assert [ratio(c) for c in compared.changes] == pytest.approx([1, 1, 1])
    assert any("scales the prior scan by +20 %" in note for note in compared.notes)


def test_what_the_other_scan_does_not_show_is_neither_new_nor_gone(logic) -> None:
    """The prior scan ends at the 15th plane; the present one begins at the 6th."""
    here = scan(logic, ((6, 6, 1, 4, 4, 4), (20, 18, 19, 6, 6, 6)), affine(np.eye(3), (0, 0, 6)), "now", shape=SHAPE)
    there = scan(logic, ((24, 24, 0, 4, 4, 4), (6, 6, 7, 4, 4, 4)), head=(2, 2, 0, 30, 28, 15), shape=(15, 32, 34))
    compared = comparison(here, there)
    assert sorted(kinds(compared.changes)) == [OUTSIDE, OUTSIDE, UNCHANGED]
    assert [bool(c.prior) for c in compared.changes if c.kind == OUTSIDE] == [False, True]
    assert sentence(compared.changes) == "1 unchanged, 2 not in both scans"


def test_a_region_is_all_that_a_run_has_looked_at(logic) -> None:
    here = scan(logic, NOW)
    there = scan(logic, BEFORE[:2], name="before")
    box = affine(np.diag([20, 20, 8.0]), (15, 15, 8))  # below the plane k = 16
    writeRecord(there[0], recordOf(there[0]) | {"region": {"box_to_ras": box.tolist(), "zoom": False}})
    moved = affine(np.eye(3), (100, 0, 0))
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):  # the region goes where the scan goes
        node.SetAndObserveTransformNodeID(under(node, moved).GetID())
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        under(node, moved)
    compared = comparison(here, there)
    assert kinds(compared.changes) == [LARGER, OUTSIDE, OUTSIDE, GONE]
    assert compared.notes == ("In the prior scan findings were looked for in a region only.",)


def test_findings_that_do_not_count_are_left_out(logic) -> None:
    here, there = scan(logic, NOW), scan(logic, BEFORE, name="before")
    listed = findingsOf(*here[1:], here[0])
    setVerdict(here[0], next(finding for finding in listed if finding.volumeMm3 < 30), REJECT)
    compared = comparison(here, there)
    assert sentence(compared.changes) == "1 larger, 1 unchanged, 1 gone"


# --- what may mislead


def test_alike_and_in_place_there_is_nothing_to_say(logic) -> None:
    assert comparison(scan(logic, NOW), scan(logic, BEFORE, name="before")).notes == ()


RESULT = {
    "score": 1.0,
    "model": {"name": "brain", "sha256": "ab" * 32},
    "directions": 256,
    "stopped": False,
}


@pytest.mark.parametrize(
    ("before", "note"),
    [
        ({"model": {"name": "brain", "sha256": "cd" * 32}}, "different models: brain (abababab) now, brain (cdcdcdcd)"),
        ({"directions": 96}, "different numbers of directions: 256 now, 96 before"),
        ({"stopped": True}, "The prior run was stopped before its end."),
    ],
)
def test_another_making_is_told(logic, before: dict, note: str) -> None:
    here = scan(logic, NOW, result=RESULT)
    there = scan(logic, BEFORE, name="before", result=RESULT | before)
    (line,) = comparison(here, there).notes
    assert note in line


def test_another_method_class_threshold_or_hand_is_told(logic) -> None:
    here = scan(logic, NOW)
    there = scan(logic, BEFORE, name="before", method="tonno", className="tumor")
    there = there[0], *logic.segments.write(there[0], 3.5, 2.0)
    voxels = boxes((28, 28, 2, 1, 1, 1))
    paint(*there[1:], voxels, there[0])
    said = "\n".join(comparison(here, there).notes)
    for part in (
        "different methods: ToNNO Matched CAM now, ToNNO before",
        "different classes: lesion now, tumor before",
        "different thresholds: 3 now, 3.5 before",
        "different smallest volumes: 0 now, 2 before",
        "The prior segment was changed by hand.",
    ):
        assert part in said
    assert said.count("\n") == 4


@pytest.mark.parametrize(("mm", "told"), [(0, False), (4, False), (12, True)])
def test_a_scan_that_looks_shifted_is_told(logic, mm: float, told: bool) -> None:
    """The head is moved within the same field of view."""
    shape = (60, 64, 68)
    here = scan(logic, NOW, head=(14, 14, 14, 30, 28, 26), shape=shape)
    there = scan(logic, BEFORE, name="before", head=(14 + mm, 14, 14, 30, 28, 26), shape=shape)
    said = comparison(here, there).notes
    assert bool(said) == told
    if told:
        words = re.search(r"look shifted by (\d+) mm. Register the prior scan", said[0])
        assert abs(int(words[1]) - mm) <= 1  # half of the 2 mm between the points that are looked at


def test_another_field_of_view_is_no_shift(logic) -> None:
    """The prior scan shows the upper half of the same head alone: its own center is 13 mm higher."""
    here = scan(logic, NOW)
    lower = affine(np.eye(3), (0, 0, 14))
    there = scan(logic, (), lower, "before", head=(2, 2, 0, 30, 28, 14), shape=(16, 32, 34))
    assert comparison(here, there).notes == ()


def test_what_cannot_be_compared_is_refused(logic, host) -> None:
    here = scan(logic, NOW)
    with pytest.raises(ToNNOUserError, match="the same result"):
        comparison(here, here)
    with pytest.raises(ToNNOUserError, match="no heatmap"):
        comparison(here, (slicer.util.getNode("now"),))
    there = scan(logic, BEFORE, affine(np.eye(3), (500, 0, 0)), "before")
    with pytest.raises(ToNNOUserError, match="before and now share no space") as error:
        comparison(here, there)
    assert "Register the prior scan" in error.value.nextStep
    warp = host.scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    grid = slicer.vtkOrientedGridTransform()
    warp.SetAndObserveTransformFromParent(grid)
    slicer.util.getNode("before").SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(ToNNOUserError, match="before is under a warping transform") as error:
        comparison(here, there)
    assert "rigid" in error.value.nextStep


def test_a_torn_segment_is_refused(logic) -> None:
    here = scan(logic, NOW)
    heatmap = slicer.util.arrayFromVolume(here[0])
    heatmap[::2, ::2, ::2] = 9
    there = scan(logic, BEFORE, name="before")
    torn = here[0], *logic.segments.writeNew(here[0], 7.0)
    with pytest.raises(ToNNOUserError, match="too many parts to compare"):
        comparison(torn, there)


def test_two_methods_of_one_scan_are_compared_with_a_word(logic) -> None:
    here = scan(logic, NOW)
    other = addHeatmap(logic, slicer.util.getNode("now"), slicer.util.arrayFromVolume(here[0]), method="tonno")
    compared = comparison(here, (other, *logic.segments.write(other, 3.0)))
    assert sentence(compared.changes) == "3 unchanged"
    assert "Both results are of the same scan." in compared.notes


def test_a_time_point_knows_its_place(logic) -> None:
    node, *_segment = scan(logic, BEFORE, GRIDS["anisotropic"])
    under(slicer.util.getNode("now"), SCALED)
    time = timePointOf(resultOf(node))
    np.testing.assert_allclose(time.ijkToRAS, SCALED @ GRIDS["anisotropic"])
    assert time.scale**3 == pytest.approx(1.1 * 0.8 * 1.5)
    assert time.voxelMm3 == pytest.approx(np.prod(np.diag(SPACING)))
