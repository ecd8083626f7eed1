"""Make the manifest of the LGG experiment from that of the data set.

    python benchmarks/lgg_manifest.py DATA/manifest.csv label lgg-label.csv
    python benchmarks/lgg_manifest.py DATA/manifest.csv report_label lgg-report.csv

The set's `val` becomes `test`, and is always labelled by `label`: what is measured does not depend on the labels that
were trained on. A fifth of the patients of `train` becomes `val`, for calibration by image-level labels.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

import click

COLUMNS = ("volume", "label", "mask", "patient", "split")


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.argument("column", type=click.Choice(["label", "report_label"]))
@click.argument("output", type=click.Path(path_type=Path))
def main(source: Path, column: str, output: Path) -> None:
    """Write OUTPUT from SOURCE, with the training labels of COLUMN."""
    with source.open(newline="") as file:
        rows = list(csv.DictReader(file))
    patients = sorted({row["patient"] for row in rows if row["split"] == "train"})
    random.Random(0).shuffle(patients)
    held_out = set(patients[: len(patients) // 5])
    with output.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows:
            tested = row["split"] == "val"
            label = row["label" if tested else column]
            if label == "":  # a report that names no side
                continue
            split = "test" if tested else "val" if row["patient"] in held_out else "train"
            paths = [(source.parent / row[name]).absolute() if row[name] else "" for name in ("volume", "mask")]
            writer.writerow([paths[0], label, paths[1], row["patient"], split])


if __name__ == "__main__":
    main()
