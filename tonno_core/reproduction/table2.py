"""The paper's Table 2: methods' precision, recall, F1, Dice and MaxIoU, and how much they differ from slice-wise CAM.

Free of torch.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from tonno_core.cohort.cases import SETTINGS_NAME, fingerprint
from tonno_core.cohort.places import held_by, tables_in
from tonno_core.errors import TonnoError, one_line
from tonno_core.evaluation.bootstrap import COVERAGE, RESAMPLES, Bootstrap, Estimate, Float
from tonno_core.evaluation.record import CaseRecord, Finding, load_record
from tonno_core.evaluation.report import pipe, with_interval
from tonno_core.evaluation.summary import tuned, values_of
from tonno_core.output import Json, write_json, write_text
from tonno_core.records import made_of, read_record
from tonno_core.settings import CAM_NAMES, CamKind
from tonno_core.words import count_of

LAYERCAM = "slicewise-cam"
# What `tonno evaluate` leaves in its folder, once it is done.
_FILES = (SETTINGS_NAME, "summary.json", "results.csv", "cases")
# The methods as the paper calls them, in its order, with the kind of map in the braces; the last two are not the
# paper's.
TITLES = {
    LAYERCAM: "{}, slice by slice", "slicewise-cam-3axes": "{}, along three axes", "tonno": "ToNNO",
    "averaged-cam": "Averaged CAM", "tomographic-cam": "Tomographic CAM", "matched-cam": "Matched CAM",
    "center": "centre, blind to the image",
}  # fmt: skip
# Measures of the cases with something to find, and their titles.
MEASURES = {"precision": "precision", "recall": "recall", "f1": "F1", "dice": "Dice", "max_iou": "MaxIoU"}
_ACCURACY = "balanced_accuracy"
_TUNED = {"tuned_f1": "F1, tuned on masks", "tuned_dice": "Dice, tuned on masks"}
_TITLES = {**MEASURES, _ACCURACY: "balanced accuracy", **_TUNED}
_SHARE = f"{100 * COVERAGE:.0f} %"
DEFINITIONS = f"""\
- **Precision, recall, F1**: over components (26 neighbours) that share a voxel with the other mask. **Dice**: over
  voxels. Means over the volumes with something to find; where a row finds nothing in one, each of them is 0 there.
- **Own threshold**: what the model brings for the row, from image-level labels alone. Where it brings none, it is
  Otsu's of each heatmap, which finds something in every volume.
- **MaxIoU**: the highest intersection over union of the box around a true component with the box around a component of
  the segmentation; the mean over true components. Of a mask that is a filled box (Duke breast MRI) it is the box's.
- **Balanced accuracy**: mean of sensitivity and specificity over all volumes; one is called positive where the
  heatmap's peak reaches the threshold.
- **Tuned on masks**: with the one factor on a row's thresholds that is best for the mean Dice of these very volumes,
  the same for all of them. Where they share the model's threshold, that is one other threshold; Otsu's stays each
  volume's own, times the factor. It has seen the masks: no result, but what one rule for all could reach. Where the
  best Dice is tiny, the masks may be nearly everything: one component that touches every true one, which F1 rewards.
- **Difference**: to the row that has none, volume by volume. **Intervals** hold the middle {_SHARE} of {RESAMPLES}
  bootstrap resamples over patients; all rows see the same resamples (paired), so that an interval of a difference
  without 0 in it is a difference at the 5 % level.
- The paper's thresholds, and its definition of MaxIoU, are in an appendix that was not at hand: these are ours."""


@dataclass(frozen=True)
class Evaluated:
    """An evaluation that is finished.

    Attributes:
        records: Of its cases, in order.
        content: What it is of, as its ``settings.json`` states it.
        failures: Reasons by case.
    """

    records: tuple[CaseRecord, ...]
    content: Json
    failures: Mapping[str, str]


@dataclass(frozen=True)
class Line:
    """A row of the table.

    Attributes:
        row: Its name in the evaluation.
        title: As the paper calls the method.
        values: Estimates by measure; None where a measure is not known.
        differences: To the baseline, likewise; empty for the baseline itself.
        threshold_source: Where its thresholds come from.
    """

    row: str
    title: str
    values: dict[str, Estimate | None]
    differences: dict[str, Estimate | None]
    threshold_source: str


