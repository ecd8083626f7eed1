"""Volumes from and to nibabel, MONAI and TorchIO: each voxel stays at its place in the patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tonno_core as tonno
from tests.analytic import grid_around
from tonno_core.errors import TonnoError
from tonno_core.volume.exchange import from_monai, from_torchio, from_xyz, to_monai, to_torchio, to_xyz
from tonno_core.volume.volume import Volume

SHAPE = (5, 6, 7)
# Oblique and anisotropic: no two axes can be taken for each other.
VOLUME = Volume(
    np.random.default_rng(0).random(SHAPE, dtype=np.float32),
    grid_around((5, -7, 11), SHAPE, (1.1, 2.2, 3.3), turn_degrees=(10, -20, 35)),
)


def places(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Values in ascending order, and where in RAS mm each is."""
    k, j, i = np.indices(volume.array.shape).reshape(3, -1)
    points = volume.ijk_to_ras @ np.stack([i, j, k, np.ones_like(i)])
    order = np.argsort(volume.array, axis=None)
    return volume.array.ravel()[order], points[:3, order]


def assert_same_places(found: Volume, expected: Volume = VOLUME) -> None:
    values, points = places(found)
    expected_values, expected_points = places(expected)
    np.testing.assert_array_equal(values, expected_values)
    # A NIfTI header's float32 of up to 20 mm: 20 * 6e-8, several roundings.
    np.testing.assert_allclose(points, expected_points, rtol=0, atol=1e-5)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_torchio(suffix: str, tmp_path: Path) -> None:
    tio: Any = pytest.importorskip("torchio")
    tonno.write_volume(VOLUME, tmp_path / f"ours{suffix}")
    assert_same_places(from_torchio(tio.ScalarImage(tmp_path / f"ours{suffix}")))
    image = to_torchio(VOLUME)
    image.save(tmp_path / f"theirs{suffix}")
    assert_same_places(tonno.read_volume(tmp_path / f"theirs{suffix}"))
    assert_same_places(from_torchio(tio.ToCanonical()(image)))


@pytest.mark.filterwarnings("ignore:monai.transforms:FutureWarning")  # of `Orientation`'s own defaults
@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # a decoder that MONAI looks for at each load
def test_monai(tmp_path: Path) -> None:
    transforms: Any = pytest.importorskip("monai.transforms")
    tonno.write_volume(VOLUME, tmp_path / "ours.nii.gz")
    image = transforms.LoadImage(ensure_channel_first=True)(tmp_path / "ours.nii.gz")
    assert_same_places(from_monai(image))
    assert_same_places(from_monai(image[0]))  # without the channel
    image = to_monai(VOLUME)
    assert image.shape == (1, 7, 6, 5)
    assert_same_places(from_monai(transforms.Orientation(axcodes="LPS")(image)))
    save = transforms.SaveImage(
        tmp_path, output_postfix="theirs", separate_folder=False, output_ext=".nii.gz", print_log=False
    )
    save(image)
    (written,) = tmp_path.glob("*theirs*")
    assert_same_places(tonno.read_volume(written))


def test_monai_images_whose_affine_is_to_lps() -> None:
    monai: Any = pytest.importorskip("monai")
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ VOLUME.ijk_to_ras
    array = torch.as_tensor(VOLUME.array.T[None].copy())
    for space in ("LPS", monai.utils.SpaceKeys.LPS):  # as ITKReader(affine_lps_to_ras=False) leaves it
        image = monai.data.MetaTensor(array, affine=torch.as_tensor(to_lps), meta={"space": space})
        assert_same_places(from_monai(image))


