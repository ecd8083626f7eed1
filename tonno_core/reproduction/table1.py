"""The paper's Table 1: the grid of encoders, norms and weights to start from, and the table of what they reach.

Free of torch. The grid's settings are all here; `commands/tables.py` trains and evaluates its rows.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tonno_core.errors import TonnoError, one_line
from tonno_core.evaluation.bootstrap import COVERAGE, RESAMPLES, Estimate
from tonno_core.evaluation.report import pipe, with_interval
from tonno_core.output import Json, write_json, write_text
from tonno_core.records import made_of, read_record


@dataclass(frozen=True)
class Encoder:
    """A row of the grid.

    Attributes:
        title: As the paper calls the encoder.
        encoder: timm's name.
        norm: Normalization layers of the training: ``batch``, ``frozen-batch`` or ``group``.
        pretrained: Whether training starts from ImageNet's weights.
        share: Of the grid's steps.
        paper: The paper's F1 of ToNNO, the mean of its four data sets; None for what is not in its table.
    """

    title: str
    encoder: str
    norm: str
    pretrained: bool = True
    share: float = 1.0
    paper: float | None = None


# The paper's rows, and then encoders of other kinds. EfficientNet-lite0 has the paper's comparison of norms and weights
# once more, as its ImageNet weights are also in a package on PyPI. Those of layer norm have no batch norm to freeze.
GRID = {
    "resnet10t-batch": Encoder("ResNet-10-T", "resnet10t", "batch", paper=0.48),
    "resnet10t-frozen": Encoder("ResNet-10-T", "resnet10t", "frozen-batch", paper=0.55),
    "resnet10t-group": Encoder("ResNet-10-T", "resnet10t", "group", paper=0.54),
    "resnet10t-random": Encoder("ResNet-10-T", "resnet10t", "group", pretrained=False, paper=0.28),
    "resnet50-group": Encoder("ResNet-50", "resnet50_gn", "group", share=0.4, paper=0.56),
    "efficientnet": Encoder("EfficientNet-B0", "efficientnet_b0", "frozen-batch"),
    "lite-batch": Encoder("EfficientNet-lite0", "tf_efficientnet_lite0", "batch"),
    "lite-frozen": Encoder("EfficientNet-lite0", "tf_efficientnet_lite0", "frozen-batch"),
    "lite-group": Encoder("EfficientNet-lite0", "tf_efficientnet_lite0", "group"),
    "lite-random": Encoder("EfficientNet-lite0", "tf_efficientnet_lite0", "group", pretrained=False),
    "convnext": Encoder("ConvNeXt-T", "convnext_tiny", "batch"),
    "vit": Encoder("ViT-Ti/16", "vit_tiny_patch16_224", "batch"),
    "swin": Encoder("Swin-T", "swin_tiny_patch4_window7_224", "batch"),
}
_LAYER_NORM = ("convnext", "vit", "swin")
_NORMS = {"batch": "batch", "frozen-batch": "frozen batch", "group": "group"}


@dataclass(frozen=True)
class Settings:
    """What all rows of the grid share.

    Attributes:
        steps: Of the training, of a row whose share is 1.
        slice_size: Pixels along a slice's side.
        channels: Of the encoders' input, as ImageNet's weights have.
        intensity: Normalization of intensities.
        slices: Offsets of the reconstruction (M).
        directions: Directions (L).
        method: Heatmap that is measured.
        seed: Of weights, batches, split and bootstrap.
    """

    steps: int = 2000
    slice_size: int = 224
    channels: int = 3
    intensity: str = "zscore"
    slices: int = 100
    directions: int = 2000
    method: str = "tonno"
    seed: int = 0

    def training(self, row: Encoder) -> Json:
        """Return how a row is trained.

        Args:
            row: Of the grid.

        Returns:
            Arguments of `complete_settings`, but for the weights.
        """
        steps = max(1, round(self.steps * row.share))
        return {
            "encoder": row.encoder, "norm": row.norm, "channels": self.channels, "slice_size": self.slice_size,
            "intensity": self.intensity, "steps": steps, "epochs": min(20, steps), "seed": self.seed,
        }  # fmt: skip


# What of an evaluation's summary the table has, of the cases with something to find.
MEASURES = {"f1": "F1", "dice": "Dice", "precision": "precision", "recall": "recall", "max_iou": "MaxIoU"}
_OF_VOLUMES = {"auc": "peak AUC", "balanced_accuracy": "balanced accuracy"}
# What tells grids apart, and the arguments that say it. What is not listed has none.
_SAID = {
    **{name: name for name in ("steps", "slice_size", "intensity", "slices", "directions", "method", "seed", "split")},
    "class": "class_name",
    "weights": "weights",
}
# Weights that are a folder's, not timm's.
FILES = "files"
# What the table says of a row that was begun, until it has a result.
UNFINISHED = "not finished"
_SHARE = f"{100 * COVERAGE:.0f} %"

DEFINITIONS = f"""\
- **F1**: over components (26 neighbours) that share a voxel with the other mask; **Dice**: over voxels; **MaxIoU**: of
  the boxes around components. Means over the volumes with something to find, at the threshold that each model's own
  calibration found from image-level labels alone; in brackets the middle {_SHARE} of {RESAMPLES} bootstrap resamples
  over patients.
