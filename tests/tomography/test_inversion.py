"""Projections to heatmaps, on objects whose projections are known in closed form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.analytic import Blobs, correlation, grid_around, make_blobs, slope, voxel_centres
from tonno_core.encoding.encoder import PixelSum
from tonno_core.reporting import Timings
from tonno_core.settings import CAM_METHODS, FilterKind, Variant
from tonno_core.slicing.directions import hemisphere, sphere
from tonno_core.slicing.frame import physical_frame
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.sampling import SliceSource, sample_slices
from tonno_core.tomography.backprojection import Backprojector
from tonno_core.tomography.grid import TargetGrid
from tonno_core.tomography.inversion import Inverter, average, cell_pitch, invert
from tonno_core.tomography.projection import Projections
from tonno_core.volume.grid import ijk_to_grid

# Blobs well inside the unit ball of the frame.
BLOBS = make_blobs(5, 6, reach=0.25, sigmas=(0.12, 0.18))
# Of the maps that are made here.
STAGE = 2


def cube(nodes: int) -> TargetGrid:
    """Nodes^3 over [-1, 1]^3."""
    return TargetGrid((nodes,) * 3, ijk_to_grid((nodes,) * 3))


def frame_points(grid: TargetGrid) -> np.ndarray:
    """Z Y X 3: frame coordinates (x, y, z) of a grid's nodes."""
    return voxel_centres(grid.shape, grid.ijk_to_frame)


def inside(grid: TargetGrid) -> np.ndarray:
    return np.linalg.norm(frame_points(grid), axis=-1) <= 1.0


def plan_of(normals: np.ndarray, slices: int, pixels: int = 32) -> SlicePlan:
    return SlicePlan(np.eye(4), normals, slices, pixels)


def by_method(
    projections: Iterable[Projections], plan: SlicePlan, grid: TargetGrid, methods: Iterable[str], **choices: Any
) -> dict[str, torch.Tensor]:
    """Heatmaps by method, made with the same choices."""
    variants = {method: Variant(method, (STAGE,), **choices).raw() for method in methods}
    found = invert(projections, plan, grid, list(variants.values())).heatmaps
    assert set(found) == set(variants.values())
    return {method: found[one] for method, one in variants.items()}


def ideal_logits(blobs: Blobs, plan: SlicePlan) -> Iterator[Projections]:
    """What an encoder of perfect slices answers: integrals over the area (2 S / (S - 1))^2 of a slice."""
    area = (2 * plan.pixels / (plan.pixels - 1)) ** 2
    for start in range(0, len(plan.directions), 64):
        which = slice(start, min(start + 64, len(plan.directions)))
        values = blobs.plane_integrals(plan.directions[which], plan.offsets) / area
        yield Projections(which, torch.as_tensor(values), {})


def ideal_maps(blobs: Blobs, plan: SlicePlan, blur: float) -> Iterator[Projections]:
    """Maps of one cell per pixel: the object blurred in its planes by a Gaussian of std ``blur``."""
    side = np.linspace(-1, 1, plan.pixels)
    b, a = np.meshgrid(side, side, indexing="ij")
    for index, normal in enumerate(plan.directions):
        which = slice(index, index + 1)
        u, v = plan.frame_to_slice(which)[0, :2]
        points = plan.offsets[:, None, None, None] * normal + a[..., None] * u + b[..., None] * v
        maps = torch.as_tensor(blobs.blurred_in_plane(points, normal, blur))
        yield Projections(which, maps.mean((1, 2))[None], {STAGE: maps[None]})


