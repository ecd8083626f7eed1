"""Means and intervals over the records of all cases, and the tables of an evaluation. Free of torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tonno_core.evaluation.bootstrap import Bootstrap, Estimate, Float
from tonno_core.evaluation.record import LADDER, CaseRecord, Finding
from tonno_core.settings import Variant, stages_text

MEASURES = ("dice", "precision", "recall", "f1", "precision_10", "recall_10", "f1_10", "best_dice", "max_iou")
_Line = dict[str, str | float | None]


@dataclass(frozen=True)
class RowSummary:
    """A row of the table.

    Attributes:
        name: Its name.
        variant: The variant of a heatmap that it measures.
        best: Whether it is its method's best.
        threshold: The threshold of all cases; None where each has its own.
        threshold_source: Where the thresholds come from.
        tuned_factor: The ladder's factor with the highest mean Dice; None without a case to find something in.
        main: Means over the cases with something to find, by measure: `MEASURES`; ``tuned_dice`` and ``tuned_f1`` at
            the tuned factor; and ``cost``, by how much Dice is lower without that factor.
        every: Means over all cases whose truth is known, by `MEASURES`.
        auc: AUC of the heatmap's peak against the volume's label; None where a label is absent.
        balanced_accuracy: Balanced accuracy of calling volumes positive; None as above, or where no call is made.
    """

    name: str
    variant: Variant
    best: bool
    threshold: float | None
    threshold_source: str
    tuned_factor: float | None
    main: dict[str, Estimate | None]
    every: dict[str, Estimate | None]
    auc: Estimate | None
    balanced_accuracy: Estimate | None


@dataclass(frozen=True)
class Summary:
    """All numbers of an evaluation.

    Attributes:
        rows: The table's rows.
        score_auc: AUC of the classifier's score of whole volumes, without any heatmap; None where it is not defined.
        cases: Number of volumes.
        patients: Number of their patients.
        cases_with_truth: Number of volumes whose truth has something to find.
        cases_without_finding: Number of volumes whose truth is known to be empty.
        failures: Reasons by case.
        warnings: Texts, each with its case.
    """

    rows: tuple[RowSummary, ...]
    score_auc: Estimate | None
    cases: int
    patients: int
    cases_with_truth: int
    cases_without_finding: int
    failures: dict[str, str]
    warnings: tuple[str, ...]


def summarize(
    records: Sequence[CaseRecord],
    variants: Mapping[str, tuple[Variant, bool]],
    *,
    seed: int,
    failures: Mapping[str, str] | None = None,
) -> Summary:
    """Average the records of all cases.

    Args:
        records: At least one.
        variants: By row its variant, and whether it is its method's best.
        seed: Seed of the bootstrap.
        failures: Reasons by case; None for no failures.

    Returns:
        Means, intervals and counts.
    """
    known = [record for record in records if record.truth_components is not None]
    positive = [record for record in known if record.truth_components]
    samples = [Bootstrap([record.patient for record in group], seed=seed) for group in (positive, known, records)]
    rows = [
        _row(name, variant, best, (positive, known, records), samples) for name, (variant, best) in variants.items()
    ]
    scored = [record for record in records if record.score is not None]
    sample = Bootstrap([record.patient for record in scored], seed=seed)
    return Summary(
        rows=tuple(rows),
        score_auc=sample.auc([float(record.score or 0.0) for record in scored], [record.label for record in scored]),
        cases=len(records),
        patients=len({record.patient for record in records}),
        cases_with_truth=len(positive),
        cases_without_finding=len(known) - len(positive),
        failures=dict(failures or {}),
        warnings=tuple(f"{record.case}: {text}" for record in records for text in record.warnings),
    )


def _row(
    name: str, variant: Variant, best: bool, groups: Sequence[Sequence[CaseRecord]], samples: Sequence[Bootstrap]
) -> RowSummary:
    positive, known, records = ([record.rows[name] for record in group] for group in groups)
    main = {measure: _mean(samples[0], positive, measure) for measure in MEASURES}
    factor = None
    if positive:
        factor, dice, f1 = tuned(positive)
        main["tuned_dice"], main["tuned_f1"] = samples[0].mean(dice), samples[0].mean(f1)
        main["cost"] = samples[0].mean(dice - values_of(positive, "dice"))
    labels = [record.label for record in groups[2]]
    calls = [row.called for row in records]
    thresholds = {row.threshold for row in records}
    return RowSummary(
        name=name,
        variant=variant,
        best=best,
        threshold=thresholds.pop() if len(thresholds) == 1 else None,
        threshold_source=" / ".join(sorted({row.threshold_source for row in records})),
        tuned_factor=factor,
        main=main,
        every={measure: _mean(samples[1], known, measure) for measure in MEASURES},
        auc=samples[2].auc([row.peak for row in records], labels),
        balanced_accuracy=None if None in calls else samples[2].balanced_accuracy(np.array(calls), labels),
    )


def tuned(rows: Sequence[Finding]) -> tuple[float, Float, Float]:
    """Choose the factor on a row's thresholds that is best for its cases.

    Args:
        rows: Of the cases with something to find, at least one.

    Returns:
        The ladder's factor with the highest mean Dice, the nearest to 1 of equally good ones; Dice and F1 of each case
        with it.
    """
    overlaps = [row.overlap for row in rows if row.overlap]
    ladder = np.array([overlap.ladder_dice for overlap in overlaps])
    by_distance = sorted(range(len(LADDER)), key=lambda k: abs(np.log(LADDER[k])))
    chosen = max(by_distance, key=lambda k: ladder[:, k].mean())
    return LADDER[chosen], ladder[:, chosen], np.array([overlap.ladder_f1[chosen] for overlap in overlaps])


def values_of(rows: Sequence[Finding], measure: str) -> Float:
    """Collect a measure of some cases whose truth is known.

    Args:
        rows: Of the cases.
        measure: One of `MEASURES`.

    Returns:
        A number for each case; NaN where an earlier build did not measure it.
    """
    return np.array([getattr(row.overlap, measure) for row in rows], dtype=np.float64)


def _mean(sample: Bootstrap, rows: Sequence[Finding], measure: str) -> Estimate | None:
    """Estimate the mean of a measure; None where not all cases have it."""
    values = values_of(rows, measure)
    return None if np.isnan(values).any() else sample.mean(values)


# --- files


def results_csv(records: Sequence[CaseRecord], variants: Mapping[str, tuple[Variant, bool]]) -> str:
    """Write the measures of each case as CSV.

    Args:
        records: The cases.
        variants: By row its variant, and whether it is its method's best.

    Returns:
        The text: a line per case and row.
    """
    lines: list[_Line] = []
    for record in records:
        for name, row in record.rows.items():
            scores = {measure: getattr(row.overlap, measure, None) for measure in (*MEASURES, "best_threshold")}
            lines.append({
                "case": record.case, "patient": record.patient, "label": record.label, "row": name,
                **_variant(variants[name][0]),
                "threshold": row.threshold, "threshold_source": row.threshold_source, "peak": row.peak,
                "called": None if row.called is None else int(row.called), "score": record.score,
                "truth_ml": record.truth_ml, "truth_components": record.truth_components,
                "volume_ml": row.volume_ml, "components": row.components, **scores,
            })  # fmt: skip
    return _csv(lines)


def summary_csv(summary: Summary) -> str:
    """Write the means as CSV.

    Args:
        summary: The evaluation.

    Returns:
        The text: a line per row; ``NAME``, ``NAME_low`` and ``NAME_high`` are an estimate and its interval.
    """
    lines: list[_Line] = []
    for row in summary.rows:
        line = {"row": row.name, **_variant(row.variant)}
        line |= {"best": int(row.best), "threshold": row.threshold, "threshold_source": row.threshold_source}
        dice = row.main["dice"]
        line |= {"cases": dice.cases if dice else 0, "patients": dice.patients if dice else 0}
        for name, estimate in row.main.items():
            line |= _flat(name, estimate)
        line["tuned_factor"] = row.tuned_factor
        line["all_cases"] = row.every["dice"].cases if row.every["dice"] else 0
        for name, estimate in row.every.items():
            line |= _flat(f"all_{name}", estimate)
        line |= _flat("auc", row.auc) | _flat("balanced_accuracy", row.balanced_accuracy)
        lines.append(line)
    return _csv(lines)


def _variant(variant: Variant) -> _Line:
    """Return the columns that tell the reader of a file what a row is."""
    return {
        "method": variant.method, "stage": stages_text(variant.stages), "filter": variant.filter,
        "sigma_scale": variant.sigma_scale, "smooth_mm": variant.smooth_mm,
    }  # fmt: skip


def _flat(name: str, estimate: Estimate | None) -> _Line:
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _csv(lines: Sequence[_Line]) -> str:
    text = io.StringIO()
    names = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
