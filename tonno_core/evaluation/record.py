"""The numbers of an evaluated case by row of the table, kept as JSON. Free of torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tonno_core.errors import TonnoError, one_line
from tonno_core.output import write_json
from tonno_core.records import made_of, read_record
from tonno_core.segmentation.binarize import covered, reaches
from tonno_core.segmentation.connected import Runs
from tonno_core.segmentation.metrics import Components, best_dice, dice_of, match, max_iou

# Factors on a row's own threshold at which Dice and F1 are measured too: thirds of an octave, 1/8 to 4.
LADDER = tuple(2.0 ** (k / 3) for k in range(-9, 7))
# A component with less than this share on the other mask was grazed rather than found.
TENTH = 0.1


@dataclass(frozen=True)
class Overlap:
    """Agreement of a segmentation with the truth; `metrics.py` defines the scores.

    Attributes:
        dice: Dice over voxels.
        precision: Share of the segmentation's components that share a voxel with the truth.
        recall: Share of the truth's components that share a voxel with the segmentation.
        f1: Harmonic mean of the two.
        precision_10: As `precision`, for components with at least a tenth of their voxels on the other mask.
        recall_10: As `recall`, likewise.
        f1_10: Harmonic mean of the two.
        best_dice: Highest Dice of any threshold, chosen by the truth.
        best_threshold: The threshold with it.
        ladder_dice: Dice at the row's threshold times each factor of `LADDER`.
        ladder_f1: F1 at these thresholds.
        max_iou: Highest IoU of the boxes around components; None where an earlier build did not measure it.
    """

    dice: float
    precision: float
    recall: float
    f1: float
    precision_10: float
    recall_10: float
    f1_10: float
    best_dice: float
    best_threshold: float
    ladder_dice: tuple[float, ...]
    ladder_f1: tuple[float, ...]
    max_iou: float | None = None


@dataclass(frozen=True)
class Finding:
    """A row of a case.

    Attributes:
        threshold: The threshold of the heatmap.
        threshold_source: Where it comes from.
        peak: Highest value on the foreground inside of the planes.
        called: Whether the peak reaches the threshold, of a segmenter whether a component is left; None for a threshold
            of this volume alone, such as Otsu's, which every volume reaches.
        volume_ml: Volume of the segmentation.
        components: Number of its components.
        overlap: Agreement with the truth; None where that is not known.
    """

    threshold: float
    threshold_source: str
    peak: float
    called: bool | None
    volume_ml: float
    components: int
    overlap: Overlap | None


@dataclass(frozen=True)
class Files:
    """What identifies the files of a case; "" where an earlier build kept nothing.

    Attributes:
        source: Hash of place, size and time of volume and mask.
        content: Hash of the volume's bytes.
        truth: Hash of the mask's bytes, with its values that mean the finding; "" without a mask.
    """

    source: str = ""
    content: str = ""
    truth: str = ""


@dataclass(frozen=True)
class CaseRecord:
    """All that an evaluation keeps of a case, but for its planes.

    Attributes:
        case: Its name.
        fingerprint: Hash of the evaluation's settings.
        patient: The patient.
        label: 1 with a finding, 0 without.
        score: The classifier's score of the whole volume; None if it was not asked for.
        truth_ml: Volume of the true mask; None if that is not known.
        truth_components: Number of its components; None if that is not known.
        seconds: Time of the reconstruction.
        device: Where it ran.
        precision: Number format of the network.
        warnings: Texts for the reader.
        rows: By name of the table's row.
        files: That it is of.
    """

    case: str
    fingerprint: str
    patient: str
    label: int
    score: float | None
    truth_ml: float | None
    truth_components: int | None
    seconds: float
    device: str
    precision: str
    warnings: tuple[str, ...]
    rows: dict[str, Finding]
    files: Files = Files()


def measure(
    heatmap: npt.NDArray[np.floating],
    truth: Components,
    threshold: float,
    *,
    counted: Callable[[Runs], npt.NDArray[np.bool_]] | None = None,
    odds: bool = False,
) -> tuple[Components, Overlap]:
    """Segment a heatmap and compare the segmentation with the truth.

    Args:
        heatmap: Values, Z Y X.
        truth: The true mask on the same grid.
        threshold: The segmentation is where the heatmap reaches it.
        counted: Tells by component whether it belongs to the segmentation; None for all.
        odds: Whether the ladder's factors are of the odds whose logarithm the threshold is, as of a segmenter's logit,
            rather than of the threshold itself.

    Returns:
        The segmentation and its agreement with the truth.
    """
    predicted = Components(reaches(heatmap, threshold), counted)
    ladder = [
        predicted
        if factor == 1.0
        else Components(reaches(heatmap, threshold + math.log(factor) if odds else threshold * factor), counted)
        for factor in LADDER
    ]
    precision, recall, f1 = match(predicted, truth)
    precision_10, recall_10, f1_10 = match(predicted, truth, TENTH)
    best_threshold, best = best_dice(heatmap, truth.mask, covered(heatmap))
    return predicted, Overlap(
        dice=dice_of(predicted, truth),
        precision=precision,
        recall=recall,
        f1=f1,
        precision_10=precision_10,
        recall_10=recall_10,
        f1_10=f1_10,
        best_dice=best,
        best_threshold=best_threshold,
        ladder_dice=tuple(dice_of(mask, truth) for mask in ladder),
        ladder_f1=tuple(match(mask, truth)[2] for mask in ladder),
        max_iou=max_iou(predicted, truth),
    )


def save_record(path: Path, record: CaseRecord) -> None:
    """Write a record as JSON.

    Args:
        path: The file; it appears whole or not at all.
        record: What `load_record` shall return.
    """
    write_json(path, dataclasses.asdict(record))


def load_record(path: Path, fingerprint: str, rows: Collection[str] | None = None) -> CaseRecord | None:
    """Read what `save_record` wrote, and check that it is a record.

    Args:
        path: The file.
        fingerprint: Hash of this evaluation's settings.
        rows: Names of its rows, all of which the record must have; None where they are not known.

    Returns:
        The record; None where there is none, or that of another evaluation.

    Raises:
        TonnoError: The file is damaged.
    """
    try:
        data = read_record(path)
        if data.get("fingerprint") != fingerprint:
            return None
        record = made_of(CaseRecord, data)
        _check(record, path.stem, rows)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise TonnoError(f"{path}: not readable as a case's results ({one_line(error)}); delete it") from error
    return record


def _check(record: CaseRecord, case: str, rows: Collection[str] | None) -> None:
    """Raise ValueError where values of the right types are none that an evaluation writes."""
    overlaps = [row.overlap for row in record.rows.values()]
    known = [overlap for overlap in overlaps if overlap is not None]
    shares = [
        share
        for overlap in known
        for name, value in dataclasses.asdict(overlap).items()
        if name != "best_threshold" and value is not None
        for share in (value if isinstance(value, tuple) else (value,))
    ]
    lengths = {len(ladder) for overlap in known for ladder in (overlap.ladder_dice, overlap.ladder_f1)}
    wrong = {
        f"case is {record.case[:30]!r}": record.case != case,
        "its rows are others": rows is not None and set(rows) != set(record.rows),
        f"label is {record.label}": record.label > 1,
        "overlap is not where the truth is known": len(known) != len(overlaps) * (record.truth_components is not None),
        "a score is not 0 to 1": not all(0.0 <= share <= 1.0 for share in shares),
        "a ladder has another length": bool(lengths - {len(LADDER)}),
    }
    for text, holds in wrong.items():
        if holds:
            raise ValueError(text)
