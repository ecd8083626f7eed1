"""The command ``tonno``: options in, one call each. Engine modules are imported when a command runs."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import click

import tonno_core
from tonno_core.commands.options import as_options
from tonno_core.errors import TonnoError
from tonno_core.settings import METHODS, PRESETS, parse_stages

_NOTICE = "For research only; not a medical device, not for diagnosis."
_ABOUT_HELP = "What a person should know, as finding=..., modality=..., licence=..., data=...; may be repeated."
_ROI_HELP = "Only within a box: two corners in RAS mm, or a Markups ROI of 3D Slicer (.mrk.json)."
_STOP_HELP = "End when the segmentation by all directions so far is that by half of them (Dice 0.98)."
_QUANTILE = "Share of the negative volumes below the threshold; less if some hold the finding after all."
_PATH = click.Path(path_type=Path)
_SEED = click.IntRange(0, 999_999_999)
_COUNT = click.IntRange(min=1)
_VOLUME = click.FloatRange(min=0)
# What `reconstruct` asks for beside the settings of a reconstruction.
_BESIDE_SETTINGS = (
    "model",
    "preset",
    "threshold",
    "min_volume_mm3",
    "file_format",
    "replace_nonfinite",
    "region",
    "zoom",
    "stop_when",
)
# torch reports it by a RuntimeError: "DefaultCPUAllocator: can't allocate memory", "CUDA out of memory".
_OUT_OF_MEMORY = re.compile("allocate memory|out of memory")


def _stage(text: str) -> int | str:
    """A stage, or some to add up, the finest first; the settings refuse what is neither."""
    words = sorted(text.split("+"), key=lambda word: (len(word), word))
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else "+".join(words)


class _Command(click.Command):
    """A command whose errors name its options."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TonnoError as error:
            error.args = (as_options(str(error)),)
            raise


class _Commands(click.Group):
    command_class = _Command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_NOTICE,
)
@click.version_option(tonno_core.__version__, prog_name="tonno")
def cli() -> None:
    """Where in a 3D scan does a 2D classifier see its finding? Heatmaps and segmentations without masks."""


