"""`tonno reproduce`: the paper's figures and tables of a model and volumes, or of what needs no private data."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from tonno_core.bundle.classes import class_of
from tonno_core.bundle.file import Bundle, load_bundle
from tonno_core.bundle.kind import REGRESSOR
from tonno_core.bundle.ready import prepare_model
from tonno_core.cohort.difference import differences
from tonno_core.cohort.find import is_cohort
from tonno_core.cohort.manifest import read_for_model, read_volumes
from tonno_core.cohort.names import case_name
from tonno_core.cohort.places import LIST_ENDINGS, held_by
from tonno_core.commands.demo import MODEL
from tonno_core.commands.evaluate import model_record, tasks_of
from tonno_core.errors import TonnoError
from tonno_core.output import Json, check_output, output_folder, remove_abandoned
from tonno_core.records import made_of, read_record
from tonno_core.reproduction import fig2, fig4, fig5, fig6, fig8
from tonno_core.reproduction.source import Kept, Scan, Source, brain_scan, demo_scans, scan_of, scan_of_file
from tonno_core.settings import SEGMENTER, CamKind
from tonno_core.volume.intensity import by_channel

# How each is made, in the order in which all are.
FIGURES: dict[str, Callable[[Source, Path], str]] = {
    "fig4": fig4.draw,
    "fig2": fig2.draw,
    "fig5": fig5.draw,
    "fig6": fig6.draw,
    "fig8": fig8.draw,
}
LEFT_OUT = """\
left out: fig8 by the paper's slices and directions, about an hour on two cores: tonno reproduce fig8
left out: the paper's tables and data sets, which must be asked for or downloaded: docs/paper.md says how each is run"""
# Which show what a reconstruction makes of the volume itself.
_WITHOUT_MODEL = ("fig4",)
# Which measure something that a volume without the finding does not have.
_WITH_FINDING = ("fig5",)
# Which show activation maps.
WITH_CAMS = ("fig5", "fig6")
# Which compare volumes with the finding and without.
_BOTH_LABELS = ("fig2",)


@dataclass(frozen=True)
class Asked:
    """What figures are to be made of.

    Attributes:
        volumes: A volume, or a manifest; None for what needs no private data.
        mask: Where the finding is in a volume; None where that is not known, or a manifest tells.
        model: A bundle's folder; None for the demo's.
        split: Of a manifest.
        class_name: Of the model's classes, None for its first.
        heads: How many heads are drawn with lesions, and how many without, where there are no volumes.
        slices: Numbers of slices (M); none for the figure's own.
        directions: Numbers of directions (L), likewise.
        seed: Of the first head that is drawn, and of all that is drawn at random.
        cam: Kind of the activation maps, of figures that show them; None for the model's.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
    """

    volumes: Path | None = None
    mask: Path | None = None
    model: Path | None = None
    split: str = "test"
    class_name: str | None = None
    heads: int = 8
    slices: tuple[int, ...] = ()
    directions: tuple[int, ...] = ()
    seed: int = 2026
    cam: CamKind | None = None
    device: str = "auto"
    precision: str = "auto"


def reproduce(
    name: str | None, asked: Asked, output: Path, *, overwrite: bool = False, say: Callable[[str], None] = print
) -> None:
    """Make a figure, or all that need no private data; what took long is kept, and the same command goes on from there.

    Args:
        name: One of `FIGURES`; None for all.
        asked: What they are made of.
        output: Folder of the figures.
        overwrite: Replace figures that were made of something else.
        say: Called with what is to be told, as it becomes known.

    Raises:
        TonnoError: An option, the model or a volume is wrong, or the folder holds a figure of something else.
    """
    if name is None and (asked.slices or asked.directions):
        raise TonnoError("`slices` and `directions` are of one figure; name it, or leave them out")
    if asked.cam is not None and name not in WITH_CAMS:
        raise TonnoError(f"`cam` is of {', '.join(WITH_CAMS)}, and of table2; name one, or leave it out")
    check_output(output, overwrite=True)
    wanted = {name: asked} if name else dict.fromkeys(FIGURES, asked)
    if name is None:
        wanted["fig8"] = replace(asked, slices=fig8.SMALL_SLICES, directions=fig8.SMALL_DIRECTIONS)
    made_folder = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    remove_abandoned(output, below=True)
    try:
        for figure, request in wanted.items():
            _make(figure, request, output, overwrite, say)
    finally:
        if made_folder and not any(output.iterdir()):
            output.rmdir()
    if name is None:
        say(LEFT_OUT)


def _make(name: str, asked: Asked, output: Path, overwrite: bool, say: Callable[[str], None]) -> None:
    start = time.perf_counter()
    source = _source(name, asked, output)
    check_same(output / f"{name}.json", source.asked, overwrite)
    if asked.mask is not None and name not in _WITHOUT_MODEL and not source.first().positive:
        empty = f"`mask` {asked.mask}: no voxel of it is a finding"
        if name in _WITH_FINDING:
            raise TonnoError(f"{empty}, and {name} needs one; give another")
        say(f"{empty}: {asked.volumes} counts as a volume without")
    with output_folder(output, overwrite=True, last=f"{name}.json") as folder:
        told = FIGURES[name](source, folder)
    seconds = time.perf_counter() - start
    say(f"{name}: {seconds:.0f} s, written to {output}\n{told}")


