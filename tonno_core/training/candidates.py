"""The variants among which a calibration chooses: a ladder for each method, and its neighbouring stages added up."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np

from tonno_core.bundle.file import Bundle
from tonno_core.errors import TonnoError
from tonno_core.settings import ReconstructionSettings, Variant, choices_of, variant_of

# What is tried for a method where the settings ask for nothing; stages are all that give maps. The same
# smoothing for every method, so that none wins by a width that the others were not offered.
_SMOOTHING = {"smooth_mm": (0.0, 4.0, 8.0, 12.0)}
_FILTERS = {"filter": ("second-difference", "hann")}
LADDERS: dict[str, dict[str, tuple[Any, ...]]] = {
    "tonno": {**_FILTERS, **_SMOOTHING},
    "averaged-cam": _SMOOTHING,
    "tomographic-cam": {**_FILTERS, **_SMOOTHING},
    "matched-cam": {**_FILTERS, "sigma_scale": (1.0, 0.5, 2.0), **_SMOOTHING},
    "slicewise-cam": _SMOOTHING,
    "slicewise-cam-3axes": _SMOOTHING,
    "center": {},
}


def default_candidates(
    bundle: Bundle, settings: ReconstructionSettings, *, class_index: int = 0, stages: Sequence[int] = ()
) -> list[Variant]:
    """For each method of the settings the model's default, then all of its ladder that the settings leave open.

    stages: to choose among (empty: all that give maps).
    """
    size = settings.slice_size or bundle.spec.slice_size
    encoder = bundle.classifier(slice_size=size)
    for stage in stages:
        if not 1 <= stage <= encoder.stages:
            raise TonnoError(f"`stage` {stage} does not exist in this encoder, expected 1 to {encoder.stages}")
    ladder = {"stage": tuple(stages) or encoder.stages_with_maps(class_index, size)}
    candidates = []
    for method in settings.methods:
        default = variant_of(method, settings, defaults=bundle.spec.defaults)
        if "stage" in choices_of(method) and (default.stage is None or (stages and default.stage not in stages)):
            default = dataclasses.replace(default, stage=stages[0] if stages else max(1, encoder.stages - 1))
        ladders = {**ladder, **LADDERS[method]}
        steps = [
            ladders[name] if name in ladders and getattr(settings, name) is None else (getattr(default, name),)
            for name in choices_of(method)
        ]
        candidates.append(default)
        for chosen in product(*steps):
            candidates.append(Variant(method, **dict(zip(choices_of(method), chosen, strict=True))))
    return list(dict.fromkeys(candidates))


def neighbouring_stages(candidates: Sequence[Variant]) -> list[tuple[Variant, Variant]]:
    """Pairs of candidates, finer first, that differ in the stage alone, with none of the candidates' in between."""
    alike: dict[Variant, dict[int, Variant]] = {}
    for one in candidates:
        if isinstance(one.stage, int):
            alike.setdefault(dataclasses.replace(one, stage=None), {})[one.stage] = one
    return [pair for found in alike.values() for pair in pairwise(found[stage] for stage in sorted(found))]


def add_stages(pair: tuple[Variant, Variant], floors: tuple[float, float]) -> Variant:
    """Two stages added up, from their noise floors, which are positive.

    Each counts as much as its noise is weak (weights 1 / floor, whose sum is 1), so that both bring the same noise and
    none drowns the other, whatever the scale of its maps.
    """
    inverse = 1.0 / np.array(floors)
    stage = "+".join(str(one.stage) for one in pair)
    return dataclasses.replace(pair[0], stage=stage, weights=tuple((inverse / inverse.sum()).tolist()))