@pytest.mark.parametrize("pixels", [8, 224])
@pytest.mark.parametrize("lattice", [hemisphere, sphere])
def test_tonno_inverts_the_plane_integrals(lattice, pixels: int) -> None:  # type: ignore[no-untyped-def]
    plan, grid = plan_of(lattice(600), slices=101, pixels=pixels), cube(25)
    heatmap = by_method(ideal_logits(BLOBS, plan), plan, grid, ["tonno"])["tonno"].numpy()
    truth = BLOBS.at(frame_points(grid))
    ball = inside(grid)
    # [1, -2, 1] at a step of 0.02 and chords of 0.02 flatten a peak of std 0.12 by (0.02 / 0.12)^2 * 5 / 12 = 1.2 %
    # at most; 600 (on the sphere in effect some 350) directions leave streaks outside of the blobs.
    assert slope(heatmap[ball], truth[ball]) == pytest.approx(1.0, abs=0.01)
    assert np.abs(heatmap - truth)[ball].max() < 0.02 * truth.max()


@pytest.mark.parametrize(("kind", "tolerance"), [("hann", 0.02), ("gaussian", 0.04)])
def test_smooth_filters_invert_too(kind: FilterKind, tolerance: float) -> None:
    # Their passband widens a blob: hann's R is -theta^2 (1 - theta^2 / 4), the Gaussian's -theta^2 (1 - theta^2 / 2),
    # so a peak of std 6 to 9 steps loses up to 5 / (4 * 36) = 3.5 %, 5 / (2 * 36) = 7 %; less on the whole.
    plan, grid = plan_of(hemisphere(600), slices=101), cube(25)
    found = by_method(ideal_logits(BLOBS, plan), plan, grid, ["tonno"], filter=kind)
    heatmap, truth, ball = found["tonno"].numpy(), BLOBS.at(frame_points(grid)), inside(grid)
    assert slope(heatmap[ball], truth[ball]) == pytest.approx(1.0, abs=tolerance)
    assert correlation(heatmap[ball], truth[ball]) > 0.9995


def test_a_constant_logit_leaves_no_trace() -> None:
    # A classifier's bias, however large, is not evidence anywhere.
    plan, grid = plan_of(hemisphere(50), slices=20), cube(9)
    biased = [Projections(slice(0, 50), torch.full((50, 22), 1000.0, dtype=torch.float64), {})]
    assert by_method(biased, plan, grid, ["tonno"])["tonno"].abs().max() < 1e-6  # 1000 * 20^2 * 1e-15


def test_noise_is_as_predicted() -> None:
    # std of G = sqrt 6 / (2 pi) (S / (S - 1))^2 (M - 1)^2 sigma_p / sqrt L, at the centre, where a sample lies.
    plan = plan_of(hemisphere(40), slices=21, pixels=32)
    grid = TargetGrid((1, 1, 1), np.eye(4))
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(600):
        noise = 0.1 * torch.randn(40, 23, generator=generator, dtype=torch.float64)
        values.append(by_method([Projections(slice(0, 40), noise, {})], plan, grid, ["tonno"])["tonno"].item())
    expected = np.sqrt(6) / (2 * np.pi) * (32 / 31) ** 2 * 20**2 * 0.1 / np.sqrt(40)
    # The std of 600 draws is known to 1 / sqrt(1200) = 3 %: three times that.
    assert np.std(values) == pytest.approx(expected, rel=0.09)
    assert np.mean(values) == pytest.approx(0.0, abs=4 * expected / np.sqrt(600))


@pytest.mark.parametrize("blur", [0.06, 0.12, 0.25])
def test_matched_cam_undoes_a_gaussian_blur(blur: float) -> None:
    # V = mean [p - sigma^2 p''] exactly, where p is V blurred in its plane with std sigma.
    blobs = make_blobs(6, 3, reach=0.2, sigmas=(0.16, 0.22))
    plan, grid = plan_of(hemisphere(100), slices=49, pixels=40), cube(17)
    scale = blur / (cell_pitch(plan, 40) / 2)
    found = by_method(ideal_maps(blobs, plan, blur), plan, grid, CAM_METHODS, sigma_scale=scale)
    truth, ball = blobs.at(frame_points(grid)), inside(grid)
    matched, averaged = found["matched-cam"].numpy(), found["averaged-cam"].numpy()
    # Chords of 0.05 in the maps and of 0.04 along n take up to (0.05^2 * 2 + 0.04^2) / 12 / 0.16^2 = 2 % of a peak.
    assert slope(matched[ball], truth[ball]) == pytest.approx(1.0, abs=0.02)
    assert correlation(matched[ball], truth[ball]) > 0.999
    assert slope(averaged[ball], truth[ball]) < slope(matched[ball], truth[ball]) - 0.03


