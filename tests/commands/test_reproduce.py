"""`tonno reproduce`: the figures of toy scans and an untrained network, how it goes on, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.analytic import make_blobs
from tests.commands.test_evaluate import LINES, write_set
from tests.commands.within import fail
from tests.networks import write_random_bundle
from tonno_core import cli
from tonno_core.commands import reproduce as command
from tonno_core.commands.reproduce import FIGURES, Asked, reproduce
from tonno_core.errors import TonnoError
from tonno_core.reproduction import fig8, stages
from tonno_core.volume.io import read_volume, write_volume
from tonno_core.volume.volume import Volume

KINDS = ("png", "svg", "csv", "json")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_set(folder, LINES)
    write_random_bundle(folder / "model")
    return folder


def make(home: Path, name: str, output: Path, volumes: str = "manifest.csv", **changes: Any) -> str:
    """A figure on few planes; what was told."""
    numbers = {"slices": (10,), "directions": (16,)}
    overwrite = changes.pop("overwrite", False)
    given = {"volumes": home / volumes, "model": home / "model", "device": "cpu", "precision": "float32"}
    told: list[str] = []
    reproduce(name, Asked(**{**numbers, **given, **changes}), output, overwrite=overwrite, say=told.append)
    return "\n".join(told)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def files(*figures: str) -> set[str]:
    return {f"{figure}.{kind}" for figure in figures for kind in KINDS}


def test_fig2_counts_each_slice_of_each_group_once(home: Path, tmp_path: Path) -> None:
    told = make(home, "fig2", tmp_path / "out", split="all")
    profiles = {"fig2-profiles.csv", "fig2-profiles.json"}
    assert names(tmp_path / "out") == files("fig2") | profiles
    rows = table(tmp_path / "out" / "fig2.csv")
    groups = json.loads((tmp_path / "out" / "fig2.json").read_text())["groups"]
    assert set(groups) == {
        "negative volumes", "positive volumes, beside the finding", "positive volumes, through the finding"
    }  # fmt: skip
    for name, summary in groups.items():
        assert sum(int(row[name]) for row in rows) == summary["slices"] > 0
    assert "AUC" in told
    shown = table(tmp_path / "out" / "fig2-profiles.csv")
    assert len(shown) == 6 * 12 and {row["cuts_finding"] for row in shown} == {"0", "1"}


def test_fig2_of_a_volume_alone_has_one_group(home: Path, tmp_path: Path) -> None:
    make(home, "fig2", tmp_path / "out", "1.nii.gz")
    assert list(json.loads((tmp_path / "out" / "fig2.json").read_text())["groups"]) == ["the volume"]


def test_fig4_shows_matched_cam_above_both_others(tmp_path: Path, rendered: None) -> None:
    blobs = make_blobs(0, 6, reach=25.0, sigmas=(7.0, 11.0))
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -62.0
    write_volume(blobs.on_grid((32, 32, 32), affine), tmp_path / "blobs.nii.gz")
    asked = Asked(volumes=tmp_path / "blobs.nii.gz", slices=(32,), directions=(60,), device="cpu")
    told: list[str] = []
    reproduce("fig4", asked, tmp_path / "out", say=told.append)
    assert names(tmp_path / "out") == files("fig4")
    assert told[0].count("\nholds: ") == 3 and "DOES NOT HOLD" not in told[0]
    rows = table(tmp_path / "out" / "fig4.csv")
    values = {(row["cells"], row["method"]): float(row["correlation"]) for row in rows}
    for cells in ("32", "16", "8"):
        best = values[cells, "matched-cam"]
        assert best > max(values[cells, "averaged-cam"], values[cells, "tomographic-cam"])
        assert best > 0.97  # smooth blobs, several slices wide


def test_fig5_and_fig6_share_one_reconstruction(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(home, "fig5", tmp_path / "out")
    rows = table(tmp_path / "out" / "fig5.csv")
    # Two positive scans; four methods at four stages, and ToNNO.
    assert len(rows) == 2 * (4 * 4 + 1)
    assert all(float(row["dice"]) <= float(row["dice_at_its_own_best_threshold"]) for row in rows)
    monkeypatch.setattr(stages, "execute", fail(AssertionError("reconstructed twice")))
    make(home, "fig6", tmp_path / "out")
    assert names(tmp_path / "out") == files("fig5", "fig6") | {"fig6-stages.png", "fig6-stages.svg"}
    assert len(table(tmp_path / "out" / "fig6.csv")) == 2 * (4 * 4 + 1)


def test_fig5_and_fig6_take_another_kind_of_map(home: Path, tmp_path: Path, drawn: list[Figure]) -> None:
    for cam in ("layercam", "gradcam++"):
        make(home, "fig5", tmp_path / cam, cam=cam)
        make(home, "fig6", tmp_path / cam, cam=cam)
    one, other = (table(tmp_path / cam / "fig6.csv") for cam in ("layercam", "gradcam++"))
    differ = [a["highest_in_the_plane"] != b["highest_in_the_plane"] for a, b in zip(one, other, strict=True)]
    assert differ == [row["method"] != "tonno" for row in one]
    titles = [axes.get_title() for figure in drawn for axes in figure.axes]
    assert "slice-wise LayerCAM, stage 1" in titles and "slice-wise GradCAM++, stage 1" in titles
    assert json.loads((tmp_path / "gradcam++" / "fig5.json").read_text())["asked"]["cam"] == "gradcam++"


def test_fig6_shows_a_volume_of_which_nothing_is_known(home: Path, tmp_path: Path) -> None:
    make(home, "fig6", tmp_path / "out", "1.nii.gz")
    assert {row["best_dice_of_the_volume"] for row in table(tmp_path / "out" / "fig6.csv")} == {""}


def test_fig8_has_a_heatmap_for_each_pair_of_numbers(home: Path, tmp_path: Path) -> None:
    told = make(home, "fig8", tmp_path / "out", slices=(8, 16), directions=(16, 64))
    assert names(tmp_path / "out") == files("fig8") | {"fig8-noise.png", "fig8-noise.svg"}
    rows = {(row["slices"], row["directions"]): float(row["noise"]) for row in table(tmp_path / "out" / "fig8.csv")}
    assert set(rows) == {("8", "16"), ("8", "64"), ("16", "16"), ("16", "64")}
    assert rows["8", "64"] < rows["8", "16"] and rows["16", "64"] < rows["16", "16"]
    assert "holds: noise falls" in told


def test_a_second_run_computes_nothing_and_writes_the_same(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rendered: None
) -> None:
    make(home, "fig8", tmp_path / "out", slices=(8,), directions=(16, 32))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    monkeypatch.setattr(fig8, "slice_logits", fail(AssertionError("looked at twice")))
    make(home, "fig8", tmp_path / "out", slices=(8,), directions=(16, 32))
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert after == before


def test_an_interrupted_run_leaves_no_figure_and_goes_on_where_it_was_stopped(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"slices": (8,), "directions": (16, 40)}
    monkeypatch.setattr(fig8, "_CHUNK", 20)
    original, done = fig8.slice_logits, []

    def second_is_interrupted(*arguments: Any) -> Any:
        done.append(arguments[-1])
        if len(done) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(fig8, "slice_logits", second_is_interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(home, "fig8", tmp_path / "out", **asked)
    assert names(tmp_path / "out") == set()
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 1
    make(home, "fig8", tmp_path / "out", **asked)
    assert len(done) == 3 and "fig8.png" in names(tmp_path / "out")


def test_a_damaged_part_is_made_anew(home: Path, tmp_path: Path) -> None:
    make(home, "fig2", tmp_path / "out")
    whole = (tmp_path / "out" / "fig2.csv").read_bytes()
    for part in (tmp_path / "out" / "parts").iterdir():
        part.write_bytes(part.read_bytes()[:100])
    make(home, "fig2", tmp_path / "out")
    assert (tmp_path / "out" / "fig2.csv").read_bytes() == whole


def test_a_figure_of_something_else_is_refused_and_stays(home: Path, tmp_path: Path) -> None:
    make(home, "fig2", tmp_path / "out")
    before = (tmp_path / "out" / "fig2.json").read_bytes()
    with pytest.raises(TonnoError, match=r"fig2.json: is of something else .*`overwrite`"):
        make(home, "fig2", tmp_path / "out", split="val")
    assert (tmp_path / "out" / "fig2.json").read_bytes() == before
    make(home, "fig2", tmp_path / "out", split="val", overwrite=True)
    assert (tmp_path / "out" / "fig2.json").read_bytes() != before


def test_a_picture_is_that_of_its_numbers(home: Path, tmp_path: Path, drawn: list[Figure]) -> None:
    make(home, "fig5", tmp_path / "out")
    (axes,) = drawn[0].axes
    curves = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.get_lines()}
    kept = json.loads((tmp_path / "out" / "fig5.json").read_text())["points"]
    for method, label in (("averaged-cam", "Averaged CAM"), ("slicewise-cam", "slice-wise LayerCAM")):
        np.testing.assert_allclose(curves[label], [point["mean"] for point in kept if point["method"] == method])
    assert axes.get_ylabel() and axes.get_xlabel()


def write_empty_mask(home: Path) -> Path:
    volume = read_volume(home / "1.nii.gz")
    write_volume(volume.with_array(np.zeros_like(volume.array)), home / "empty.nii.gz", dtype="uint8")
    return home / "empty.nii.gz"


@pytest.mark.parametrize("name", ["fig2", "fig6", "fig8"])
def test_an_empty_mask_is_named(home: Path, tmp_path: Path, name: str, rendered: None) -> None:
    told = make(home, name, tmp_path / "out", "1.nii.gz", mask=write_empty_mask(home))
    assert "empty.nii.gz: no voxel of it is a finding: " in told
    svg = "".join(path.read_text() for path in (tmp_path / "out").glob("*.svg"))
    assert "ashed" not in svg


@pytest.mark.parametrize(("name", "why"), [("fig2", "all slices are of one group"), ("fig8", "one number of slices")])
def test_where_nothing_is_claimed_it_is_said_why(home: Path, tmp_path: Path, name: str, why: str) -> None:
    told = make(home, name, tmp_path / "out", "1.nii.gz")
    assert f"\nnothing is claimed: {why}" in told
    assert "" not in told.splitlines()


def test_the_order_of_the_numbers_makes_no_other_figure(home: Path, tmp_path: Path) -> None:
    make(home, "fig8", tmp_path / "out", slices=(16, 8), directions=(32, 16))
    path = tmp_path / "out" / "fig8.json"
    before = path.read_bytes()
    make(home, "fig8", tmp_path / "out", slices=(8, 16), directions=(16, 32, 16))
    assert path.read_bytes() == before
    earlier = json.loads(before)
    earlier["asked"]["slices"].reverse()  # as builds wrote it that kept the order
    path.write_text(json.dumps(earlier))
    make(home, "fig8", tmp_path / "out", slices=(16, 8), directions=(16, 32))
    assert path.read_bytes() == before


MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("fig2", {"cam": "gradcam"}, "`cam` is of fig5, fig6, and of table2; name one, or leave it out"),
    ("fig2", {"model": None}, "fig2 of .*manifest.csv: a `model` must be given"),
    ("fig5", {"volumes": "1.nii.gz"}, "fig5: no volume of .*1.nii.gz has a mask with a finding"),
    (
        "fig5",
        {"volumes": "1.nii.gz", "mask": "empty.nii.gz"},
        "`mask` .*empty.nii.gz: no voxel of it is a finding, and",
    ),
    ("fig5", {"slices": (10, 12)}, "`slices`: 10, 12, expected one number; only fig8 takes several"),
    ("fig6", {"volumes": "nothing.nii.gz"}, "nothing.nii.gz: no such file"),
    ("fig6", {"volumes": "nothing.csv"}, "nothing.csv: no such manifest"),
    ("fig4", {"volumes": "manifest.txt"}, "manifest.txt"),
    ("fig2", {"split": "train"}, "manifest.csv: no volume in split train"),
    ("fig6", {"mask": "1-mask.nii.gz"}, "`mask` .*manifest.csv is a manifest, which names its masks"),
    ("fig6", {"volumes": "1.nii.gz", "mask": "other.nii.gz"}, "other.nii.gz: lies on another grid"),
    ("fig2", {"class_name": "nothing"}, "'nothing'"),
    ("fig6", {"volumes": "."}, "it holds .*1.nii.gz, .*; expected one volume, or a manifest"),
]


@pytest.mark.parametrize(("name", "changes", "message"), MISTAKES, ids=[message[:40] for *_, message in MISTAKES])
def test_mistakes_are_told_in_a_line_and_nothing_is_left(
    home: Path, tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    (home / "manifest.txt").write_text("volume,label\n")
    write_volume(Volume(np.ones((4, 4, 4), dtype=np.float32), np.eye(4)), home / "other.nii.gz", dtype="uint8")
    write_empty_mask(home)
    if isinstance(changes.get("mask"), str):
        changes = {**changes, "mask": home / changes["mask"]}
    with pytest.raises(TonnoError, match=message) as caught:
        make(home, name, tmp_path / "out", **{"volumes": "manifest.csv", **changes})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_all_figures_say_what_was_left_out(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[str, tuple[int, ...]]] = []
    for name in FIGURES:
        monkeypatch.setitem(
            command.FIGURES, name, lambda source, folder, name=name: seen.append((name, source.slices)) or "shown"
        )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        cli.main(["reproduce", "--device", "cpu"])
    told = capsys.readouterr().out
    assert left.value.code == 0 and told.count("shown") == 5 and "left out: fig8" in told
    assert dict(seen)["fig8"] == fig8.SMALL_SLICES and dict(seen)["fig4"] == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fig3"], "fig3"),
        (["--slices", "20"], "--slices and --directions are of one figure; name it"),
        (["fig4", "--mask", "m.nii.gz"], "--mask m.nii.gz: a volume must be given that it belongs to"),
        (["fig8", "--slices", "1"], "1"),
    ],
)
def test_the_command_line_tells_options_by_their_names(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        cli.main(["reproduce", *arguments])
    told = capsys.readouterr().err
    assert left.value.code == 2 and message in told and told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
