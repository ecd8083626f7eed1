"""Records of cases made up for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tonno_core.evaluation.record import LADDER, CaseRecord, Finding, Overlap
from tonno_core.settings import Variant


def overlap(dice: float, **changes: Any) -> Overlap:
    """All scores of one value; the ladder has it at the own threshold and half of it elsewhere."""
    ladder = tuple(dice if factor == 1.0 else dice / 2 for factor in LADDER)
    names = ("precision", "recall", "f1", "precision_10", "recall_10", "f1_10", "best_dice")
    values: dict[str, Any] = {name: dice for name in names} | {"best_threshold": 1.0}
    return Overlap(**{**values, "dice": dice, "ladder_dice": ladder, "ladder_f1": ladder, **changes})


def finding(dice: float | None, *, peak: float = 2.0, threshold: float = 1.0, **changes: Any) -> Finding:
    values: dict[str, Any] = {
        "threshold": threshold, "threshold_source": "the model's own", "peak": peak, "called": peak >= threshold,
        "volume_ml": 1.5, "components": 2, "overlap": None if dice is None else overlap(dice),
    }  # fmt: skip
    return Finding(**{**values, **changes})


def record(case: str, rows: Mapping[str, Finding], *, truth: int | None = 1, **changes: Any) -> CaseRecord:
    """truth: its components, None where it is not known."""
    values: dict[str, Any] = {
        "case": case, "fingerprint": "f", "patient": case, "label": 1 if truth is None else int(truth > 0),
        "score": 0.5, "truth_ml": None if truth is None else float(truth), "truth_components": truth,
        "seconds": 1.0, "device": "cpu", "precision": "float32", "warnings": (), "rows": dict(rows),
    }  # fmt: skip
    return CaseRecord(**{**values, **changes})


VARIANTS = {"matched-cam": (Variant("matched-cam", (2,)), True), "matched-cam@3": (Variant("matched-cam", (3,)), False)}
