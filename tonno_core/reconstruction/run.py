"""From a volume, an encoder and a run to heatmaps."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
from torch import nn

from tonno_core.bundle.decide import Run, decide
from tonno_core.bundle.file import Bundle
from tonno_core.bundle.kind import REGRESSOR
from tonno_core.bundle.own import assumptions
from tonno_core.bundle.ready import ReadyModel, load_model, prepare_model, prepare_module
from tonno_core.distributed import ALONE, Processes
from tonno_core.encoding.encoder import Encoder
from tonno_core.errors import TonnoError, TonnoWarning
from tonno_core.progress import is_watched
from tonno_core.reconstruction.passes import parts_of, show_planes
from tonno_core.reconstruction.planes import Planes, zoomed_ball
from tonno_core.reconstruction.projected import Projected, Receive
from tonno_core.reconstruction.result import Reconstruction
from tonno_core.reconstruction.shared import Gathered, join, share_of
from tonno_core.reporting import Cancelled, Reporter, progress_bar, progress_of
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.segmenter.segmenter import Segmenter
from tonno_core.segmenter.working import WorkingImage, prepare_image
from tonno_core.settings import ReconstructionSettings, Variant
from tonno_core.slicing.frame import normalized_frame
from tonno_core.slicing.preparation import PreparedVolume, foreground_points, prepare_volume
from tonno_core.slicing.region import Region
from tonno_core.slicing.sampling import SliceSource
from tonno_core.tomography.inversion import Inverter
from tonno_core.volume.appearance import image_concerns
from tonno_core.volume.exchange import from_xyz
from tonno_core.volume.intensity import IMAGE, shown_window, windows_of
from tonno_core.volume.io import read_volume
from tonno_core.volume.volume import Volume

# Scans that are ready by what they were made ready for, as long as somebody holds them.
_READY: WeakValueDictionary[tuple[Any, ...], ReadyScan] = WeakValueDictionary()
# Terms of the maps' sums that are kept for refinements, up to so many numbers (1 GB).
_KEPT_NUMBERS = 1 << 28


def reconstruct(
    volume: Volume | str | os.PathLike[str] | tuple[npt.ArrayLike, npt.ArrayLike],
    model: Bundle | str | os.PathLike[str] | ReadyModel | nn.Module,
    settings: ReconstructionSettings | None = None,
    *,
    layers: Sequence[str] = (),
    region: Region | None = None,
    zoom: bool = False,
    device: str = "auto",
    precision: str = "auto",
    progress: Callable[[int, int], None] | bool = True,
) -> Reconstruction:
    """Make heatmaps of a volume: get the model ready, `decide` the run, and `execute` it.

    What the command line would warn of is a `TonnoWarning`.

    Args:
        volume: The scan; or its file, or folder of a DICOM series; or ``(array, affine)`` as nibabel gives them.
        model: A bundle, or its folder, or ``"pixel-sum"``, whose heatmap is the volume itself; or a model that is
            ready; or any module from slices ``B C H W`` to logits, of which a warning says what is assumed
            (`prepare_module` takes what it was trained with).
        settings: None for the model's own defaults.
        layers: Names of a module's layers that put out ``B C h w``, whose maps are wanted.
        region: Where alone heatmaps are wanted; fewer planes are looked at, and only its voxels are ``inside``.
        zoom: Put all offsets and pixels into the region.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        progress: Called with (slices done, slices in all), of a segmenter with its windows. True shows a bar where
            somebody may be looking, in a terminal or a notebook.

    Returns:
        A heatmap of each of the settings' methods, named by it.

    Raises:
        TonnoError: The model cannot serve the settings.
    """
    ready = _ready(model, settings, layers, device, precision)
    run = decide(settings, ready, region=region, zoom=zoom)
    image = _as_volume(volume)
    unit = "slice" if run.network is None else "window"
    with progress_bar(disable=progress is not True or not is_watched(), unit=unit) as bar:
        told = progress if callable(progress) else progress_of(bar)
        say = partial(warnings.warn, category=TonnoWarning, stacklevel=2)
        result = execute(image, ready.encoder, run, Reporter(progress=told, say=say))
    for warning in result.warnings:
        warnings.warn(warning, TonnoWarning, stacklevel=2)
    thresholds = {name: run.threshold(run.targets[0], name) for name in result.heatmaps}
    return replace(result, image=image, window=shown_window(run.intensity), thresholds=thresholds)


def _ready(
    model: Bundle | str | os.PathLike[str] | ReadyModel | nn.Module,
    settings: ReconstructionSettings | None,
    layers: Sequence[str],
    device: str,
    precision: str,
) -> ReadyModel:
    """Put a model on a device, whatever it is given as."""
    if isinstance(model, nn.Module):
        size = {} if settings is None or settings.slice_size is None else {"slice_size": settings.slice_size}
        precision = "float32" if precision == "auto" else precision
        ready = prepare_module(model, layers, **size, device=device, precision=precision)
        assert ready.spec is not None
        assumed = "; ".join(f"{topic}: {text}" for topic, text in assumptions(ready.spec))
        warnings.warn(f"assumed of the classifier: {assumed}; prepare_module takes others", TonnoWarning, stacklevel=3)
        return ready
    if layers:
        raise TonnoError("`layers`: are for a module alone; a model folder and a model that is ready have theirs")
    loaded = load_model(os.fspath(model)) if isinstance(model, (str, os.PathLike)) else model
    return loaded if isinstance(loaded, ReadyModel) else prepare_model(loaded, settings, device, precision)


def _as_volume(volume: Volume | str | os.PathLike[str] | tuple[npt.ArrayLike, npt.ArrayLike]) -> Volume:
    if isinstance(volume, Volume):
        return volume
    if isinstance(volume, (str, os.PathLike)):
        return read_volume(volume)
    if isinstance(volume, tuple) and len(volume) == 2:
        return from_xyz(*volume)
    raise TonnoError(
        f"`volume`: is a {type(volume).__name__}, expected a Volume, a path, or (array, affine); "
        "`volume.exchange` takes images of MONAI and TorchIO"
    )


def execute(
    volume: Volume,
    encoder: Encoder | Segmenter,
    run: Run,
    reporter: Reporter | None = None,
    *,
    receive: Receive | None = None,
    batch_size: int | None = None,
    processes: Processes = ALONE,
) -> Reconstruction:
    """Reconstruct the heatmaps of a run.

    Args:
        volume: The scan.
        encoder: Answers slices; a segmenter, the volume.
        run: Of a single class; all its variants come from one pass through the network.
        reporter: Is told how far it is, looks into it, and may end it.
        receive: Called with the name, heatmap and ``inside`` of each heatmap as it is made; none is kept then, which
            hundreds of variants of a large volume would need.
        batch_size: Slices at once, None for the device's own.
        processes: That share the directions and all call this; the heatmaps are the first one's.

    Returns:
        The heatmaps, and what is known about their making.

    Raises:
        TonnoError: The volume has nothing to look at.
        ValueError: The run is of several classes, which `project` looks at together.
    """
    reporter = reporter or Reporter()
    (target,) = run.targets
    with reporter.timings.measure("total"):
        (projected,) = project(volume, encoder, run, reporter, batch_size=batch_size, processes=processes)
        variants = target.variants if processes.first else {}
        result = projected.finish(variants, run.asked, reporter, receive=receive)
    return replace(result, seconds=dict(reporter.timings.seconds))


def project(
    volume: Volume,
    encoder: Encoder | Segmenter,
    run: Run,
    reporter: Reporter | None = None,
    *,
    batch_size: int | None = None,
    keep: bool = False,
    processes: Processes = ALONE,
) -> list[Projected]:
    """Show the encoder all planes that a run's heatmaps need; the first half of `execute`.

    Args:
        volume: The scan.
        encoder: Answers slices; each plane goes through it once for all classes. A segmenter answers the volume.
        run: What is wanted.
        reporter: Looks into it, or ends it, while it runs.
        batch_size: Slices at once, None for the device's own.
        keep: Also gather what other filters and sigmas need.
        processes: That share the directions and all call this; what is put together is the first one's. Several can be
            cancelled, but neither looked into nor stopped early.

    Returns:
        The state of each target, in their order; previews are of the first.
    """
    reporter = reporter or Reporter()
    prepared = get_ready(volume, run).prepared
    if isinstance(prepared, WorkingImage):
        assert isinstance(encoder, Segmenter)
        return _segmented(volume, encoder, run, prepared, reporter, processes)
    assert not isinstance(encoder, Segmenter)
    planes = Planes(volume, run, prepared.frame_to_ras)
    made = _begin(planes, encoder, keep, processes)
    warned = (*image_warnings(volume, run), *scale_warnings(prepared, run))
    for each in made:
        each.warnings = warned
        each.taken_off = prepared.fill if run.intensity == IMAGE else 0.0
        if run.choices.kind == REGRESSOR:
            with suppress(TonnoError):  # nothing to see, which the result warns of
                each.foreground = foreground_points(prepared, np.random.default_rng(0))
    show_planes(
        made, source_of(prepared, run), reporter=reporter, shown=made[0].target.variants, batch_size=batch_size,
        processes=processes,
    )  # fmt: skip
    if processes.world > 1:
        with reporter.timings.measure("other processes"):
            _join(made, processes)
    return made


def _segmented(
    volume: Volume, segmenter: Segmenter, run: Run, image: WorkingImage, reporter: Reporter, processes: Processes
) -> list[Projected]:
    """Let a segmenter answer a volume: the first process alone. Half an answer is none, so a stop ends it without."""

    def check() -> None:
        reporter.check()
        if reporter.stopped():
            raise Cancelled

    planes = Planes(volume, run, normalized_frame(volume))
    made = [Projected(planes, segmenter, target, []) for target in run.targets]
    warned = image_warnings(volume, run)
    for each in made:
        each.warnings = warned
    if processes.first:
        with reporter.timings.measure("segmenter"):
            logits = segmenter.logits(image, replace(reporter, check=check))
        for each in made:
            each.windows = segmenter.count(image)
            with reporter.timings.measure("interpolation"):
                each.answer = image.grid.give_back(logits[each.target.output : each.target.output + 1])[0]
    return made


def resume(
    projected: Sequence[Projected],
    reporter: Reporter | None = None,
    *,
    shown: Mapping[str, Variant] | None = None,
    batch_size: int | None = None,
) -> None:
    """Show the encoder the planes that are left of what `project` gave when it was stopped.

    Afterwards it is what it had been without the stop, to the last bit where the batches are of the same size. Where
    this is stopped or cancelled as well, it is as far as it got, and can be resumed again; after another exception it
    is not to be used any more. The volume is prepared and put on the device anew.

    Args:
        projected: The state of each class.
        reporter: Looks into it, or ends it, while it runs.
        shown: The first class's variants of which previews are made, None for those first asked for.
        batch_size: Slices at once, None for the device's own.
    """
    first = projected[0]
    prepared = get_ready(first.planes.volume, first.planes.run).prepared if first.stopped else None
    if isinstance(prepared, PreparedVolume):  # a segmenter is never stopped
        source = source_of(prepared, first.planes.run)
        shown = first.target.variants if shown is None else shown
        show_planes(projected, source, reporter=reporter or Reporter(), shown=shown, batch_size=batch_size)


@dataclass(frozen=True, eq=False)
class ReadyScan:
    """A scan with what is found of it before any plane is looked at; who holds it spares `project` the work.

    Attributes:
        volume: The scan.
        prepared: Its intensities and its frame; what a segmenter sees of it.
    """

    volume: Volume
    prepared: PreparedVolume | WorkingImage


def get_ready(volume: Volume, run: Run) -> ReadyScan:
    """Find a scan's foreground, normalize its intensities and lay the frame, for a run and those that are sliced alike.

    Args:
        volume: The scan.
        run: Of which its region, frame, intensities and slices' pixels count.

    Returns:
        The same for the same volume, while somebody holds it.
    """
    if run.network is not None:
        return _image_ready(volume, run.network, run.intensity)
    centre_ras, radius_mm = zoomed_ball(volume, run) if run.zoom else (None, run.asked.radius_mm)
    key = (id(volume), run.asked.frame, run.intensity, run.pixels, run.pixel_mm, run.asked.slice_size, radius_mm)
    ready = None if run.zoom else _READY.get(key)
    if ready is None:
        prepared = prepare_volume(
            volume,
            frame=run.asked.frame,
            intensity=run.intensity,
            slice_size=run.pixels,
            # A slice size that was asked for means finer or coarser pixels over the foreground's ball.
            pixel_mm=run.pixel_mm if run.asked.slice_size is None else None,
            radius_mm=radius_mm,
            centre_ras=centre_ras,
        )
        ready = ReadyScan(volume, prepared)
        if not run.zoom:
            _READY[key] = ready
    return ready


def _image_ready(volume: Volume, network: SegmenterNetwork, intensity: str) -> ReadyScan:
    """Return what a segmenter sees of a scan."""
    key = (id(volume), network, intensity)
    ready = _READY.get(key)
    if ready is None:
        _READY[key] = ready = ReadyScan(volume, prepare_image(volume, network, intensity))
    return ready


def source_of(prepared: PreparedVolume, run: Run) -> SliceSource:
    """Put a scan on the device, for its slices.

    Args:
        prepared: The scan.
        run: What is made of it.

    Returns:
        The source of slices.
    """
    if run.intensity == IMAGE:  # the space outside is 0, also where maps end; `Projected` puts the fill back
        image = prepared.volume.with_array(prepared.volume.array - np.float32(prepared.fill))
        prepared = replace(prepared, volume=image, fill=0.0)
    # float16 or bfloat16: the encoder rounds its slices likewise, but not the wide range that holds several windows
    half = run.precision.itemsize == 2 and not windows_of(run.intensity)
    return SliceSource.from_volume(prepared.volume, fills=prepared.fills, device=run.device, half=half)


def _begin(planes: Planes, encoder: Encoder, keep: bool, processes: Processes) -> list[Projected]:
    """Return the state of each class before any plane was looked at."""
    run = planes.run
    plans = {count: share_of(planes.tomographic(count), processes) for count in _by_count(run, run.variants)}
    made = []
    for target in run.targets:
        parts = _by_count(run, target.variants.values())  # the methods are the same for all classes
        inverters: list[Inverter | Gathered] = []
        for count, plan in plans.items():
            grid = planes.grid(plan)
            z, y, x = grid.shape
            numbers = len(run.targets) * (1 + len(planes.filters)) * z * y * x
            filters = planes.filters if keep and numbers <= _KEPT_NUMBERS else ()
            inverters.append(Inverter(plan, grid, parts[count], filters=filters, halves=run.halves))
        made.append(Projected(planes, encoder, target, inverters))
    return made


def _join(made: Sequence[Projected], processes: Processes) -> None:
    """Put the processes' shares together in the first one."""
    planes = made[0].planes
    plans = [planes.tomographic(count) for count in _by_count(planes.run, planes.run.variants)]
    for each in made:
        shares = [inverter for inverter in each.inverters if isinstance(inverter, Inverter)]
        joined = [join(share, plan, processes) for share, plan in zip(shares, plans, strict=True)]
        each.inverters = [inverter for inverter in joined if inverter is not None]
        counts = processes.gather([(each.slices_total, each.slices_blank, each.passes)])
        each.slices_total, each.slices_blank, each.passes = (sum(column) for column in zip(*counts, strict=True))


