"""`tonno reproduce table1` and `table2` on toy scans: whole, smaller, interrupted, failing, and with wrong input."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands.test_evaluate import truth_of
from tests.networks import random_network, write_random_bundle
from tests.training.toy import toy_scan
from tonno_core import cli
from tonno_core.commands import tables
from tonno_core.evaluation.record import load_record
from tonno_core.reproduction import table1
from tonno_core.reproduction.table1 import Encoder
from tonno_core.training import train as train_module
from tonno_core.volume.io import write_volume

# Rows that a CPU trains in seconds.
GRID = {
    "random": Encoder("Test ResNet", "test_resnet", "group", pretrained=False, paper=0.28),
    "frozen": Encoder("Test ResNet", "test_resnet", "frozen-batch", paper=0.55),
    "less": Encoder("Test EfficientNet", "test_efficientnet", "group", share=0.5),
}
SMALL = (
    "--steps",
    "2",
    "--slice-size",
    "32",
    "--intensity",
    "none",
    "--slices",
    "8",
    "--directions",
    "16",
    "--seed",
    "0",
)
pytestmark = pytest.mark.usefixtures("no_curves", "no_presets", "small_grid")


@pytest.fixture
def small_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table1, "GRID", GRID)


def tonno(*words: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["reproduce", *map(str, words)])
    return int(ended.value.code or 0)


def write_set(folder: Path, *, masks: bool = True, splits: str = "train train train train val val test test") -> Path:
    """Toy scans, every second one with a lesion, and a manifest with their splits."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["volume,label,mask,patient,split"]
    for index, split in enumerate(splits.split()):
        label = index % 2
        write_volume(toy_scan(index, label), folder / f"{index}.nii.gz")
        mask = f"{index}-mask.nii.gz" if masks and label and split == "test" else ""
        if mask:
            write_volume(truth_of(index), folder / mask, dtype="uint8")
        lines.append(f"{index}.nii.gz,{label},{mask},p{index},{split}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder / "manifest.csv"


def write_weights(folder: Path, *encoders: str) -> Path:
    folder.mkdir(exist_ok=True)
    for encoder in encoders:
        torch.save(random_network(encoder, channels=3, classes=1000).state_dict(), folder / f"{encoder}.pth")
    return folder


def lines_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {line["row"]: line for line in csv.DictReader(file)}


# -------------------- table 1


def test_a_row_that_fails_loses_no_other_and_is_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, weights = write_set(tmp_path / "set"), write_weights(tmp_path / "weights", "test_efficientnet")
    out = tmp_path / "out"
    words = ("table1", manifest, *SMALL, "--weights", weights, "--output", out, "--row", "random", "--row", "frozen")
    assert tonno(*words) == 2
    said = capsys.readouterr()
    assert "frozen: cannot be trained: --weights" in said.out
    assert "1 of 2 rows failed, the others are in the table (frozen: --weights" in said.err
    assert "expected test_resnet.safetensors (or .pth, .pt, .bin)" in said.err
    lines = lines_of(out / "table1.csv")
    assert list(lines) == ["random", "frozen"]
    assert 0 <= float(lines["random"]["dice"]) <= 1
    assert (lines["random"]["steps"], lines["random"]["norm"], lines["random"]["pretrained"]) == ("2", "group", "0")
    assert (lines["random"]["cases_with_truth"], lines["random"]["cases_without_finding"]) == ("1", "1")
    assert "test_resnet" in lines["frozen"]["failed"]
    text = (out / "table1.md").read_text()
    assert "## Rows without a result" in text
    assert "| 0.28 " in text
    model = json.loads((out / "rows/random/model/model.json").read_text())
    assert (model["norm"], model["training"]["settings"]["norm"]) == ("group", "group")

    # The weights are there now: the row that failed is made, and one more; what was done stays as it is.
    before = (out / "rows/random/row.json").read_bytes()
    trained = (out / "rows/random/model/model.json").stat().st_mtime_ns
    write_weights(weights, "test_resnet")
    assert tonno(*words, "--row", "less") == 0
    lines = lines_of(out / "table1.csv")
    assert list(lines) == ["random", "frozen", "less"]
    assert {line["failed"] for line in lines.values()} == {""}
    assert lines["less"]["steps"] == "1"  # half of 2
    assert (out / "rows/random/row.json").read_bytes() == before
    assert (out / "rows/random/model/model.json").stat().st_mtime_ns == trained
    content = json.loads((out / "table1.json").read_text())
    assert content["asked"]["steps"] == 2
    assert [row["encoder"] for row in content["rows"]] == ["test_resnet", "test_resnet", "test_efficientnet"]

    # Another grid is not mixed with this one.
    assert tonno(*words, "--steps", "3") == 2
    assert (
        "is of another grid (steps 2, now 3); give --steps 2 to go on with it, or choose another --output, or give "
        "--overwrite"
    ) in capsys.readouterr().err
    # Nor is one that would only be noticed once a further row is trained; the rows that are not named stay.
    assert tonno("table1", manifest, *SMALL, "--output", out, "--row", "random") == 2
    assert "(weights files, now imagenet); give --weights DIR to go on with it" in capsys.readouterr().err
    assert tonno(*words, "--overwrite") == 0
    assert (out / "rows/less/row.json").is_file()
    assert (out / "rows/random/model/model.json").stat().st_mtime_ns > trained


def test_an_interrupted_row_goes_on_and_a_trained_one_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("table1", write_set(tmp_path / "set"), *SMALL, "--output", tmp_path / "out", "--row", "random")
    evaluate = tables.evaluate_manifest

    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "evaluate_manifest", interrupt)
    assert tonno(*words) == 130
    assert "interrupted in row random; the same command goes on where it stopped" in capsys.readouterr().err
    assert lines_of(tmp_path / "out/table1.csv")["random"]["failed"] == table1.UNFINISHED
    row = json.loads((tmp_path / "out/rows/random/row.json").read_text())
    assert "result" not in row
    assert row["seconds"] >= 0
    monkeypatch.setattr(tables, "evaluate_manifest", evaluate)
    monkeypatch.setattr(tables, "train_bundle", interrupt)
    assert tonno(*words) == 0
    assert lines_of(tmp_path / "out/table1.csv")["random"]["failed"] == ""


