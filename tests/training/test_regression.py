"""Regression: its loss, its measurements, its batches, and a training whose model answers in the column's unit."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.test_dataset import bright_ball
from tests.training.toy import SETTINGS, same_weights, toy_scan
from tonno_core.bundle.file import load_bundle, save_bundle
from tonno_core.bundle.quantity import Quantity
from tonno_core.cohort.manifest import read_manifest
from tonno_core.distributed import Processes
from tonno_core.errors import TonnoError
from tonno_core.training import loop
from tonno_core.training.dataset import SliceSampler
from tonno_core.training.regression import agreement, regression_loss
from tonno_core.training.run_folder import RunFolder
from tonno_core.training.steps import TrainingInterrupted
from tonno_core.training.train import TrainedModel, train
from tonno_core.volume.io import write_volume

SET = replace(SETTINGS, target="brightness", classes=("brightness",), intensity="window:0:400", bag=1.0)


def numbers_set(folder: Path, *, train: int = 8, val: int = 4) -> Path:
    """Toy heads whose lesion is more or less bright; the number is that brightness, in a unit of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    lines = ["volume,brightness,split"]
    for index in range(train + val):
        share = rng.uniform(0, 1.4)
        write_volume(toy_scan(index, share), folder / f"{index}.nii.gz")  # type: ignore[arg-type]
        lines.append(f"{index}.nii.gz,{1000 + 50 * share:.6f},{'train' if index < train else 'val'}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder / "manifest.csv"


def train_numbers(manifest: Path, run: Path, **changes: Any) -> TrainedModel:
    settings, read = replace(SET, **changes), read_manifest(manifest, target="brightness")
    folder = RunFolder(run, settings, read)
    folder.open()
    return train(read, settings, folder, Processes(0, 1, torch.device("cpu")), progress=False)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbers_set(tmp_path_factory.mktemp("numbers"))


# -------------------- the loss, and what is measured


def test_the_loss_is_the_mean_square_of_slices_and_of_the_means_of_volumes() -> None:
    rng = np.random.default_rng(0)
    outputs, volumes = rng.normal(size=(12, 1)), rng.normal(size=3)
    targets = volumes.repeat(4)[:, None]
    of_slices = np.mean((outputs - targets) ** 2)
    of_bags = np.mean((outputs.reshape(3, 4).mean(axis=1) - volumes) ** 2)
    for bag in (0.0, 0.25, 1.0):
        loss = regression_loss(torch.as_tensor(outputs), torch.as_tensor(targets), 4, bag)
        assert float(loss) == pytest.approx((1 - bag) * of_slices + bag * of_bags, rel=1e-12)  # both in float64


def test_agreement_with_numbers_worked_by_hand() -> None:
    truth = np.array([0.0, 1.0, 2.0, 3.0])
    outputs = np.array([[0.0, 1.0], [1.0, 1.0], [3.0, 3.0], [2.0, 3.0]])  # means 0.5, 1, 3, 2.5
    found = agreement(outputs, truth, unit=10.0)
    assert found.mae == pytest.approx(10 * (0.5 + 0 + 1 + 0.5) / 4)
    assert found.r2 == pytest.approx(1 - (0.25 + 0 + 1 + 0.25) / 5)
    assert found.slope == pytest.approx(np.polyfit(truth, outputs.mean(axis=1), 1)[0])
    assert found.spearman == pytest.approx(0.8)  # ranks 0 1 3 2: 1 - 6 * 2 / (4 * 15)
    assert found.pearson == pytest.approx(np.corrcoef(outputs.mean(axis=1), truth)[0, 1])
    assert found.loss == pytest.approx(np.mean((outputs - truth[:, None]) ** 2))


def test_agreement_where_nothing_varies_or_an_answer_is_no_number() -> None:
    same = agreement(np.zeros((3, 2)), np.array([1.0, 2.0, 3.0]))
    assert (same.pearson, same.spearman) == (None, None)
    assert same.r2 == pytest.approx(1 - (1 + 4 + 9) / 2)
    assert agreement(np.ones((2, 2)), np.array([1.0, 2.0])).r2 is None  # two volumes say nothing of a spread
    broken = agreement(np.full((3, 2), np.nan), np.array([1.0, 2.0, 3.0]))
    assert (broken.pearson, broken.mae) == (None, None)


def test_batches_hold_each_volume_once_and_all_as_often() -> None:
    volumes = [replace(bright_ball(1.0), labels=(float(number),)) for number in range(6)]
    sampler = SliceSampler(volumes, 8, None, 0, torch.device("cpu"), balanced=False)
    drawn = [sampler.draw(step, 4, 2).labels[::2, 0].tolist() for step in range(60)]
    assert all(len(set(batch)) == 4 for batch in drawn)
    assert drawn[7] == sampler.draw(7, 4, 2).labels[::2, 0].tolist()
    # Each is in two thirds of the batches: 40 of 60, with a standard deviation of 3.7.
    assert np.bincount(np.concatenate(drawn).astype(int)) == pytest.approx([40] * 6, abs=15)


# -------------------- a training


def test_brightness_is_learned_in_its_own_unit(manifest: Path, tmp_path: Path, no_curves: None) -> None:
    model = train_numbers(manifest, tmp_path / "run", steps=120)
    spec, read = model.spec, read_manifest(manifest, target="brightness")
    numbers = np.array([case.number for case in read.split("train")])
    assert (spec.kind, spec.schema, spec.classes) == ("regressor", 2, ("brightness",))
    assert spec.quantity is not None
    assert (spec.quantity.mean, spec.quantity.sd) == pytest.approx((numbers.mean(), numbers.std()))
    # A lesion over half of the head's width, up to four times as bright as the head: guessing has R2 0.
    assert spec.training["validation"]["pearson"] > 0.9
    assert spec.training["validation"]["r2"] > 0.5
    assert spec.training["validation"]["mae"] < numbers.std()
    assert spec.training["volumes"]["train"]["brightness"]["volumes"] == 8
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"validation_loss", "pearson", "spearman", "mae", "r2", "slope"} < rows[0].keys()
    assert not {"slice_auc", "volume_auc"} & rows[0].keys()
    save_bundle(tmp_path / "model", spec, model.weights)
    found = load_bundle(tmp_path / "model")
    assert found.spec.quantity == spec.quantity
    slices = torch.rand(5, 32, 32)
    convention = replace(found.spec.convention, scale=1.0, offset=0.0)
    bare = replace(found, spec=replace(found.spec, kind="classifier", quantity=None)).classifier().logits(slices)
    assert convention == replace(found.spec, kind="classifier", quantity=None).convention
    # float32, of numbers around 1000
    torch.testing.assert_close(
        found.classifier().logits(slices), bare * spec.quantity.sd + spec.quantity.mean, rtol=1e-6, atol=1e-3
    )