def test_a_heatmap_in_a_pipeline_of_monai() -> None:
    transforms: Any = pytest.importorskip("monai.transforms")
    settings = tonno.ReconstructionSettings(methods=("tonno",), slices=12, directions=16, slice_size=16)

    def heatmap(image: Any) -> Any:
        return to_monai(tonno.reconstruct(from_monai(image), "pixel-sum", settings, device="cpu").heatmaps["tonno"])

    pipeline = transforms.Compose(
        [
            transforms.CopyItemsd(keys="image", names="heatmap"),
            transforms.Lambdad(keys="heatmap", func=heatmap),
            transforms.ConcatItemsd(keys=["image", "heatmap"], name="both"),
        ]
    )
    both = pipeline({"image": to_monai(VOLUME)})["both"]
    expected = tonno.reconstruct(VOLUME, "pixel-sum", settings, device="cpu").heatmaps["tonno"]
    np.testing.assert_array_equal(both[0].numpy(), VOLUME.array.T)
    np.testing.assert_array_equal(both[1].numpy(), expected.array.T)
    np.testing.assert_array_equal(both.affine.numpy(), VOLUME.ijk_to_ras)


def test_nibabel(tmp_path: Path) -> None:
    nibabel: Any = pytest.importorskip("nibabel")
    array, affine = to_xyz(VOLUME)
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "theirs.nii.gz")
    assert_same_places(tonno.read_volume(tmp_path / "theirs.nii.gz"))
    image = nibabel.load(tmp_path / "theirs.nii.gz")
    assert_same_places(from_xyz(image.get_fdata(), image.affine))
    array[:], affine[:] = 0, 0  # copies
    assert VOLUME.array.any() and VOLUME.ijk_to_ras.any()


@pytest.mark.parametrize(
    ("array", "affine", "reason"),
    [
        (np.zeros((2, 3)), np.eye(4), r"shape \(2, 3\), expected X Y Z"),
        (np.zeros((2, 3, 4, 5, 6)), np.eye(4), r"shape \(2, 3, 4, 5, 6\), expected X Y Z"),
        (np.zeros((2, 3, 4, 20)), np.eye(4), "X Y Z C of at most 16 channels"),
        (np.full((2, 3, 4), np.nan), np.eye(4), "NaN, infinite or beyond float32"),
        (np.zeros((2, 3, 4)), np.eye(3), "invertible matrix of 4 x 4"),
        (np.zeros((2, 3, 4)), np.zeros((4, 4)), "invertible matrix of 4 x 4"),
        (np.zeros((2, 3, 4)), np.ones((4, 4)), "invertible matrix of 4 x 4"),
        (np.zeros((2, 3, 4)), np.diag([1e200, 1, 1, 1]), r"voxels of inf x 1 x 1 mm; expected 0.001 to 100"),
        (np.zeros((2, 3, 4)), np.eye(4) + np.eye(4)[[1, 0, 2, 3]] * [[1], [1], [0], [0]], "its affine is singular"),
        (np.full((2, 3, 4), 1e300), np.eye(4), "NaN, infinite or beyond float32"),
    ],
)
def test_what_is_no_image_is_refused(array: np.ndarray, affine: np.ndarray, reason: str) -> None:
    with pytest.raises(TonnoError, match=reason):
        from_xyz(array, affine)


def test_several_channels_go_there_and_back() -> None:
    volume = VOLUME.with_channels([VOLUME.array, -VOLUME.array])
    array, affine = to_xyz(volume)
    assert array.shape == (*VOLUME.size_ijk, 2)
    tio: Any = pytest.importorskip("torchio")
    for again in (
        from_xyz(array, affine),
        from_torchio(to_torchio(volume)),
        from_torchio(tio.ScalarImage(tensor=torch.as_tensor(np.moveaxis(array, 3, 0).copy()), affine=affine)),
    ):
        assert_same_places(again)
        assert all(map(np.array_equal, again.channels, volume.channels))


def test_channels_of_monai_go_there_and_back() -> None:
    pytest.importorskip("monai")
    volume = VOLUME.with_channels([VOLUME.array, -VOLUME.array])
    again = from_monai(to_monai(volume))
    assert all(map(np.array_equal, again.channels, volume.channels))
    with pytest.raises(TonnoError, match="expected C X Y Z; choose one of a batch"):
        from_monai(to_monai(volume)[None])
