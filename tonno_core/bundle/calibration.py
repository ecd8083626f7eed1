"""The threshold that a model brings for a heatmap, and whether it was calibrated for the planes at hand. Free of torch.

Whoever needs a model's threshold asks `threshold_for`: the command line, evaluations, cohorts, the engine's process,
and the panel in Slicer, which reads ``model.json`` itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tonno_core.settings import SETTINGS_THAT_MATTER, ReconstructionSettings, Variant, choices_of, variant_of

# The presets for whose planes a calibration measures thresholds beside those for the model's own planes.
CALIBRATED_PRESETS = ("fast", "balanced")
# Where a method's record in ``thresholds`` keeps them.
OTHER_PLANES = "other_planes"
# What differs from every calibration where all planes went into a region; the rest are names of settings.
SCALE = "scale"
_PLANES = ("slices", "directions", "lattice", "frame", "slice_size")
OWN = "the model's own"
# What a threshold follows by a rule, or hardly at all; of all else it is not known how.
_SCALABLE = {"slices", "directions"}
# How far beyond two calibrations their trend is followed, in their distance.
_MOST_STEPS = 2.0

Source = Literal["calibrated", "scaled", "unscaled"]


@dataclass(frozen=True)
class ModelThreshold:
    """A model's threshold for one heatmap, and where it is from.

    value: the threshold. noise_floor: what one foreground voxel in a thousand of a negative volume reaches, None where
    it is not recorded. source: ``calibrated`` with these very planes and settings; ``scaled`` from calibrations with
    other numbers of slices or directions; ``unscaled``: as calibrated, though for other planes or settings. planes,
    calibrated_planes: of the heatmap and of the calibration, by the settings' names. changed: names of what differs,
    "scale" for a zoomed run. note: the difference in a sentence for a person, "" where there is none. record: what
    ``model.json`` holds of the nearest calibration.
    """

    value: float
    noise_floor: float | None
    source: Source
    planes: dict[str, Any]
    calibrated_planes: dict[str, Any]
    changed: tuple[str, ...] = ()
    note: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """How it was found, in a few words for a report."""
        if self.source == "calibrated":
            return OWN
        if self.source == "scaled":
            return f"{OWN}, scaled from that for {planes_text(self.calibrated_planes)}"
        return f"{OWN}, calibrated at other {', '.join(self.changed)}"

    def message(self) -> dict[str, Any]:
        """The record with this threshold and where it is from, as JSON holds it."""
        return dict(self.record) | {
            "threshold": self.value,
            "noise_floor": self.noise_floor,
            "source": self.source,
            "planes": self.planes,
            "calibrated_planes": self.calibrated_planes,
            "changed": list(self.changed),
            "note": self.note,
        }


@dataclass(frozen=True)
class _Known:
    """One calibration: settings by name, threshold and noise floor."""

    settings: dict[str, Any]
    value: float
    noise_floor: float | None
    record: Mapping[str, Any]

    def changed(self, now: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of what is now otherwise. A setting that it does not state is taken to be the same."""
        then = {"slice_size": None, **self.settings}
        return tuple(name for name, value in now.items() if name in then and then[name] != value)

    def distance(self, now: Mapping[str, Any]) -> tuple[float, ...]:
        """How far its settings are: what cannot be scaled counts first, then slices, then directions."""
        changed = self.changed(now)
        apart = [
            abs(math.log(now[name] / self.settings[name])) if name in changed else 0.0
            for name in ("slices", "directions")
        ]
        return len(set(changed) - _SCALABLE), *apart


def threshold_for(
    thresholds: Mapping[str, Any],
    method: str,
    settings: ReconstructionSettings,
    *,
    classes: Sequence[str] = (),
    variant: Variant | None = None,
    tried: Mapping[str, Any] | None = None,
    zoom: bool = False,
) -> ModelThreshold | None:
    """Find the threshold of a heatmap; None where the model brings none for the method and class.

    Args:
        thresholds: of the model's description, which `check_thresholds` accepts.
        method: one of `METHODS`.
        settings: of the run: planes, class, and what was asked for.
        classes: the model's; a class other than the first has thresholds of its own.
        variant: how the heatmap is made, None for what the settings and the calibration make.
        tried: the calibration's record of just this variant, where there is one.
        zoom: whether all planes went into a region.
    """
    chosen = thresholds.get(threshold_key(method, settings.class_name, classes))
    if chosen is None:
        return None
    variant = variant or variant_of(method, settings, calibrated=chosen.get("settings"))
    record = chosen if tried is None else _of_variant(chosen, method, tried)
    now = _settings_of(variant, settings)
    known = sorted(_calibrations(record), key=lambda one: one.distance(now))
    changed = known[0].changed(now) + (SCALE,) * zoom
    scaled = _scaled(known, now) if changed and set(changed) <= _SCALABLE else None
    then, planes = known[0].settings, _planes_in(now)
    return ModelThreshold(
        *(scaled or (known[0].value, known[0].noise_floor)),
        source="scaled" if scaled else "unscaled" if changed else "calibrated",
        planes=planes,
        calibrated_planes=_planes_in(then),
        changed=changed,
        note=_note(planes, _planes_in(then), changed, scaled=scaled is not None),
        record={name: value for name, value in known[0].record.items() if name != OTHER_PLANES},
    )


