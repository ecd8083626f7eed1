"""`tonno bench`, the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.analytic import grid_around, make_blobs
from tonno_core import TonnoError, Volume
from tonno_core.cli import main
from tonno_core.commands.bench import Benchmark, bench
from tonno_core.volume.io import write_volume


@pytest.fixture(scope="module")
def volume() -> Volume:
    return make_blobs(0, 6, reach=20.0, sigmas=(6.0, 12.0)).on_grid(
        (26, 30, 28), grid_around((5, -3, 2), (28, 30, 26), (3, 3, 3))
    )


def test_a_benchmark_of_a_small_network(volume: Volume, tmp_path: Path, rendered: None) -> None:
    scan, output = tmp_path / "scan.nii.gz", tmp_path / "bench"
    write_volume(volume, scan)
    benchmark = Benchmark(scan, "resnet10t", slice_size=32, device="cpu", precision="float32", repeats=2)
    options = {"methods": ("tonno",), "slices": 10, "directions": 110}
    text = bench(benchmark, options=options, preset=None, output=output)
    assert (output / "bench.png").stat().st_size > 10_000
    report = json.loads((output / "bench.json").read_text())
    for word in ("slicing", "encoder", "filter", "backprojection", "interpolation", "torch", "threads", "peak memory"):
        assert word in text
    assert report["repeats"] == len(report["seconds"]["total"]["values"]) == 2
    total = report["seconds"].pop("total")["values"]
    for repeat in range(2):  # the stages are all of the time
        assert sum(stage["values"][repeat] for stage in report["seconds"].values()) == pytest.approx(
            total[repeat], rel=1e-3
        )
    assert sum(stage["median"] for stage in report["percent"].values()) == pytest.approx(100, abs=20)
    assert set(report["slices_per_second"]["bare_encoder"]) >= {"float32", "bfloat16, channels last"}
    assert report["slices"]["total"] == (110 + 3) * 12
    assert report["comparisons"] == {}
    # 96 directions of 12 such small slices are a batch; the first preview comes after it.
    previews, percent = report["previews"], report["previews"]["percent"]["median"]
    assert len(set(previews["percent"]["values"])) == 2  # measured: never twice the same
    assert previews["directions"] == 96 and ", by 96 directions; all of them:" in text
    assert 0 < previews["first_seconds"]["median"] < max(total) * 3 and 0 < percent < 50
    ratio = report["whole_over_bare"]["values"][0]
    best = report["slices_per_second"]["bare_encoder"][report["best_bare_encoder"]]["values"][0]
    assert ratio == pytest.approx(report["slices_per_second"]["whole"]["values"][0] / best)


def test_an_output_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(TonnoError, match="exists already"):
        bench(Benchmark(), options={}, preset=None, output=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("absent.nii.gz", "absent.nii.gz: no such file"),
        ("--model resnet99t", "encoder 'resnet99t' is not a timm model"),
        ("--repeats 0", "Invalid value for '--repeats'"),
        ("--device tpu", "--device 'tpu' is unknown"),
        ("--directions 0", "--directions is 0, expected a whole number from 1"),
    ],
)
def test_bad_options_are_one_line(options: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", *options.split()])
    assert exit_.value.code == 2
    line = capsys.readouterr().err.strip()
    assert message in line
    assert len(line.splitlines()) == 1
