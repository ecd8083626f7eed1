"""The choices of a reconstruction: names, defaults, presets, and their checks. Free of torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

from tonno_core.errors import TonnoError

CamKind = Literal["layercam", "gradcam"]
FilterKind = Literal["second-difference", "hann", "gaussian"]
# From 1, the finest; or some whose heatmaps are added up, finest first: "3+4".
Stage = int | str

METHODS = (
    "tonno",
    "averaged-cam",
    "tomographic-cam",
    "matched-cam",
    "slicewise-cam",
    "slicewise-cam-3axes",
    "center",
)
CAM_METHODS = ("averaged-cam", "tomographic-cam", "matched-cam")
SLICEWISE_METHODS = ("slicewise-cam", "slicewise-cam-3axes")

# What moves the scale or the noise of a method's heatmap, and with it the right threshold.
_CAM_SETTINGS = ("slices", "cam", "stage", "smooth_mm", "frame")
_OF_ALL_PLANES = ("directions", "lattice")
SETTINGS_THAT_MATTER: dict[str, tuple[str, ...]] = {
    "tonno": ("slices", "filter", "smooth_mm", "frame", *_OF_ALL_PLANES),
    "averaged-cam": (*_CAM_SETTINGS, *_OF_ALL_PLANES),
    "tomographic-cam": (*_CAM_SETTINGS, "filter", *_OF_ALL_PLANES),
    "matched-cam": (*_CAM_SETTINGS, "filter", "sigma_scale", *_OF_ALL_PLANES),
    "slicewise-cam": _CAM_SETTINGS,
    "slicewise-cam-3axes": _CAM_SETTINGS,
    "center": ("smooth_mm", "frame"),
}

_CHOICES: dict[str, tuple[str, ...]] = {
    "cam": get_args(CamKind),
    "lattice": ("hemisphere", "sphere"),
    "filter": get_args(FilterKind),
    "frame": ("physical", "normalized"),
    "grid": ("band-limited", "volume"),
}

# Least and greatest. What lies beyond is a slip of the pen that would fill any machine's memory.
_WHOLE_NUMBERS = {
    "slices": (2, 1024),
    "directions": (1, 50_000),
    "cam_directions": (1, 50_000),
    "slice_size": (8, 2048),
}
_STAGES = (1, 1000)
_NUMBERS = {"sigma_scale": (0, 1000), "smooth_mm": (0, 1000), "radius_mm": (0.01, 10_000)}
# Each method's own: what a model may have chosen for it. None in the settings: not asked for.
_OF_A_METHOD = ("stage", "filter", "sigma_scale", "smooth_mm")
_OPTIONAL = ("cam_directions", "slice_size", "radius_mm", *_OF_A_METHOD)


@dataclass(frozen=True)
class ReconstructionSettings:
    """How heatmaps are made; the command line has an option for each.

    slices: M offsets. directions: L; cam_directions: L of the CAM methods where it differs. stage: from 1 (finest), or
    some added up (``3+4``), which takes a calibrated model. sigma_scale: factor on Matched CAM's sigma = w / 2.
    smooth_mm: standard deviation of a Gaussian on the finished heatmap. Of these and the filter, None is the model's
    choice for the method (`variant_of`). radius_mm: of the ball, None for the foreground's. slice_size: S pixels, None
    for the classifier's own.
    """

    methods: tuple[str, ...] = ("matched-cam",)
    cam: CamKind = "layercam"
    stage: Stage | None = None
    sigma_scale: float | None = None
    smooth_mm: float | None = None
    slices: int = 64
    directions: int = 256
    cam_directions: int | None = None
    lattice: str = "hemisphere"
    filter: FilterKind | None = None
    frame: str = "physical"
    radius_mm: float | None = None
    grid: str = "band-limited"
    slice_size: int | None = None
    class_name: str | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if name in _OPTIONAL and getattr(self, name) is None:
                continue
            _require(getattr(self, name) in choices, name, getattr(self, name), f"one of {', '.join(choices)}")
        _require(len(self.methods) > 0, "methods", "empty", "at least one")
        for method in self.methods:
            _require(method in METHODS, "methods", method, f"one of {', '.join(METHODS)}")
        for name in _WHOLE_NUMBERS | _NUMBERS:
            _require_number(name, getattr(self, name))
        stages_of(self.stage)
        if self.radius_mm is not None and self.frame == "normalized":
            raise TonnoError("`radius_mm` has no meaning with `frame` normalized; leave one of them out")

    def directions_for(self, method: str) -> int:
        """L of a method."""
        if method in CAM_METHODS and self.cam_directions is not None:
            return self.cam_directions
        return self.directions


def stages_of(stage: object) -> tuple[int, ...]:
    """The stages of a `Stage`, finest first; none of None. Raises TonnoError for what is neither."""
    if stage is None:
        return ()
    low, high = _STAGES
    numbers = tuple(int(word) for word in str(stage).split("+") if word.isdecimal())
    good = "+".join(map(str, numbers)) == str(stage) and list(numbers) == sorted(set(numbers))
    good = good and all(low <= number <= high for number in numbers) and isinstance(stage, str) == (len(numbers) > 1)
    _require(good, "stage", stage, f"a whole number from {low} to {high}, or some to add up, finest first, like 3+4")
    return numbers


@dataclass(frozen=True)
class Variant:
    """One way to make one heatmap.

    stage: None for the model's own; the rest as in the settings. weights: of the heatmaps of the stages that are added
    up, one for each; none for a single stage.
    """

    method: str
    stage: Stage | None = None
    filter: FilterKind = "second-difference"
    sigma_scale: float = 1.0
    smooth_mm: float = 0.0
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _require(self.method in METHODS, "method", self.method, f"one of {', '.join(METHODS)}")
        choices = _CHOICES["filter"]
        _require(self.filter in choices, "filter", self.filter, f"one of {', '.join(choices)}")
        for name in ("sigma_scale", "smooth_mm"):
            _require_number(name, getattr(self, name))
        stages = stages_of(self.stage)
        object.__setattr__(self, "weights", tuple(self.weights))  # JSON has lists
        fit = not self.weights or len(self.weights) == len(stages)
        good = fit and all(_is_number(weight) and 0 < weight < math.inf for weight in self.weights)
        _require(good, "weights", self.weights, f"a positive number for each of stage {self.stage}")

    def choices(self) -> dict[str, Any]:
        """All that matters to its method, by name."""
        own = {name: getattr(self, name) for name in choices_of(self.method)}
        return own | ({"weights": self.weights} if isinstance(own.get("stage"), str) else {})

    def canonical(self) -> Variant:
        """The same heatmap with everything that its method does not use at its standard, so that equals are equal."""
        return Variant(self.method, **self.choices())

    def raw(self) -> Variant:
        """The canonical variant before its smoothing."""
        return dataclasses.replace(self.canonical(), smooth_mm=0.0)

    def parts(self) -> dict[Variant, float]:
        """The canonical heatmaps of single stages whose weighted sum it is: itself, where nothing is added up."""
        whole = self.canonical()
        if not isinstance(whole.stage, str):
            return {whole: 1.0}
        weights = zip(stages_of(whole.stage), whole.weights, strict=True)
        return {dataclasses.replace(whole, stage=stage, weights=()): weight for stage, weight in weights}


def choices_of(method: str) -> tuple[str, ...]:
    """The fields of a `Variant` that matter to a method."""
    return tuple(name for name in _OF_A_METHOD if name in SETTINGS_THAT_MATTER[method])


def variant_of(
    method: str,
    settings: ReconstructionSettings,
    *,
    calibrated: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Variant:
    """The variant of a method: what the settings ask for, else its calibrated choice, else the model's default.

    Where none of these says anything, the standard; a stage is then None, the last but one of the encoder.
    """
    chosen: dict[str, Any] = {}
    for name in choices_of(method):
        sources = (getattr(settings, name), (calibrated or {}).get(name), (defaults or {}).get(name))
        value = next((one for one in sources if one is not None), None)
        if value is not None:
            chosen[name] = value
    return Variant(method, **chosen)


def model_defaults(**changes: Any) -> dict[str, Any]:
    """What a new model's description states as its defaults: every choice that shapes its heatmaps."""
    standard = dataclasses.asdict(Variant("matched-cam"))
    settings = dataclasses.asdict(ReconstructionSettings(**changes))
    settings |= {name: standard[name] for name in _OF_A_METHOD if settings[name] is None}
    about_a_scan = {"radius_mm", "slice_size", "class_name", "cam_directions"}
    return {name: value for name, value in settings.items() if name not in about_a_scan}


PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"slices": 48, "directions": 96},
    "balanced": {"slices": 64, "directions": 256},
    "paper": {
        "slices": 100,
        "directions": 2000,
        "cam_directions": 1000,
        "slice_size": 224,
        "lattice": "sphere",
        "filter": "second-difference",
        "smooth_mm": 0.0,
        "frame": "normalized",
        "grid": "volume",
    },
}


def combine(
    *, defaults: Mapping[str, Any], preset: str | None = None, explicit: Mapping[str, Any]
) -> ReconstructionSettings:
    """Settings from the model's defaults, then a preset, then what was asked for (None: not asked).

    A number of directions that was asked for holds for all methods. The defaults of what is each method's own
    (stage, filter, sigma_scale, smooth_mm) are checked but not taken: the model's choice for a method goes
    before them (`variant_of`). Raises TonnoError for unknown names.
    """
    known = {field.name for field in dataclasses.fields(ReconstructionSettings)}
    unknown = sorted(set(defaults) - known)
    if unknown:
        raise TonnoError(f"the model's default '{unknown[0]}' is unknown; it needs a newer version of tonno")
    if preset is not None and preset not in PRESETS:
        raise TonnoError(f"`preset` '{preset}' is unknown, expected one of {', '.join(PRESETS)}")
    asked = {name: value for name, value in explicit.items() if value is not None}
    if "directions" in asked:
        asked.setdefault("cam_directions", asked["directions"])
    ReconstructionSettings(**{name: defaults[name] for name in _OF_A_METHOD if name in defaults})
    of_all = {name: value for name, value in defaults.items() if name not in _OF_A_METHOD}
    merged = {**of_all, **PRESETS.get(preset or "", {}), **asked}
    if "methods" in merged:
        named = isinstance(merged["methods"], (list, tuple)) and all(isinstance(m, str) for m in merged["methods"])
        _require(named, "methods", merged["methods"], "a list of names")
        merged["methods"] = tuple(dict.fromkeys(merged["methods"]))
    return ReconstructionSettings(**merged)


def _require_number(name: str, value: Any) -> None:
    if value is None and name in _OPTIONAL:
        return
    low, high = (_WHOLE_NUMBERS | _NUMBERS)[name]
    whole = name in _WHOLE_NUMBERS
    number = _is_number(value) and (not whole or isinstance(value, Integral))
    text = f"a {'whole ' if whole else ''}number from {low} to {high}"
    _require(number and low <= value <= high, name.removeprefix("cam_"), value, text)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _require(condition: bool, name: str, found: object, expected: str) -> None:
    if not condition:
        raise TonnoError(f"`{name}` is {found}, expected {expected}")