- **Peak AUC**: of the heatmap's highest value against the volume's label; **balanced accuracy**: of calling a volume
  positive where it reaches the threshold.
- **F1 in the paper**: of ToNNO, the mean of its four data sets: other data, and another threshold. Its order of rows
  is what can be compared.
- **Steps**: ResNet-50 is trained for 40 % of them, as in the paper. The encoders after it are not in its table.
- The paper's norm of a ResNet-10-T that is not pretrained is not known: it is group norm here."""


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """Return the rows of a smaller grid.

    Args:
        names: Of rows; none for all.

    Returns:
        Names in the grid's order.

    Raises:
        TonnoError: There is no such row.
    """
    for name in names:
        if name not in GRID:
            raise TonnoError(f"`rows` {name}: the grid has no such row; it has {', '.join(GRID)}")
    return tuple(name for name in GRID if not names or name in names)


@dataclass(frozen=True)
class _Result:
    """What a row's evaluation gave.

    Attributes:
        measures: Estimates by measure; None where one is not known.
        volume_auc: Of the training's validation; None where there was none.
        cases: Volumes that were evaluated.
        patients: Their patients.
        cases_with_truth: Volumes whose finding is known.
        cases_without_finding: Volumes without one.
        failures: Volumes that failed.
    """

    measures: dict[str, Estimate | None]
    volume_auc: float | None
    cases: int
    patients: int
    cases_with_truth: int
    cases_without_finding: int
    failures: int


@dataclass(frozen=True)
class _State:
    """How far a row is.

    Attributes:
        asked: What tells its grid from others.
        steps: Of its training.
        seconds: What that took, once it is done.
        result: What its evaluation gave.
        failed: Why it has none.
    """

    asked: Json
    steps: int | None = None
    seconds: float | None = None
    result: _Result | None = None
    failed: str | None = None


class GridFolder:
    """Holds a folder for each row of the grid, with its model and its result; the table is made of what is there.

    Args:
        path: The folder.
        asked: What tells this grid from another.
        begun: Tells whether the run in a folder has something to go on from.
    """

    def __init__(self, path: Path, asked: Json, begun: Callable[[Path], bool]) -> None:
        self.path, self._begun = path, begun
        self.asked: Json = json.loads(json.dumps(asked))

    def row(self, name: str) -> Path:
        """Return the folder of a row.

        Args:
            name: Of the row.

        Returns:
            Where its model is, its training and its evaluation.
        """
        return self.path / "rows" / name

    def run(self, name: str) -> Path:
        """Return the folder of a row's training.

        Args:
            name: Of the row.

        Returns:
            Where its checkpoint is.
        """
        return self.row(name) / "model-run"

    def load(self, name: str) -> Json | None:
        """Read how far a row is.

        Args:
            name: Of the row.

        Returns:
            ``trained`` with the seconds, ``result`` or ``failed``, as far as the row is; None where it was not begun,
            or by another grid that left nothing to go on from.

        Raises:
            TonnoError: It is of another grid, or unreadable.
        """
        path = self.row(name) / "row.json"
        try:
            kept = read_record(path)
            asked = made_of(_State, kept, others=True).asked
            _check(kept)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise TonnoError(f"{path}: not readable as a row of the grid ({one_line(error)}); delete it") from error
        other = [key for key in {**self.asked, **asked} if asked.get(key) != self.asked.get(key)]
        if other and "seconds" not in kept and not self._begun(self.run(name)):
            return None
        if other:
            raise TonnoError(f"{path}: is of another grid ({self._told(asked, other)}, or give `overwrite`")
        return kept

    def fits(self, name: str) -> bool:
        """Tell whether a row is of this grid.

        Args:
            name: Of the row.

        Returns:
            False where it is of another, or unreadable.
        """
        try:
            self.load(name)
        except TonnoError:
            return False
        return True

    def _told(self, asked: Json, other: Sequence[str]) -> str:
        """Say in what another grid differs, and what to give to go on with it."""
        keys = [key for key in other if key != "cases"]
        said = [f"{key.replace('_', ' ')} {asked.get(key)}, now {self.asked.get(key)}" for key in keys]
        said += ["other volumes, labels or splits"] * ("cases" in other)
        give = [
            f"`{_SAID[key]}` {'DIR' if asked.get(key) == FILES else asked.get(key)}" for key in keys if key in _SAID
        ]
        on = f"give {' and '.join(give)} to go on with it, or " if len(give) == len(other) else ""
        return f"{', '.join(said)}); {on}choose another `output`"

    def save(self, name: str, state: Json) -> None:
        """Write how far a row is.

        Args:
            name: Of the row.
            state: As `load` returns it.
        """
        self.row(name).mkdir(parents=True, exist_ok=True)
        write_json(self.row(name) / "row.json", {**state, "asked": self.asked})

    def write(self, facts: Mapping[str, str]) -> str:
        """Write ``table1.csv``, ``table1.json`` and ``table1.md`` of all rows that were begun.

        Args:
            facts: Name and value of what is listed below the heading.

        Returns:
            The table, for the terminal.
        """
        states = {name: state for name in GRID if (state := self.load(name)) is not None}
        lines = [_line(name, state) for name, state in states.items()]
        content = {"asked": self.asked, "rows": [{**asdict(GRID[line["row"]]), **line} for line in lines]}
        write_json(self.path / "table1.json", content)
        write_text(self.path / "table1.csv", _csv(lines))
        write_text(self.path / "table1.md", _markdown(lines, facts))
        return _table(lines)


