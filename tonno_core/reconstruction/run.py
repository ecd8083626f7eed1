"""The passes over the planes that the wanted heatmaps need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from tonno_core.bundle.file import Bundle
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.control import Control
from tonno_core.distributed import ALONE, Processes
from tonno_core.encoding.encoder import Encoder
from tonno_core.errors import TonnoError
from tonno_core.reconstruction.passes import Passes, parts_of
from tonno_core.reconstruction.planes import Planes, zoomed_ball
from tonno_core.reconstruction.projected import Projected, Receive
from tonno_core.reconstruction.result import Reconstruction
from tonno_core.reconstruction.shared import Joined, join, share_of
from tonno_core.settings import CAM_METHODS, ReconstructionSettings, Variant, choices_of, stages_of
from tonno_core.slicing.preparation import PreparedVolume, prepare_volume
from tonno_core.slicing.region import Region
from tonno_core.slicing.sampling import SliceSource
from tonno_core.timing import Timings
from tonno_core.tomography.inversion import Inverter
from tonno_core.volume.volume import Volume

# Terms of the maps' sums that are kept for refinements, up to so many numbers (1 GB).
_KEPT_NUMBERS = 1 << 28


def reconstruct(
    volume: Volume,
    model: Bundle | str | ReadyModel,
    settings: ReconstructionSettings | None = None,
    *,
    variants: Mapping[str, Variant] | None = None,
    region: Region | None = None,
    zoom: bool = False,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    control: Control | None = None,
    receive: Receive | None = None,
    processes: Processes = ALONE,
) -> Reconstruction:
    """Heatmaps of a volume by a bundle's classifier, or by ``"pixel-sum"``.

    settings: None for the model's own defaults. variants: the heatmaps wanted, by names of the caller's, all
    from one pass through the network; None for one of each of the settings' methods, named by it. region: where alone
    they are wanted; fewer planes are looked at, and only its voxels are ``inside``.
    progress: called with (slices done, slices in all). control: in its place, to look into the run or end it.
    receive: called with the name, heatmap and ``inside`` of each as it is made; none is kept then, which hundreds of
    variants of a large volume would need. processes: that share the directions and all call this; the heatmaps are
    the first one's.
    Raises TonnoError for settings that the model cannot serve.
    """
    timings = Timings()
    ready = model if isinstance(model, ReadyModel) else prepare_model(model, settings, device, precision)
    control = control or (Control() if progress is None else Control(progress=progress))
    with timings.measure("total"):
        (projected,) = project(
            volume, ready, settings, variants=variants, region=region, zoom=zoom, batch_size=batch_size,
            control=control, timings=timings, processes=processes,
        )  # fmt: skip
        planes = projected.planes
        wanted = resolve(variants, planes.settings, ready) if processes.first else {}
        result = projected.finish(wanted, planes.settings, timings, receive=receive)
    return replace(result, seconds=dict(timings.seconds))


def project(
    volume: Volume,
    ready: ReadyModel,
    settings: ReconstructionSettings | None = None,
    *,
    variants: Mapping[str, Variant] | None = None,
    classes: Sequence[str] = (),
    region: Region | None = None,
    zoom: bool = False,
    batch_size: int | None = None,
    control: Control | None = None,
    timings: Timings | None = None,
    keep: bool = False,
    processes: Processes = ALONE,
) -> list[Projected]:
    """Show the encoder all planes that the wanted heatmaps need; the first half of `reconstruct`.

    classes: of which heatmaps are wanted, without a name the settings' class alone; each plane goes through the network
    once for all of them. Returns the state of each, in this order; previews are of the first.
    control: ends it, or looks into it, while it runs. keep: also gather what other filters and sigmas need.
    processes: that share the directions and all call this; what is put together is the first one's. Several can be
    cancelled, but neither looked into nor stopped early.
    """
    settings = ready.settings(settings)
    names = [_known(name, ready) for name in classes or [settings.class_name or ready.encoder.classes[0]]]
    asked = {name: resolve(variants, replace(settings, class_name=name), ready) for name in names}
    every = tuple(dict.fromkeys(variant for of_class in asked.values() for variant in of_class.values()))
    prepared = _prepare(volume, ready, settings, every, region, zoom)
    planes = Planes(volume, settings, prepared.frame_to_ras, ready.slice_size, region, every, zoom)
    made = _begin(planes, ready, asked, keep, processes)
    for each in made:
        each.warnings = _scale_warnings(prepared, ready.slice_size, ready.pixel_mm, zoom)
    control, timings = control or Control(), timings or Timings()
    source = _source(prepared, ready)
    Passes(
        made, source, control=control, timings=timings, shown=made[0].variants, batch_size=batch_size,
        processes=processes,
    ).run()  # fmt: skip
    if processes.world > 1:
        _join(made, processes, timings)
    return made


def resume(
    projected: Sequence[Projected],
    *,
    shown: Mapping[str, Variant] | None = None,
    batch_size: int | None = None,
    control: Control | None = None,
    timings: Timings | None = None,
) -> None:
    """Show the encoder the planes that are left of what `project` gave when it was stopped.

    Afterwards it is what it had been without the stop, to the last bit where the batches are of the same size. Where
    this is stopped or cancelled as well, it is as far as it got, and can be resumed again; after another exception it
    is not to be used any more. The volume is prepared and put on the device anew. shown: the first class's variants
    of which previews are made, None for those first asked for.
    """
    first = projected[0]
    if not first.stopped:
        return
    planes, ready = first.planes, first.ready
    prepared = _prepare(planes.volume, ready, planes.settings, planes.variants, planes.region, planes.zoom)
    Passes(
        projected,
        _source(prepared, ready),
        control=control or Control(),
        timings=timings or Timings(),
        shown=first.variants if shown is None else shown,
        batch_size=batch_size,
    ).run()


def check_zoom(region: Region | None, settings: ReconstructionSettings) -> Region:
    """The region to zoom into. Raises TonnoError where there is none, or the ball is determined otherwise."""
    if region is None:
        raise TonnoError("`zoom` needs a region to zoom into; give `region`")
    if settings.frame != "physical":
        raise TonnoError(f"`zoom` has no meaning with `frame` {settings.frame}; leave one of them out")
    if settings.radius_mm is not None:
        raise TonnoError("`zoom` and `radius_mm` both determine the ball; leave one of them out")
    return region


def resolve(
    variants: Mapping[str, Variant] | None, settings: ReconstructionSettings, ready: ReadyModel
) -> dict[str, Variant]:
    """The variants by name (None: one of each of the settings' methods), each with its stage, and canonical."""
    wanted = variants or {method: ready.variant(method, settings) for method in settings.methods}
    return {name: _with_stage(one.canonical(), ready.encoder) for name, one in wanted.items()}


def _prepare(
    volume: Volume,
    ready: ReadyModel,
    settings: ReconstructionSettings,
    variants: Sequence[Variant],
    region: Region | None,
    zoom: bool,
) -> PreparedVolume:
    centre_ras, radius_mm = None, settings.radius_mm
    if zoom:
        centre_ras, radius_mm = zoomed_ball(check_zoom(region, settings), settings, variants, volume)
    return prepare_volume(
        volume,
        frame=settings.frame,
        intensity=ready.intensity,
        slice_size=ready.slice_size,
        # A slice size that was asked for means finer or coarser pixels over the foreground's ball.
        pixel_mm=ready.pixel_mm if settings.slice_size is None else None,
        radius_mm=radius_mm,
        centre_ras=centre_ras,
    )


def _source(prepared: PreparedVolume, ready: ReadyModel) -> SliceSource:
    half = ready.precision.itemsize == 2  # float16 or bfloat16: the encoder rounds its slices likewise
    return SliceSource.from_volume(prepared.volume, fill=prepared.fill, device=ready.device, half=half)


def _begin(
    planes: Planes,
    ready: ReadyModel,
    asked: Mapping[str, Mapping[str, Variant]],
    keep: bool,
    processes: Processes,
) -> list[Projected]:
    """The state of each class before any plane was looked at. asked: by class, variants by name."""
    counts = _by_count(planes.settings, planes.variants)
    plans = {count: share_of(planes.tomographic(count), processes) for count in counts}
    made = []
    for class_name, variants in asked.items():
        parts = _by_count(planes.settings, variants.values())  # the methods are the same for all classes
        inverters: list[Inverter | Joined] = []
        for count, plan in plans.items():
            grid = planes.grid(plan)
            z, y, x = grid.shape
            numbers = len(asked) * (1 + len(planes.filters)) * z * y * x
            filters = planes.filters if keep and numbers <= _KEPT_NUMBERS else ()
            inverters.append(Inverter(plan, grid, parts[count], filters=filters))
        made.append(Projected(planes, ready, class_name, variants, inverters))
    return made


def _join(made: Sequence[Projected], processes: Processes, timings: Timings) -> None:
    """Put the processes' shares together in the first one."""
    planes = made[0].planes
    plans = [planes.tomographic(count) for count in _by_count(planes.settings, planes.variants)]
    with timings.measure("other processes"):
        for each in made:
            shares = [inverter for inverter in each.inverters if isinstance(inverter, Inverter)]
            joined = [join(share, plan, processes) for share, plan in zip(shares, plans, strict=True)]
            each.inverters = [inverter for inverter in joined if inverter is not None]
            counts = processes.gather([(each.slices_total, each.slices_blank)])
            each.slices_total, each.slices_blank = (sum(column) for column in zip(*counts, strict=True))


def _by_count(settings: ReconstructionSettings, variants: Iterable[Variant]) -> dict[int, list[Variant]]:
    """The raw variants of single stages that are made of directions over the sphere, by the number of these."""
    groups: dict[int, list[Variant]] = {}
    for part in parts_of(variants):
        if part.method == "tonno" or part.method in CAM_METHODS:
            groups.setdefault(settings.directions_for(part.method), []).append(part)
    return groups


def _known(name: str, ready: ReadyModel) -> str:
    """A class's name. Raises TonnoError where the model does not know it."""
    classes = ready.encoder.classes
    if name not in classes:
        raise TonnoError(f"`class_name` '{name}' is unknown to this model, expected one of {', '.join(classes)}")
    return name


def _with_stage(variant: Variant, encoder: Encoder) -> Variant:
    if "stage" not in choices_of(variant.method):
        return variant
    stage = variant.stage if variant.stage is not None else max(1, encoder.stages - 1)
    for each in stages_of(stage):
        if each > encoder.stages:
            raise TonnoError(f"`stage` {stage} does not exist in this encoder, expected 1 to {encoder.stages}")
    if isinstance(stage, str) and not variant.weights:
        raise TonnoError(
            f"`stage` {stage}: how much each of these counts in {variant.method} is not known; give one stage, or "
            "those that the model's calibration added up (`tonno calibrate` tries neighbors)"
        )
    return replace(variant, stage=stage)


def _scale_warnings(prepared: PreparedVolume, size: int, pixel_mm: float | None, zoom: bool) -> tuple[str, ...]:
    """Tell when the classifier sees the anatomy at another scale than in training."""
    if pixel_mm is None or prepared.radius_mm is None:
        return ()
    found = 2.0 * prepared.radius_mm / (size - 1)
    if abs(found / pixel_mm - 1.0) <= 0.25:
        return ()
    advice = "`radius_mm` or `slice_size` for a similar scale"
    if zoom:
        advice = f"`slice_size` {max(8, round(2.0 * prepared.radius_mm / pixel_mm) + 1)} for that scale"
    return (f"slices have pixels of {found:.2f} mm, the model was trained at {pixel_mm:.2f} mm; give {advice}",)
