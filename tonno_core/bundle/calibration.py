"""The threshold that a model brings for a heatmap, and whether it was calibrated for the planes at hand. Free of torch.

`ModelChoices` is what the description says of heatmaps; whoever needs a model's threshold asks it, or `threshold_for`
where there is no more than the description's ``thresholds``, as in Slicer's panel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from tonno_core.bundle.kind import CLASSIFIER
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.settings import (
    ALL_METHODS,
    SEGMENTER,
    SEGMENTER_SETTINGS,
    SETTINGS_THAT_MATTER,
    ReconstructionSettings,
    Variant,
    choices_of,
    combine,
    is_finite_number,
    variant_of,
)

# The presets for whose planes a calibration measures thresholds beside those for the model's own planes.
CALIBRATED_PRESETS = ("fast", "balanced")
# Fewer volumes with the finding, or without it, cannot choose among variants: of a hundred one is always lucky.
LEAST_TO_CHOOSE = 5
# Where a method's record in ``thresholds`` keeps them.
OTHER_PLANES = "other_planes"
# Where it may keep the smallest component that is no noise, in mm3.
MIN_VOLUME = "min_volume_mm3"
# Where a segmenter's may keep the logit that a component's highest one reaches, or it is no finding.
MIN_PEAK = "min_peak"
# Where it may keep how far a volume's threshold lies above half of its highest logit; "threshold" is the one for all
# volumes, for builds that do not know this.
ABOVE_HALF_PEAK = "above_half_peak"
# What differs from every calibration where all planes went into a region; the rest are names of settings.
SCALE = "scale"
_PLANES = ("slices", "directions", "lattice", "frame", "slice_size")
OWN = "the model's own"
# The origin of the threshold of a segmenter that brings none: its logit is 0 there.
EVEN_ODDS = "probability one half, as the model brings none"
# What a threshold follows by a rule, or hardly at all; of all else it is not known how.
_SCALABLE = {"slices", "directions"}
# Kinds of activation map whose cells add up to the logit where it is linear.
_LOGIT_SHARES = {"layercam", "gradcam"}
# How far beyond two calibrations their trend is followed, in their distance.
_MOST_STEPS = 2.0
# Slices or directions of a calibration; what lies beyond is no number of them.
_MOST_PLANES = 1_000_000

Source = Literal["calibrated", "scaled", "unscaled"]


@dataclass(frozen=True)
class ModelThreshold:
    """A model's threshold for one heatmap, and where it is from.

    Attributes:
        value: The threshold.
        noise_floor: What one foreground voxel in a thousand of a negative volume reaches; None where not recorded.
        source: ``calibrated`` with these very planes and settings; ``scaled`` from calibrations with other numbers of
            slices or directions; ``unscaled``: as calibrated, though for other planes or settings.
        planes: Of the heatmap, by the settings' names.
        calibrated_planes: Of the calibration.
        changed: Names of what differs, "scale" for a zoomed run.
        note: The difference in a sentence for a person, "" where there is none.
        record: What ``model.json`` holds of the nearest calibration.
    """

    value: float
    noise_floor: float | None
    source: Source
    planes: Json
    calibrated_planes: Json
    changed: tuple[str, ...] = ()
    note: str = ""
    record: Json = field(default_factory=dict)

    @property
    def min_volume_mm3(self) -> float:
        """The smallest component that the model keeps where nobody says otherwise; 0 for all."""
        return float(self.record.get(MIN_VOLUME) or 0.0)

    @property
    def min_peak(self) -> float | None:
        """What the peak of a component reaches that the model keeps where nobody says otherwise; None for all."""
        return self.record.get(MIN_PEAK)

    def within(self, peak: float) -> ModelThreshold:
        """Return the threshold for a heatmap.

        Args:
            peak: Its highest value.

        Returns:
            This, but of a segmenter that follows its highest logit.
        """
        above = self.record.get(ABOVE_HALF_PEAK)
        return self if above is None else replace(self, value=peak / 2.0 + above)

    @property
    def origin(self) -> str:
        """How it was found, in a few words for a report."""
        if self.source == "calibrated":
            return f"{OWN}, half way to the highest logit" if ABOVE_HALF_PEAK in self.record else OWN
        if not self.record:
            return EVEN_ODDS
        if self.source == "scaled":
            return f"{OWN}, scaled from that for {planes_text(self.calibrated_planes)}"
        return f"{OWN}, calibrated at other {', '.join(self.changed)}"

    def message(self) -> Json:
        """Return the record with this threshold and where it is from.

        Returns:
            As JSON holds it.
        """
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
class ModelChoices:
    """What a model's description says of its heatmaps: its own settings, and choices and thresholds by method.

    Attributes:
        classes: Names of the model's outputs.
        slice_size: S pixels of its input.
        defaults: Its own settings, by their names in files.
        thresholds: Records by method, for a class other than the first by ``method/class``.
        tried: A record of each variant that the calibration tried.
        kind: ``classifier``, ``regressor`` or ``segmenter``.
    """

    classes: tuple[str, ...]
    slice_size: int
    defaults: Json = field(default_factory=dict)
    thresholds: dict[str, Json] = field(default_factory=dict)
    tried: Sequence[Json] = ()
    kind: str = CLASSIFIER

    def settings(self, explicit: Json | None = None, preset: str | None = None) -> ReconstructionSettings:
        """Return the settings that the model makes of what is asked for.

        Args:
            explicit: What is asked for, by names in files.
            preset: A name from `PRESETS`.

        Returns:
            The settings.

        Raises:
            TonnoError: A name or a value is unknown, or has no meaning for a model of this kind.
        """
        self.check_methods((explicit or {}).get("methods") or ())
        if self.kind == SEGMENTER:
            for name, value in {**(explicit or {}), "preset": preset}.items():
                if value is not None and name not in SEGMENTER_SETTINGS:
                    raise TonnoError(f"`{name}` has no meaning for a segmenter, which looks at no planes; leave it out")
        return combine(defaults=self.defaults, preset=preset, explicit=explicit or {})

    def check_methods(self, methods: Sequence[str]) -> None:
        """Check that a model of this kind makes heatmaps by some methods.

        Args:
            methods: Their names.

        Raises:
            TonnoError: It does not.
        """
        for method in methods:
            if method in ALL_METHODS and (method == SEGMENTER) != (self.kind == SEGMENTER):
                raise TonnoError(
                    f"`methods` {method}: the model is a segmenter, whose only method is {SEGMENTER}"
                    if self.kind == SEGMENTER
                    else f"`methods` {method}: the model is a {self.kind} of slices; a segmenter is another kind of "
                    f"model, which `tonno distill` makes of {'it' if self.kind == CLASSIFIER else 'a classifier'}"
                )

    def record(self, method: str, class_name: str | None = None) -> Json | None:
        """Return the calibration of a method.

        Args:
            method: One of `ALL_METHODS`.
            class_name: None for the first class.

        Returns:
            The record, None where the method and class have none.
        """
        return self.thresholds.get(threshold_key(method, class_name, self.classes))

    def variant(self, method: str, settings: ReconstructionSettings | None = None) -> Variant:
        """Return how the model makes a method's heatmap under some settings.

        Args:
            method: One of `ALL_METHODS`.
            settings: What is asked for, None for the model's own.

        Returns:
            The variant; without stages where nobody chose one.
        """
        settings = settings or self.settings()
        record = self.record(method, settings.class_name) or {}
        variant = variant_of(method, settings, calibrated=record.get("settings"), defaults=self.defaults)
        return self.weighted(variant, settings.class_name)

    def weighted(self, variant: Variant, class_name: str | None = None) -> Variant:
        """Return a variant that adds up stages with the weights that the calibration found for them.

        Args:
            variant: Any.
            class_name: None for the first class.

        Returns:
            The variant with the weights of the calibration's variant of these stages that is most alike; as it is
            where there is none, and where it adds nothing up.
        """
        if len(variant.stages) < 2 or variant.weights:
            return variant
        same = [
            other for other in self.tried_variants(class_name)
            if (other.method, other.stages) == (variant.method, variant.stages)
        ]  # fmt: skip
        if not same:
            return variant
        names = choices_of(variant.method)
        alike = max(same, key=lambda other: sum(getattr(other, name) == getattr(variant, name) for name in names))
        return replace(variant, weights=alike.weights)

    def tried_variants(self, class_name: str | None = None) -> dict[Variant, Json]:
        """Return the calibration's records by what they are about.

        Args:
            class_name: None for the first class.

        Returns:
            Records by variant, in the order of the description.
        """
        name = class_name or self.classes[0]
        records = [record for record in self.tried if record.get("class", self.classes[0]) == name]
        return {Variant.of_record(record): record for record in records if record.get("method") in ALL_METHODS}

    def threshold(
        self, variant: Variant, settings: ReconstructionSettings, *, zoom: bool = False
    ) -> ModelThreshold | None:
        """Return the threshold of a heatmap, see `threshold_for`.

        Args:
            variant: How the heatmap is made, its stages given.
            settings: Of the run.
            zoom: Whether all planes went into a region.

        Returns:
            The threshold, None where the model brings none for the method and class; of a segmenter then 0.
        """
        if settings.slice_size == self.slice_size:
            settings = replace(settings, slice_size=None)
        tried = self.tried_variants(settings.class_name).get(variant)
        known = threshold_for(
            self.thresholds, variant.method, settings, classes=self.classes, variant=variant, tried=tried, zoom=zoom
        )
        if known is None and variant.method == SEGMENTER:
            note = "The model brings no threshold; at 0 its probability is one half: look, and tune it."
            return ModelThreshold(0.0, None, "unscaled", {}, {}, note=note)
        return known


@dataclass(frozen=True)
class _Known:
    """One calibration: settings by name, threshold and noise floor."""

    settings: Json
    value: float
    noise_floor: float | None
    record: Json

    def changed(self, now: Json) -> tuple[str, ...]:
        """Names of what is now otherwise. A setting that it does not state is taken to be the same."""
        then = {"slice_size": None, **self.settings}
        return tuple(name for name, value in now.items() if name in then and then[name] != value)

    def distance(self, now: Json) -> tuple[float, ...]:
        """How far its settings are: what cannot be scaled counts first, then slices, then directions."""
        changed = self.changed(now)
        apart = [
            abs(math.log(now[name] / self.settings[name])) if name in changed else 0.0
            for name in ("slices", "directions")
        ]
        return len(set(changed) - _SCALABLE), *apart


def threshold_for(
    thresholds: Json,
    method: str,
    settings: ReconstructionSettings,
    *,
    classes: Sequence[str] = (),
    variant: Variant | None = None,
    tried: Json | None = None,
    zoom: bool = False,
) -> ModelThreshold | None:
    """Find the threshold of a heatmap; None where the model brings none for the method and class.

    Args:
        thresholds: of the model's description, which `check_thresholds` accepts.
        method: one of `ALL_METHODS`.
        settings: of the run: planes, class, and what was asked for.
        classes: the model's; a class other than the first has thresholds of its own.
        variant: how the heatmap is made, None for what the settings and the calibration make.
        tried: the calibration's record of just this variant, where there is one.
        zoom: whether all planes went into a region.

    Returns:
        The threshold, None where the model brings none, or one in another kind of map's unit.
    """
    chosen = thresholds.get(threshold_key(method, settings.class_name, classes))
    if chosen is None:
        return None
    variant = variant or variant_of(method, settings, calibrated=chosen.get("settings"))
    record = chosen if tried is None else _of_variant(chosen, method, tried)
    now = _settings_of(variant, settings)
    known = sorted(_calibrations(record), key=lambda calibration: calibration.distance(now))
    if not _alike(known[0].settings.get("cam"), now.get("cam")):
        return None
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


def _alike(cam: str | None, other: str | None) -> bool:
    """Return whether maps of two kinds have the same unit: a cell's share of the logit.

    GradCAM++ sums gradients over all cells, and ScoreCAM's weights are logits.
    """
    return cam == other or None in (cam, other) or {cam, other} <= _LOGIT_SHARES


def threshold_key(method: str, class_name: str | None, classes: Sequence[str]) -> str:
    """Return where ``thresholds`` holds a method's record.

    Args:
        method: One of `ALL_METHODS`.
        class_name: None for the first class.
        classes: The model's.

    Returns:
        ``method`` for the first class, ``method/class`` for others.
    """
    return method if not class_name or class_name in classes[:1] else f"{method}/{class_name}"


def settings_that_matter(variant: Variant, settings: ReconstructionSettings) -> Json:
    """Return all that moves the scale or the noise of a heatmap, as a calibration records it.

    Args:
        variant: How the heatmap is made.
        settings: Of the run.

    Returns:
        Values by name, in the order of `SETTINGS_THAT_MATTER`.
    """
    record, chosen = settings.record(), variant.record()
    record["directions"] = settings.directions_for(variant.method)
    names = SETTINGS_THAT_MATTER[variant.method]
    return {name: chosen[name] if name in variant.choices() else record[name] for name in names}


def planes_of(method: str, settings: ReconstructionSettings) -> Json:
    """Return what tells the planes of a method's heatmap from others.

    Args:
        method: One of `ALL_METHODS`.
        settings: Of the run.

    Returns:
        Settings by name.
    """
    return _planes_in(_settings_of(Variant(method), settings))


def is_threshold(record: object) -> bool:
    """Return whether this is a record as `threshold_for` takes it, or one of a variant that a calibration tried.

    Args:
        record: From a model's description.

    Returns:
        False for anything else.
    """
    if not isinstance(record, dict) or not is_finite_number(record.get("threshold")):
        return False
    settings, others = record.get("settings", {}), record.get(OTHER_PLANES, [])
    if not isinstance(settings, dict) or not isinstance(others, list):
        return False
    volume_mm3 = record.get(MIN_VOLUME, 0.0)
    if (
        not is_finite_number(volume_mm3)
        or volume_mm3 < 0
        or not all(is_finite_number(record.get(name, 0.0)) for name in (MIN_PEAK, ABOVE_HALF_PEAK))
        or not (record.get("noise_floor") is None or is_finite_number(record["noise_floor"]))
    ):
        return False
    for name, least in (("slices", 2), ("directions", 1)):
        count = settings.get(name, least)
        if not isinstance(count, int) or isinstance(count, bool) or not least <= count <= _MOST_PLANES:
            return False
    return all(is_threshold(other) and OTHER_PLANES not in other for other in others)


def _of_variant(record: Json, method: str, tried: Json) -> Json:
    """A method's record with the threshold of a variant that the calibration tried beside the one it chose."""
    settings = dict(record.get("settings", {}))
    own = {name: tried[name] for name in Variant(method).choices() if name in tried}
    if any(settings.get(name) != value for name, value in own.items()):
        record = {name: value for name, value in record.items() if name != OTHER_PLANES}
    return {**record, **tried, "settings": settings | own}


