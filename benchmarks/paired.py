"""What one row of an evaluation gains over another, case by case, on the volumes with something to find.

    python -m benchmarks.paired EVALUATION averaged-cam@3+4 averaged-cam@4 [matched-cam@3+4 matched-cam@4 ...]

EVALUATION: a folder of `tonno evaluate`. Means of Dice and F1 of both, and of their difference with its 95 % bootstrap
interval over patients.
"""

from __future__ import annotations

import csv
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from tabulate import tabulate

from tonno_core.evaluation.bootstrap import Bootstrap, Estimate

MEASURES = ("dice", "f1")


def read(evaluation: Path, row: str) -> tuple[list[str], list[str], npt.NDArray[np.float64]]:
    """A row's cases with something to find, their patients, and their measures N 2."""
    with (evaluation / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = [one for one in csv.DictReader(file) if one["row"] == row and int(one["truth_components"] or 0) > 0]
    if not rows:
        raise click.BadParameter(f"{evaluation}: has no row '{row}' with something to find")
    rows.sort(key=lambda one: one["case"])
    values = np.array([[float(one[name]) for name in MEASURES] for one in rows])
    return [one["case"] for one in rows], [one["patient"] for one in rows], values


def gain(evaluation: Path, row: str, other: str, seed: int) -> list[str]:
    """A line of the table."""
    cases, patients, values = read(evaluation, row)
    known, _, before = read(evaluation, other)
    if cases != known:
        raise click.BadParameter(f"{evaluation}: '{row}' and '{other}' are of different cases")
    bootstrap = Bootstrap(patients, seed=seed)
    means = [" / ".join(f"{mean:.3f}" for mean in one.mean(axis=0)) for one in (values, before)]
    return [row, other, *means, *(text(bootstrap.mean(difference)) for difference in (values - before).T)]


def text(estimate: Estimate | None) -> str:
    """Value and interval, signed."""
    if estimate is None or estimate.low is None:
        return "-" if estimate is None else f"{estimate.value:+.3f}"
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"


@click.command()
@click.argument("evaluation", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("rows", nargs=-1, required=True)
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap.")
def main(evaluation: Path, rows: tuple[str, ...], seed: int) -> None:
    """Print the gain of each first row of a pair over the second."""
    if len(rows) % 2:
        raise click.BadParameter("ROWS come in pairs: one, and what it is compared with")
    table = [gain(evaluation, row, other, seed) for row, other in zip(rows[::2], rows[1::2], strict=True)]
    headers = ["row", "against", "Dice / F1", "Dice / F1 of it", "gain in Dice", "gain in F1"]
    print(tabulate(table, headers=headers, tablefmt="github"))


if __name__ == "__main__":
    main()
