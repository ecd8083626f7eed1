"""How much of a reconstruction is the encoder, and how close it runs to its own bare throughput.

    python benchmarks/cpu_share.py [--method matched-cam] [--directions 48]

Compares, in one run on one machine: the steps of a whole reconstruction (resnet10t, 96 px, M = 64), and the
bare encoder (batch norm folded) in float32 and bfloat16, channels-last or not, alternating over repeats.
"""

from __future__ import annotations

import statistics
from itertools import product
from pathlib import Path

import click
import torch
from tabulate import tabulate
from torch.utils.benchmark import Timer

from tonno_core.demo.phantom import make_phantom
from tonno_core.encoding.bundle import Bundle, BundleSpec
from tonno_core.encoding.classifier import create_model
from tonno_core.encoding.normalization import fold_batch_norm
from tonno_core.reconstruction import CPU_BATCH, Reconstruction, reconstruct
from tonno_core.settings import METHODS, ReconstructionSettings

SIZE = 96
OWN_STEPS = ("slicing", "filter", "backprojection: values", "backprojection: maps", "interpolation")


def random_bundle() -> Bundle:
    """resnet10t with random weights: the arithmetic does not depend on them."""
    torch.manual_seed(0)
    model = create_model("resnet10t", channels=1, classes=1, norm="frozen-batch", slice_size=SIZE)
    spec = BundleSpec("resnet10t", 1, ("finding",), "frozen-batch", SIZE, None, "zscore", "physical")
    return Bundle(spec, model.state_dict(), Path("random weights"))


def bare_rate(precision: torch.dtype, channels_last: bool) -> float:
    """Slices per second of the plain forward pass."""
    torch.manual_seed(0)
    model = create_model("resnet10t", channels=1, classes=1, norm="frozen-batch", slice_size=SIZE).eval()
    fold_batch_norm(model)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(precision).to(memory_format=layout)
    slices = torch.randn(CPU_BATCH, 1, SIZE, SIZE).to(precision).to(memory_format=layout)
    with torch.inference_mode():
        timer = Timer("model(slices)", globals={"model": model, "slices": slices}, num_threads=torch.get_num_threads())
        return CPU_BATCH / timer.blocked_autorange(min_run_time=1.5).median


def run_rate(result: Reconstruction) -> float:
    """Slices per second that the encoder saw during a reconstruction, blank ones left out."""
    axes = 3 * (result.settings.slices + 2)
    seen = (result.slices_total - axes) * (1.0 - result.slices_blank / result.slices_total)
    return seen / result.seconds["encoder"]


@click.command()
@click.option("--method", type=click.Choice(METHODS[:4]), default="tonno", show_default=True)
@click.option("--directions", default=48, show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(method: str, directions: int, repeats: int) -> None:
    """Print both tables."""
    image = make_phantom(seed=1, lesions=3).image
    settings = ReconstructionSettings(methods=(method,), directions=directions)
    bundle = random_bundle()
    reconstruct(image, bundle, ReconstructionSettings(methods=(method,), directions=4))  # warm-up
    variants = list(product((torch.float32, torch.bfloat16), (False, True)))
    rates: dict[tuple[torch.dtype, bool], list[float]] = {variant: [] for variant in variants}
    results = []
    for _ in range(repeats):
        for variant in variants:
            rates[variant].append(bare_rate(*variant))
        results.append(reconstruct(image, bundle, settings))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, precision {results[0].precision}, {method}")
    steps = results[0].seconds
    shares = {name: [share(r, name) for r in results] for name in steps if name != "total"}
    rows = [[name, f"{statistics.median(values):.1f}", spread(values)] for name, values in shares.items()]
    own = [share(r, *OWN_STEPS) for r in results]
    rows.append(["slicing, filter, backprojection, interpolation", f"{statistics.median(own):.1f}", spread(own)])
    print(tabulate(rows, headers=["step", "% of the whole", "spread"]))
    table = [
        [str(precision), channels_last, f"{statistics.median(values):.0f}", spread(values)]
        for (precision, channels_last), values in rates.items()
    ]
    print(tabulate(table, headers=["bare encoder", "channels last", "slices/s", "spread"]))
    best = max(statistics.median(values) for values in rates.values())
    inside = statistics.median(run_rate(result) for result in results)
    print(f"encoder in the reconstruction: {inside:.0f} slices/s, {100 * inside / best:.0f} % of the best bare rate")


def share(result: Reconstruction, *steps: str) -> float:
    """Percent of the whole that some steps took."""
    return 100.0 * sum(result.seconds.get(step, 0.0) for step in steps) / result.seconds["total"]


def spread(values: list[float]) -> str:
    """Smallest to largest of the repeats."""
    return f"{min(values):.3g} to {max(values):.3g}"


if __name__ == "__main__":
    main()
