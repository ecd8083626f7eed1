"""What a row of an evaluation gains over another, case by case, on the volumes with something to find.

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
    """Read a row of an evaluation.

    Args:
        evaluation: Folder of `tonno evaluate`.
        row: Name of the row.

    Returns:
        The cases with something to find, their patients, and their measures: N 2.

    Raises:
        click.BadParameter: If there is no such row, or nothing to find.
    """
    with (evaluation / "results.csv").open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["row"] == row and int(line["truth_components"] or 0) > 0]
    if not lines:
        raise click.BadParameter(f"{evaluation}: has no row '{row}' with something to find")
    lines.sort(key=lambda line: line["case"])
    values = np.array([[float(line[name]) for name in MEASURES] for line in lines])
    return [line["case"] for line in lines], [line["patient"] for line in lines], values


def gain(evaluation: Path, row: str, other: str, seed: int) -> list[str]:
    """Compare two rows.

    Args:
        evaluation: Folder of `tonno evaluate`.
        row: Name of a row.
        other: Name of the row that it is compared with.
        seed: Seed of the bootstrap.

    Returns:
        A line of the table.

    Raises:
        click.BadParameter: If the rows are of different cases.
    """
    cases, patients, values = read(evaluation, row)
    known, _, before = read(evaluation, other)
    if cases != known:
        raise click.BadParameter(f"{evaluation}: '{row}' and '{other}' are of different cases")
    bootstrap = Bootstrap(patients, seed=seed)
    means = [" / ".join(f"{mean:.3f}" for mean in measures.mean(axis=0)) for measures in (values, before)]
    return [row, other, *means, *(text(bootstrap.mean(difference)) for difference in (values - before).T)]


def text(estimate: Estimate | None) -> str:
    """Format a value and its interval with signs.

    Args:
        estimate: The value; None without cases.

    Returns:
        Text such as ``+0.021 (-0.001 to +0.042)``.
    """
    if estimate is None or estimate.low is None:
        return "-" if estimate is None else f"{estimate.value:+.3f}"
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"


@click.command()
@click.argument("evaluation", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("rows", nargs=-1, required=True)
@click.option("--seed", default=0, show_default=True, help="Seed of the bootstrap.")
def main(evaluation: Path, rows: tuple[str, ...], seed: int) -> None:
    """Print the gain of each first row of a pair over the second."""
    if len(rows) % 2:
        raise click.BadParameter("ROWS come in pairs: a row, and what it is compared with")
    table = [gain(evaluation, row, other, seed) for row, other in zip(rows[::2], rows[1::2], strict=True)]
    headers = ["row", "against", "Dice / F1", "Dice / F1 of it", "gain in Dice", "gain in F1"]
    print(tabulate(table, headers=headers, tablefmt="github"))


if __name__ == "__main__":
    main()
