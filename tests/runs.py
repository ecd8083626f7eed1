"""Runs of the tests: what is asked and a model in, the states of the classes or the heatmaps out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tonno_core import Bundle, Reconstruction, ReconstructionSettings, Volume
from tonno_core.bundle.decide import decide
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.reconstruction import execute, project
from tonno_core.reconstruction.projected import Projected
from tonno_core.reporting import Reporter
from tonno_core.settings import Variant
from tonno_core.slicing.region import Region


def look_at(
    volume: Volume,
    model: ReadyModel,
    settings: ReconstructionSettings | None = None,
    *,
    variants: Mapping[str, Variant] | None = None,
    classes: Sequence[str] = (),
    region: Region | None = None,
    zoom: bool = False,
    reporter: Reporter | None = None,
    **choices: Any,
) -> list[Projected]:
    run = decide(settings, model, variants=variants, classes=classes, region=region, zoom=zoom)
    return project(volume, model.encoder, run, reporter, **choices)


def finished(each: Projected, settings: ReconstructionSettings, **choices: Any) -> Reconstruction:
    """The variants that were first asked for."""
    return each.finish(each.target.variants, settings, Reporter(), **choices)


def executed(
    volume: Volume,
    model: Bundle | str | ReadyModel,
    settings: ReconstructionSettings | None = None,
    *,
    variants: Mapping[str, Variant] | None = None,
    **choices: Any,
) -> Reconstruction:
    ready = model if isinstance(model, ReadyModel) else prepare_model(model, settings, "cpu", "float32")
    return execute(volume, ready.encoder, decide(settings, ready, variants=variants), **choices)
