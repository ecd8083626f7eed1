"""The rows of an evaluation's table: which heatmaps are made, and by which threshold each is judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from tonno_core.bundle.calibration import ABOVE_HALF_PEAK, ModelChoices
from tonno_core.bundle.file import BundleSpec
from tonno_core.bundle.kind import MASKS
from tonno_core.output import Json
from tonno_core.settings import (
    CAM_METHODS,
    SEGMENTER,
    SLICEWISE_METHODS,
    ReconstructionSettings,
    Variant,
    choices_of,
    stages_text,
)

# Smoothing of a slice-wise map, where no calibration chose it.
STANDARD_SMOOTHING_MM = 8.0
# The row that shows how far the same network gets with what weak supervision has not.
TRAINED_ON_MASKS = f"{SEGMENTER} trained on masks"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        variant: How the heatmap is made.
        best: Whether it is the model's own choice for the method.
        threshold: None for Otsu's of each heatmap.
        source: How the threshold was found.
        model: The segmenter that makes the heatmap, by its row's name; "" for the evaluation's model.
        min_volume_mm3: Smallest component that the model keeps where nobody says otherwise.
        min_peak: What the highest value of a component reaches that it then keeps; None for all.
        above_half_peak: How far the threshold lies above half of the heatmap's highest value; None where it is the
            same for all.
    """

    variant: Variant
    best: bool
    threshold: float | None
    source: str
    model: str = ""
    min_volume_mm3: float = 0.0
    min_peak: float | None = None
    above_half_peak: float | None = None

    def record(self) -> Json:
        """Return the row as ``settings.json`` states it.

        Returns:
            By name; what an evaluation without segmenters has not is left out.
        """
        values = {**dataclasses.asdict(self), "variant": self.variant.record()}
        unsaid = {"model": "", "min_volume_mm3": 0.0, "min_peak": None, "above_half_peak": None}
        return {name: value for name, value in values.items() if name not in unsaid or value != unsaid[name]}


def segmenter_row(spec: BundleSpec, settings: ReconstructionSettings) -> tuple[str, Row]:
    """Return the row of a segmenter.

    Args:
        spec: Its description.
        settings: Its own, with the class.

    Returns:
        The row's name by what the segmenter was trained on, and the row.
    """
    choices = spec.choices
    variant = choices.variant(SEGMENTER, settings)
    name = TRAINED_ON_MASKS if spec.training.get("taught_by") == MASKS else SEGMENTER
    known = choices.threshold(variant, settings)
    assert known is not None
    volume, peak = known.min_volume_mm3, known.min_peak
    above = known.record.get(ABOVE_HALF_PEAK)
    return name, Row(variant, True, known.value, known.origin, "", volume, peak, above)


def rows_of(
    choices: ModelChoices,
    settings: ReconstructionSettings,
    *,
    stages: Sequence[tuple[int, ...]],
    standard: int,
    all_candidates: bool,
) -> dict[str, Row]:
    """Return the rows of an evaluation.

    Each method as the model would make it (``matched-cam``); CAM methods at each of some stages (``matched-cam@3``;
    slice-wise ones without and with smoothing), and if asked all that the calibration tried.

    Args:
        choices: The model's.
        settings: Of the reconstructions.
        stages: Of the CAM methods' rows; several numbers are added up.
        standard: The stage that is taken where nobody chose one.
        all_candidates: Whether there is a row for each variant that the calibration tried.

    Returns:
        Rows by name, in order.
    """
    rows: dict[str, Row] = {}
    for method in settings.methods:
        if method == SEGMENTER:
            continue
        best = choices.variant(method, settings)
        if "stages" in choices_of(method) and not best.stages:
            best = dataclasses.replace(best, stages=(standard,))
        rows[method] = _row(choices, settings, best, best=True)
        if method in (*CAM_METHODS, *SLICEWISE_METHODS):
            for stage in stages:
                rows |= _stage_rows(choices, settings, rows[method], stage)
    if all_candidates:
        for variant in _candidates(choices, settings):
            rows.setdefault(describe(variant), _row(choices, settings, variant))
    return rows


def _stage_rows(
    choices: ModelChoices, settings: ReconstructionSettings, best: Row, stages: tuple[int, ...]
) -> dict[str, Row]:
    """Return a method's rows at some stages; its other choices are those that the calibration found best there."""

    def chosen(variant: Variant, *, smoothed: bool = False) -> Row:
        if variant == best.variant and best.threshold is not None:  # the calibration's choice, also of equals
            return dataclasses.replace(best, best=False)
        return _row(choices, settings, _calibrated(choices, settings, variant, smoothed=smoothed))

    def at_stages(smooth_mm: float) -> Variant:
        variant = dataclasses.replace(best.variant, stages=stages, smooth_mm=smooth_mm, weights=())
        return choices.weighted(variant, settings.class_name)

    method, smooth_mm, text = best.variant.method, best.variant.smooth_mm, stages_text(stages)
    if len(stages) > 1 and not at_stages(smooth_mm).weights:  # the calibration did not add them up for this method
        return {}
    if method not in SLICEWISE_METHODS:
        return {f"{method}@{text}": chosen(at_stages(smooth_mm))}
    return {
        f"{method}@{text}": _row(choices, settings, at_stages(0.0)),
        f"{method}@{text} smoothed": chosen(at_stages(smooth_mm or STANDARD_SMOOTHING_MM), smoothed=True),
    }


def describe(variant: Variant) -> str:
    """Return a name that states all that matters to the variant's method.

    Args:
        variant: Complete.

    Returns:
        Such as "matched-cam@3 hann sigma 1 smooth 4 mm".
    """
    names = choices_of(variant.method)
    parts = [variant.method + (f"@{stages_text(variant.stages)}" if "stages" in names else "")]
    parts += [variant.filter] if "filter" in names else []
    parts += [f"sigma {variant.sigma_scale:g}"] if "sigma_scale" in names else []
    parts += [f"smooth {variant.smooth_mm:g} mm"] if "smooth_mm" in names else []
    return " ".join(parts)


def _candidates(choices: ModelChoices, settings: ReconstructionSettings) -> list[Variant]:
    """Return what the calibration tried for the class and methods, the best of it first."""
    tried = choices.tried_variants(settings.class_name)
    asked = [variant for variant in tried if variant.method in settings.methods]
    return sorted(asked, key=lambda variant: -(tried[variant].get("agreement", tried[variant].get("auc")) or 0.0))


def _calibrated(
    choices: ModelChoices, settings: ReconstructionSettings, variant: Variant, *, smoothed: bool = False
) -> Variant:
    """Return the best of the calibration's candidates at a variant's stages that has what was asked for, else it."""
    names = [name for name in choices_of(variant.method) if name != "stages"]
    for candidate in _candidates(choices, settings):
        alike = (candidate.method, candidate.stages) == (variant.method, variant.stages)
        asked = all(getattr(settings, name) in (None, getattr(candidate, name)) for name in names)
        if alike and asked and (not smoothed or candidate.smooth_mm > 0):
            return candidate
    return variant


def _row(choices: ModelChoices, settings: ReconstructionSettings, variant: Variant, *, best: bool = False) -> Row:
    """Return a row with the threshold that the model brings for just this variant."""
    known = choices.threshold(variant, settings)
    if known is None or set(known.changed) & set(variant.choices()):
        return Row(variant, best, None, "otsu, as the model brings none")
    return Row(variant, best, known.value, known.origin)