def test_matched_is_averaged_plus_sigma_squared_tomographic() -> None:
    plan, grid = plan_of(hemisphere(20), slices=15, pixels=16), cube(9)
    for scale in (0.0, 1.0, 2.5):
        found = by_method(ideal_maps(BLOBS, plan, 0.1), plan, grid, CAM_METHODS, sigma_scale=scale)
        # w: a cell is one pixel of 16, 2 / 15 apart; sigma = w / 2 by default.
        expected = found["averaged-cam"] + (scale * (2 / 15) / 2) ** 2 * found["tomographic-cam"]
        torch.testing.assert_close(found["matched-cam"], expected, rtol=1e-12, atol=1e-12)
    assert cell_pitch(plan_of(sphere(3), 8, pixels=128), 16) == pytest.approx(8 * 2 / 127)


def test_one_pass_gives_what_each_method_gives_alone() -> None:
    plan, grid = plan_of(hemisphere(20), slices=15, pixels=16), cube(9)
    methods = ("tonno", *CAM_METHODS)
    variants = [Variant(method, (STAGE,)).raw() for method in methods]
    together = invert(ideal_maps(BLOBS, plan, 0.1), plan, grid, variants)
    assert list(together.heatmaps) == variants
    assert together.logits.shape == (20, 17)
    for one in variants:
        alone = invert(ideal_maps(BLOBS, plan, 0.1), plan, grid, [one]).heatmaps
        assert list(alone) == [one]
        torch.testing.assert_close(alone[one], together.heatmaps[one], rtol=1e-12, atol=1e-12)


def test_variants_that_share_terms_are_what_each_is_alone() -> None:
    # 2 stages x (averaged, 2 tomographic, 4 matched) from 2 x 3 backprojections, and ToNNO by 2 filters.
    plan, grid = plan_of(hemisphere(20), slices=15, pixels=16), cube(9)
    filters: tuple[FilterKind, ...] = ("second-difference", "hann")
    variants = [Variant("tonno", filter=kind) for kind in filters]
    for stage in (1, 2):
        variants.append(Variant("averaged-cam", (stage,)))
        variants += [Variant("tomographic-cam", (stage,), kind) for kind in filters]
        variants += [Variant("matched-cam", (stage,), kind, scale) for kind in filters for scale in (0.5, 3.0)]
    coarse = [one.maps[STAGE] for one in ideal_maps(BLOBS, plan, 0.2)]
    batches = [
        Projections(one.which, one.logits, {1: one.maps[STAGE], 2: maps[..., ::2, ::2]})
        for one, maps in zip(ideal_maps(BLOBS, plan, 0.1), coarse, strict=True)
    ]
    together = invert(batches, plan, grid, variants).heatmaps
    assert list(together) == variants
    for one in variants:
        (alone,) = invert(batches, plan, grid, [one]).heatmaps.values()
        torch.testing.assert_close(together[one], alone, rtol=1e-12, atol=1e-12 * float(alone.abs().max()))
    # The control: no two are alike.
    flat = torch.stack([together[one].flatten() for one in variants])
    assert torch.cdist(flat, flat).fill_diagonal_(1.0).min() > 1e-3


