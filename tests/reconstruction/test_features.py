"""Dense features: each is reconstructed as a logit is, and the last layer makes ToNNO's heatmap of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tests.analytic import grid_around, make_blobs
from tests.mirrors import write_mirror
from tests.networks import random_network, spec_of
from tests.reference import Array, Chain, physical_to_index
from tests.runs import look_at
from tonno_core.bundle.file import load_bundle, save_bundle
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.encoding.classifier import Classifier
from tonno_core.errors import TonnoError
from tonno_core.reconstruction.features import (
    DenseFeatures,
    principal_components,
    reconstruct_features,
)
from tonno_core.reporting import Cancelled, Reporter
from tonno_core.settings import ReconstructionSettings, Variant

SHAPE = (20, 22, 24)
VOLUME = make_blobs(0, 5, reach=12.0, sigmas=(5.0, 8.0)).on_grid(SHAPE, grid_around((5, 0, -3), SHAPE, (2, 2, 2)))
SETTINGS = ReconstructionSettings(methods=("tonno",), slices=14, directions=9, radius_mm=24.0)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> ReadyModel:
    folder = tmp_path_factory.mktemp("models") / "two"
    spec = spec_of("test_resnet", classes=("healthy", "lesion"))
    save_bundle(folder, spec, random_network("test_resnet", classes=2).state_dict())
    return prepare_model(load_bundle(folder), SETTINGS, "cpu", "float32")


@pytest.fixture(scope="module")
def features(ready: ReadyModel) -> DenseFeatures:
    return reconstruct_features(VOLUME, ready, SETTINGS, smooth_mm=0.0)


def test_the_last_layer_makes_tonno_of_the_features(ready: ReadyModel, features: DenseFeatures) -> None:
    assert isinstance(ready.encoder, Classifier)
    weights = ready.encoder.model.fc.weight.double().numpy()
    every = np.stack([features.volume(index).astype(np.float64) for index in range(features.count)])
    for index, name in enumerate(("healthy", "lesion")):
        settings = ReconstructionSettings(methods=("tonno",), slices=14, directions=9, radius_mm=24.0, class_name=name)
        (projected,) = look_at(VOLUME, ready, settings)
        values, grid = projected.term(Variant("tonno"))
        assert grid is not None and grid.shape == features.grid.shape
        expected = values.numpy()
        found = np.tensordot(weights[index], every, axes=1)
        # float32: 96 products are added before or after the second derivative, which magnifies rounding (6e-5).
        assert np.abs(found - expected).max() < 3e-4 * np.abs(expected).max()
        np.testing.assert_allclose(features.combined(weights[index]), expected, atol=3e-4 * np.abs(expected).max())


def test_a_feature_agrees_with_the_reference(ready: ReadyModel, features: DenseFeatures) -> None:
    assert isinstance(ready.encoder, Classifier)
    exact = Classifier(random_network("test_resnet", classes=2).double(), ready.encoder.classes, channels=1)

    index = int(features.projections.std(dim=(1, 2)).argmax())  # some are zero everywhere: a ReLU comes last

    def answer(images: Array) -> tuple[Array, Array]:
        vector = exact.features(torch.from_numpy(images))
        return vector[:, index].numpy(), np.zeros((len(images), 2, 2))

    frame = features.plan.frame_to_ras
    chain = Chain(
        VOLUME.array.astype(np.float64), physical_to_index(VOLUME.ijk_to_ras, frame[:3, 3], 24.0), 14, 32, answer
    )
    nodes = np.random.default_rng(1).choice(np.flatnonzero(features.foreground), 40, replace=False)
    k, j, i = np.unravel_index(nodes, features.grid.shape)
    points = 2 * np.column_stack([i, j, k]) / 13 - 1
    expected = chain.heatmaps(features.plan.directions, points)["tonno"]
    found = features.volume(index).reshape(-1)[nodes]
    # The project's bar is 1e-3; float32 against float64, as of ToNNO.
    assert np.abs(found - expected).max() < 3e-4 * np.abs(expected).max()


def test_nodes_lie_where_they_say(features: DenseFeatures) -> None:
    corner, last = features.ijk_to_ras @ [0, 0, 0, 1], features.ijk_to_ras @ [13, 13, 13, 1]
    centre = features.plan.frame_to_ras[:3, 3]
    np.testing.assert_allclose(corner[:3], centre - 24.0)
    np.testing.assert_allclose(last[:3], centre + 24.0)
    # The foreground's nodes are those at bright voxels.
    k, j, i = np.nonzero(features.foreground)
    points = features.ijk_to_ras @ np.stack([i, j, k, np.ones(len(i))])
    at = np.linalg.inv(VOLUME.ijk_to_ras) @ points
    inside = VOLUME.array[tuple(np.rint(at[2::-1]).astype(int))]
    assert inside.min() > 0.1 * VOLUME.array.max() and 100 < len(inside) < 1500


def test_smoothing_is_a_gaussian_in_millimeters_within_the_ball(features: DenseFeatures) -> None:
    smoothed = replace(features, smooth_mm=5.0)
    index = int(features.projections.std(dim=(1, 2)).argmax())
    raw, found = features.volume(index), smoothed.volume(index)
    expected = gaussian_filter(raw.astype(np.float64), 5.0 / (48 / 13))
    ball = raw != 0
    np.testing.assert_allclose(found[ball], expected[ball], atol=1e-5 * np.abs(expected).max())  # float32
    assert (found[~ball] == 0).all() and 500 < ball.sum() < 14**3
    weights = np.random.default_rng(3).normal(size=features.count)
    every = np.tensordot(weights, [smoothed.volume(number).astype(float) for number in range(features.count)], axes=1)
    np.testing.assert_allclose(smoothed.combined(weights), every, atol=3e-4 * np.abs(every).max())


def test_batches_change_nothing_but_rounding(ready: ReadyModel, features: DenseFeatures) -> None:
    other = reconstruct_features(VOLUME, ready, SETTINGS, batch_size=7)
    assert other.smooth_mm == pytest.approx(2 * 48 / 13)  # two nodes of 14 along 48 mm
    largest = features.projections.abs().max()
    torch.testing.assert_close(other.projections, features.projections, rtol=0, atol=1e-5 * float(largest))
    assert (other.slices_total, other.slices_blank) == (features.slices_total, features.slices_blank)
    assert features.slices_total == 9 * 16 > features.slices_blank > 0


def test_a_whole_volumes_grid_is_never_taken(ready: ReadyModel) -> None:
    settings = ReconstructionSettings(methods=("matched-cam",), slices=14, directions=2, radius_mm=24.0, grid="volume")
    found = reconstruct_features(VOLUME, ready, settings)
    assert found.grid.shape == (14, 14, 14)
    assert found.variant == Variant("tonno", filter=found.variant.filter)


def test_it_tells_how_far_it_is_and_can_be_ended(ready: ReadyModel) -> None:
    told: list[tuple[int, int]] = []
    reconstruct_features(VOLUME, ready, SETTINGS, Reporter(progress=lambda *done: told.append(done)), batch_size=16)
    assert told[-1] == (144, 144) and len(told) > 2
    assert told == sorted(told)

    def check() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        reconstruct_features(VOLUME, ready, SETTINGS, Reporter(check=check))


def test_models_without_features(tmp_path: Path) -> None:
    with pytest.raises(TonnoError, match="`model`: has no feature vector of a slice"):
        reconstruct_features(VOLUME, prepare_model("pixel-sum", SETTINGS), SETTINGS)
    segmenter = prepare_model(load_bundle(write_mirror(tmp_path / "segmenter")), None, "cpu", "float32")
    with pytest.raises(TonnoError, match="expected the folder of a classifier"):
        reconstruct_features(VOLUME, segmenter)


def test_principal_components_are_those_of_the_singular_values() -> None:
    rng = np.random.default_rng(2)
    values = (rng.normal(size=(6, 6)) @ (rng.normal(size=(6, 400)) * np.arange(1, 7)[:, None])).astype(np.float32) + 50
    found = principal_components(values, 4)
    centred = values.astype(np.float64) - values.mean(axis=1, keepdims=True, dtype=np.float64)
    vectors, singular, _ = np.linalg.svd(centred, full_matrices=False)
    for component, vector in zip(found.weights, vectors.T, strict=False):
        assert abs(component @ vector) == pytest.approx(1.0, abs=1e-9)  # float64
        assert component[np.abs(component).argmax()] > 0
    np.testing.assert_allclose(found.shares, (singular**2 / (singular**2).sum())[:4], rtol=1e-9)


def test_principal_components_of_one_feature_and_of_none_that_varies() -> None:
    alone = principal_components(np.arange(5, dtype=np.float32)[None], 1)
    np.testing.assert_allclose(alone.weights, [[1.0]])
    np.testing.assert_allclose(alone.shares, [1.0])
    same = principal_components(np.ones((3, 5), dtype=np.float32), 2)
    np.testing.assert_allclose(same.shares, 0.0)
    np.testing.assert_allclose(np.abs(same.weights).sum(axis=1), 1.0)