def read_evaluation(folder: Path) -> Evaluated:
    """Read what `tonno evaluate` wrote.

    Args:
        folder: Its output.

    Returns:
        The cases of its summary, and the reasons of those that failed.

    Raises:
        TonnoError: The folder holds no finished evaluation.
    """
    lacking = [name for name in _FILES if not (folder / name).exists()]
    if lacking:
        raise TonnoError(_no_evaluation(folder, lacking))
    try:
        content, summary = read_record(folder / SETTINGS_NAME), read_record(folder / "summary.json")
        with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
            lines = [
                {name: made_of(str, line[name], name) for name in ("case", "patient")} for line in csv.DictReader(file)
            ]
        patients = {line["case"]: line["patient"] for line in lines}
        failures = made_of(dict[str, str], summary.get("failures"), "failures")
        run = made_of(str, content.get("run") or fingerprint(content), "run")
        _check(content)
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise TonnoError(
            f"{folder}: its {SETTINGS_NAME}, summary.json or results.csv is damaged, or not an evaluation's "
            f"({one_line(error)}); run `tonno evaluate` again, or give a manifest"
        ) from error
    records = []
    for name, patient in patients.items():
        record = load_record(folder / "cases" / f"{name}.json", run, content["rows"])
        if record is None:
            raise TonnoError(
                f"{folder}: the case {name} is in results.csv, but not in cases/; run `tonno evaluate` again"
            )
        records.append(replace(record, patient=patient))
    return Evaluated(tuple(records), content, failures)


@dataclass(frozen=True)
class _Row:
    best: bool


@dataclass(frozen=True)
class _Settings:
    cam: CamKind = "layercam"


@dataclass(frozen=True)
class _Content:
    """Of an evaluation's ``settings.json``, what the table is made of."""

    rows: dict[str, _Row]
    settings: _Settings = _Settings()


def _check(content: Json) -> None:
    """Raise ValueError where settings are not an evaluation's."""
    json.dumps(content, ensure_ascii=False).encode()  # as it will be written
    made_of(_Content, content, others=True)


def _cam(content: Json) -> CamKind:
    return made_of(_Content, content, others=True).settings.cam


def _no_evaluation(folder: Path, lacking: Sequence[str]) -> str:
    """Say what a folder lacks to be an evaluation's, what it holds, and what may have been meant."""
    begun = False
    with suppress(OSError, ValueError):
        begun = "rows" in read_record(folder / SETTINGS_NAME)
    if begun:
        return (
            f"{folder}: holds no finished evaluation (no {' and no '.join(lacking)}); run `tonno evaluate` to its end, "
            "or give a manifest"
        )
    inner = folder / "evaluation"
    meant = [inner] if (inner / SETTINGS_NAME).is_file() else tables_in(folder)
    return (
        f"{folder}: {held_by(folder)}, expected a manifest (a CSV file), or the folder that `tonno evaluate` wrote "
        f"({', '.join(_FILES)})" + (f"; give {meant[0]}" if len(meant) == 1 else "")
    )


def compare(evaluated: Evaluated, *, baseline: str, seed: int) -> list[Line]:
    """Compare each method, as the model would make it, with a baseline.

    Args:
        evaluated: The evaluation.
        baseline: Name of the row that the others are compared with.
        seed: Of the bootstrap.

    Returns:
        The rows, the paper's first and in its order.

    Raises:
        TonnoError: The evaluation has no such row.
    """
    rows: Mapping[str, Json] = evaluated.content["rows"]
    if baseline not in rows:
        raise TonnoError(
            f"`baseline` {baseline}: the evaluation has no such row; it has {', '.join(rows)}"
            + ("; evaluate `method` slicewise-cam as well" if baseline == LAYERCAM else "")
        )
    own = [name for name, row in rows.items() if row["best"]]
    names = [name for name in TITLES if name in own] + [name for name in own if name not in TITLES]
    names = [*([] if baseline in names else [baseline]), *names]
    cam = CAM_NAMES[_cam(evaluated.content)]
    titles = {name: TITLES.get(name, name).format(cam) for name in names}
    return [_line(name, title, baseline, evaluated.records, seed) for name, title in titles.items()]