def test_shared_terms_are_backprojected_once(monkeypatch: pytest.MonkeyPatch) -> None:
    channels: list[int] = []
    original = Backprojector.add_maps

    def counting(self: Backprojector, maps: torch.Tensor, plan: SlicePlan, which: slice) -> None:
        channels.append(maps.shape[1])
        original(self, maps, plan, which)

    monkeypatch.setattr(Backprojector, "add_maps", counting)
    plan, grid = plan_of(hemisphere(1), slices=9, pixels=16), cube(5)
    every = [Variant("averaged-cam", (STAGE,)), Variant("tomographic-cam", (STAGE,))]
    every += [Variant("matched-cam", (STAGE,), sigma_scale=scale) for scale in (0.5, 1.0, 2.0)]
    for variants, expected in ((every, 2), (every[2:4], 2), (every[2:3], 1), (every[:1], 1)):
        channels.clear()
        invert(ideal_maps(BLOBS, plan, 0.1), plan, grid, variants)
        assert channels == [expected]


@pytest.mark.parametrize("most", [1, 8])  # of eight variants each has a channel, or they share terms
def test_each_half_is_what_a_run_of_its_directions_gives(most: int) -> None:
    normals = hemisphere(9)
    plan, grid = plan_of(normals, slices=15, pixels=16), cube(9)
    variants = [Variant("tonno", filter="hann"), Variant("matched-cam", (STAGE,)), Variant("averaged-cam", (STAGE,))]
    variants += [Variant("matched-cam", (STAGE,), sigma_scale=scale) for scale in (0.5, 2.0)][: most - 1]
    ones = list(ideal_maps(BLOBS, plan, 0.1))
    inverter = Inverter(plan, grid, variants, halves=True)
    for start in range(0, 9, 3):  # the second batch reaches over the middle, 4
        some = ones[start : start + 3]
        maps = torch.cat([one.maps[STAGE] for one in some])
        logits = torch.cat([one.logits for one in some])
        inverter.add(Projections(slice(start, start + 3), logits, {STAGE: maps}), Timings())
    whole = invert(ones, plan, grid, variants).heatmaps
    for second, part in ((False, slice(0, 4)), (True, slice(4, 9))):
        alone = plan_of(normals[part], slices=15, pixels=16)
        expected = invert(ideal_maps(BLOBS, alone, 0.1), alone, grid, variants).heatmaps
        for one in variants:
            # float64; the second half is the difference of two sums
            torch.testing.assert_close(inverter.half(one, second), expected[one], rtol=1e-12, atol=1e-11)
    for one in variants:
        both = (4 * inverter.half(one, False) + 5 * inverter.half(one, True)) / 9
        torch.testing.assert_close(both, whole[one], rtol=1e-12, atol=1e-11)
        torch.testing.assert_close(inverter.heatmap(one), whole[one], rtol=1e-12, atol=1e-12)


def test_there_are_no_halves_unless_they_were_asked_for_and_all_directions_are_there() -> None:
    plan, grid = plan_of(hemisphere(4), slices=9, pixels=16), cube(5)
    tonno, ones = Variant("tonno"), list(ideal_logits(BLOBS, plan_of(hemisphere(4), slices=9, pixels=16)))
    plain, half = Inverter(plan, grid, [tonno]), Inverter(plan, grid, [tonno], halves=True)
    plain.add(ones[0], Timings())
    half.add(Projections(slice(0, 3), ones[0].logits[:3], {}), Timings())
    for inverter in (plain, half):
        with pytest.raises(ValueError, match="no halves of all directions"):
            inverter.half(tonno, False)


def test_average_is_the_plain_mean_of_the_maps() -> None:
    plan, grid = plan_of(np.eye(3), slices=15, pixels=16), cube(9)
    expected = by_method(ideal_maps(BLOBS, plan, 0.1), plan, grid, ["averaged-cam"])["averaged-cam"]
    found = average(ideal_maps(BLOBS, plan, 0.1), plan, grid, (STAGE,))
    assert list(found) == [STAGE]
    torch.testing.assert_close(found[STAGE], expected)


def test_maps_are_needed_for_cams() -> None:
    plan, grid = plan_of(sphere(4), slices=5), cube(5)
    with pytest.raises(ValueError, match="matched-cam need projections with maps"):
        invert(ideal_logits(BLOBS, plan), plan, grid, [Variant("matched-cam", (STAGE,))])
    with pytest.raises(ValueError, match="slice-wise CAM needs projections with maps"):
        average(ideal_logits(BLOBS, plan), plan, grid, (STAGE,))
    with pytest.raises(ValueError, match="no projections"):
        average([], plan, grid, (STAGE,))


