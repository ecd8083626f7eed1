"""The rows of an evaluation's table: which heatmaps are made, and by which threshold each is judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from tonno_core.bundle.file import BundleSpec
from tonno_core.settings import (
    CAM_METHODS,
    SLICEWISE_METHODS,
    ReconstructionSettings,
    Stage,
    Variant,
    choices_of,
)

# Of a slice-wise map, where no calibration chose one.
STANDARD_SMOOTHING_MM = 8.0


@dataclass(frozen=True)
class Row:
    """One row. best: the model's own choice for the method. threshold: None for Otsu's of each heatmap."""

    variant: Variant
    best: bool
    threshold: float | None
    source: str


def rows_of(
    spec: BundleSpec,
    settings: ReconstructionSettings,
    *,
    stages: Sequence[Stage],
    last_stage: int,
    all_candidates: bool,
) -> dict[str, Row]:
    """Rows by name, in order.

    Each method as the model would make it (``matched-cam``); CAM methods at each of some stages (``matched-cam@3``;
    slice-wise ones without and with smoothing), and if asked all that the calibration tried.
    last_stage: how many stages the encoder has.
    """
    rows: dict[str, Row] = {}
    for method in settings.methods:
        best = _with_stage(spec.variant(method, settings).canonical(), last_stage)
        rows[method] = _row(spec, settings, best, best=True)
        if method in (*CAM_METHODS, *SLICEWISE_METHODS):
            for stage in stages:
                rows |= _stage_rows(spec, settings, rows[method], stage)
    if all_candidates:
        for variant in _candidates(spec, settings):
            rows.setdefault(describe(variant), _row(spec, settings, variant))
    return rows


def _stage_rows(spec: BundleSpec, settings: ReconstructionSettings, best: Row, stage: Stage) -> dict[str, Row]:
    """A method at one stage; its other choices are those that the calibration found best there, else its own."""

    def chosen(variant: Variant, *, smoothed: bool = False) -> Row:
        if variant == best.variant and best.threshold is not None:  # the calibration's choice, also of equals
            return dataclasses.replace(best, best=False)
        return _row(spec, settings, _calibrated(spec, settings, variant, smoothed=smoothed))

    def at_stage(smooth_mm: float) -> Variant:
        variant = dataclasses.replace(best.variant, stage=stage, smooth_mm=smooth_mm, weights=())
        return spec.weighted(variant, settings.class_name)

    method, own = best.variant.method, best.variant.smooth_mm
    if isinstance(stage, str) and not at_stage(own).weights:  # the calibration did not add them up for this method
        return {}
    if method not in SLICEWISE_METHODS:
        return {f"{method}@{stage}": chosen(at_stage(own))}
    return {
        f"{method}@{stage}": _row(spec, settings, at_stage(0.0)),
        f"{method}@{stage} smoothed": chosen(at_stage(own or STANDARD_SMOOTHING_MM), smoothed=True),
    }


def describe(variant: Variant) -> str:
    """A name that states all that matters to the variant's method."""
    own = choices_of(variant.method)
    parts = [variant.method + (f"@{variant.stage}" if "stage" in own else "")]
    parts += [variant.filter] if "filter" in own else []
    parts += [f"sigma {variant.sigma_scale:g}"] if "sigma_scale" in own else []
    parts += [f"smooth {variant.smooth_mm:g} mm"] if "smooth_mm" in own else []
    return " ".join(parts)


def _with_stage(variant: Variant, last_stage: int) -> Variant:
    """The stage that a reconstruction would take where none was chosen."""
    if variant.stage is not None or "stage" not in choices_of(variant.method):
        return variant
    return dataclasses.replace(variant, stage=max(1, last_stage - 1))


def _candidates(spec: BundleSpec, settings: ReconstructionSettings) -> list[Variant]:
    """What the calibration tried for the wanted class and methods, the best of it first."""
    tried = spec.tried(settings.class_name)
    wanted = [one for one in tried if one.method in settings.methods]
    return sorted(wanted, key=lambda one: -(tried[one].get("auc") or 0.0))


def _calibrated(
    spec: BundleSpec, settings: ReconstructionSettings, variant: Variant, *, smoothed: bool = False
) -> Variant:
    """The best of the calibration's candidates at a variant's stage that has what was asked for, else the variant."""
    for one in _candidates(spec, settings):
        asked = all(
            getattr(settings, name) in (None, getattr(one, name)) for name in choices_of(one.method) if name != "stage"
        )
        wanted = one.method == variant.method and one.stage == variant.stage
        if asked and wanted and (not smoothed or one.smooth_mm > 0):
            return one
    return variant


def _row(spec: BundleSpec, settings: ReconstructionSettings, variant: Variant, *, best: bool = False) -> Row:
    """A row with the threshold that the model brings for just this variant."""
    known = spec.threshold_for(variant, settings)
    if known is None or set(known.changed) & set(choices_of(variant.method)):
        return Row(variant, best, None, "otsu, as the model brings none")
    return Row(variant, best, known.value, known.origin)