def result_of(summary: Json, method: str, *, volume_auc: float | None) -> Json:
    """Take a row's numbers from the summary of its evaluation.

    Args:
        summary: Content of ``summary.json``.
        method: Of the heatmap.
        volume_auc: Of the training's validation; None where there was none.

    Returns:
        Estimates by measure, and counts.
    """
    row = next(row for row in summary["rows"] if row["name"] == method)
    measures = {name: row["main"].get(name) for name in (*MEASURES, "tuned_f1", "tuned_dice")}
    counts = {name: summary[name] for name in ("cases", "patients", "cases_with_truth", "cases_without_finding")}
    failed = len(summary["failures"])
    return {"measures": measures | {name: row[name] for name in _OF_VOLUMES}, "volume_auc": volume_auc, **counts,
            "failures": failed}  # fmt: skip


def _check(state: Json) -> None:
    """Raise ValueError where a row is further than what comes before is done."""
    order = ("result", "seconds", "steps")
    done = [state[name] is not None for name in order if name in state]
    if not all(done) or any(name not in state for name in order[len(order) - len(done) :]):
        raise ValueError("its steps, seconds and result do not belong together")


def _line(name: str, state: Json) -> Json:
    """Return a row of the table: its result, or why there is none."""
    result = state.get("result")
    if result is not None:
        return {"row": name, "steps": state["steps"], "seconds": state["seconds"], **result, "failed": ""}
    failed = state.get("failed", UNFINISHED)
    return {"row": name, "steps": state.get("steps"), "seconds": state.get("seconds"), "measures": {}, "failed": failed}


def _estimate(line: Json, measure: str) -> Estimate | None:
    value = line["measures"].get(measure)
    return None if value is None else Estimate(**value)


def _table(lines: Sequence[Json]) -> str:
    """Write the table in the paper's layout, with its F1 beside ours."""
    measures = {"f1": "F1", "dice": "Dice", "max_iou": "MaxIoU", **_OF_VOLUMES}
    cells = []
    for line in lines:
        row = GRID[line["row"]]
        norm = "layer" if line["row"] in _LAYER_NORM else _NORMS[row.norm]
        numbers = ["-" if line["failed"] == UNFINISHED else "failed"] * len(measures)
        if not line["failed"]:
            numbers = [with_interval(_estimate(line, name)) for name in measures]
        paper = "-" if row.paper is None else f"{row.paper:.2f}"
        steps = "-" if line["steps"] is None else str(line["steps"])
        cells.append([row.title, norm, "yes" if row.pretrained else "no", steps, *numbers, paper])
    return pipe(["encoder", "norm", "pretrained", "steps", *measures.values(), "F1 in the paper"], cells)


def _markdown(lines: Sequence[Json], facts: Mapping[str, str]) -> str:
    parts = ["# Table 1: encoders, norms and weights to start from"]
    parts += ["\n".join(f"- {name}: {value}" for name, value in facts.items()), _table(lines)]
    failed = [f"- {line['row']}: {line['failed']}" for line in lines if line["failed"]]
    if failed:
        parts += ["## Rows without a result", "\n".join(failed)]
    return "\n\n".join([*parts, "## Definitions", DEFINITIONS]) + "\n"


def _csv(lines: Sequence[Json]) -> str:
    text = io.StringIO()
    measures = (*MEASURES, "tuned_f1", "tuned_dice", *_OF_VOLUMES)
    writer = csv.writer(text, lineterminator="\n")
    numbers = [f"{name}{end}" for name in measures for end in ("", "_low", "_high")]
    counts = ("cases", "patients", "cases_with_truth", "cases_without_finding", "failures")
    head = ("row", "encoder", "norm", "pretrained", "steps", "seconds", "volume_auc")
    writer.writerow([*head, *numbers, *counts, "paper_f1", "failed"])
    for line in lines:
        row = GRID[line["row"]]
        values: list[float | None] = []
        for name in measures:
            found = _estimate(line, name)
            values += [None] * 3 if found is None else [found.value, found.low, found.high]
        start = (line["row"], row.encoder, row.norm, int(row.pretrained), line["steps"], line["seconds"])
        ends = [line.get(name) for name in counts]
        writer.writerow([*start, line.get("volume_auc"), *values, *ends, row.paper, line["failed"]])
    return text.getvalue()
