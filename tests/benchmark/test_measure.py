"""The numbers of `tonno bench`: rates, spreads, energy, memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from tests.analytic import grid_around, make_blobs
from tests.networks import write_random_bundle
from tonno_core import ReconstructionSettings, load_bundle, reconstruct
from tonno_core.benchmark import machine
from tonno_core.benchmark import measure as measuring
from tonno_core.benchmark.machine import NOT_READABLE, Energy, EventTimings
from tonno_core.benchmark.measure import REST, PreviewedRun, Repeat, Spread, WholeRun, bare_encoders
from tonno_core.benchmark.report import Report
from tonno_core.encoding.fusion import library_for

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run() -> WholeRun:
    volume = make_blobs(0, 6, reach=20.0, sigmas=(6.0, 12.0)).on_grid(
        (26, 30, 28), grid_around((5, -3, 2), (28, 30, 26), (3, 3, 3))
    )
    settings = ReconstructionSettings(methods=("tonno",), slices=10, directions=6)
    result = reconstruct(volume, "pixel-sum", settings, device="cpu")
    return WholeRun(result, {"slicing": 0.5, "encoder": 2.0, "profiles": 0.3, "total": 4.0})


def test_rates_are_of_slices_that_were_sent(run: WholeRun) -> None:
    assert run.sent == run.result.slices_total - run.result.slices_blank
    assert run.rate == pytest.approx(run.sent / 4.0)
    assert run.encoder_rate == pytest.approx(6 * 12 * run.sent / run.result.slices_total / 2.0)
    assert run.stages()[REST] == pytest.approx(1.2)


def test_a_spread_shows_median_and_range() -> None:
    assert Spread((3.0, 1.0, 2.0)).text() == "2 (1 to 3)"
    assert Spread((1234.5, 0.01234)).as_json()["max"] == 1234.5
    assert (Spread((6.0, 8.0)) / Spread((2.0, 4.0)) * 10.0).values == (30.0, 20.0)


def test_a_report_without_counters_and_previews_says_so(run: WholeRun) -> None:
    unread = Energy(None, f"{NOT_READABLE}: no counter")
    repeat = Repeat({"float32": 100.0, "bfloat16": 200.0}, run, PreviewedRun(None, 0, 0.0), unread, None)
    about = {"device": "cpu", "threads": 1}, {"encoder": "none"}
    report = Report(*about, [repeat, repeat])
    text = report.text()
    assert f"peak memory: {NOT_READABLE}; energy per reconstruction: {NOT_READABLE}: no counter" in text
    assert "first preview: none, the run is too short" in text
    assert "whole / best bare encoder (bfloat16)" in text
    assert report.percent["encoder"].values == (50.0, 50.0)
    assert report.as_json()["energy"] == {"joules_per_reconstruction": None, "source": f"{NOT_READABLE}: no counter"}


def test_the_energy_of_a_report_is_the_mean_of_what_was_read(run: WholeRun) -> None:
    energies = [Energy(joules, "meter") for joules in (2.0, None, 3.0)]
    preview = PreviewedRun(1.0, 4, 0.1)
    assert Report({}, {}, [Repeat({}, run, preview, energy, 1.0) for energy in energies]).joules == 2.5


def test_energy_is_the_sum_of_the_packages(tmp_path: Path) -> None:
    assert machine._read_rapl(tmp_path / "none").joules is None
    assert machine.NOT_READABLE in machine._read_rapl(tmp_path).source
    for name, value in (("intel-rapl:0", 3_000_000), ("intel-rapl:1", 500_000), ("intel-rapl:0:0", 9)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
    assert machine._read_rapl(tmp_path) == Energy(3.5, "RAPL, processor packages")


def test_energy_between_two_readings() -> None:
    early, late, absent = Energy(10.0, "meter"), Energy(12.5, "meter"), Energy(None, "none")
    assert late.since(early) == Energy(2.5, "meter")
    assert early.since(late) == Energy(None, "meter")  # the counter has wrapped
    assert absent.since(early) == absent
    assert late.since(absent).joules is None


def test_memory_and_machine_are_told() -> None:
    peak = machine.peak_mb(CPU)
    assert peak is None or peak > 50
    assert {"device", "threads", "versions"} <= machine.describe(CPU).keys()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_events_measure_the_device() -> None:
    timings = EventTimings()
    matrix = torch.randn(2048, 2048, device="cuda")
    for _ in range(3):
        with timings.measure("products"):
            for _ in range(20):
                matrix = matrix @ matrix.T / 2048
    timings.finish()
    assert 0 < timings.seconds["products"] < 10


def test_bare_encoders_are_the_same_network_in_several_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def logits(model: Callable[[torch.Tensor], torch.Tensor], parts: Sequence[torch.Tensor]) -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([model(part).float() for part in parts])

    monkeypatch.setattr(measuring, "_rate", logits)
    bundle = load_bundle(write_random_bundle(tmp_path / "model"))
    rows = {name: run() for name, run in bare_encoders(bundle, 32, CPU, 5).items()}  # type: ignore[misc]
    if library_for(CPU, torch.float32) == "onednn":
        assert "float32, channels last, fused" in rows
    assert {"float32", "float32, channels last", "bfloat16", "bfloat16, channels last"} < set(rows)
    for name, found in rows.items():
        # Rounding of float32, and of bfloat16 in a network of random weights.
        tolerance = 1e-4 if "float32" in name else 0.1
        torch.testing.assert_close(found, rows["float32"], rtol=tolerance, atol=tolerance * float(found.abs().max()))