def _source(name: str, asked: Asked, output: Path) -> Source:
    """Return what a figure is made of; volumes are read when it asks for them."""
    bundle = None if name in _WITHOUT_MODEL else _bundle(name, asked)
    class_name = None if bundle is None else class_of(asked.class_name, bundle.spec.classes)
    scans, record = _scans(name, asked, bundle, class_name)
    source = Source(scans, Kept(output / "parts"), slices=asked.slices, directions=asked.directions, seed=asked.seed)
    record |= {"slices": list(asked.slices), "directions": list(asked.directions), "seed": asked.seed}
    record = _in_order(record)
    if bundle is not None:
        settings = replace(bundle.spec.choices.settings(), class_name=class_name)
        if asked.cam is not None:
            settings, record["cam"] = replace(settings, cam=asked.cam), asked.cam
        ready = prepare_model(bundle, settings, asked.device, asked.precision)
        model = {**model_record(bundle), "class": class_name, "precision": str(ready.precision).removeprefix("torch.")}
        source = replace(source, model=ready, model_record=model, settings=settings)
        record["model"] = model
    return replace(source, asked=record)


def own_model(name: str, volumes: Path, model: Path | None) -> Path:
    """Return the model of volumes that are given, which must have one."""
    if model is None and not volumes.exists():
        raise TonnoError(f"{volumes}: no such file or folder")
    if model is None:
        raise TonnoError(f"{name} of {volumes}: a `model` must be given; the demo's knows drawn heads alone")
    return model


def _bundle(name: str, asked: Asked) -> Bundle:
    model = asked.model or MODEL if asked.volumes is None else own_model(name, asked.volumes, asked.model)
    bundle = load_bundle(model)
    if bundle.spec.kind in (SEGMENTER, REGRESSOR):
        raise TonnoError(f"`model` {asked.model}: is a {bundle.spec.kind}, expected a classifier of slices")
    if (count := len(by_channel(bundle.spec.intensity))) > 1:
        raise TonnoError(f"`model` {asked.model}: is for volumes of {count} channels, figures show one; give another")
    return bundle


def _scans(
    name: str, asked: Asked, bundle: Bundle | None, class_name: str | None
) -> tuple[Mapping[str, Callable[[], Scan]], Json]:
    """Return the scans, and what tells them from others."""
    volumes = asked.volumes
    if volumes is None:
        if asked.mask is not None:
            raise TonnoError(f"`mask` {asked.mask}: a volume must be given that it belongs to")
        if bundle is None:
            return {"brain": brain_scan}, {"volumes": "the MNI brain"}
        drawn = list(demo_scans(asked.heads, asked.seed).items())
        wanted = drawn if name in _BOTH_LABELS else drawn[: asked.heads]
        return dict(wanted), {"volumes": f"{asked.heads} drawn heads with lesions"}
    if volumes.is_dir() and is_cohort([volumes]):
        raise TonnoError(f"{volumes}: {held_by(volumes)}; expected one volume, or a manifest (CSV) that lists several")
    if volumes.suffix.lower() not in LIST_ENDINGS:
        record = {"volumes": str(volumes.absolute()), "mask": str(asked.mask and asked.mask.absolute())}
        return {volumes.name: cache(partial(scan_of_file, volumes, asked.mask))}, record
    if asked.mask is not None:
        raise TonnoError(f"`mask` {asked.mask}: {volumes} is a manifest, which names its masks; leave it out")
    record = {"volumes": str(volumes.absolute()), "split": asked.split}
    if bundle is None:
        first = read_volumes(volumes)[0].volume
        return {first.name: partial(scan_of_file, first, None)}, record
    manifest = read_for_model(volumes, bundle.spec.classes, wanted=class_name, class_name=asked.class_name)
    tasks = [replace(task, name=case_name(number, task.volume)) for number, task in tasks_of(manifest, asked.split)]
    positive = [task for task in tasks if task.label or name in _BOTH_LABELS]
    return {task.name: partial(scan_of, task) for task in positive or tasks}, record


def _in_order(asked: Json) -> Json:
    """Return what was asked for with its numbers in order: a figure does not depend on theirs."""
    numbers = {name: sorted(set(asked[name])) for name in ("slices", "directions") if isinstance(asked.get(name), list)}
    return {**asked, **numbers}


def check_same(path: Path, asked: Json, overwrite: bool) -> None:
    """Check that no figure or table of something else is there, which somebody may want to keep.

    Args:
        path: Its description.
        asked: What the new one is asked for.
        overwrite: Whether another may be replaced.

    Raises:
        TonnoError: There is one.
    """
    if overwrite or not path.exists():
        return
    try:
        kept = made_of(Json, read_record(path).get("asked"), "asked")
        in_order = _in_order(kept)
    except (OSError, ValueError, TypeError):  # the last of numbers that have no order
        raise TonnoError(f"{path}: is no figure's description; choose another `output`, or give `overwrite`") from None
    if in_order != json.loads(json.dumps(_in_order(asked))):
        other = differences(kept, asked)
        raise TonnoError(f"{path}: is of something else ({other}); choose another `output`, or give `overwrite`")