def test_the_papers_figure_4() -> None:
    """The input reconstructed from its own average-pooled slices, at 32, 16 and 8 cells of 128 pixels."""
    rng = np.random.default_rng(11)
    # Objects from the size of a 32nd to a sixth of the window.
    blobs = Blobs(rng.uniform(-0.4, 0.4, (40, 3)), rng.uniform(0.03, 0.16, 40), rng.uniform(-0.5, 1.0, 40))
    shape = (96, 96, 96)
    volume = blobs.on_grid(shape, grid_around((0, 0, 0), shape, (2 / 95,) * 3))
    plan = SlicePlan(physical_frame([0, 0, 0], 1.0), hemisphere(96), slices=40, pixels=128)
    source, encoder = SliceSource.from_volume(volume), PixelSum()
    stages, batches = (1, 2, 3), []
    for start in range(0, 96, 16):
        which = slice(start, start + 16)
        slices = sample_slices(source, plan, which).unflatten(0, (-1, plan.slices + 2))
        logits, maps = encoder.cam(slices.flatten(0, 1), [(0, stage) for stage in stages], "layercam")
        by_stage = {stage: each.reshape(16, 42, *each.shape[1:]) for (_, stage), each in maps.items()}
        batches.append(Projections(which, logits.reshape(16, 42), by_stage))
    grid = cube(40)
    truth, ball = blobs.at(frame_points(grid)), inside(grid)
    found = invert(batches, plan, grid, [Variant(method, (s,)) for method in CAM_METHODS for s in stages]).heatmaps
    for stage in stages:
        maps_of = {method: found[Variant(method, (stage,))].numpy() for method in CAM_METHODS}
        score = {method: correlation(maps_of[method][ball], truth[ball]) for method in CAM_METHODS}
        # Measured, averaged / tomographic / matched: .9991 .650 .9998, .9937 .709 .9995, .962 .801 .998.
        assert 1 - score["matched-cam"] < 0.25 * (1 - score["averaged-cam"]), (stage, score)
        assert 1 - score["matched-cam"] < 0.25 * (1 - score["tomographic-cam"]), (stage, score)
        # And it is on the input's own scale, where pooling has blurred the averaged map.
        assert slope(maps_of["matched-cam"][ball], truth[ball]) == pytest.approx(1.0, abs=0.03)


def pyepri_inversion(blobs: Blobs, axis: np.ndarray, turns: int, tilts: int) -> np.ndarray:
    """PyEPRI's filtered backprojection of the same object on axis^3 nodes, as Z Y X.

    In its terms: a field gradient of one unit along n spreads the object over B = -x . n; the measured spectrum is
    the object's profile convolved with the derivative of an absorption line, here a narrow Gaussian.
    """
    from pyepri import backends, processing

    step, line = 0.01, 0.015
    field = (np.arange(401) - 200) * step
    # Its own sampling: a grid of angles, weighted by the sine of the tilt; an odd number has a tilt of 90 degrees.
    turn, tilt = ((np.arange(n) + 0.5) * np.pi / n for n in (turns, tilts))
    turn, tilt = (one.ravel() for one in np.meshgrid(turn, tilt))
    normals = np.stack([np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.cos(tilt)], axis=1)
    spectra = np.zeros((len(normals), len(field)))
    for centre, sigma, height in zip(blobs.centres, blobs.sigmas, blobs.heights, strict=True):
        wide, at = sigma**2 + line**2, field + (normals @ centre)[:, None]
        profile = height * 2 * np.pi * sigma**3 / np.sqrt(wide) * np.exp(-(at**2) / (2 * wide))
        spectra += -at / wide * profile
    absorption = np.exp(-(field**2) / (2 * line**2)) / (np.sqrt(2 * np.pi) * line)
    reference = np.diff(absorption, prepend=0.0) / step  # whose running sum is the absorption line again
    volume = processing.eprfbp3d(
        spectra, normals.T.copy(), reference, field, axis, axis, axis,
        lambda xp, fp, x: np.interp(x.ravel(), xp, fp.ravel(), left=0.0, right=0.0),
        backend=backends.create_numpy_backend(),
    )  # fmt: skip
    # It takes the range of angles from the outermost of them, half a cell inside on either end of half a turn.
    covered = (1 - 1 / turns) * (1 - 1 / tilts)
    return np.asarray(volume).transpose(2, 0, 1) / covered  # Y X Z


