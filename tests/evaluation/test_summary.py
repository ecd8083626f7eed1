"""Means over the right cases, and what the tables and files say of them."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from tests.evaluation.records import VARIANTS, finding, overlap, record
from tonno_core.evaluation.record import LADDER, CaseRecord
from tonno_core.evaluation.report import markdown, terminal_table
from tonno_core.evaluation.summary import results_csv, summarize, summary_csv


def cases() -> list[CaseRecord]:
    """Two with a truth, a negative that is quiet, a negative with a false alarm, a positive without a mask."""
    other = finding(0.2)
    return [
        record("a", {"matched-cam": finding(0.5, peak=3.0), "matched-cam@3": other}, truth=2),
        record("b", {"matched-cam": finding(0.7, peak=0.5), "matched-cam@3": other}, truth=1),
        record("c", {"matched-cam": finding(1.0, peak=0.1), "matched-cam@3": other}, truth=0, warnings=("odd",)),
        record("d", {"matched-cam": finding(0.0, peak=1.2), "matched-cam@3": other}, truth=0),
        record("e", {"matched-cam": finding(None, peak=4.0), "matched-cam@3": finding(None)}, truth=None),
    ]


def test_the_main_table_has_the_cases_with_something_to_find_the_other_all_whose_truth_is_known() -> None:
    summary = summarize(cases(), VARIANTS, seed=0)
    row = summary.rows[0]
    assert row.main["dice"] is not None
    assert (row.main["dice"].value, row.main["dice"].cases) == (pytest.approx(0.6), 2)
    assert row.every["dice"] is not None
    assert (row.every["dice"].value, row.every["dice"].cases) == (pytest.approx((0.5 + 0.7 + 1.0 + 0.0) / 4), 4)
    assert (summary.cases, summary.cases_with_truth, summary.cases_without_finding) == (5, 2, 2)


def test_volume_level_measures_use_all_cases() -> None:
    """Positives peak at 3, 0.5 and 4, negatives at 0.1 and 1.2: five of six pairs; the threshold is 1."""
    row = summarize(cases(), VARIANTS, seed=0).rows[0]
    assert row.auc is not None
    assert row.auc.value == pytest.approx(5 / 6)
    assert row.balanced_accuracy is not None
    assert row.balanced_accuracy.value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert (row.threshold, row.threshold_source) == (1.0, "the model's own")


def test_thresholds_of_the_volumes_own_call_nothing_positive() -> None:
    rows = [{"matched-cam": finding(0.5, threshold=t, called=None, threshold_source="otsu")} for t in (1.0, 2.0)]
    records = [record(name, row, truth=n) for n, (name, row) in enumerate(zip("ab", rows, strict=True))]
    summary = summarize(records, {"matched-cam": VARIANTS["matched-cam"]}, seed=0)
    assert summary.rows[0].balanced_accuracy is None
    assert summary.rows[0].threshold is None
    assert summary.rows[0].auc is not None
    assert "each its own" in markdown(summary, title="t", facts={})


def test_tuned_is_the_one_factor_with_the_highest_mean_dice() -> None:
    """Each case alone would choose another factor; the common one is between them."""
    ladders = np.full((2, len(LADDER)), 0.1)
    ladders[0, 3], ladders[1, 12] = 0.9, 0.9
    ladders[:, 7] = 0.6
    rows = [
        finding(0.1, overlap=overlap(0.1, ladder_dice=tuple(ladder), ladder_f1=tuple(ladder / 2))) for ladder in ladders
    ]
    records = [record(name, {"matched-cam": row}) for name, row in zip("ab", rows, strict=True)]
    (row,) = summarize(records, {"matched-cam": VARIANTS["matched-cam"]}, seed=0).rows
    assert row.tuned_factor == LADDER[7]
    values = {name: row.main[name] for name in ("tuned_dice", "tuned_f1", "cost")}
    assert {name: value and value.value for name, value in values.items()} == pytest.approx(
        {"tuned_dice": 0.6, "tuned_f1": 0.3, "cost": 0.5}
    )


def test_of_equally_good_factors_the_nearest_to_the_own_threshold() -> None:
    flat = overlap(0.5, ladder_dice=(0.5,) * 16)
    (row,) = summarize(
        [record("a", {"matched-cam": finding(0.5, overlap=flat)})], {"matched-cam": VARIANTS["matched-cam"]}, seed=0
    ).rows
    assert row.tuned_factor == 1.0


def test_the_interval_is_over_patients() -> None:
    """All cases of one patient: no interval, however many cases."""
    records = [record(name, {"matched-cam": finding(0.5)}, patient="p") for name in "abc"]
    (row,) = summarize(records, {"matched-cam": VARIANTS["matched-cam"]}, seed=0).rows
    assert row.main["dice"] is not None
    assert (row.main["dice"].cases, row.main["dice"].patients, row.main["dice"].low) == (3, 1, None)


def test_results_have_a_line_per_case_and_row() -> None:
    lines = list(csv.DictReader(io.StringIO(results_csv(cases(), VARIANTS))))
    assert [(line["case"], line["row"]) for line in lines] == [(c, row) for c in "abcde" for row in VARIANTS]
    assert (lines[0]["dice"], lines[0]["peak"], lines[0]["stage"], lines[0]["called"]) == ("0.5", "3.0", "2", "1")
    assert lines[8]["dice"] == lines[8]["truth_ml"] == ""


def test_the_summary_file_has_a_line_per_row_with_intervals() -> None:
    lines = list(csv.DictReader(io.StringIO(summary_csv(summarize(cases(), VARIANTS, seed=0)))))
    assert [(line["row"], line["best"], line["stage"]) for line in lines] == [
        ("matched-cam", "1", "2"), ("matched-cam@3", "0", "3"),
    ]  # fmt: skip
    first = lines[0]
    assert (first["cases"], first["all_cases"], float(first["dice"])) == ("2", "4", pytest.approx(0.6))
    assert (float(first["dice_low"]), float(first["dice_high"])) == (0.5, 0.7)  # either case alone


def test_the_report_states_numbers_counts_definitions_warnings_and_failures() -> None:
    summary = summarize(cases(), VARIANTS, seed=0, failures={"f": "f.nii: truncated"})
    text = markdown(summary, title="Evaluation", facts={"model": "resnet"})
    assert "| matched-cam | 0.600 (0.500 to 0.700) |" in text.replace("   ", " ").replace("  ", " ")
    assert "5 volumes of 5 patients: 2 with something to find, 2 without, 1 positive without a mask" in text
    for part in (
        "- model: resnet",
        "- c: odd",
        "- f: f.nii: truncated",
        "**Dice** = 2 |P ∩ T|",
        "**Peak AUC**",
        "**score AUC**",
    ):
        assert part in text
    for measure in ("Dice", "Precision", "Recall", "F1", "Dice, tuned on masks", "Best Dice", "Balanced accuracy"):
        assert f"**{measure}" in text


def test_one_volume_is_not_1_volumes() -> None:
    text = terminal_table(summarize(cases()[:1], VARIANTS, seed=0))
    assert text.endswith("1 volume of 1 patient: 1 with something to find.")


def test_without_masks_there_are_volume_level_measures_alone() -> None:
    records = [record(name, {"matched-cam": finding(None)}, truth=None, label=n) for n, name in enumerate("ab")]
    summary = summarize(records, {"matched-cam": VARIANTS["matched-cam"]}, seed=0)
    text = markdown(summary, title="t", facts={})
    assert summary.rows[0].main["dice"] is None
    assert "something to find" not in text.partition("## ")[2]
    assert "0.500" in terminal_table(summary)
