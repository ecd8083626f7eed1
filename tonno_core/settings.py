"""The choices of a reconstruction: names, defaults, presets, and their checks. Free of torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, cast, get_args

from tonno_core.errors import TonnoError
from tonno_core.output import Json

CamKind = Literal["layercam", "gradcam", "gradcam++", "scorecam"]
# As their papers write them.
CAM_NAMES: dict[CamKind, str] = {
    "layercam": "LayerCAM", "gradcam": "GradCAM", "gradcam++": "GradCAM++", "scorecam": "ScoreCAM"
}  # fmt: skip
# ScoreCAM's pass through the network for every channel is paid for so many directions where nobody asks for more.
SCORECAM_DIRECTIONS = 32
FilterKind = Literal["second-difference", "hann", "gaussian"]

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
# The only one of a model that answers voxels rather than slices; the others are those of a classifier.
SEGMENTER = "segmenter"
ALL_METHODS = (*METHODS, SEGMENTER)

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
    SEGMENTER: ("smooth_mm",),
}
# What can be asked of a segmenter: it looks at no planes.
SEGMENTER_SETTINGS = ("methods", "smooth_mm", "class_name")

_CHOICES: dict[str, tuple[str, ...]] = {
    "cam": get_args(CamKind),
    "lattice": ("hemisphere", "sphere"),
    "filter": get_args(FilterKind),
    "frame": ("physical", "normalized"),
    "grid": ("band-limited", "volume"),
}

# Least and greatest. What lies beyond is a slip of the pen that would fill any machine's memory.
SLICE_SIZES = (8, 2048)
_WHOLE_NUMBERS = {
    "slices": (2, 1024),
    "directions": (1, 50_000),
    "cam_directions": (1, 50_000),
    "slice_size": SLICE_SIZES,
}
_STAGES = (1, 1000)
_STAGES_TUPLE = "a tuple of whole numbers from 1 to 1000, finest first, like (3, 4)"
_STAGES_TEXT = "a whole number from 1 to 1000, or some to add up, finest first, like 3+4"
_NUMBERS = {"sigma_scale": (0, 1000), "smooth_mm": (0, 1000), "radius_mm": (0.01, 10_000)}
# Each method's own: what a model may have chosen for it. None in the settings: not asked for.
_OF_A_METHOD = ("stages", "filter", "sigma_scale", "smooth_mm")
# What files call a field by another name than the code does.
_RECORDED = {"stages": "stage"}
_OPTIONAL = ("cam_directions", "slice_size", "radius_mm", "filter", "sigma_scale", "smooth_mm")


@dataclass(frozen=True)
class ReconstructionSettings:
    """What is asked of a reconstruction; the command line has an option for each.

    Attributes:
        methods: Names from `ALL_METHODS`.
        cam: Kind of class activation map.
        stages: CAM stages from 1, the finest; several are added up, which takes a calibrated model. Empty, as None in
            the next three: the model's choice for each method.
        sigma_scale: Factor on Matched CAM's sigma = w / 2.
        smooth_mm: Standard deviation of a Gaussian on the finished heatmap.
        slices: M, the offsets along each direction.
        directions: L.
        cam_directions: L of the CAM methods, where it differs; None for `directions`, of ScoreCAM at most
            `SCORECAM_DIRECTIONS`.
        lattice: Where directions lie, ``hemisphere`` or ``sphere``.
        filter: Along the offsets.
        frame: ``physical`` (mm) or ``normalized`` (the paper's cube).
        radius_mm: Radius of the ball, None for the foreground's.
        grid: Where to backproject, ``band-limited`` (M^3 nodes) or ``volume`` (all voxels).
        slice_size: S pixels, None for the classifier's own.
        class_name: Class of the model, None for its first.

    Raises:
        TonnoError: A value is unknown or out of its range.
    """

    methods: tuple[str, ...] = ("matched-cam",)
    cam: CamKind = "layercam"
    stages: tuple[int, ...] = ()
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
        _require(
            not isinstance(self.methods, str), "methods", self.methods, f"a tuple of names, as ('{self.methods}',)"
        )
        _require(len(self.methods) > 0, "methods", "empty", "at least one")
        for method in self.methods:
            _require(method in ALL_METHODS, "methods", method, f"one of {', '.join(ALL_METHODS)}")
        for name in _WHOLE_NUMBERS | _NUMBERS:
            _require_number(name, getattr(self, name))
        _require(_are_stages(self.stages), "stages", self.stages, _STAGES_TUPLE)
        _require(isinstance(self.class_name, str | None), "class_name", self.class_name, "the name of a class")
        if self.radius_mm is not None and self.frame == "normalized":
            raise TonnoError("`radius_mm` has no meaning with `frame` normalized; leave one of them out")

    def directions_for(self, method: str) -> int:
        """Return L of a method.

        Args:
            method: One of `ALL_METHODS`.

        Returns:
            The number of directions.
        """
        if method not in CAM_METHODS:
            return self.directions
        if self.cam_directions is None and self.cam == "scorecam":
            return min(self.directions, SCORECAM_DIRECTIONS)
        return self.directions if self.cam_directions is None else self.cam_directions

    def record(self) -> Json:
        """Return the settings as reports have them.

        Returns:
            All fields by name; ``stages`` is ``stage``, a number or "3+4", None where none was asked for.
        """
        values = dataclasses.asdict(self)
        return {_RECORDED.get(name, name): _recorded(name, value) for name, value in values.items()}


def parse_stages(stage: object) -> tuple[int, ...]:
    """Read stages as files and the command line write them.

    Args:
        stage: A number, several to add up as "3+4", or None.

    Returns:
        The stages, finest first; empty for None.

    Raises:
        TonnoError: It is none of these.
    """
    if stage is None:
        return ()
    numbers = tuple(int(word) for word in str(stage).split("+") if word.isdecimal() and len(word) < 9)
    good = isinstance(stage, str) == (len(numbers) > 1) and stages_text(numbers) == str(stage)
    _require(good and _are_stages(numbers), "stage", stage, _STAGES_TEXT)
    return numbers


def stages_text(stages: tuple[int, ...]) -> str:
    """Return stages as a person reads them.

    Args:
        stages: Finest first.

    Returns:
        Such as "3", or "3+4" for two that are added up.
    """
    return "+".join(map(str, stages))


@dataclass(frozen=True)
class Variant:
    """One way to make one heatmap; what its method does not use stands at the default, so that equals are equal.

    Attributes:
        method: One of `ALL_METHODS`.
        stages: CAM stages, finest first; the heatmaps of several are added up.
        filter: Along the offsets.
        sigma_scale: Factor on Matched CAM's sigma.
        smooth_mm: Standard deviation of the Gaussian on the finished heatmap.
        weights: Of the heatmaps that are added up, one for each stage; empty for a single stage.

    Raises:
        TonnoError: A value is unknown or out of its range.
    """

    method: str
    stages: tuple[int, ...] = ()
    filter: FilterKind = "second-difference"
    sigma_scale: float = 1.0
    smooth_mm: float = 0.0
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _require(self.method in ALL_METHODS, "method", self.method, f"one of {', '.join(ALL_METHODS)}")
        choices = _CHOICES["filter"]
        _require(self.filter in choices, "filter", self.filter, f"one of {', '.join(choices)}")
        for name in ("sigma_scale", "smooth_mm"):
            _require_number(name, getattr(self, name))
        _require(_are_stages(self.stages), "stages", self.stages, _STAGES_TUPLE)
        weights = tuple(self.weights)  # JSON has lists
        good = not weights or len(weights) == len(self.stages)
        good = good and all(is_finite_number(weight) and weight > 0 for weight in weights)
        _require(good, "weights", weights, f"a positive number for each of stage {stages_text(self.stages) or None}")
        for field in dataclasses.fields(self):
            if field.name in set(_OF_A_METHOD) - set(choices_of(self.method)):
                object.__setattr__(self, field.name, field.default)
        object.__setattr__(self, "weights", weights if len(self.stages) > 1 else ())

    @classmethod
    def of_record(cls, record: Mapping[str, Any], method: str | None = None) -> Variant:
        """Read a variant from a record of a model's description.

        Args:
            record: Values by name, as `record` writes them; other names are passed over.
            method: In place of the record's.

        Returns:
            The variant.

        Raises:
            TonnoError: A value is unknown or out of its range.
        """
        values = {name: record[name] for name in ("filter", "sigma_scale", "smooth_mm", "weights") if name in record}
        return cls(method or record["method"], parse_stages(record.get("stage")), **values)

    def record(self) -> Json:
        """Return the variant as files hold it.

        Returns:
            All fields by name; ``stages`` is ``stage``, a number or "3+4", None for none.
        """
        values = dataclasses.asdict(self)
        return {_RECORDED.get(name, name): _recorded(name, value) for name, value in values.items()}

    def choices(self) -> Json:
        """Return what matters to the method, as reports have it.

        Returns:
            A part of `record`.
        """
        names = [_RECORDED.get(name, name) for name in choices_of(self.method)]
        return {name: value for name, value in self.record().items() if name in names or (name == "weights" and value)}

    def raw(self) -> Variant:
        """Return the variant before its smoothing.

        Returns:
            The same with ``smooth_mm`` 0.
        """
        return dataclasses.replace(self, smooth_mm=0.0)

    def parts(self) -> dict[Variant, float]:
        """Return the heatmaps of single stages whose weighted sum this is.

        Returns:
            Weights by variant: the variant itself, where nothing is added up.
        """
        if len(self.stages) < 2:
            return {self: 1.0}
        weights = zip(self.stages, self.weights, strict=True)
        return {dataclasses.replace(self, stages=(stage,), weights=()): weight for stage, weight in weights}


def choices_of(method: str) -> tuple[str, ...]:
    """Return what can be chosen for a method.

    Args:
        method: One of `ALL_METHODS`.

    Returns:
        Names of fields of `Variant`.
    """
    return tuple(name for name in _OF_A_METHOD if _RECORDED.get(name, name) in SETTINGS_THAT_MATTER[method])


def variant_of(
    method: str, settings: ReconstructionSettings, *, calibrated: Json | None = None, defaults: Json | None = None
) -> Variant:
    """Return the variant of a method: what is asked for, else its calibrated choice, else the model's default.

    Args:
        method: One of `ALL_METHODS`.
        settings: What is asked for.
        calibrated: Choices for the method by name, as a model's description holds them.
        defaults: The model's own settings, likewise.

    Returns:
        The variant; where nobody says anything, the standard, and no stage.
    """
    chosen: Json = {}
    for name in choices_of(method):
        key = _RECORDED.get(name, name)
        sources = (_recorded(name, getattr(settings, name)), (calibrated or {}).get(key), (defaults or {}).get(key))
        chosen |= next(({key: value} for value in sources if value is not None), {})
    return Variant.of_record(chosen, method)


# What a new regressor's description states: ToNNO, whose heatmap adds up to the quantity, and maps of either sign.
REGRESSOR_DEFAULTS: Json = {"methods": ["tonno"], "cam": "gradcam"}


def model_defaults(**changes: Any) -> Json:
    """Return what a new model's description states as its defaults.

    Args:
        changes: Settings that differ from the standard, by their names in files.

    Returns:
        Every choice that shapes the model's heatmaps, by its name in files.
    """
    settings = combine(defaults={}, explicit=changes).record()
    standard = Variant("matched-cam").record()
    about_a_scan = {"radius_mm", "slice_size", "class_name", "cam_directions"}
    return {
        name: standard[name] if value is None and name in standard else value
        for name, value in settings.items()
        if name not in about_a_scan
    }


PRESETS: dict[str, Json] = {
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


def combine(*, defaults: Json, preset: str | None = None, explicit: Json) -> ReconstructionSettings:
    """Combine a model's defaults, then a preset, then what is asked for, to settings.

    A number of directions that is asked for holds for all methods; ScoreCAM has `SCORECAM_DIRECTIONS` otherwise. The
    defaults of what is each method's own (stage, filter, sigma_scale, smooth_mm) are checked but not taken: the model's
    choice for a method goes before them.

    Args:
        defaults: Settings by their names in files, as a model's description has them.
        preset: A name from `PRESETS`.
        explicit: What is asked for, likewise; None for what is not.

    Returns:
        The settings.

    Raises:
        TonnoError: A name or a value is unknown.
    """
    known = {_RECORDED.get(field.name, field.name) for field in dataclasses.fields(ReconstructionSettings)}
    unknown = sorted(set(defaults) - known)
    if unknown:
        raise TonnoError(f"the model's default '{unknown[0]}' is unknown; it needs a newer version of tonno")
    if preset is not None and preset not in PRESETS:
        raise TonnoError(f"`preset` '{preset}' is unknown, expected one of {', '.join(PRESETS)}")
    asked = {name: value for name, value in explicit.items() if value is not None}
    if "directions" in asked:
        asked.setdefault("cam_directions", asked["directions"])
    of_a_method = {_RECORDED.get(name, name) for name in _OF_A_METHOD}
    _settings_in({name: value for name, value in defaults.items() if name in of_a_method})
    of_all = {name: value for name, value in defaults.items() if name not in of_a_method}
    settings = _settings_in({**of_all, **PRESETS.get(preset or "", {}), **asked})
    if settings.cam == "scorecam":  # so that records state the number
        settings = dataclasses.replace(settings, cam_directions=settings.directions_for(CAM_METHODS[0]))
    return settings


def _settings_in(record: Json) -> ReconstructionSettings:
    values = {name: value for name, value in record.items() if name != "stage"}
    if "methods" in values:
        methods = values["methods"]
        named = isinstance(methods, (list, tuple)) and all(isinstance(method, str) for method in methods)
        _require(named, "methods", methods, "a list of names")
        values["methods"] = tuple(dict.fromkeys(methods))
    return ReconstructionSettings(**values, stages=parse_stages(record.get("stage")))


def _recorded(name: str, value: Any) -> Any:
    """Return a field's value as files hold it."""
    if name != "stages":
        return value
    return (value[0] if len(value) == 1 else stages_text(value)) if value else None


def _are_stages(stages: object) -> bool:
    """Return whether these are stages, finest first, each once; also none."""
    low, high = _STAGES
    if not isinstance(stages, tuple) or not all(_is_whole(stage) for stage in stages):
        return False
    return list(stages) == sorted(set(stages)) and all(low <= stage <= high for stage in stages)


def _require_number(name: str, value: Any) -> None:
    if value is None and name in _OPTIONAL:
        return
    low, high = (_WHOLE_NUMBERS | _NUMBERS)[name]
    whole = name in _WHOLE_NUMBERS
    number = _is_whole(value) if whole else is_finite_number(value)
    text = f"a {'whole ' if whole else ''}number from {low} to {high}"
    _require(number and low <= value <= high, name, value, text)


def is_finite_number(value: object) -> bool:
    """Tell whether what a file holds is a number that a float can hold.

    Args:
        value: Anything.

    Returns:
        False also for NaN, for infinities, and for whole numbers of hundreds of digits, which JSON may have.
    """
    if not _is_number(value):
        return False
    try:
        return math.isfinite(cast(float, value))
    except OverflowError:
        return False


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _require(condition: bool, name: str, found: object, expected: str) -> None:
    if not condition:
        raise TonnoError(f"`{name}` is {found}, expected {expected}")