def _line(name: str, title: str, baseline: str, records: Sequence[CaseRecord], seed: int) -> Line:
    positive = [record for record in records if record.truth_components]
    sample = Bootstrap([record.patient for record in positive], seed=seed)
    ours, theirs = (_measured([record.rows[row] for record in positive]) for row in (name, baseline))
    values: dict[str, Estimate | None] = {}
    differences: dict[str, Estimate | None] = {}
    for measure in (*MEASURES, *_TUNED):
        one, other = ours.get(measure), theirs.get(measure)
        values[measure] = None if one is None else sample.mean(one)
        differences[measure] = None if one is None or other is None else sample.difference(one, other)
    every = Bootstrap([record.patient for record in records], seed=seed)
    labels = [record.label for record in records]
    one_calls, other_calls = (_calls([record.rows[row] for record in records]) for row in (name, baseline))
    values[_ACCURACY] = None if one_calls is None else every.balanced_accuracy(one_calls, labels)
    differences[_ACCURACY] = (
        None if one_calls is None or other_calls is None else every.accuracy_difference(one_calls, other_calls, labels)
    )
    sources = sorted({record.rows[name].threshold_source for record in records})
    return Line(name, title, values, {} if name == baseline else differences, "; ".join(sources))


def _measured(rows: Sequence[Finding]) -> dict[str, Float]:
    """Return each measure of the cases with something to find, as far as it is known."""
    if not rows:
        return {}
    found = {measure: values_of(rows, measure) for measure in MEASURES}
    _, found["tuned_dice"], found["tuned_f1"] = tuned(rows)
    return {measure: values for measure, values in found.items() if not np.isnan(values).any()}


def _calls(rows: Sequence[Finding]) -> list[bool] | None:
    """Return which volumes a row calls positive; None where it has no threshold to call by."""
    calls = [row.called for row in rows if row.called is not None]
    return calls if len(calls) == len(rows) else None


# --- files


def description(evaluated: Evaluated, *, baseline: str, seed: int) -> Json:
    """Return what tells the table from others; its list of cases may have grown.

    Args:
        evaluated: The evaluation.
        baseline: As it was given to `compare`.
        seed: Likewise.

    Returns:
        As JSON holds it.
    """
    content = {name: value for name, value in evaluated.content.items() if name not in ("run", "cases", "manifest")}
    return {"baseline": baseline, "seed": seed, "evaluation": content}


def write(folder: Path, lines: Sequence[Line], evaluated: Evaluated, *, baseline: str, seed: int) -> None:
    """Write ``table2.csv``, ``table2.json`` and ``table2.md``.

    Args:
        folder: Where to.
        lines: From `compare`.
        evaluated: The evaluation.
        baseline: As it was given to `compare`.
        seed: Likewise.
    """
    rows = [asdict(line) for line in lines]
    asked = description(evaluated, baseline=baseline, seed=seed)
    manifest, failures = evaluated.content.get("manifest"), dict(evaluated.failures)
    write_json(folder / "table2.json", {"asked": asked, "manifest": manifest, "rows": rows, "failures": failures})
    write_text(folder / "table2.csv", _csv(lines))
    write_text(folder / "table2.md", markdown(lines, evaluated, baseline=baseline))


def markdown(lines: Sequence[Line], evaluated: Evaluated, *, baseline: str) -> str:
    """Write the table as a person reads it.

    Args:
        lines: From `compare`.
        evaluated: The evaluation.
        baseline: As it was given to `compare`.

    Returns:
        The text: the paper's layout, the differences with their intervals, and the definitions.
    """
    base = next(line.title for line in lines if line.row == baseline)
    main = _known(lines)
    parts = [f"# Table 2: methods compared, and their differences to {base}", counts(evaluated)]
    if main:
        parts += ["## At each method's own threshold", _values(lines, main), _thresholds(lines)]
        parts += ["Differences, paired:", _differences(lines, main)]
    if any(line.values[name] for line in lines for name in _TUNED):
        parts += [
            "## With one factor on the thresholds, tuned on these masks",
            _values(lines, list(_TUNED)),
            "Differences, paired:",
        ]
        parts += [_differences(lines, list(_TUNED))]
    if evaluated.failures:
        parts += ["## Cases that failed", "\n".join(f"- {name}: {text}" for name, text in evaluated.failures.items())]
    return "\n\n".join([*parts, "## Definitions", DEFINITIONS]) + "\n"


