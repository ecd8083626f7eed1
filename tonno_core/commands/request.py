"""What `tonno reconstruct` is asked, whatever the volume: checked, and with its model loaded and ready."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from tonno_core.bundle.calibration import MIN_PEAK
from tonno_core.bundle.decide import Run, check_zoom, decide
from tonno_core.bundle.file import Bundle
from tonno_core.bundle.kind import REGRESSOR
from tonno_core.bundle.ready import Compiled, ReadyModel, choices_of_model, load_model, prepare_model
from tonno_core.commands.dicom import FORMAT, check_dicom
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.segmentation.threshold import parse_threshold, parts_of
from tonno_core.settings import SEGMENTER, ReconstructionSettings
from tonno_core.slicing.region import Region
from tonno_core.slicing.roi import read_region


@dataclass(frozen=True)
class Compute:
    """Where to compute, and how.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        compiled: See `prepare_model`.
    """

    device: str = "auto"
    precision: str = "auto"
    compiled: Compiled = False


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        model: A bundle's folder, or ``pixel-sum``.
        settings: Those that were asked for, by their names in files; None for what was not.
        preset: A name from `PRESETS`.
        threshold: ``auto``, ``otsu`` or a number.
        min_volume_mm3: Smallest component that is kept; None for the model's own, or all of them.
        min_peak: What the highest value of a component reaches that is kept, -inf for all; None likewise.
        file_format: ``nii.gz``, ``nrrd`` or ``dicom``.
        replace_nonfinite: Replace voxels that are no numbers by the lowest.
        region: See `read_region`.
        zoom: Put all offsets and pixels into the region.
        stop_when: ``stable`` to end when the segmentations no longer change.
    """

    model: str
    settings: Json = field(default_factory=dict)
    preset: str | None = None
    threshold: str = "auto"
    min_volume_mm3: float | None = None
    min_peak: float | None = None
    file_format: str = "nii.gz"
    replace_nonfinite: bool = False
    region: str | None = None
    zoom: bool = False
    stop_when: str | None = None


@dataclass(frozen=True)
class Request:
    """Options that were checked, with their model.

    Attributes:
        options: As they were given.
        model: Loaded.
        settings: Of the reconstruction.
        region: Where alone heatmaps are wanted, None for everywhere.
    """

    options: Options
    model: Bundle | str
    settings: ReconstructionSettings
    region: Region | None

    def record(self) -> Json:
        """Return all but the model, as JSON holds it.

        Returns:
            What tells one request from another.
        """
        names = ("threshold", "min_volume_mm3", "file_format", "replace_nonfinite", "stop_when")
        classes, settings = choices_of_model(self.model).classes, self.settings
        if len(classes) > 1 and settings.class_name == classes[0]:  # which results of earlier versions did not name
            settings = dataclasses.replace(settings, class_name=None)
        return {
            "settings": settings.record(),
            **{name: getattr(self.options, name) for name in names},
            "min_volume_mm3": self.options.min_volume_mm3 or 0.0,
            **peak_record(self.options.min_peak),
            "region": self.region_record(),
        }

    def region_record(self) -> Json | None:
        """Return the region as the report holds it.

        Returns:
            The box is |x|, |y|, |z| <= 1 of its coordinates; None where there is no region.
        """
        if self.region is None:
            return None
        return {"box_to_ras": self.region.box_to_ras.tolist(), "zoom": self.options.zoom}


@dataclass(frozen=True)
class PreparedRun:
    """A request that any number of volumes can be given to.

    Attributes:
        request: What was asked.
        model: On its device.
        run: What is made.
    """

    request: Request
    model: ReadyModel
    run: Run


def peak_record(min_peak: float | None) -> Json:
    """Return, as JSON holds it, what is asked for of the components' highest values.

    Args:
        min_peak: As in `Options`.

    Returns:
        Nothing where nothing is asked for.
    """
    if min_peak is None:
        return {}
    return {MIN_PEAK: "none" if min_peak == -math.inf else min_peak}


def read_options(options: Options) -> Request:
    """Load the model and check all options, before any volume is read.

    Args:
        options: Of the command line.

    Returns:
        The request.

    Raises:
        TonnoError: An option is wrong, or does not fit the others or the model.
    """
    parse_threshold(options.threshold)
    parts_of(None, options.min_volume_mm3, options.min_peak)
    model = load_model(options.model)
    settings = choices_of_model(model).settings(options.settings, options.preset)
    region = None if options.region is None else read_region(options.region)
    if isinstance(model, Bundle) and model.spec.kind == SEGMENTER:
        for name in ("zoom", "stop_when"):
            if getattr(options, name):
                raise TonnoError(f"`{name}` has no meaning for a segmenter, which looks at no planes; leave it out")
    if isinstance(model, Bundle) and model.spec.kind == REGRESSOR:
        if options.stop_when is not None:
            raise TonnoError("`stop_when` looks at segmentations, and a regressor makes none; leave it out")
        if options.file_format == FORMAT:
            raise TonnoError(f"`file_format` {FORMAT}: a regressor has no findings to segment; choose nii.gz or nrrd")
    if options.zoom:
        check_zoom(region, settings)
    if options.stop_when is not None:
        settings = _one_pass(settings)
    if options.file_format == FORMAT:
        check_dicom(model)
    return Request(options, model, settings, region)


def prepare(request: Request, compute: Compute, runs: int = 1) -> PreparedRun:
    """Put a request's model on its device, and decide the run.

    Args:
        request: What was asked.
        compute: Where.
        runs: How many of them there will be.

    Returns:
        The run.

    Raises:
        TonnoError: The model cannot serve the settings, or the device.
    """
    model = prepare_model(
        request.model, request.settings, compute.device, compute.precision, compiled=compute.compiled, runs=runs
    )  # fmt: skip
    run = decide(request.settings, model, region=request.region, zoom=request.options.zoom)
    return PreparedRun(request, model, run)


def model_identity(model: Bundle | str) -> Json | str:
    """Return what tells models apart.

    Args:
        model: A bundle, or ``pixel-sum``.

    Returns:
        As JSON holds it.
    """
    if isinstance(model, str):
        return model
    identity: Json = {"encoder": model.spec.encoder, "sha256": model.spec.sha256, "about": model.spec.about}
    if model.spec.kind == SEGMENTER:
        identity["taught_by"] = model.spec.training.get("taught_by")
    return {**identity, **model.spec.more_than_default()}


def _one_pass(settings: ReconstructionSettings) -> ReconstructionSettings:
    """Return the same with as many directions for all methods as for that which has most: one pass ends for all."""
    most = max(settings.directions_for(method) for method in settings.methods)
    return dataclasses.replace(settings, directions=most, cam_directions=most if settings.cam == "scorecam" else None)
