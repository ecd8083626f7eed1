"""Metrics and curves of a run: complete after every epoch, and legible."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from tonno_core.errors import TonnoError
from tonno_core.training import history
from tonno_core.training.history import Epoch, write_history

FIRST = Epoch(
    epoch=1, step=10, loss=0.7, learning_rate=1e-3, validation_loss=0.71, slice_auc=0.5, volume_auc=0.25,
    slices_per_second=100.0, wait_share=0.1, seconds=3.0,
)  # fmt: skip
BARE = replace(FIRST, validation_loss=None, slice_auc=None, volume_auc=None)


def test_the_table_has_a_line_per_epoch(tmp_path: Path) -> None:
    epochs = [FIRST, replace(BARE, epoch=2, step=20, loss=0.1)]
    for count in (1, 2):
        write_history(tmp_path, epochs[:count])
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"], row["loss"], row["volume_auc"]) for row in rows] == [
        ("1", "10", "0.7", "0.25"), ("2", "20", "0.1", ""),
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.csv"]


@pytest.mark.parametrize("epochs", [[FIRST], [BARE], [FIRST, replace(FIRST, epoch=2, step=20, volume_auc=None)]])
def test_curves_are_drawn_whatever_was_measured(epochs: list[Epoch], tmp_path: Path) -> None:
    write_history(tmp_path, epochs)
    image = imread(tmp_path / "curves.png")
    assert image.shape[:2] == (825, 990)  # 9 x 7.5 inches at 110 dots
    assert image[..., :3].min() < 0.5  # something is on it


def test_an_interruption_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_history(tmp_path, [FIRST])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupted(path: Path, epochs: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(history, "_draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_history(tmp_path, [FIRST, replace(FIRST, epoch=2)])
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after.keys() == before.keys()
    assert after["curves.png"] == before["curves.png"]
    assert after["metrics.csv"].count(b"\n") == 3


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(TonnoError, match=r"run/metrics\.csv: cannot be written \("):
        write_history(tmp_path / "run", [FIRST])
