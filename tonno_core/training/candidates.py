"""The variants among which a calibration chooses: a search grid for each method, and neighboring stages added up."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np

from tonno_core.bundle.decide import check_stages, standard_stage
from tonno_core.bundle.file import Bundle
from tonno_core.settings import ReconstructionSettings, Variant, choices_of, variant_of

# What is tried for a method where the settings ask for nothing; stages are all that give maps. The same
# smoothing for every method, so that none wins by a width that the others were not offered.
_SMOOTHING = {"smooth_mm": (0.0, 4.0, 8.0, 12.0)}
_FILTERS = {"filter": ("second-difference", "hann")}
SEARCH_GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
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
    """Return per method the model's default, then the product of the search grid over every choice left open.

    Args:
        bundle: The model.
        settings: What they state is not up for choice.
        class_index: Of the class.
        stages: To choose among; empty for all that give maps.

    Returns:
        Variants, each once.

    Raises:
        TonnoError: A stage does not exist.
    """
    size = settings.slice_size or bundle.spec.slice_size
    encoder = bundle.classifier(slice_size=size)
    check_stages(stages, encoder, class_index, size)
    stage_grid = {"stages": tuple((stage,) for stage in stages or encoder.stages_with_maps(class_index, size))}
    candidates = []
    for method in settings.methods:
        default = variant_of(method, settings, defaults=bundle.spec.defaults)
        known = not stages or default.stages in stage_grid["stages"]
        if "stages" in choices_of(method) and not (default.stages and known):
            first = stages[0] if stages else standard_stage(encoder, class_index, size)
            default = dataclasses.replace(default, stages=(first,))
        grid = {**stage_grid, **SEARCH_GRIDS[method]}
        steps = [
            grid[name] if name in grid and getattr(settings, name) in (None, ()) else (getattr(default, name),)
            for name in choices_of(method)
        ]
        candidates.append(default)
        for chosen in product(*steps):
            candidates.append(Variant(method, **dict(zip(choices_of(method), chosen, strict=True))))
    return list(dict.fromkeys(candidates))


def neighbouring_stages(candidates: Sequence[Variant]) -> list[tuple[Variant, Variant]]:
    """Return pairs of candidates that differ in the stage alone, with none of the candidates' in between.

    Args:
        candidates: Variants.

    Returns:
        Pairs, finer first.
    """
    alike: dict[Variant, dict[int, Variant]] = {}
    for variant in candidates:
        if len(variant.stages) == 1:
            alike.setdefault(dataclasses.replace(variant, stages=()), {})[variant.stages[0]] = variant
    return [pair for group in alike.values() for pair in pairwise(group[stage] for stage in sorted(group))]


def add_stages(pair: tuple[Variant, Variant], floors: tuple[float, float]) -> Variant:
    """Add two stages up.

    Each counts as much as its noise is weak (weights 1 / floor, whose sum is 1), so that both bring the same noise and
    none drowns the other, whatever the scale of its maps.

    Args:
        pair: From `neighbouring_stages`.
        floors: Their noise floors, which are positive.

    Returns:
        The weighted sum.
    """
    inverse = 1.0 / np.array(floors)
    stages = pair[0].stages + pair[1].stages
    return dataclasses.replace(pair[0], stages=stages, weights=tuple((inverse / inverse.sum()).tolist()))
