"""Check a cohort: what it holds, and what in it is damaged, doubled or unlike the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tonno_core.bundle.calibration import LEAST_TO_CHOOSE
from tonno_core.cohort.duplicates import find_duplicates
from tonno_core.cohort.manifest import SPLITS, Case, Manifest, require_trainable, why_absent
from tonno_core.cohort.mask import ANY, several_values, values_in, values_text
from tonno_core.cohort.shortcuts import find_shortcuts
from tonno_core.cohort.split import split_patients
from tonno_core.errors import TonnoError
from tonno_core.progress import progress_bar
from tonno_core.volume.header import Header, same_grid
from tonno_core.volume.io import read_header, read_mask
from tonno_core.words import count_of

# Unlike the rest: this factor from the median, or this many robust standard deviations of the logarithm. Where
# nearly all volumes are alike that deviation is next to nothing, so a small factor is never unlike.
FAR_FACTOR = 2.0
FAR_DEVIATIONS = 5.0
NEAR_FACTOR = 1.25

_Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """A problem of a cohort.

    Attributes:
        line: Line of the manifest; 0 for all of it.
        text: What is wrong.
        stops: Whether training or evaluation would end there.
    """

    line: int
    text: str
    stops: bool = False


@dataclass(frozen=True)
class CohortCheck:
    """What a check of a cohort has found.

    Attributes:
        manifest: The cohort.
        headers: A header for each case; None where it cannot be read.
        problems: The problems in the order of their lines.
    """

    manifest: Manifest
    headers: tuple[Header | None, ...]
    problems: tuple[Problem, ...]

    @property
    def usable(self) -> bool:
        """Whether training can begin."""
        return not any(problem.stops for problem in self.problems)


def check_cohort(manifest: Manifest, *, progress: bool = True) -> CohortCheck:
    """Read the headers of all volumes, and all masks, and compare files of equal size; no volume's voxel is decoded.

    Args:
        manifest: The cohort.
        progress: Whether to show progress bars.

    Returns:
        Headers and problems.
    """
    headers: list[Header | None] = []
    problems: list[Problem] = []
    found: dict[str, list[tuple[Case, int]]] = {} if manifest.target else {name: [] for name in manifest.classes}
    for case in progress_bar(manifest.cases, desc="checking", unit="volume", disable=not progress):
        header, text = _header(case.volume)
        headers.append(header)
        if header is None:
            text = why_absent(manifest.path, case) if case.absent else f"volume: {text}"
            problems.append(Problem(case.line, text, stops=True))
        else:
            problems += [Problem(case.line, f"volume: {concern}") for concern in header.concerns]
        problems += [Problem(case.line, text) for text in _mask_problems(case, header, found)]
    read = [(case, header) for case, header in zip(manifest.cases, headers, strict=True) if header is not None]
    problems += _unlike_values(found)
    problems += _duplicates(manifest.cases, progress)
    problems += _misplaced_masks(manifest.cases if found else ())
    problems += _unlike([case for case, _ in read], [header for _, header in read])
    problems += _unlike_channels([case for case, _ in read], [header for _, header in read])
    problems += _shortcuts(tuple(found), [case for case, _ in read], [header for _, header in read])
    problems += [Problem(0, note) for note in manifest.notes]
    problems += _missing_classes(manifest)
    return CohortCheck(manifest, tuple(headers), tuple(sorted(problems, key=lambda problem: problem.line)))


def report(check: CohortCheck) -> str:
    """Write tables of counts and geometry, a line for each problem, and the verdict.

    Args:
        check: What `check_cohort` returned.

    Returns:
        The text for the terminal.
    """
    errors = sum(problem.stops for problem in check.problems)
    warnings = len(check.problems) - errors
    verdict = "usable" if check.usable else "not usable for training"
    parts = [_counts(check.manifest), _geometry([header for header in check.headers if header is not None])]
    if check.problems:
        parts.append("\n".join(_problem_line(problem, check.manifest.path) for problem in check.problems))
    counted = f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    return "\n\n".join([*filter(None, parts), f"{verdict}: {counted}"])


# -------------------- problems


def _header(path: Path) -> tuple[Header | None, str]:
    """Read a header; None and the reason where that fails."""
    try:
        return read_header(path), ""
    except TonnoError as error:
        return None, str(error).removeprefix(f"{path}: ")


def _mask_problems(case: Case, header: Header | None, found: dict[str, list[tuple[Case, int]]]) -> Iterable[str]:
    """Say why masks cannot be compared with heatmaps of their volume; training does not need them.

    ``found`` has the classes' names, and gets the value of each mask that has a single one and states none.
    """
    for index, (name, mask) in enumerate(zip(found, case.masks, strict=True)):
        if mask is None:
            continue
        title = f"mask of {name}" if len(found) > 1 else "mask"
        grid, text = _header(mask)
        if grid is None:
            yield f"{title}: {text}"
        elif header is not None and not same_grid(grid, header):
            what = f"on another grid, {_grid(grid)}, than its volume, {_grid(header)}"
            yield f"{title}: {what}; take this scan's, or resample it"
        else:
            yield from (f"{title}: {text}" for text in _value_problems(case, index, mask, found[name]))


def _value_problems(case: Case, index: int, mask: Path, single: list[tuple[Case, int]]) -> Iterable[str]:
    """Say which values of a mask do not fit what the manifest says of it."""
    try:
        counts = values_in(read_mask(mask).array)
    except TonnoError as error:
        yield str(error).removeprefix(f"{mask}: ")
        return
    wanted = case.values_of(index)
    if wanted is None and len(counts) > 1:
        yield several_values(counts)
        return
    if wanted is None:
        single += [(case, value) for value in counts]
    present = bool(set(counts) & set(wanted)) if wanted else bool(counts)
    if present != bool(case.labels[index]):
        holds = "values " + ", ".join(map(str, counts)) if counts else "nothing"
        meant = f", and {values_text(wanted)} means the finding" if wanted else ""
        yield f"label is {case.labels[index]}, but it holds {holds}{meant}"


def _unlike_values(found: dict[str, list[tuple[Case, int]]]) -> Iterable[Problem]:
    """Find masks of a single value that is not the other masks': one may be of an organ, another of its tumour."""
    for name, masks in found.items():
        usual = Counter(value for _, value in masks).most_common(1)
        for case, value in masks:
            if value != usual[0][0]:
                title = f"mask of {name}" if len(found) > 1 else "mask"
                text = f"holds {value}, mostly {usual[0][0]}; if both mean the finding, write FILE#{ANY} in all lines"
                yield Problem(case.line, f"{title}: {text}")