@cli.command()
@click.argument("volume", type=_PATH)
@click.option("--model", required=True, metavar="BUNDLE|pixel-sum", help="Model folder, or pixel-sum.")
@click.option(
    "--output", required=True, type=_PATH, metavar="DIR", help="Folder for the results; a CSV's goes on in it."
)
@click.option("--method", "methods", multiple=True, metavar="NAME", help=f"May be repeated: {', '.join(METHODS)}.")
@click.option("--cam", type=click.Choice(["layercam", "gradcam"]), help="Kind of class activation map.")
@click.option("--stage", type=_stage, metavar="N|N+N", help="Of the CAM, 1 is the finest; 3+4: both, added up.")
@click.option("--sigma-scale", type=float, metavar="X", help="Factor on Matched CAM's sigma (1: half a cell).")
@click.option("--smooth-mm", type=float, metavar="G", help="3D Gaussian on the heatmap (the model's; off).")
@click.option("--slices", type=int, metavar="M", help="Offsets along each direction.")
@click.option("--directions", type=int, metavar="L", help="Directions.")
@click.option("--lattice", type=click.Choice(["hemisphere", "sphere"]), help="Where directions lie (hemisphere).")
@click.option("--filter", "filter", type=click.Choice(["second-difference", "hann", "gaussian"]))
@click.option("--frame", type=click.Choice(["physical", "normalized"]), help="mm, or the paper's cube (physical).")
@click.option("--radius-mm", type=float, metavar="R", help="Radius of the ball (that of the foreground).")
@click.option("--roi", "region", metavar="R,A,S:R,A,S|FILE", help=_ROI_HELP)
@click.option("--zoom", is_flag=True, help="Put all offsets and pixels into the ROI; see docs/method.md.")
@click.option("--grid", type=click.Choice(["band-limited", "volume"]), help="Backproject on M^3 nodes or all voxels.")
@click.option("--slice-size", type=int, metavar="S", help="Pixels along a slice's side (the model's).")
@click.option("--stop-when", type=click.Choice(["stable"]), help=_STOP_HELP)
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Slices, directions and the rest at once.")
@click.option("--class", "class_name", metavar="NAME", help="Class of the model (the first).")
@click.option("--threshold", default="auto", show_default=True, metavar="auto|otsu|NUMBER")
@click.option("--min-volume-mm3", type=_VOLUME, default=0.0, metavar="V", help="Smallest component that is kept.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps")
@click.option("--precision", default="auto", show_default=True, metavar="auto|float32|bfloat16|float16")
@click.option("--compile", "compiled", is_flag=True, help="The encoder, by torch.compile; pays on long runs.")
@click.option("--format", "file_format", default="nii.gz", show_default=True, type=click.Choice(["nii.gz", "nrrd"]))
@click.option("--replace-nonfinite", is_flag=True, help="Replace NaN and infinite voxels by the lowest value.")
@click.option("--overwrite", is_flag=True, help="Replace results that are there already.")
def reconstruct(
    volume: Path, output: Path, methods: tuple[str, ...], device: str, precision: str, compiled: bool, overwrite: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Heatmaps and segmentations of VOLUME (NIfTI, NRRD, MetaImage, or a DICOM folder).

    VOLUME may be a CSV with a column `volume`: then each has a folder in DIR/cases, a second run goes on where the
    first was stopped, and summary.csv tells all. Under torchrun the processes share the directions of one volume, or
    the volumes of a CSV.
    """
    from tonno_core.commands.request import Compute, Options

    beside = {name: options.pop(name) for name in _BESIDE_SETTINGS}
    asked = Options(settings={"methods": methods or None, **options}, **beside)
    compute = Compute(device, precision, compiled)
    if volume.suffix.lower() in (".csv", ".tsv"):
        from tonno_core.commands.cohort import reconstruct_cohort

        outcome = reconstruct_cohort(volume, output, asked, compute, overwrite=overwrite)
        click.echo(f"{outcome.text}\n{_NOTICE}")
        if outcome.failed:
            raise TonnoError(outcome.failed)
        return
    from tonno_core.commands.reconstruct import reconstruct_files

    table = reconstruct_files(volume, output, asked, compute, overwrite=overwrite)
    if table:  # of the first process alone
        click.echo(f"{table}\nwritten to {output}. {_NOTICE}")


@cli.command()
@click.option("--encoder", required=True, metavar="TIMM_NAME", help="Any model of timm by name.")
@click.option("--weights", required=True, metavar="FILE|none", help=".safetensors or .pth; none: random, from --seed.")
@click.option("--slice-size", required=True, type=click.IntRange(min=8), metavar="S", help="Pixels of its input.")
@click.option("--channels", default=1, show_default=True, type=click.IntRange(min=1), metavar="C")
@click.option("--classes", default="finding", show_default=True, metavar="a,b", help="Names of its outputs.")
@click.option("--norm", default="batch", show_default=True, type=click.Choice(["batch", "frozen-batch", "group"]))
@click.option("--intensity", default="none", show_default=True, metavar="none|zscore|window:LO:HI")
@click.option("--seed", default=0, show_default=True, type=_SEED, help="For --weights none.")
@click.option("--about", multiple=True, metavar="KEY=VALUE", help=_ABOUT_HELP)
@click.option("--output", required=True, type=_PATH, metavar="DIR")
@click.option("--overwrite", is_flag=True)
def bundle(output: Path, overwrite: bool, classes: str, about: tuple[str, ...], **options: Any) -> None:
    """Make a bundle of a classifier of your own, to explain it."""
    from tonno_core.bundle.file import OwnClassifier, make_bundle

    names = tuple(name.strip() for name in classes.split(","))
    spec = make_bundle(OwnClassifier(classes=names, about=_pairs(about), **options), output, overwrite=overwrite)
    click.echo(f"{spec.encoder} with classes {', '.join(spec.classes)} written to {output}")


@cli.command()
@click.argument("manifest", type=_PATH)
@click.option("--class", "class_name", default="finding", show_default=True, metavar="NAME", help="What 1 stands for.")
def check(manifest: Path, class_name: str) -> int:
    """Look at the volumes of MANIFEST before training: counts, geometry, duplicates, what stands out or is damaged.

    Reads headers only. Exit status 2 if something would stop training.
    """
    from tonno_core.cohort.check import check_cohort, report
    from tonno_core.cohort.manifest import read_manifest

    found = check_cohort(read_manifest(manifest, class_name=class_name))
    click.echo(report(found))
    return 0 if found.usable else 2


@cli.command()
@click.argument("manifest", type=_PATH)
@click.option("--output", required=True, type=_PATH, metavar="BUNDLE", help="Folder of the model.")
@click.option("--run", type=_PATH, metavar="DIR", help="Checkpoints, metrics, curves (BUNDLE-run).")
@click.option("--resume", is_flag=True, help="Go on from the run's checkpoint, if it has one.")
@click.option("--overwrite", is_flag=True, help="Replace a model and a run that are there.")
@click.option("--encoder", default="resnet10t", show_default=True, metavar="TIMM_NAME")
@click.option("--weights", default="none", show_default=True, metavar="none|imagenet|FILE", help="To start from.")
@click.option("--norm", type=click.Choice(["batch", "frozen-batch", "group"]), help="frozen-batch with --weights.")
@click.option("--channels", default=1, show_default=True, type=_COUNT, metavar="C")
@click.option("--class", "class_name", default="finding", show_default=True, metavar="NAME", help="What 1 stands for.")
@click.option("--slice-size", default=96, show_default=True, type=click.IntRange(min=8), metavar="S")
@click.option("--pixel-mm", type=float, metavar="P", help="Of the slices (from the foreground's size).")
@click.option("--intensity", default="zscore", show_default=True, metavar="none|zscore|window:LO:HI")
@click.option("--frame", default="physical", show_default=True, type=click.Choice(["physical", "normalized"]))
@click.option("--steps", default=2000, show_default=True, type=_COUNT, help="Batches.")
@click.option("--epochs", default=20, show_default=True, type=_COUNT, help="Parts that end with a checkpoint.")
@click.option("--volumes-per-batch", default=8, show_default=True, type=_COUNT, metavar="V")
@click.option("--slices-per-volume", default=8, show_default=True, type=_COUNT, metavar="K")
@click.option("--learning-rate", default=1e-3, show_default=True, type=float)
@click.option("--stage-decay", type=float, metavar="X", help="Of the rate, per stage (0.7 with --weights).")
@click.option("--freeze", default=0, show_default=True, type=int, metavar="N", help="First stages kept as they are.")
@click.option("--ema", default=0.0, show_default=True, type=float, metavar="D", help="Averages the weights, as 0.995.")
@click.option("--seed", default=0, show_default=True, type=_SEED)
@click.option("--stage", type=_COUNT, metavar="N", help="CAM stage of the model (calibration chooses).")
@click.option("--slices", type=int, metavar="M", help="Offsets that the model is calibrated for (64).")
@click.option("--directions", type=int, metavar="L", help="Directions that it is calibrated for (256).")
@click.option("--about", multiple=True, metavar="KEY=VALUE", help=_ABOUT_HELP)
@click.option("--half", is_flag=True, help="Store the weights as float16.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps")
@click.option("--precision", default="auto", show_default=True, metavar="auto|float32|bfloat16")
def train(
    manifest: Path,
    output: Path,
    run: Path | None,
    resume: bool,
    overwrite: bool,
    class_name: str,
    stage: int | None,
    slices: int | None,
    directions: int | None,
    about: tuple[str, ...],
    half: bool,
    **options: Any,
) -> None:
    """Train a classifier from MANIFEST (CSV volume,label[,mask,patient,split]) and its volume-level labels.

    Ctrl-C keeps a checkpoint; --resume goes on from it. Under torchrun the processes share every batch.
    """
    from tonno_core.commands.train import Destination, train_bundle
    from tonno_core.training.loop import TrainingInterrupted
    from tonno_core.training.settings import complete_settings

    asked = {"stage": stage, "slices": slices, "directions": directions}
    try:
        summary = train_bundle(
            manifest,
            Destination(output, run, resume=resume, overwrite=overwrite, half=half),
            complete_settings(**options),
            class_name=class_name,
            calibration={name: value for name, value in asked.items() if value is not None},
            about=_pairs(about),
        )
    except TrainingInterrupted as interruption:
        _fail(as_options(str(interruption)), 130)
    if summary:  # of the first process alone
        click.echo(as_options(summary))


@cli.command()
@click.argument("model", type=_PATH)
@click.argument("manifest", type=_PATH)
@click.option("--output", required=True, type=_PATH, metavar="BUNDLE", help="Folder of the calibrated model.")
@click.option("--method", "methods", multiple=True, metavar="NAME", help="May be repeated (every method).")
@click.option("--stage", "stages", multiple=True, type=int, metavar="N", help="To choose among (every stage).")
@click.option("--quantile", default=0.95, show_default=True, type=click.FloatRange(0, 1), metavar="Q", help=_QUANTILE)
@click.option("--sigma-scale", type=float, metavar="X", help="Of Matched CAM (chosen).")
@click.option("--smooth-mm", type=float, metavar="G", help="3D Gaussian on the heatmap (chosen).")
@click.option("--filter", "filter", type=click.Choice(["second-difference", "hann", "gaussian"]), help="(chosen)")
@click.option("--slices", type=int, metavar="M", help="Offsets along each direction (the model's).")
@click.option("--directions", type=int, metavar="L", help="Directions (the model's).")
@click.option("--lattice", type=click.Choice(["hemisphere", "sphere"]), help="Where directions lie (the model's).")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps")
@click.option("--precision", default="auto", show_default=True, metavar="auto|float32|bfloat16|float16")
@click.option("--overwrite", is_flag=True, help="Replace a model that is there.")
@click.option("--complete", is_flag=True, help="Choose nothing anew; add what earlier versions did not measure.")
def calibrate(
    model: Path,
    manifest: Path,
    output: Path,
    methods: tuple[str, ...],
    stages: tuple[int, ...],
    quantile: float,
    device: str,
    precision: str,
    overwrite: bool,
    complete: bool,
    **options: Any,
) -> None:
    """Choose MODEL's stage, filter, sigma, smoothing and thresholds anew, from the labels of MANIFEST's split val.

    Needed for other planes than the model's own: a threshold holds for one number of slices and directions. Those of
    the presets fast and balanced are measured too.
    """
    from tonno_core.commands import calibrate as command
    from tonno_core.training.calibration import Look, Search

    look = Look(device, precision)
    if complete:
        if methods or stages or any(value is not None for value in options.values()):
            raise TonnoError("--complete keeps the model's choices and planes; leave out what would change them")
        summary = command.complete(model, manifest, output, look, overwrite=overwrite)
    else:
        search = Search(stages=stages, quantile=quantile)
        asked = {"methods": methods or None, **options}
        summary = command.recalibrate(model, manifest, output, asked, search, look, overwrite=overwrite)
    click.echo(as_options(summary))


@cli.command()
@click.argument("manifest", type=_PATH)
@click.option("--model", required=True, metavar="BUNDLE", help="Model folder.")
@click.option("--output", required=True, type=_PATH, metavar="DIR", help="Folder for the results; goes on in it.")
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test", "all"]))
@click.option("--method", "methods", multiple=True, metavar="NAME", help="May be repeated (every method).")
@click.option("--stage", "stages", multiple=True, type=_stage, metavar="N|N+N", help="Rows of the CAM methods (all).")
@click.option("--slices", type=int, metavar="M", help="Offsets along each direction (the model's).")
@click.option("--directions", type=int, metavar="L", help="Directions (the model's).")
@click.option("--lattice", type=click.Choice(["hemisphere", "sphere"]), help="Where directions lie (the model's).")
@click.option("--filter", "filter", type=click.Choice(["second-difference", "hann", "gaussian"]))
@click.option("--min-volume-mm3", type=_VOLUME, default=0.0, metavar="V", help="Smallest component that is kept.")
@click.option("--class", "class_name", metavar="NAME", help="Class of the model (the first).")
@click.option("--all-candidates", is_flag=True, help="A row for all that the model's calibration tried.")
@click.option("--seed", default=0, show_default=True, type=_SEED, help="Of the bootstrap.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps")
@click.option("--precision", default="auto", show_default=True, metavar="auto|float32|bfloat16|float16")
@click.option("--overwrite", is_flag=True, help="Start anew where another evaluation's results are.")
def evaluate(
    manifest: Path,
    methods: tuple[str, ...],
    slices: int | None,
    directions: int | None,
    lattice: str | None,
    filter: str | None,
    class_name: str | None,
    model: str,
    output: Path,
    overwrite: bool,
    **choices: Any,
) -> None:
    """Compare all methods with the masks of MANIFEST: tables with intervals, and contact sheets.

    A second run goes on where the first was stopped; so do several at once, under torchrun.
    """
    from tonno_core.commands.evaluate import Choices, evaluate_manifest

    options = {
        "methods": methods or None, "slices": slices, "directions": directions, "lattice": lattice,
        "filter": filter, "class_name": class_name,
    }  # fmt: skip
    choices["stages"] = tuple(map(parse_stages, choices["stages"]))
    outcome = evaluate_manifest(
        manifest, model=model, output=output, choices=Choices(**choices), options=options, overwrite=overwrite
    )
    click.echo(outcome.text)
    if outcome.failed:
        raise TonnoError(outcome.failed)


@cli.command()
@click.option("--output", default=Path("demo-output"), show_default=True, type=_PATH, metavar="DIR")
@click.option("--seed", default=2026, show_default=True, type=_SEED, help="Of the head and its lesions.")
@click.option("--directions", type=click.IntRange(min=1), metavar="L", help="Fewer are faster and noisier.")
@click.option("--overwrite", is_flag=True)
def demo(output: Path, seed: int, directions: int | None, overwrite: bool) -> None:
    """Find lesions implanted in a real brain with the model that ships, and measure how well."""
    from tonno_core.commands.demo import run_demo

    click.echo(run_demo(output, seed=seed, directions=directions, overwrite=overwrite))


@cli.command()
@click.argument("output", type=_PATH)
@click.option("--count", default=100, show_default=True, type=click.IntRange(min=4), help="Heads, half with lesions.")
@click.option("--lesions", type=click.IntRange(min=1, max=8), help="In each of those (1 to 3 at random).")
@click.option("--seed", default=1, show_default=True, type=_SEED)
def phantoms(output: Path, count: int, lesions: int | None, seed: int) -> None:
    """Write a training set like the demo's: brains with and without lesions, and their manifest."""
    from tonno_core.demo.phantom import write_phantoms
    from tonno_core.output import output_folder

    with output_folder(output, overwrite=False) as folder:
        write_phantoms(folder, count=count, seed=seed, lesions=lesions or True)
    click.echo(f"{count} heads and manifest.csv written to {output}")


@cli.command()
@click.argument("volume", type=_PATH, required=False)
@click.option("--model", metavar="BUNDLE|TIMM_NAME", help="A name: with random weights. (The demo's resnet10t, 96 px)")
@click.option("--method", "methods", multiple=True, metavar="NAME", help="May be repeated (tonno).")
@click.option("--slices", type=int, metavar="M", help="Offsets along each direction (64).")
@click.option("--directions", type=int, metavar="L", help="Directions (256).")
@click.option("--slice-size", type=click.IntRange(min=8), metavar="S", help="Pixels along a slice's side (96).")
@click.option("--grid", type=click.Choice(["band-limited", "volume"]), help="Backproject on M^3 nodes or all voxels.")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Slices, directions and the rest at once.")
@click.option("--compile", "compiled", is_flag=True, help="The encoder, by torch.compile.")
@click.option("--repeats", default=3, show_default=True, type=_COUNT, help="Of all, in turn.")
@click.option("--compare", is_flag=True, help="With the plain reference, and PyEPRI's inversion, in the same process.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps")
@click.option("--precision", default="auto", show_default=True, metavar="auto|float32|bfloat16|float16")
@click.option("--output", type=_PATH, metavar="DIR", help="For bench.json and bench.png.")
@click.option("--overwrite", is_flag=True)
def bench(
    methods: tuple[str, ...],
    slices: int | None,
    directions: int | None,
    grid: str | None,
    preset: str | None,
    output: Path | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Where the time of a reconstruction goes on this machine: of VOLUME, or a head like the demo's."""
    from tonno_core.commands.bench import Benchmark
    from tonno_core.commands.bench import bench as measure

    chosen = {"methods": methods or ("tonno",), "slices": slices, "directions": directions, "grid": grid}
    benchmark = Benchmark(**options)
    click.echo(measure(benchmark, options=chosen, preset=preset, output=output, overwrite=overwrite))


def main(arguments: list[str] | None = None) -> None:
    """Entry point: a user's mistake is one line on stderr and exit status 2, an interruption 130."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        arguments = sys.argv[1:] if arguments is None else arguments
        status = cli.main(arguments or ["--help"], prog_name="tonno", standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Abort:
        click.echo("tonno: interrupted, nothing half-written is left", err=True)
        sys.stdout.flush()
        os._exit(130)  # all is cleaned up; taking down torch's modules would last another second
    except click.ClickException as error:
        _fail(" ".join(error.format_message().split()), 2)
    except TonnoError as error:
        _fail(" ".join(str(error).split()), 2)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        _fail("out of memory; close other programs, or choose fewer --slices or a smaller --slice-size", 2)
    except OSError as error:  # what no reader or writer foresaw: a name too long, a folder that may not be searched
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 2)


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE texts as a dictionary."""
    for text in texts:
        if not text.partition("=")[0].strip() or "=" not in text:
            raise TonnoError(f"--about '{text}': expected KEY=VALUE, as modality=MR")
    return {key.strip(): value.strip() for key, _, value in (text.partition("=") for text in texts)}


def _fail(message: str, status: int) -> None:
    click.echo(f"tonno: {message}", err=True)
    sys.exit(status)


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM unwinds like Ctrl-C, so that temporary files go."""
    raise KeyboardInterrupt