def table(lines: Sequence[Line], evaluated: Evaluated) -> str:
    """Write the table in the paper's layout, for the terminal.

    Args:
        lines: From `compare`.
        evaluated: The evaluation.

    Returns:
        The table, where its thresholds come from, and a line with the counts.
    """
    return f"{_values(lines, _known(lines))}\n{_thresholds(lines)}\n{counts(evaluated)}"


def _known(lines: Sequence[Line]) -> list[str]:
    """Return the measures at the own threshold that some row has."""
    return [name for name in (*MEASURES, _ACCURACY) if any(line.values[name] for line in lines)]


def counts(evaluated: Evaluated) -> str:
    """Say how many volumes the table is of.

    Args:
        evaluated: The evaluation.

    Returns:
        A line, with what it lacks for want of masks.
    """
    records = evaluated.records
    known = [record for record in records if record.truth_components is not None]
    found = sum(bool(record.truth_components) for record in known)
    unknown = len(records) - len(known)
    patients = len({record.patient for record in records})
    text = f"{count_of(len(records), 'volume')} of {count_of(patients, 'patient')}, {found} with something to find"
    text += f", {unknown} positive without a mask, of which balanced accuracy alone is known" if unknown else ""
    return text + (f"; {len(evaluated.failures)} failed" if evaluated.failures else "") + "."


def _thresholds(lines: Sequence[Line]) -> str:
    """Say which methods' thresholds come from where: those of the model's compare with no others at once."""
    titles: dict[str, list[str]] = {}
    for line in lines:
        titles.setdefault(line.threshold_source, []).append(line.title)
    return "\n".join(f"- threshold {source}: {'; '.join(names)}" for source, names in titles.items())


def _values(lines: Sequence[Line], measures: Sequence[str]) -> str:
    cells = [[line.title, *(_with_difference(line, name) for name in measures)] for line in lines]
    return pipe(["method", *(_TITLES[name] for name in measures)], cells)


def _with_difference(line: Line, measure: str) -> str:
    """Write a value as the paper does: with the difference to the baseline behind it."""
    value, difference = line.values[measure], line.differences.get(measure)
    if value is None:
        return "-"
    return f"{value.value:.3f}" + (f" ({_sign(difference.value)})" if difference else "")


def _differences(lines: Sequence[Line], measures: Sequence[str]) -> str:
    rows = [line for line in lines if line.differences]
    cells = [[line.title, *(_signed(line.differences[name]) for name in measures)] for line in rows]
    return pipe(["method", *(_TITLES[name] for name in measures)], cells)


def _signed(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return with_interval(estimate)
    return f"{_sign(estimate.value)} ({_sign(estimate.low)} to {_sign(estimate.high)})"


def _sign(value: float) -> str:
    """Write a difference, and none as +0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


def _csv(lines: Sequence[Line]) -> str:
    text = io.StringIO()
    kinds = ("value", "low", "high", "difference", "difference_low", "difference_high")
    writer = csv.writer(text, lineterminator="\n")
    measures = (f"{name}_{kind}" for name in _TITLES for kind in kinds)
    writer.writerow(["row", "method", "threshold_source", *measures, "volumes", "patients"])
    for line in lines:
        numbers: list[float | None] = []
        for name in _TITLES:
            for each in (line.values[name], line.differences.get(name)):
                numbers += [None] * 3 if each is None else [each.value, each.low, each.high]
        dice = line.values["dice"]
        size = [dice.cases, dice.patients] if dice else [0, 0]
        writer.writerow([line.row, line.title, line.threshold_source, *numbers, *size])
    return text.getvalue()