def _grid(header: Header) -> str:
    origin = ", ".join(f"{mm:.4g}" for mm in header.ijk_to_ras[:3, 3])
    return f"{_by(header.size_ijk)} voxels of {_by(header.spacing_mm)} mm {header.orientation} from ({origin})"


def _by(numbers: Iterable[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


def _duplicates(cases: Sequence[Case], progress: bool) -> Iterable[Problem]:
    for group in find_duplicates([case.volume for case in cases], progress=progress):
        first = cases[group[0]]
        for case in (cases[index] for index in group[1:]):
            differs = [
                text
                for text, differing in (
                    ("with other labels", (case.labels, case.number) != (first.labels, first.number)),
                    (f"which is in split {first.split} and this in {case.split}", case.split != first.split),
                    ("of another patient", case.patient != first.patient),
                )
                if differing
            ]
            yield Problem(case.line, ", ".join([f"the same bytes as the volume of line {first.line}", *differs]))


def _misplaced_masks(cases: Sequence[Case]) -> Iterable[Problem]:
    """Find masks that are a volume, or another patient's: on equal grids nothing else would tell."""
    volumes = {case.volume: case for case in reversed(cases)}
    first: dict[Path, Case] = {}
    for case in cases:
        # An empty mask may serve all volumes without the finding.
        of_findings = (mask for mask, label in zip(case.masks, case.labels, strict=True) if mask and label)
        for mask in dict.fromkeys(of_findings):
            other = first.setdefault(mask, case)
            if mask in volumes:
                yield Problem(case.line, f"mask: is the volume of line {volumes[mask].line}; expected a mask")
            elif other.patient != case.patient:
                yield Problem(case.line, f"mask: is also that of line {other.line}, of another patient")


def _unlike(cases: Sequence[Case], headers: Sequence[Header]) -> Iterable[Problem]:
    """Find volumes whose spacing, size or extent is far from the median, or whose orientation or voxels are rare."""
    quantities = {name: _quantity(headers, name) for name in _QUANTITIES}
    far = {name: outlying(values) for name, values in quantities.items()}
    for row, case in enumerate(cases):
        for name, values in quantities.items():
            if far[name][row].any():
                usual = _by(np.median(values, axis=0))
                yield Problem(case.line, f"{name} is {_by(values[row])} along R x A x S, the median {usual}")
    for name, read in _KINDS.items():
        kinds = [read(header) for header in headers]
        usual = Counter(kinds).most_common(1)[0][0] if kinds else ""
        yield from (
            Problem(case.line, f"{name} is {kind}, mostly {usual}")
            for case, kind in zip(cases, kinds, strict=True)
            if kind != usual
        )


def _unlike_channels(cases: Sequence[Case], headers: Sequence[Header]) -> Iterable[Problem]:
    """Find volumes of more or fewer channels than most: a model looks at volumes of one number."""
    usual = Counter(header.channels for header in headers).most_common(1)
    for case, header in zip(cases, headers, strict=True):
        if header.channels != usual[0][0]:
            text = f"volume: channels: {header.channels}, mostly {usual[0][0]}; a model looks at volumes of one number"
            yield Problem(case.line, text, stops=True)


def _shortcuts(classes: Sequence[str], cases: Sequence[Case], headers: Sequence[Header]) -> Iterable[Problem]:
    """Find geometry or voxel types that predict a label: the network would see them before the finding."""
    measured: dict[str, Sequence[float]] = {}
    for name in _QUANTITIES:
        for axis, values in zip("RAS", _quantity(headers, name).T, strict=True):
            measured[f"{name} along {axis}"] = values.tolist()
    for name, read in _KINDS.items():
        kinds = [read(header) for header in headers]
        measured |= {f"{name} {kind}": [float(other == kind) for other in kinds] for kind in sorted(set(kinds))}
    for index, name in enumerate(classes):
        for quantity, area in find_shortcuts(measured, [case.labels[index] for case in cases]):
            text = f"{quantity} alone tells the labels of class {name!r} apart (AUC {area:.2f})"
            yield Problem(0, f"{text}; a classifier may learn that instead of the finding")


def outlying(values: _Values) -> npt.NDArray[np.bool_]:
    """Find the values that are far from the median of their column.

    With x = log(value / median) and s = 1.4826 median |x|, its robust standard deviation: |x| >= log `FAR_FACTOR`,
    or |x| > `FAR_DEVIATIONS` s and |x| > log `NEAR_FACTOR`.

    Args:
        values: Positive numbers (N, K).

    Returns:
        Which are far (N, K).
    """
    if not len(values):
        return np.zeros(values.shape, dtype=bool)
    away = np.abs(np.log(values) - np.median(np.log(values), axis=0))
    spread = 1.4826 * np.median(away, axis=0)
    very_far = away >= np.log(FAR_FACTOR) - 1e-6  # 2 mm among 1 mm, however they are rounded
    return np.asarray(very_far | ((away > FAR_DEVIATIONS * spread) & (away > np.log(NEAR_FACTOR))))


def _missing_classes(manifest: Manifest) -> Iterable[Problem]:
    try:
        require_trainable(manifest)
    except TonnoError as error:
        yield Problem(0, str(error).removeprefix(f"{manifest.path}: "), stops=True)
        if not manifest.has_split:
            return
    whose = "" if manifest.has_split else " that training will make"
    validation = as_trained(manifest).split("val")
    if manifest.target:
        if len(validation) < LEAST_TO_CHOOSE:
            few = count_of(len(validation), "volume")
            yield Problem(0, f"split val{whose} has {few}, too few to tell how well it is learned")
        return
    for index, name in enumerate(manifest.classes):
        counts = [sum(case.labels[index] == label for case in validation) for label in (0, 1)]
        for label, loss in ((0, "no threshold can be calibrated"), (1, "no settings can be chosen")):
            if not counts[label]:
                yield Problem(0, f"no volume in split val{whose} has label {label} of class {name!r}: {loss}")
        if all(counts) and min(counts) < LEAST_TO_CHOOSE:
            positive = count_of(counts[1], "volume")
            yield Problem(
                0,
                f"split val{whose} has {positive} with and {counts[0]} without class {name!r}, too few to "
                f"choose settings by ({LEAST_TO_CHOOSE} of each): methods keep their defaults, thresholds are rough",
            )


def as_trained(manifest: Manifest, seed: int = 0) -> Manifest:
    """Return a manifest with the split that training takes.

    Args:
        manifest: The cohort.
        seed: Of the training.

    Returns:
        The manifest itself where it has a split.
    """
    return manifest if manifest.has_split else split_patients(manifest, seed=seed)


def _problem_line(problem: Problem, path: Path) -> str:
    place = f"{path}, line {problem.line}" if problem.line else f"{path}"
    return f"{place}: {'error' if problem.stops else 'warning'}: {problem.text}"


# -------------------- tables

_QUANTITIES: dict[str, Callable[[Header], _Values]] = {
    "spacing in mm": lambda header: header.spacing_mm,
    "size in voxels": lambda header: np.array(header.size_ijk, dtype=np.float64),
    "extent in mm": lambda header: header.spacing_mm * header.size_ijk,
}
_KINDS: dict[str, Callable[[Header], str]] = {
    "orientation": lambda header: header.orientation,
    "voxel type": lambda header: header.voxels,
}


def _quantity(headers: Sequence[Header], name: str) -> _Values:
    """Measure all volumes along the axes nearest to R, A and S (N, 3), so that orientations are comparable."""
    return np.array([_QUANTITIES[name](header)[list(header.axes_ras)] for header in headers]).reshape(-1, 3)


def _counts(manifest: Manifest) -> str:
    from tabulate import tabulate

    divided = as_trained(manifest)
    rows: list[list[object]] = []
    for split in [name for name in SPLITS if divided.split(name)]:
        cases = divided.split(split)
        patients = len({case.patient for case in cases})
        if manifest.target:
            numbers = np.array([case.number for case in cases])
            spread = (numbers.min(), np.median(numbers), numbers.max(), numbers.mean(), numbers.std())
            rows.append([split, manifest.target, len(cases), patients, *spread])
            continue
        for index, name in enumerate(manifest.classes):
            positive = [case for case in cases if case.labels[index]]
            having = len({case.patient for case in positive})
            rows.append([split, name, len(cases), len(positive), len(cases) - len(positive), patients, having])
    headers = ["split", "class", "volumes", "positive", "negative", "patients", "with it"]
    if manifest.target:
        headers = ["split", "target", "volumes", "patients", "least", "median", "most", "mean", "SD"]
    table = str(tabulate(rows, headers=headers))
    return table if manifest.has_split else f"{table}\nthe list gives no split: training makes this one (seed 0)"


def _geometry(headers: Sequence[Header]) -> str:
    from tabulate import tabulate

    if not headers:
        return ""
    rows = []
    for name in _QUANTITIES:
        values = _quantity(headers, name)
        columns = (values.min(axis=0), np.median(values, axis=0), values.max(axis=0))
        rows.append([name, *(_by(numbers) for numbers in columns)])
    table = tabulate(rows, headers=["R x A x S", "least", "median", "most"], disable_numparse=True)
    lines = [
        f"{name}: {', '.join(f'{kind} ({count})' for kind, count in Counter(map(read, headers)).most_common())}"
        for name, read in _KINDS.items()
    ]
    channels = Counter(header.channels for header in headers)
    if set(channels) != {1}:
        several = ", ".join(f"{count} ({volumes})" for count, volumes in channels.most_common())
        lines.append(f"channels: {several}; training takes an `intensity` for each, as window:0:20/zscore")
    return "\n".join([str(table), *lines])
