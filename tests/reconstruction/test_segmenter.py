"""A segmenter's heatmap: at its place in the patient, by the same face, with the same manners as a classifier's."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

import tonno_core as tonno
from tests.analytic import grid_around
from tests.mirrors import NETWORK, mirror_network, write_mirror
from tonno_core.bundle.decide import decide
from tonno_core.bundle.file import load_bundle
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.distributed import Processes
from tonno_core.errors import TonnoError
from tonno_core.reconstruction import execute, project, reconstruct, resume
from tonno_core.reconstruction.foreground import Foreground
from tonno_core.reporting import Cancelled, Reporter
from tonno_core.segmenter import segmenter as segmenter_module
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.segmenter.segmenter import Segmenter
from tonno_core.segmenter.working import WorkingImage, prepare_image
from tonno_core.settings import Variant
from tonno_core.slicing.region import Region
from tonno_core.volume.volume import Volume

SHAPE, CENTRE = (20, 24, 28), np.array([8.0, -30.0, 22.0])
WHOLE = SegmenterNetwork((2.0, 2.0, 2.0), (32, 32, 32), filters=8, blocks=(1, 1))  # holds the scan in one window
SPOT = CENTRE + np.array([7.0, -5.0, 6.0])  # R, A, S


def scan(spacing_mm: tuple[float, float, float] = (1.5, 2.0, 2.5), *, left_handed: bool = False) -> Volume:
    """A body with a bright spot off its middle, on an oblique grid."""
    grid = grid_around(CENTRE, SHAPE, spacing_mm, turn_degrees=(15, -10, 25), left_handed=left_handed)
    k, j, i = np.indices(SHAPE)
    points = np.stack([i, j, k], axis=-1) @ grid[:3, :3].T + grid[:3, 3]
    body = 10.0 * (np.linalg.norm(points - CENTRE, axis=-1) < 18)
    spot = 40.0 * np.exp(-((points - SPOT) ** 2).sum(-1) / (2 * 3.0**2))
    return Volume((body + spot).astype(np.float32), grid)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter that answers its input."""
    return write_mirror(tmp_path_factory.mktemp("models") / "mirror", WHOLE)


@pytest.fixture(scope="module")
def ready(folder: Path) -> ReadyModel:
    return prepare_model(load_bundle(folder), None, "cpu", "float32")


# -------------------- place


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd"])
def test_the_finding_lies_where_the_network_saw_it(
    suffix: str, left_handed: bool, folder: Path, tmp_path: Path
) -> None:
    """nibabel and SimpleITK, which know nothing of us, find the spot in the files at its place in the patient."""
    volume = scan(left_handed=left_handed)
    tonno.write_volume(volume, tmp_path / f"scan.{suffix}")
    result = reconstruct(tmp_path / f"scan.{suffix}", folder, device="cpu", precision="float32", progress=False)
    heatmap = result.heatmaps["segmenter"]
    tonno.write_volume(heatmap, tmp_path / f"heatmap.{suffix}")
    image = sitk.ReadImage(str(tmp_path / f"heatmap.{suffix}"))
    array = sitk.GetArrayFromImage(image)
    k, j, i = np.unravel_index(array.argmax(), array.shape)
    lps = np.array(image.TransformIndexToPhysicalPoint((int(i), int(j), int(k))))
    # Half a diagonal of a working voxel (1.7 mm) and of one of the scan (1.8 mm).
    assert np.linalg.norm(lps * [-1, -1, 1] - SPOT) < 3.5
    assert result.segment().mask.any()
    if suffix == "nii.gz":
        read = nibabel.load(tmp_path / "heatmap.nii.gz")
        xyz = np.unravel_index(np.argmax(read.get_fdata()), read.shape)
        assert np.linalg.norm((read.affine @ [*xyz, 1])[:3] - SPOT) < 3.5