def threshold_key(method: str, class_name: str | None, classes: Sequence[str]) -> str:
    """Where ``thresholds`` holds a method's record: ``method`` for the first class, ``method/class`` for others."""
    return method if not class_name or class_name in classes[:1] else f"{method}/{class_name}"


def planes_of(method: str, settings: ReconstructionSettings) -> dict[str, Any]:
    """What tells the planes of a method's heatmap from others: settings by name."""
    return _planes_in(_settings_of(Variant(method), settings))


def is_threshold(record: object) -> bool:
    """Whether this is a record as `threshold_for` takes it, or one that a calibration tried."""
    if not isinstance(record, dict) or not _is_number(record.get("threshold")):
        return False
    settings, others = record.get("settings", {}), record.get(OTHER_PLANES, [])
    if not isinstance(settings, dict) or not isinstance(others, list):
        return False
    for name, least in (("slices", 2), ("directions", 1)):
        count = settings.get(name, least)
        if not isinstance(count, int) or isinstance(count, bool) or count < least:
            return False
    return all(is_threshold(other) and OTHER_PLANES not in other for other in others)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _of_variant(record: Mapping[str, Any], method: str, tried: Mapping[str, Any]) -> dict[str, Any]:
    """A method's record with the threshold of a variant that the calibration tried beside the one it chose."""
    settings = dict(record.get("settings", {}))
    own = {name: tried[name] for name in choices_of(method) if name in tried}
    if any(settings.get(name) != value for name, value in own.items()):
        record = {name: value for name, value in record.items() if name != OTHER_PLANES}
    return {**record, **tried, "settings": settings | own}


def _settings_of(variant: Variant, settings: ReconstructionSettings) -> dict[str, Any]:
    """All that moves the scale or the noise of a heatmap, by name."""
    method = variant.method
    now = {name: getattr(settings, name) for name in SETTINGS_THAT_MATTER[method] if name not in choices_of(method)}
    now |= {name: value for name, value in variant.choices().items() if name != "weights" and value is not None}
    if "directions" in now:
        now["directions"] = settings.directions_for(method)
    if "slices" in now:
        now["slice_size"] = settings.slice_size
    return now


def _planes_in(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in _PLANES if values.get(name) is not None}


def _calibrations(record: Mapping[str, Any]) -> list[_Known]:
    """Of one variant, for the model's own planes and for others."""
    settings = record.get("settings", {})
    records = [record, *record.get(OTHER_PLANES, ())]
    known = []
    for one in records:
        its = {**settings, **one.get("settings", {})}
        # Of how many scans, and what else a calibration for other planes says, is of these planes.
        whole = {**record, **one, "settings": its}
        known.append(_Known(its, float(one["threshold"]), one.get("noise_floor"), whole))
    return known


def _scaled(known: Sequence[_Known], now: Mapping[str, Any]) -> tuple[float, float | None] | None:
    """Threshold and noise floor for another number of slices M; None where they would not change, or nobody knows how.

    Both are taken to follow a power of the slices' spacing 2 / (M - 1), through the nearest calibration and the next
    one with another M. Neither is taken to follow the number of directions: from 32 on it moves the peaks of the
    demo's negative heads by less than 8 % (docs/method.md).
    """
    nearest = known[0]
    others = [one for one in known if one.settings["slices"] != nearest.settings["slices"]]
    others = [one for one in others if set(one.changed(now)) <= _SCALABLE]
    if "slices" not in nearest.changed(now) or not others:
        return None
    here, there, wanted = (math.log(one["slices"] - 1) for one in (nearest.settings, others[0].settings, now))
    steps = max(-_MOST_STEPS, min((wanted - here) / (there - here), _MOST_STEPS))
    value = _along(nearest.value, others[0].value, steps)
    return None if value is None else (value, _along(nearest.noise_floor, others[0].noise_floor, steps))


def _along(first: float | None, second: float | None, steps: float) -> float | None:
    """The value some steps from the first towards the second and beyond, each step by the same factor."""
    if first is None or second is None or first <= 0 or second <= 0:
        return None
    return float(first * (second / first) ** steps)


def _note(planes: Mapping[str, Any], then: Mapping[str, Any], changed: Sequence[str], *, scaled: bool) -> str:
    """For a person, who may tune the threshold."""
    if not changed:
        return ""
    if SCALE in changed:
        return "The model's threshold was calibrated for the whole volume, not for a finer region: look, and tune it."
    others = [name.replace("_", " ") for name in changed if name not in _PLANES]
    if others:
        return f"The model's threshold was calibrated with another {', '.join(others)}: look, and tune it."
    more = [name for name in changed if name not in _SCALABLE]
    end = "it was scaled to these" if scaled else "look, and tune it"
    before, now = planes_text(then, more), planes_text(planes, more)
    return f"The model's threshold was calibrated for {before}; the heatmap has {now}: {end}."


def planes_text(planes: Mapping[str, Any], more: Sequence[str] = ()) -> str:
    """Such as ``64 slices in each of 256 directions``, and those of the other planes' settings that are to be named."""
    directions = f" in each of {planes['directions']} directions" if "directions" in planes else ""
    named = [f"{name.replace('_', ' ')} {planes.get(name, 'by default')}" for name in more]
    return ", ".join([f"{planes['slices']} slices{directions}", *named])