def test_the_inversion_agrees_with_pyepri() -> None:
    pytest.importorskip("pyepri", reason="pyepri is in the test extra: pip install -e '.[test]'")
    grid = cube(25)
    theirs = pyepri_inversion(BLOBS, np.linspace(-1, 1, 25), turns=41, tilts=41)
    plan = plan_of(hemisphere(1000), slices=101)
    ours = by_method(ideal_logits(BLOBS, plan), plan, grid, ["tonno"])["tonno"].numpy()
    truth, ball = BLOBS.at(frame_points(grid)), inside(grid)
    # Both find the object; theirs, with an exact filter, to 0.06 % of its peak, ours to 0.8 %: [1, -2, 1] at a step of
    # 0.02 is a little flatter than a second derivative.
    assert np.abs(theirs - truth)[ball].max() < 0.002 * truth.max()
    assert slope(ours[ball], theirs[ball]) == pytest.approx(1.0, abs=0.005)
    assert np.abs(ours - theirs)[ball].max() < 0.01 * truth.max()


def test_what_may_be_asked_for_later_is_what_the_kept_terms_give() -> None:
    plan, grid = plan_of(hemisphere(4), slices=9, pixels=16), cube(5)
    ones = list(ideal_maps(BLOBS, plan, 0.1))
    tonno, averaged = Variant("tonno", filter="hann"), Variant("averaged-cam", (STAGE,))
    matched, doubled = Variant("matched-cam", (STAGE,)), Variant("matched-cam", (STAGE,), "hann", 2.0)
    alone = Inverter(plan, grid, [matched])
    every = Inverter(plan, grid, [averaged], filters=("hann",))
    assert alone.directions == every.directions == 0
    for one in ones:
        for inverter in (alone, every):
            inverter.add(one, Timings())
    assert [alone.gives(each) for each in (tonno, matched, averaged, doubled)] == [True, True, False, False]
    assert [every.gives(each) for each in (tonno, matched, averaged, doubled)] == [True, False, True, True]
    assert not every.gives(Variant("matched-cam", (STAGE + 1,), "hann"))
    assert not every.gives(Variant("slicewise-cam", (STAGE,)))
    assert alone.terms(tonno) == {tonno: 1.0}
    assert alone.terms(matched) == {matched: 1.0}
    # sigma is twice half a cell, one of 16 of a side of 2 * 16 / 15.
    assert every.terms(doubled) == {averaged: 1.0, Variant("tomographic-cam", (STAGE,), "hann"): pytest.approx(
        (2 * (2 / 15) / 2) ** 2, rel=1e-12)}  # fmt: skip
    expected = invert(ones, plan, grid, [tonno, doubled]).heatmaps
    for variant in (tonno, doubled):  # float64; sums in another order
        torch.testing.assert_close(every.heatmap(variant), expected[variant], rtol=1e-12, atol=1e-10)


def test_two_directions_have_halves() -> None:
    plan, grid, tonno = plan_of(hemisphere(2), slices=9, pixels=16), cube(5), Variant("tonno")
    inverter = Inverter(plan, grid, [tonno], halves=True)
    for one in ideal_logits(BLOBS, plan):
        inverter.add(one, Timings())
    both = (inverter.half(tonno, False) + inverter.half(tonno, True)) / 2
    torch.testing.assert_close(both, inverter.heatmap(tonno), rtol=1e-12, atol=1e-10)  # as above