def _by_count(run: Run, variants: Iterable[Variant]) -> dict[int, list[Variant]]:
    """Group the raw variants of single stages that are made of directions over the sphere by the number of these."""
    groups: dict[int, list[Variant]] = {}
    for part in parts_of(variants):
        if count := run.directions_of(part):
            groups.setdefault(count, []).append(part)
    return groups


def image_warnings(volume: Volume, run: Run) -> tuple[str, ...]:
    """Tell what of the image a reader of the results should know: of its file, and how it differs from the training's.

    Args:
        volume: The scan.
        run: What is made of it.

    Returns:
        Warnings, or none.
    """
    return (*volume.concerns, *image_concerns(run.training, volume.array, volume.ijk_to_ras))


def scale_warnings(prepared: PreparedVolume, run: Run) -> tuple[str, ...]:
    """Tell when the classifier sees the anatomy at another scale than in training.

    Args:
        prepared: The scan.
        run: What is made of it.

    Returns:
        A warning, or none.
    """
    if run.pixel_mm is None or prepared.radius_mm is None:
        return ()
    pixel_mm = 2.0 * prepared.radius_mm / (run.pixels - 1)
    if abs(pixel_mm / run.pixel_mm - 1.0) <= 0.25:
        return ()
    advice = "`radius_mm` or `slice_size` for a similar scale"
    if run.zoom:
        advice = f"`slice_size` {max(8, round(2.0 * prepared.radius_mm / run.pixel_mm) + 1)} for that scale"
    return (f"slices have pixels of {pixel_mm:.2f} mm, the model was trained at {run.pixel_mm:.2f} mm; give {advice}",)
