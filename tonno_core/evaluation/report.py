"""The evaluation as a person reads it: Markdown tables, and what each number means. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tonno_core.evaluation.bootstrap import COVERAGE, RESAMPLES, Estimate
from tonno_core.evaluation.record import LADDER, TENTH
from tonno_core.evaluation.summary import RowSummary, Summary
from tonno_core.words import count_of

_MAIN = {
    "dice": "Dice", "precision": "precision", "recall": "recall", "f1": "F1", "f1_10": "F1, 10 %",
    "tuned_dice": "Dice, tuned on masks", "best_dice": "best Dice",
}  # fmt: skip
_ALL = {"dice": "Dice", "precision": "precision", "recall": "recall", "f1": "F1", "f1_10": "F1, 10 %"}

_SHARE, _TENTH = f"{100 * COVERAGE:.0f} %", f"{100 * TENTH:.0f} %"
_FACTORS = f"{len(LADDER)} factors from {LADDER[0]:.3g} to {LADDER[-1]:.3g}"
DEFINITIONS = f"""\
- **Intervals** hold the middle {_SHARE} of {RESAMPLES} bootstrap resamples over patients.
- **Dice** = 2 |P ∩ T| / (|P| + |T|) over voxels; P: the segmentation, where the heatmap reaches the row's own
  threshold; T: the truth, the mask's nonzero voxels. The mean over cases, as all measures.
- **Precision**: the share of the segmentation's components (26-connected) that share a voxel with the truth.
  **Recall**: the share of the truth's components that share a voxel with the segmentation. **F1** = 2 P R / (P + R).
- **F1, {_TENTH}**: a component counts only if at least {_TENTH} of its own voxels lie on the other mask.
- **Empty masks**: nothing to find and nothing found is 1 in all of these, one of the two empty is 0.
- **Own threshold**: what the model brings for the row, from image-level labels alone. Where it brings none, it is
  Otsu's of each heatmap.
- **Dice, tuned on masks**: one common factor on the own threshold, the best for the mean Dice of these very cases
  among {_FACTORS}. It has seen the masks: no result, but what one rule for all could
  reach. A segmenter's factor is of the odds whose logarithm its threshold is. **Cost**: how much higher it is than Dice
  at the own threshold; its interval is at that factor.
- **Best Dice**: the threshold chosen by each case's own truth: an upper bound.
- **Peak AUC**: of the heatmap's highest value in the foreground, against the volume's label; **score AUC**: of the
  mean of the classifier's highest tenth of logits, over all planes. Neither is training's *volume AUC*, of 64 random
  slices. **Balanced accuracy**: mean
  of sensitivity and specificity, where a volume is called positive when that value reaches the own threshold,
  however small the component; by a segmenter, when a component is left."""


def markdown(summary: Summary, *, title: str, facts: Mapping[str, str]) -> str:
    """Write ``summary.md``: tables to paste, the model and the data, and the definitions.

    Args:
        summary: The evaluation.
        title: The heading.
        facts: Name and value of what is listed below the heading.

    Returns:
        The text.
    """
    parts = [f"# {title}", "\n".join(f"- {name}: {value}" for name, value in facts.items()), _counts(summary)]
    best = [row for row in summary.rows if row.best]
    others = [row for row in summary.rows if not row.best]
    if summary.cases_with_truth:
        parts += ["## Where there is something to find", _table(best, _MAIN)]
        if others:
            parts += ["Other stages and settings:", _table(others, _MAIN)]
    if summary.cases_without_finding:
        parts += ["## All cases", _all_table(best)]
    parts += ["## Volumes called positive, and thresholds", _volume_table(summary)]
    if summary.warnings:
        parts += ["## Warnings", "\n".join(f"- {text}" for text in summary.warnings)]
    if summary.failures:
        parts += ["## Cases that failed", "\n".join(f"- {name}: {text}" for name, text in summary.failures.items())]
    return "\n\n".join([*parts, "## Definitions", DEFINITIONS]) + "\n"


def terminal_table(summary: Summary) -> str:
    """Write each method's best row as a table for the terminal.

    Args:
        summary: The evaluation.

    Returns:
        The table, and a line with the counts.
    """
    from tabulate import tabulate

    headers = {**_MAIN, "tuned_dice": "tuned"}
    rows = [
        [row.name, *(_plain(row.main.get(name)) for name in headers), _plain(row.auc), _plain(row.balanced_accuracy)]
        for row in summary.rows
        if row.best
    ]
    names = ["method", *headers.values(), "peak AUC", "bal. acc."]
    return tabulate(rows, headers=names, disable_numparse=True) + f"\n{_counts(summary)}"


def _counts(summary: Summary) -> str:
    unknown = summary.cases - summary.cases_with_truth - summary.cases_without_finding
    text = f"{count_of(summary.cases, 'volume')} of {count_of(summary.patients, 'patient')}: "
    text += f"{summary.cases_with_truth} with something to find"
    text += f", {summary.cases_without_finding} without" if summary.cases_without_finding else ""
    text += f", {unknown} positive without a mask (volume-level measures only)" if unknown else ""
    return text + (f"; {len(summary.failures)} failed" if summary.failures else "") + "."


def _table(rows: Sequence[RowSummary], measures: Mapping[str, str]) -> str:
    cells = [[row.name, *(with_interval(row.main.get(name)) for name in measures)] for row in rows]
    return pipe(["method", *measures.values()], cells)


def _all_table(rows: Sequence[RowSummary]) -> str:
    cells = [[row.name, *(with_interval(row.every[name]) for name in _ALL)] for row in rows]
    return pipe(["method", *_ALL.values()], cells)


def _volume_table(summary: Summary) -> str:
    cells = [
        [
            row.name,
            with_interval(row.auc),
            with_interval(row.balanced_accuracy),
            "each its own" if row.threshold is None else f"{row.threshold:.4g}",
            row.threshold_source,
            _factor(row.tuned_factor),
            with_interval(row.main.get("cost")),
        ]
        for row in summary.rows
    ]
    headers = ["method", "peak AUC", "balanced accuracy", "threshold", "from", "tuned factor", "cost in Dice"]
    table = pipe(headers, cells)
    if summary.score_auc is not None:
        table += "\n\nThe classifier's own volume-level score, without any heatmap: score AUC "
        table += f"{with_interval(summary.score_auc)}."
    return table


def _factor(factor: float | None) -> str:
    """Write a factor of the ladder; at the ladder's ends the best may lie beyond, which a sign says."""
    if factor is None:
        return "-"
    end = {LADDER[0]: "≤ ", LADDER[-1]: "≥ "}.get(factor, "")
    return f"{end}{factor:.3g}"


def pipe(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown.

    Args:
        headers: Of its columns.
        cells: Its rows.

    Returns:
        The text, without a line's end.
    """
    from tabulate import tabulate

    return tabulate(cells, headers=headers, tablefmt="pipe", disable_numparse=True)


def _plain(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.value:.3f}"


def with_interval(estimate: Estimate | None) -> str:
    """Write an estimate with its interval.

    Args:
        estimate: None where there is none.

    Returns:
        Such as "0.512 (0.431 to 0.598)", or "-".
    """
    if estimate is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
