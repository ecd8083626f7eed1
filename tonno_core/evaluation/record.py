"""What is kept of one evaluated case: numbers by row of the table, as JSON. Free of torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tonno_core.errors import TonnoError
from tonno_core.output import write_json
from tonno_core.segmentation.metrics import Components, best_dice, dice_of, match

# Factors on a row's own threshold at which Dice and F1 are measured too: thirds of an octave, 1/8 to 4.
LADDER = tuple(2.0 ** (k / 3) for k in range(-9, 7))
# A component of which so little lies on the other mask has been grazed rather than found.
TENTH = 0.1


@dataclass(frozen=True)
class Overlap:
    """How one segmentation agrees with the truth; `metrics.py` defines the scores.

    precision, recall, f1: of components that share a voxel with the other mask; the same with ``_10``:
    at least a tenth of their own voxels. best_dice: voxel-wise, of any threshold, chosen by the truth.
    ladder_dice, ladder_f1: at the own threshold times each factor of `LADDER`.
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


@dataclass(frozen=True)
class Finding:
    """One row of one case.

    peak: highest value on the foreground inside of the planes. called: whether the peak reaches the threshold;
    None where the threshold is the volume's own, as Otsu's, which each volume reaches.
    overlap: None where the truth is not known.
    """

    threshold: float
    threshold_source: str
    peak: float
    called: bool | None
    volume_ml: float
    components: int
    overlap: Overlap | None


@dataclass(frozen=True)
class CaseRecord:
    """One case. score: the classifier's volume-level score. truth_ml, truth_components: None: not known."""

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


def measure(
    heatmap: npt.NDArray[np.floating], truth: Components, threshold: float, *, min_voxels: float = 0.0
) -> tuple[Components, Overlap]:
    """The segmentation heatmap >= threshold (Z Y X) without its small components, and its agreement."""
    own = Components(heatmap >= threshold, min_voxels)
    ladder = [own if factor == 1.0 else Components(heatmap >= threshold * factor, min_voxels) for factor in LADDER]
    precision, recall, f1 = match(own, truth)
    precision_10, recall_10, f1_10 = match(own, truth, TENTH)
    best_threshold, best = best_dice(heatmap, truth.mask)
    return own, Overlap(
        dice=dice_of(own, truth),
        precision=precision,
        recall=recall,
        f1=f1,
        precision_10=precision_10,
        recall_10=recall_10,
        f1_10=f1_10,
        best_dice=best,
        best_threshold=best_threshold,
        ladder_dice=tuple(dice_of(one, truth) for one in ladder),
        ladder_f1=tuple(match(one, truth)[2] for one in ladder),
    )


def save_record(path: Path, record: CaseRecord) -> None:
    write_json(path, dataclasses.asdict(record))


def load_record(path: Path, fingerprint: str) -> CaseRecord | None:
    """The record of a case, or None where there is none of this evaluation."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise TonnoError(f"{path}: not readable as a case's results ({error}); delete it") from error
    if not isinstance(data, dict) or data.get("fingerprint") != fingerprint:
        return None
    rows = {name: _finding(row) for name, row in data.pop("rows").items()}
    return CaseRecord(**{**data, "warnings": tuple(data["warnings"])}, rows=rows)


def _finding(data: Mapping[str, Any]) -> Finding:
    overlap = data["overlap"]
    if overlap is not None:
        ladders = {name: tuple(overlap[name]) for name in ("ladder_dice", "ladder_f1")}
        overlap = Overlap(**{**overlap, **ladders})
    return Finding(**{**data, "overlap": overlap})