@pytest.mark.parametrize(
    "change", [("--steps", "3"), ("--precision", "bfloat16"), ("--slice-size", "40"), ("--seed", "1")]
)
def test_an_attempt_that_has_done_nothing_binds_nobody(
    change: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("table1", write_set(tmp_path / "set"), *SMALL, "--output", tmp_path / "out", "--row", "random")
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "Trainer", stop)  # the volumes are read, no step is done
        assert tonno(*words, "--precision", "float32") == 130
    assert (tmp_path / "out/rows/random/model-run/run.json").is_file()
    capsys.readouterr()
    assert tonno(*words, "--precision", "float32", *change) == 0
    assert lines_of(tmp_path / "out/table1.csv")["random"]["failed"] == ""


def stop(*arguments: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def test_without_masks_the_table_says_before_what_it_will_lack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_set(tmp_path / "set", masks=False)
    assert tonno("table1", manifest, *SMALL, "--output", tmp_path / "out", "--row", "random") == 0
    said = capsys.readouterr().out
    assert said.index("no mask of 1 volume with the finding in split test") < said.index("random: 1 of 1")
    line = lines_of(tmp_path / "out/table1.csv")["random"]
    assert (line["dice"], line["f1"]) == ("", "")
    assert 0 <= float(line["auc"]) <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--row", "resnet101"), "--row resnet101: the grid has no such row; it has random, frozen, less"),
        (("--split", "all", "--model", "m"), "--model has no meaning for table1; leave it out"),
        (("--method", "gradcam"), "--method gradcam: expected one of tonno, "),
        (("--method", "tonno", "--method", "center"), "--method is given 2 times, expected once for a table"),
        (("--row", "random", "--weights", "nodir"), "--weights nodir: no such folder; expected imagenet, or a folder"),
        (("--baseline", "tonno"), "--baseline has no meaning for table1; leave it out"),
        (("--intensity", "window:5"), "--intensity 'window:5': expected none, zscore or window:LO:HI"),
    ],
)
def test_wrong_options_say_so_before_anything_is_written(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_set(tmp_path / "set", splits="train train val val test test")
    assert tonno("table1", manifest, *SMALL, *words, "--output", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_manifest_is_needed_and_one_with_volumes_to_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tonno("table1", "--output", tmp_path / "out") == 2
    assert "table1: a manifest must be given; `tonno phantoms` writes one of drawn heads" in capsys.readouterr().err
    manifest = write_set(tmp_path / "set", splits="train train val val")
    assert tonno("table1", manifest, "--output", tmp_path / "out") == 2
    assert "no volume in split test (2 in train, 2 in val, 0 in test); choose another by --split" in (
        capsys.readouterr().err
    )
    assert tonno("table1", tmp_path / "none.csv", "--output", tmp_path / "out") == 2
    assert "none.csv" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_drawn_heads_have_no_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tonno("table2", "--split", "val", "--output", tmp_path / "out") == 2
    assert "--split has no meaning for heads that are drawn" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_of_tables_are_refused_for_a_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tonno("fig4", "--steps", "3", "--output", tmp_path / "out") == 2
    assert "--steps is of tables (table1, table2); leave it out for a figure" in capsys.readouterr().err


def test_the_paper_s_grid_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    grid, shared = table1.GRID, table1.Settings()
    assert [row.paper for row in grid.values() if row.paper] == [0.48, 0.55, 0.54, 0.28, 0.56]
    assert shared.training(grid["resnet50-group"])["steps"] == 0.4 * shared.steps
    assert [name for name, row in grid.items() if not row.pretrained] == ["resnet10t-random", "lite-random"]
    assert (shared.slice_size, shared.slices, shared.directions) == (224, 100, 2000)  # the paper's


# -------------------- table 2


def test_methods_are_compared_and_an_evaluation_gives_the_same_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, model = write_set(tmp_path / "set"), write_random_bundle(tmp_path / "model")
    words = ("--model", model, "--slices", "8", "--directions", "16", "--seed", "0")
    methods = ("--method", "tonno", "--method", "slicewise-cam")
    out = tmp_path / "out"
    assert tonno("table2", manifest, *words, *methods, "--output", out) == 0
    assert "LayerCAM, slice by slice" in capsys.readouterr().out
    lines = lines_of(out / "table2.csv")
    assert list(lines) == ["slicewise-cam", "tonno"]
    gain = float(lines["tonno"]["dice_value"]) - float(lines["slicewise-cam"]["dice_value"])
    assert float(lines["tonno"]["dice_difference"]) == pytest.approx(gain, abs=1e-12)
    assert 0 <= float(lines["tonno"]["max_iou_value"]) <= 1
    # The same from the folder of the evaluation, without looking at any volume.
    shutil.rmtree(tmp_path / "set")
    assert tonno("table2", out / "evaluation", "--seed", "0", "--output", tmp_path / "again") == 0
    assert (tmp_path / "again/table2.csv").read_bytes() == (out / "table2.csv").read_bytes()
    # Another baseline is another table.
    assert tonno("table2", out / "evaluation", "--seed", "0", "--baseline", "tonno", "--output", out) == 2
    assert "is of something else" in capsys.readouterr().err
    # Its cases are chosen already.
    for choice in ("--split", "val"), ("--class", "finding"):
        assert tonno("table2", out / "evaluation", *choice, "--output", tmp_path / "chosen") == 2
        assert (
            f"{choice[0]}: {out / 'evaluation'} is the folder of an evaluation, of a split" in capsys.readouterr().err
        )
    # What an earlier build wrote has no MaxIoU.
    for path in (out / "evaluation/cases").glob("*.json"):
        data = json.loads(path.read_text())
        for row in data["rows"].values():
            if row["overlap"]:
                del row["overlap"]["max_iou"]
        path.write_text(json.dumps(data))
        read = load_record(path, data["fingerprint"])
        assert read is not None
    assert tonno("table2", out / "evaluation", "--seed", "0", "--output", tmp_path / "earlier") == 0
    assert lines_of(tmp_path / "earlier/table2.csv")["tonno"]["max_iou_value"] == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "a --model must be given; the demo's knows drawn heads alone"),
        (("--model", "MODEL", "--baseline", "layercam"), "--baseline layercam: expected a method of tonno, "),
        (
            ("--model", "MODEL", "--method", "tonno"),
            "--baseline slicewise-cam: is none of the methods that are compared",
        ),
        (("--model", "MODEL", "--steps", "3"), "--steps has no meaning for table2; leave it out"),
        (("--model", "nowhere"), "nowhere"),
    ],
)
def test_wrong_words_for_table2(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_random_bundle(tmp_path / "model")
    manifest = write_set(tmp_path / "set", splits="test test")
    given = [str(model) if word == "MODEL" else word for word in words]
    assert tonno("table2", manifest, *given, "--output", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out/table2.csv").exists()


@pytest.mark.parametrize("name", ["fig5", "table2"])
def test_volumes_that_are_not_there_are_said_to_be_missing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not that the demo's model does not know them."""
    assert tonno(name, tmp_path / "nowhere", "--output", tmp_path / "out") == 2
    assert f"{tmp_path / 'nowhere'}: no such file or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "it holds nothing, expected a manifest (a CSV file), or the folder that `tonno evaluate` wrote"),
        ({"a.nii.gz": ""}, "it holds a.nii.gz, expected a manifest"),
        ({"scans.csv": "volume", "a.nii.gz": ""}, "results.csv, cases); give {folder}/scans.csv"),
        ({"evaluation/settings.json": "{}"}, "cases); give {folder}/evaluation"),
        (
            {"settings.json": '{"rows": {}}', "cases/0.json": ""},
            "no finished evaluation (no summary.json and no results",
        ),
        ({"settings.json": "{}", "cases/0/a": ""}, "it holds cases, settings.json, expected a manifest"),
        (
            {"settings.json": "{}", "summary.json": "{}", "results.csv": "case,patient", "cases/a": ""},
            "settings.json, summary.json or results.csv is damaged, or not an evaluation's",
        ),
    ],
)
@pytest.mark.parametrize("model", [(), ("--model", "m")])
def test_a_folder_that_is_no_evaluation_is_told_what_it_holds(
    files: dict[str, str], message: str, model: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    assert tonno("table2", folder, *model, "--output", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert f"{folder}: " in said
    assert message.format(folder=folder) in said
    assert not (tmp_path / "out").exists()


def test_a_folder_in_place_of_a_manifest_is_told_what_it_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_set(tmp_path / "set").parent
    assert tonno("table1", folder, "--output", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "set: is a folder (it holds 0.nii.gz, 1.nii.gz, " in said
    assert said.endswith(f"expected a manifest, a CSV file; give {folder}/manifest.csv\n")
