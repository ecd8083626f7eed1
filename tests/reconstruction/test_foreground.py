"""Numbers of heatmaps at the foreground, against the heatmaps that are shown; and what a device is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.networks import random_network, spec_of
from tests.runs import finished, look_at
from tests.training.toy import toy_scan
from tonno_core.bundle.decide import decide
from tonno_core.bundle.file import Bundle
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.reconstruction import project
from tonno_core.reconstruction.foreground import Foreground, order_statistics, quantile_between
from tonno_core.settings import ReconstructionSettings, Variant
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.volume import Volume

SETTINGS = ReconstructionSettings(methods=("tonno", "matched-cam"), slices=10, directions=6)
PAIR = ("hann", 2.0, 5.0, (0.25, 0.75))
VARIANTS = {
    "tonno": Variant("tonno"),
    "tonno smooth": Variant("tonno", filter="hann", smooth_mm=9.0),
    "averaged": Variant("averaged-cam", (1,)),
    "tomographic": Variant("tomographic-cam", (2,), "hann"),
    "matched": Variant("matched-cam", (1,)),
    "wide": Variant("matched-cam", (2,), "hann", 2.0, 5.0),
    "also": Variant("matched-cam", (1,), "hann", 0.5, 5.0),
    "sum": Variant("matched-cam", (1, 2), *PAIR),
    "slices": Variant("slicewise-cam", (2,), smooth_mm=5.0),
    "slices of two": Variant("slicewise-cam-3axes", (1, 2), smooth_mm=5.0, weights=(0.5, 0.5)),
    "center": Variant("center"),
    "wide center": Variant("center", smooth_mm=5.0),
}


def model_of(intensity: str) -> ReadyModel:
    bundle = Bundle(spec_of("test_resnet", intensity=intensity), random_network("test_resnet").state_dict(), Path("r"))
    return prepare_model(bundle, None, "cpu", "float32")


def oblique(volume: Volume) -> Volume:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    return Volume(volume.array, turn @ volume.ijk_to_ras)


@pytest.mark.parametrize(("turned", "choices"), [
    (False, {}), (True, {}), (False, {"frame": "normalized", "grid": "volume"}), (False, {"frame": "normalized"}),
])  # fmt: skip
def test_values_are_those_that_are_shown(turned: bool, choices: dict[str, Any]) -> None:
    scan = oblique(toy_scan(1, 1)) if turned else toy_scan(1, 1)
    settings = ReconstructionSettings(methods=("tonno", "matched-cam"), slices=10, directions=6, **choices)
    # The image's own intensities: what was taken off before slicing is put back.
    (projected,) = look_at(scan, model_of("none"), settings, variants=VARIANTS)
    projected.taken_off = 0.5
    where = foreground_mask(scan)
    shown = finished(projected, settings).heatmaps
    found = Foreground(projected, where).measure(VARIANTS, lambda name, values: values)
    assert list(found) == list(VARIANTS)
    for name, values in found.items():
        expected = shown[name].array[where & projected.inside]
        # float32: the same sums in another order.
        np.testing.assert_allclose(values, expected, rtol=0, atol=2e-6 * np.abs(expected).max(), err_msg=name)


@pytest.mark.parametrize("turned", [False, True])
def test_halves_are_those_of_the_directions_and_make_the_whole(turned: bool) -> None:
    scan, model = oblique(toy_scan(1, 1)) if turned else toy_scan(1, 1), model_of("zscore")
    run = replace(decide(SETTINGS, model, variants=VARIANTS), halves=True, profiles=False)
    (projected,) = project(scan, model.encoder, run, batch_size=5)
    foreground = Foreground(projected, foreground_mask(scan))
    whole = foreground.measure(VARIANTS, lambda name, values: values)
    found = foreground.measure(VARIANTS, lambda name, values: values, halves=True)
    for name, values in found.items():
        assert values.shape == (2, foreground.count)
        expected = np.asarray(whole[name])
        # float32: a difference of sums, and the same sums in another order. The halves of six directions count alike.
        np.testing.assert_allclose(values.mean(0), expected, rtol=0, atol=4e-6 * np.abs(expected).max(), err_msg=name)
        same = VARIANTS[name].method in ("slicewise-cam", "slicewise-cam-3axes", "center")
        assert (np.abs(values[0] - values[1]).max() <= 1e-6 * np.abs(expected).max()) == same
        # What they are compared with is made of the same directions.
        evidence, tonno = foreground.evidence(VARIANTS[name]), found["tonno"]
        np.testing.assert_allclose(evidence, tonno, rtol=0, atol=2e-6 * np.abs(tonno).max())
    only = {"slices": VARIANTS["slices"]}
    (projected,) = project(scan, model.encoder, replace(decide(SETTINGS, model, variants=only), halves=True))
    assert Foreground(projected, foreground_mask(scan)).evidence(VARIANTS["slices"]) is None


def test_without_foreground_all_that_is_covered_is_measured_and_nothing_is_quite_zero() -> None:
    scan = toy_scan(0, 0)
    (projected,) = look_at(scan, model_of("zscore"), SETTINGS, variants={"it": Variant("averaged-cam", (1,))})
    for values, _ in [projected.term(Variant("averaged-cam", (1,)))]:
        values.zero_()
    nowhere = Foreground(projected, np.zeros(scan.array.shape, bool))
    assert nowhere.count == projected.inside.sum()
    projected.inverters[0].heatmap = lambda variant, timings=None: torch.zeros(10, 10, 10)  # type: ignore
    (values,) = nowhere.measure({"it": Variant("averaged-cam", (1,))}, lambda name, values: values).values()
    assert set(values.tolist()) == {float(np.finfo(np.float32).tiny)}  # as in what is shown


@pytest.mark.parametrize("count", [1, 2, 999, 1000, 1001, 5000])
def test_quantiles_are_numpys(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    peak, low, high = order_statistics(torch.as_tensor(values), 0.999).tolist()
    assert peak == values.max()
    # The last bits of an interpolation between neighbors.
    assert quantile_between(low, high, 0.999, count) == pytest.approx(np.quantile(values, 0.999), rel=1e-12)


class Asked(TorchDispatchMode):
    """Counts what torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_device_is_waited_for_once_however_many_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = toy_scan(1, 1)
    (projected,) = look_at(scan, model_of("zscore"), SETTINGS, variants=VARIANTS)
    foreground, copies, original = Foreground(projected, foreground_mask(scan)), [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(tensor.shape) or original(tensor))
    with Asked() as asked:
        foreground.measure(VARIANTS, lambda name, values: order_statistics(values, 0.999))
    assert copies == [(len(VARIANTS), 3)]
    assert not {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item"} & set(asked.names)
    # Views and copies included, each with its sums, three products, the foreground, its weights, peak and quantile.
    assert len(asked.names) < 80 * len(VARIANTS)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_values_are_those_of_the_cpu() -> None:
    scan = toy_scan(1, 1)
    bundle = Bundle(spec_of("test_resnet", intensity="zscore"), random_network("test_resnet").state_dict(), Path("r"))
    found = []
    for device in ("cpu", "cuda"):
        (projected,) = look_at(scan, prepare_model(bundle, None, device, "float32"), SETTINGS, variants=VARIANTS)
        foreground = Foreground(projected, foreground_mask(scan))
        found.append(foreground.measure(VARIANTS, lambda name, values: order_statistics(values, 0.999)))
    for name, numbers in found[0].items():
        np.testing.assert_allclose(found[1][name], numbers, rtol=1e-3, err_msg=name)  # the bar of a calibration