def test_the_heatmap_is_what_the_network_answered(ready: ReadyModel) -> None:
    """The mirror's answer is (x - mean) / std of what it saw; so is the heatmap, resampled there and back."""
    volume = scan()
    assert isinstance(ready.encoder, Segmenter)
    image = prepare_image(volume, WHOLE, "none")
    missing = [32 - count for count in image.grid.shape[::-1]]
    around = [count for each in missing for count in (each // 2, each - each // 2)]
    padded = torch.nn.functional.pad(image.array, around)
    expected = image.grid.give_back((image.array - padded.mean()) / padded.std(unbiased=False))[0].numpy()
    result = execute(volume, ready.encoder, decide(None, ready))
    np.testing.assert_allclose(result.heatmaps["segmenter"].array, expected, rtol=0, atol=1e-3)
    assert result.inside.all()  # every voxel, not only a ball
    assert result.windows == 1
    assert (result.slices_total, result.profiles, result.explained, result.directions) == (0, (), None, 0)
    np.testing.assert_allclose(ready.encoder.answer(volume)[0].numpy(), expected, rtol=0, atol=1e-3)


def test_the_score_is_the_logit_that_a_tenth_of_a_millilitre_reaches(ready: ReadyModel) -> None:
    volume = scan()
    result = execute(volume, ready.encoder, decide(None, ready))
    values = np.sort(result.heatmaps["segmenter"].array, axis=None)[::-1]
    assert result.score == pytest.approx(values[int(np.ceil(100 / volume.voxel_mm3)) - 1])
    assert result.score < values[0]


def test_smoothing_and_a_region(ready: ReadyModel) -> None:
    from scipy import ndimage

    volume = scan()
    run = decide(None, ready, variants={"plain": Variant("segmenter"), "smooth": Variant("segmenter", smooth_mm=3.0)})
    result = execute(volume, ready.encoder, run)
    plain, smooth = (result.heatmaps[name].array for name in ("plain", "smooth"))
    np.testing.assert_allclose(smooth, ndimage.gaussian_filter(plain, 3.0 / volume.spacing_mm[::-1]), atol=1e-4)
    box = np.diag([6.0, 6.0, 6.0, 1.0])
    box[:3, 3] = SPOT
    region = Region(box)
    within = execute(volume, ready.encoder, decide(None, ready, region=region))
    inside = region.contains(volume)
    np.testing.assert_array_equal(within.inside, inside)
    np.testing.assert_array_equal(within.heatmaps["segmenter"].array[inside], plain[inside])
    assert not within.heatmaps["segmenter"].array[~inside].any()


# -------------------- manners


def test_refinement_does_not_ask_the_network_again(ready: ReadyModel) -> None:
    (projected,) = project(scan(), ready.encoder, decide(None, ready), keep=True)
    assert not projected.stopped
    assert projected.gives(Variant("segmenter", smooth_mm=5.0))
    assert not projected.gives(Variant("tonno"))
    assert projected.reach(Variant("segmenter")) == (0, 0)
    asked = decide(None, ready).asked
    first = projected.finish({"segmenter": Variant("segmenter")}, asked, Reporter())
    resume([projected])  # nothing is left to be done
    again = projected.finish({"segmenter": Variant("segmenter")}, asked, Reporter())
    np.testing.assert_array_equal(first.heatmaps["segmenter"].array, again.heatmaps["segmenter"].array)
    foreground = Foreground(projected, np.ones(SHAPE, bool))
    peaks = foreground.measure({"it": Variant("segmenter")}, lambda name, values: values.max()[None])
    assert peaks["it"][0] == first.heatmaps["segmenter"].array.max()
    assert foreground.nbytes > first.heatmaps["segmenter"].array.nbytes


@pytest.fixture(scope="module")
def windowed() -> Segmenter:
    """A mirror whose windows are smaller than the scan."""
    return Segmenter(mirror_network(NETWORK), ("finding",), NETWORK, "none")


def test_progress_by_windows_and_an_end_between_them(windowed: Segmenter, ready: ReadyModel) -> None:
    model = replace(ready, encoder=windowed)
    told: list[tuple[int, int]] = []
    volume, run = scan(), decide(None, model)
    result = execute(volume, windowed, run, Reporter(progress=lambda done, total: told.append((done, total))))
    assert told[-1] == (result.windows, result.windows)
    assert [done for done, _ in told] == list(range(1, result.windows + 1))
    assert result.windows > 8

    def cancel() -> None:
        if len(told) > 3:
            raise Cancelled

    def advanced(done: int, total: int) -> None:
        told.append((done, total))

    for reporter in (Reporter(advanced, check=cancel), Reporter(advanced, stopped=lambda: len(told) > 3)):
        told.clear()
        with pytest.raises(Cancelled):
            project(volume, windowed, run, reporter)
        assert len(told) == 4


def test_without_memory_for_all_windows_it_takes_fewer_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter_module, "_GPU_VOXELS", 8 * 16**3)
    plain = Segmenter(mirror_network(NETWORK), ("finding",), NETWORK, "none")
    image = prepare_image(scan(), NETWORK, "none")
    expected = plain.logits(image)
    tight = Segmenter(mirror_network(NETWORK), ("finding",), NETWORK, "none")
    tight._at_once, seen, model = 8, [], tight._model

    def limited(windows: torch.Tensor) -> torch.Tensor:
        seen.append(len(windows))
        if len(windows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.as_tensor(model(windows))

    tight._model = limited  # type: ignore[assignment]
    torch.testing.assert_close(tight.logits(image), expected, rtol=0, atol=1e-5)  # convolutions of other batches
    assert seen[:3] == [8, 4, 2]
    assert set(seen[3:]) <= {1, 2}


@pytest.mark.parametrize("wrapped", [False, True], ids=["image", "single window"])
def test_without_memory_for_the_image_it_stays_on_the_cpu(
    wrapped: bool, windowed: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the image just fits and leaves no room for a window; what was on the device is given up first."""

    class OnTheCpu(torch.Tensor):
        def to(self, *arguments: Any, **options: Any) -> torch.Tensor:
            return self.as_subclass(torch.Tensor).clone()

    tried: list[weakref.ref[torch.Tensor]] = []

    def slide(image: WorkingImage, array: torch.Tensor, reporter: Reporter) -> torch.Tensor:
        if tried:
            assert tried[0]() is None
            assert isinstance(array, OnTheCpu)
            return torch.zeros(1, *image.grid.shape)
        tried.append(weakref.ref(array))
        if wrapped:
            raise TonnoError("out of memory for a single window") from torch.OutOfMemoryError("CUDA out of memory")
        raise torch.OutOfMemoryError("CUDA out of memory")

    image = prepare_image(scan(), windowed.network, "none")
    image = replace(image, array=image.array.as_subclass(OnTheCpu))
    monkeypatch.setattr(windowed, "device", torch.device("cuda"))
    monkeypatch.setattr(windowed, "_slide", slide)
    assert windowed.logits(image).shape == (1, *image.grid.shape)


def test_logits_that_are_no_numbers(windowed: Segmenter) -> None:
    broken = Segmenter(mirror_network(NETWORK), ("finding",), NETWORK, "none")
    with torch.no_grad():
        broken._model.conv_final[2].conv.weight.fill_(float("nan"))  # type: ignore[index, union-attr]
    with pytest.raises(tonno.TonnoError, match="segmenter's logits are not finite numbers; try `precision` float32"):
        broken.answer(scan())


def test_of_several_processes_the_first_one_answers(ready: ReadyModel) -> None:
    others = Processes(rank=1, world=2, device=torch.device("cpu"))
    (made,) = project(scan(), ready.encoder, decide(None, ready), processes=others)
    assert made.answer is None
    assert np.isnan(made.finish({}, decide(None, ready).asked, Reporter()).score)


def test_several_classes(tmp_path: Path) -> None:
    folder = write_mirror(tmp_path / "model", WHOLE, classes=("a", "b"))
    model = prepare_model(load_bundle(folder), None, "cpu", "float32")
    run = decide(None, model, classes=("a", "b"))
    both = project(scan(), model.encoder, run)
    assert [each.target.name for each in both] == ["a", "b"]
    with torch.no_grad():
        assert torch.equal(both[0].answer, both[1].answer)  # type: ignore[arg-type]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same(folder: Path) -> None:
    """TF32 in convolutions and float16 round at 1e-3 of values up to 5; geometry would show at 1."""
    volume = scan()
    expected = reconstruct(volume, folder, device="cpu", precision="float32", progress=False).heatmaps["segmenter"]
    for precision in ("float32", "auto"):
        found = reconstruct(volume, folder, device="cuda", precision=precision, progress=False).heatmaps["segmenter"]
        np.testing.assert_allclose(found.array, expected.array, rtol=0, atol=3e-2)