def _settings_of(variant: Variant, settings: ReconstructionSettings) -> Json:
    """All that moves the scale or the noise of a heatmap, by name."""
    method = variant.method
    chosen = {name: value for name, value in variant.choices().items() if name != "weights" and value is not None}
    record = settings.record()
    now = {name: record[name] for name in SETTINGS_THAT_MATTER[method] if name not in variant.choices()} | chosen
    if "directions" in now:
        now["directions"] = settings.directions_for(method)
    if "slices" in now:
        now["slice_size"] = settings.slice_size
    return now


def _planes_in(values: Json) -> Json:
    return {name: values[name] for name in _PLANES if values.get(name) is not None}


def _calibrations(record: Json) -> list[_Known]:
    """Return the calibrations of one variant, for the model's own planes and for others."""
    settings = record.get("settings", {})
    records = [record, *record.get(OTHER_PLANES, ())]
    known = []
    for planes in records:
        both = {**settings, **planes.get("settings", {})}
        # A calibration for other planes says itself how many scans it is from, and the like.
        whole = {**record, **planes, "settings": both}
        known.append(_Known(both, float(planes["threshold"]), planes.get("noise_floor"), whole))
    return known


def _scaled(known: Sequence[_Known], now: Json) -> tuple[float, float | None] | None:
    """Threshold and noise floor for another number of slices M; None where they would not change, or nobody knows how.

    Both are taken to follow a power of the slices' spacing 2 / (M - 1), through the nearest calibration and the next
    one with another M. Neither is taken to follow the number of directions: from 32 on it moves the peaks of the
    demo's negative heads by less than 8 % (docs/calibration.md).
    """
    nearest = known[0]
    if "slices" not in nearest.changed(now):
        return None
    others = [other for other in known if other.settings.get("slices") not in (None, nearest.settings["slices"])]
    others = [other for other in others if set(other.changed(now)) <= _SCALABLE]
    if not others:
        return None
    here, there, target = (math.log(planes["slices"] - 1) for planes in (nearest.settings, others[0].settings, now))
    steps = max(-_MOST_STEPS, min((target - here) / (there - here), _MOST_STEPS))
    value = _along(nearest.value, others[0].value, steps)
    return None if value is None else (value, _along(nearest.noise_floor, others[0].noise_floor, steps))


def _along(first: float | None, second: float | None, steps: float) -> float | None:
    """The value some steps from the first towards the second and beyond, each step by the same factor."""
    if first is None or second is None or first <= 0 or second <= 0:
        return None
    try:
        value = float(first * (second / first) ** steps)
    except ArithmeticError:  # beyond floats
        return None
    return value if math.isfinite(value) else None


def _note(planes: Json, then: Json, changed: Sequence[str], *, scaled: bool) -> str:
    """Return the difference in a sentence for a person, who may tune the threshold."""
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


def planes_text(planes: Json, more: Sequence[str] = ()) -> str:
    """Return planes in words.

    Args:
        planes: Settings by name.
        more: Names of other settings to tell.

    Returns:
        Such as "64 slices in each of 256 directions".
    """
    directions = f" in each of {planes['directions']} directions" if "directions" in planes else ""
    named = [f"{name.replace('_', ' ')} {planes.get(name, 'by default')}" for name in more]
    return ", ".join([f"{planes.get('slices', 'unstated')} slices{directions}", *named])