def test_an_interrupted_training_goes_on_to_the_same_weights(
    manifest: Path, tmp_path: Path, no_curves: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_numbers(manifest, tmp_path / "whole")
    original = loop.Trainer._step

    def interrupted(self: loop.Trainer, step: int, *arguments: Any) -> Any:
        if step == 3:
            raise TrainingInterrupted("now")
        return original(self, step, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_step", interrupted)
        with pytest.raises(TrainingInterrupted):
            train_numbers(manifest, tmp_path / "parts")
    assert same_weights(train_numbers(manifest, tmp_path / "parts").weights, whole.weights)


def test_a_run_on_other_numbers_is_another_run(manifest: Path, tmp_path: Path) -> None:
    read = read_manifest(manifest, target="brightness")
    RunFolder(tmp_path, SET, read).open()
    other = replace(read, cases=(replace(read.cases[0], number=5.0), *read.cases[1:]))
    with pytest.raises(TonnoError, match="is of a run on other cases"):
        RunFolder(tmp_path, SET, other).check()
    with pytest.raises(TonnoError, match="is of another run, with target brightness, now colour"):
        RunFolder(tmp_path, replace(SET, target="colour"), read).check()


def test_curves_of_a_regressor_are_drawn(manifest: Path, tmp_path: Path) -> None:
    train_numbers(manifest, tmp_path, steps=3)
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_two_rounds_have_no_meaning() -> None:
    with pytest.raises(TonnoError, match="`rounds` 2"):
        replace(SET, rounds=2).check()


# -------------------- the description


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantity": None}, "key 'quantity' is None, expected an object with name, mean and an sd above 0"),
        ({"quantity": {"name": "brightness", "mean": 0, "sd": 0}}, "an sd above 0"),
        ({"quantity": {"name": "brightness", "mean": "x", "sd": 1}}, "an sd above 0"),
        ({"classes": ["other"]}, "key 'classes' is ['other']"),
        ({"kind": "oracle"}, "key 'kind' is 'oracle', expected segmenter or regressor in schema 2; a model of another"),
        ({"kind": "classifier"}, "key 'kind' is 'classifier', expected segmenter or regressor in schema 2"),
    ],
)
def test_a_wrong_description_is_refused(
    manifest: Path, tmp_path: Path, no_curves: None, changes: dict[str, Any], said: str
) -> None:
    model = train_numbers(manifest, tmp_path / "run", steps=3)
    save_bundle(tmp_path / "model", model.spec, model.weights)
    path = tmp_path / "model" / "model.json"
    data = json.loads(path.read_text())
    # What an earlier build looks at: it knows segmenters alone in schema 2, and names the kind that it does not know.
    assert (data["schema"], data["kind"]) == (2, "regressor")
    path.write_text(json.dumps({**data, **changes}))
    with pytest.raises(TonnoError) as caught:
        load_bundle(tmp_path / "model")
    assert said in str(caught.value)


def test_a_quantity_is_read_back() -> None:
    quantity = Quantity.of("load", [1.0, 2.0, 6.0])
    assert (quantity.mean, quantity.sd) == pytest.approx((3.0, np.std([1, 2, 6])))
    assert quantity.standardized(3.0 + quantity.sd) == pytest.approx(1.0)
    assert Quantity.of_record(quantity.record()) == quantity
