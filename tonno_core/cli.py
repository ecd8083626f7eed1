"""The command ``tonno``: options in, one call each. Engine modules are imported when a command runs."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import click
from click.core import ParameterSource

import tonno_core
from tonno_core.bundle.terminology import check_terminology
from tonno_core.commands.options import as_options, as_options_of
from tonno_core.distillation.settings import DistillationSettings
from tonno_core.errors import TonnoError, is_out_of_memory, one_line, reason_of
from tonno_core.imports import uncollected
from tonno_core.output import remove_abandoned
from tonno_core.settings import METHODS, PRESETS, SCORECAM_DIRECTIONS, SEGMENTER, CamKind, FilterKind, parse_stages
from tonno_core.signals import drop_terminal, ending_signals

_NOTICE = "For research only; not a medical device, not for diagnosis."
# Texts of options that several commands share, or that are too long to stand beside them.
_ABOUT = "Fact for the model's users, e.g. finding=..., modality=..., licence=..., data=...; may be repeated."
_ACTIVATION = "softmax if the classes exclude each other, sigmoid if each is a question of its own."
_BATCH = "8; on CUDA 32, fewer for slices above 96 pixels, where --slices-per-volume is left out too"
_BENCHED = "Model folder, or a timm model with random weights."
_BAG = (
    "Share of the loss that is of a volume's slices together: at least one is positive, or none; with --target, their "
    "mean is its number."
)
_CALIBRATED = "Method to calibrate; may be repeated."
_BACKGROUND = "Below which value they are background, likewise; what lies between is divided by its brightness."
_CAM = (
    "Kind of class activation map. scorecam is slow, a pass through the network for every channel of the stage: it "
    f"says how many there will be, and takes {SCORECAM_DIRECTIONS} directions unless told otherwise."
)
_CAM_DIRECTIONS = "Directions of the CAM methods alone, where these cost more than tonno's."
_CAM_CALIBRATED = "Kind of class activation map to calibrate; it becomes the model's. scorecam is slow: name a --stage."
_CAM_STAGE = "CAM stage of the model."
_CHANNEL = "autopet: the PET or the CT alone, in place of one file of two channels for each study."
_CHANNELS = (
    "Input channels of the encoder: the volumes' own; of volumes of one, all get the same slice, or "
    "a window each (--intensity)."
)
_CLASS_OF_1 = "Name of the class that label 1 means, or which of two names is the finding."
_COMPLETE = (
    "Keep all choices and thresholds; add only what the model lacks: thresholds for the presets, and what earlier "
    "versions did not write."
)
_COMPONENTS = "Write so many principal components of the features instead of all features."
_COMPILE = "Compile the encoder (torch.compile), for tonno alone; --compile auto: on a GPU, where a long run repays it."
_DEVICE = "Where to compute. auto: CUDA if there is one, else Apple's MPS, else the CPU."
_DIRECTIONS = "Number of directions, i.e. of orientations of the planes."
_DRAWN = "Heads that are drawn with lesions, and as many without, where no VOLUMES are given."
_EMA = "Decay of the moving average of the weights, e.g. 0.995 (0: off)."
_ENCODER = "Name of a timm model, hf-hub:OWNER/NAME, local-dir:PATH, or an exported program (torch.export)."
_EPOCHS = "Number of parts of the training, each ending with a validation and a checkpoint."
_EVALUATED_CLASS = "Class of the model to evaluate, which label 1 means."
_EVALUATED = "Method to evaluate; may be repeated."
_FINDING = "From which value on, in --unit, voxels of the mean heatmap are the core of the finding."
_FEWER = "Directions; fewer are faster and noisier."
_FEATURE_SMOOTH = "Standard deviation of a 3D Gaussian applied to every feature; 0 for none."
_FIGURES_SEED = "Seed of the drawn heads and of the bootstrap; table1: of weights, split and batches as well."
_FILTER = "Second derivative along the offsets; hann and gaussian let less noise through."
_FINDING_WEIGHT = (
    "What a voxel of the finding counts in training; 20 where findings are small and few are learned from."
)
_FORMAT = "Format of the images written. dicom: DICOM SEG and parametric maps that refer to a DICOM series."
_FRAME = "Define the planes in mm (physical), or in the paper's cube of voxel indices (normalized)."
_FREEZE = "Number of stages, counted from the input, whose weights stay fixed."
_BASELINE = "table2: row that the others are compared with: a method, or METHOD@STAGE."
_COMPARED = "Heatmap that is measured (table1), or compared (table2, may be repeated)."
_GRID_ROW = "table1: row of a smaller grid, such as resnet10t-frozen (docs/tables.md lists them); may be repeated."
_CAM_SHOWN = "Kind of class activation maps, of fig5, fig6 and table2; scorecam takes hours."
_GRID_SHOWN = "table1: how intensities are normalised; LO and HI are in the image's units."
_GRID_WEIGHTS = (
    "table1: what pretrained rows start from: timm's weights, or a folder with TIMM_NAME.safetensors or .pth."
)
_GRID = "Backproject onto M^3 nodes and interpolate (band-limited), or onto every voxel (volume)."
_GRID_DIRECTIONS = "Number of directions, likewise; table1's own is 2000."
_GRID_SLICES = (
    "Number of slices along each direction; several for fig8. Without, the figure's own, of tables the model's or 100."
)
_GRID_MM = "Voxel size of the grid on which the segmenter works, along R, A and S."
_HALF = "Store kernels as float16, which halves the file."
_HEADS = "Heads; every second one has lesions."
_HEADS_TEST = "How many heads, the last ones, form split test."
_HEADS_SEED = "Seed of the heads; sets of different seeds share none."
_INTENSITY = (
    "How intensities are normalised; LO and HI are in the image's units, e.g. Hounsfield units. "
    "window:LO:HI,LO:HI,... gives each channel of the encoder its own window. For volumes of several channels, as PET "
    "and CT in a 4D NIfTI, one for each: window:0:20/window:-160:240."
)
_LABEL = "Column of the table: of folder the label, of halves the side (left, right, both, none)."
_LATTICE = "Spread the directions over a hemisphere, or over the whole sphere as in the paper."
_LAYERS = "Layers of a FILE.pt2 whose maps are wanted, its stages."
_LESIONS = "Lesions in each of those; with --loads, in a head at most."
_LOADS = "For a regressor: 0 to 6 lesions in each head, and their load, volume times contrast, in a column load_ml."
_MEAN = "Mean that is subtracted: a number, one for each channel (a,b,c), or timm's for this model."
_MADE_ANEW = "Replace what was made of something else; table1: train its rows anew."
_METHODS = f"Heatmap to compute; may be repeated. One of {', '.join(METHODS)}; of a segmenter: {SEGMENTER}."
_SEGMENTERS = (
    "Segmenter to compare with: a row `segmenter`, or of one that was trained on masks `segmenter trained on masks`; "
    "NAME=BUNDLE names the row. May be repeated."
)
_MIN_VOLUME = "Drop connected components that are smaller than this."
_MIN_PEAK = "Drop connected components whose highest value is lower than this; none keeps them."
_MIRRORED = (
    "Axes along which patches are mirrored at random: some of the letters R, A and S, or none. Leave out one whose "
    "ends differ, as midline and temple do in half heads."
)
_MODEL = "Model folder, or pixel-sum: a test of the whole chain without a model."
_NEIGHBOR_MM = "Distance in mm of the slices in neighbouring channels, for classifiers of several slices at once."
_NO_CALIBRATE = "Leave the model without thresholds; `tonno calibrate` finds them later."
_NO_PRESETS = (
    "Measure thresholds for the model's own planes alone, not for those of the presets fast and balanced, which take "
    "most of the time on a CPU; --complete adds them later."
)
_NONFINITE = "Replace NaN and infinite voxels by the lowest finite value instead of refusing the volume."
_NORM = "Normalisation layers: batch norm, batch norm with fixed statistics, or group norm in its place."
_OUTPUT = "Output folder. For many volumes, an existing folder is resumed."
_PATCH = "Voxels of a patch along R, A and S."
_PATCHES = "Patches per batch, an even number, each of another volume: half of them negative."
_PIXEL_MM = "Pixel size of the slices in mm."
_OWN_CHANNELS = "1; of volumes of several, theirs"
_PARTIAL = "Leave out cases of which a part is missing or damaged, and say so; by default nothing is written then."
_PRECISION = "Number format of the encoder. auto: float16 on CUDA, bfloat16 on CPUs that are fast in it, else float32."
_PREPARED = "Folder for manifest.csv; an existing one is resumed. It may not lie in SOURCE."
_PRESET = "Set slices, directions and more at once; options given explicitly take precedence."
_QUANTILE = "Share of the negative volumes that must stay below the threshold; lower it if some hold the finding."
_RADIUS = "Radius of the ball that the planes cover."
_ROI = "Reconstruct only in a box: two corners in RAS mm, or a Markups ROI of 3D Slicer (.mrk.json)."
_ROUNDS = "Rounds of training: each after the first learns from the answers of the one before."
_SECOND_ROUND = "2: heatmaps after half of the steps say which slices miss the finding and are to lose its label."
_ROWS = "Stage that gets rows of its own; may be repeated."
_RUN = "Folder for checkpoints, metrics and curves."
_RUN_METHODS = "Method to run; may be repeated."
_SIDE = "Side of a slice in pixels."
_SEQUENCE = "duke: series to take, as pre, post_1 or post_2."
_SIGMA = "Factor on Matched CAM's sigma; 1 is half a cell of the map."
_SLICES = "Number of offsets, i.e. of parallel planes along each direction."
_SLICES_PER_VOLUME = "Random slices drawn from each of these volumes."
_SMOOTH = "Standard deviation of a 3D Gaussian applied to the heatmap; 0 for none."
_SPLIT = "Cases to evaluate."
_STAGE = "Encoder stage of the class activation maps: 1 is the finest; 3+4 adds two of them up."
_STAGES = "Stage to choose from; may be repeated."
_STAGE_DECAY = "Factor on the learning rate from each encoder stage to the one before it."
_START = "Weights to start from: random ones (none), those of ImageNet, or a file."
_STD = "Standard deviation by which that is divided, likewise."
_STOP = "Stop early once doubling the number of directions no longer changes the segmentation (Dice >= 0.98)."
_THRESHOLD = "Threshold of the segmentation. auto: the model's own, or Otsu's if it has none."
_TARGET = "Column of numbers to learn in place of labels: the model is a regressor (docs/regression.md)."
_TAUGHT_BY = "Heatmap to learn from; several are averaged."
_TEACHER = "Model folder of the classifier whose heatmaps teach."
_TRAIN_PRECISION = "Number format. auto: bfloat16; on GPUs before Ampere float16, on CPUs without AMX float32."
_TRAIN_SEED = "Seed of the weights, the split and the batches."
_TRUST = (
    "A volume's heatmaps are learned from where their peaks reach this, on average, in units of the model's "
    "thresholds; 0 for all volumes."
)
_UNIT = "What a heatmap is measured in: its own peak in the volume, or the model's threshold for it."
_VOLUMES = "Volumes per batch, an even number: half of them are negative."
_WHITE = "What HI of a window becomes: 1, or 255 for a classifier that was fed bytes."
_WEIGHTS = "File with the weights (.safetensors or .pth), or none for random ones drawn from --seed."
_ZOOM = "Put all offsets and pixels into the --roi: finer pixels than in training, see docs/planes.md."
_MEDIAN = "the volumes' median, no finer than the classifier's pixels"
_MODELS = "the model's"  # as a default
_ONLY = "the only one beside normal, none, ..."
_PATH = click.Path(path_type=Path)
_SEED = click.IntRange(0, 999_999_999)
_COUNT = click.IntRange(min=1)
_VOLUME = click.FloatRange(min=0)
_UNITS = click.Choice(["peak", "threshold"])
_DISTILLED = DistillationSettings
_TAUGHT = " and ".join(_DISTILLED.methods)
_PIXELS = click.IntRange(min=8)
_FILTERS = click.Choice(get_args(FilterKind))
_FRAMES = click.Choice(["physical", "normalized"])
_ACTIVATIONS = click.Choice(["sigmoid", "softmax"])
_NORMS = click.Choice(["batch", "frozen-batch", "group"])
# What `reproduce` makes: figures, and tables with the options that each has beside `--output`, `--seed` and the like.
REPRODUCED = ("fig2", "fig4", "fig5", "fig6", "fig8")
_OF_TABLES = {
    "table1": {"volumes", "rows", "weights", "steps", "slice_size", "intensity", "methods", "slices", "directions",
               "split", "class_name"},
    "table2": {"volumes", "model", "methods", "baseline", "heads", "slices", "directions", "split", "class_name",
               "cam"},
}  # fmt: skip
_OF_TABLES_ALONE = ("rows", "weights", "steps", "slice_size", "intensity", "methods", "baseline")
# Options that several commands share.
_slices_option = click.option("--slices", type=int, metavar="M", help=_SLICES, show_default="the model's, usually 64")
_directions_option = click.option(
    "--directions", type=int, metavar="L", help=_DIRECTIONS, show_default="the model's, usually 256"
)
_CAM_KINDS = click.Choice(get_args(CamKind))
_cam_option = click.option("--cam", type=_CAM_KINDS, help=_CAM, show_default="the model's, usually layercam")
_cam_directions_option = click.option(
    "--cam-directions", type=int, metavar="L", help=_CAM_DIRECTIONS, show_default="as --directions; scorecam's own"
)
_lattice_option = click.option(
    "--lattice",
    type=click.Choice(["hemisphere", "sphere"]),
    help=_LATTICE,
    show_default="the model's, usually hemisphere",
)
_filter_option = click.option("--filter", "filter", type=_FILTERS, help=_FILTER, show_default=_MODELS)
_grid_option = click.option(
    "--grid",
    type=click.Choice(["band-limited", "volume"]),
    help=_GRID,
    show_default="the model's, usually band-limited",
)
_preset_option = click.option("--preset", type=click.Choice(list(PRESETS)), help=_PRESET)
_min_volume_option = click.option(
    "--min-volume-mm3",
    type=_VOLUME,
    default=0.0,
    metavar="V",
    help=_MIN_VOLUME,
    show_default="0.0, or a segmenter's own",
)
_min_peak_option = click.option(
    "--min-peak", metavar="VALUE|none", help=_MIN_PEAK, show_default="none, or a segmenter's own"
)
_device_option = click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps", help=_DEVICE)
_precision_option = click.option(
    "--precision", default="auto", show_default=True, metavar="auto|float32|bfloat16|float16", help=_PRECISION
)
_compile_option = click.option("--compile", "compiled", is_flag=True, help=_COMPILE)
_class_of_1_option = click.option(
    "--class", "class_name", default="finding", show_default=True, metavar="NAME", help=_CLASS_OF_1
)
_quiet_option = click.option("--quiet", is_flag=True, help="Say nothing but what went wrong.")
_about_option = click.option("--about", multiple=True, metavar="KEY=VALUE", help=_ABOUT)
# What `reconstruct` asks for beside the settings of a reconstruction.
_BESIDE_SETTINGS = (
    "model",
    "preset",
    "threshold",
    "min_volume_mm3",
    "min_peak",
    "file_format",
    "replace_nonfinite",
    "region",
    "zoom",
    "stop_when",
)


def _is_stated(name: str) -> bool:
    """Tell whether somebody gave an option of the running command a value."""
    source = click.get_current_context().get_parameter_source(name)
    return source is not ParameterSource.DEFAULT


def _stage(text: str) -> int | str:
    """A stage, or some to add up, the finest first; the settings refuse what is neither."""
    words = sorted(text.split("+"), key=lambda word: (len(word), word))
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else "+".join(words)


class _Compiling(click.Command):
    """A command with ``--compile``, which stands alone, or before ``auto``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take ``auto`` for the flag's, and parse the rest."""
        auto = {index + 1 for index in range(len(args)) if args[index : index + 2] == ["--compile", "auto"]}
        rest = super().parse_args(ctx, [word for index, word in enumerate(args) if index not in auto])
        if auto:
            ctx.params["compiled"] = "auto"
        return rest


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=_NOTICE)
@click.version_option(tonno_core.__version__, prog_name="tonno")
def cli() -> None:
    """Show where in a 3D scan a 2D classifier finds its evidence, as heatmaps and segmentations."""


@cli.command(cls=_Compiling)
@click.argument("volume", type=_PATH)
@click.argument("more", nargs=-1, type=_PATH, metavar="[VOLUME]...")
@click.option("--model", required=True, metavar="BUNDLE|pixel-sum", help=_MODEL)
@click.option("--output", required=True, type=_PATH, metavar="DIR", help=_OUTPUT)
@click.option("--method", "methods", multiple=True, metavar="NAME", help=_METHODS, show_default=_MODELS)
@_cam_option
@click.option("--stage", type=_stage, metavar="N|N+N", help=_STAGE, show_default=_MODELS)
@click.option("--sigma-scale", type=float, metavar="X", help=_SIGMA, show_default=_MODELS)
@click.option("--smooth-mm", type=float, metavar="G", help=_SMOOTH, show_default=_MODELS)
@_slices_option
@_directions_option
@_cam_directions_option
@_lattice_option
@_filter_option
@click.option("--frame", type=_FRAMES, help=_FRAME, show_default="the model's, usually physical")
@click.option("--radius-mm", type=float, metavar="R", help=_RADIUS, show_default="that of the foreground")
@click.option("--roi", "region", metavar="R,A,S:R,A,S|FILE", help=_ROI)
@click.option("--zoom", is_flag=True, help=_ZOOM)
@_grid_option
@click.option("--slice-size", type=int, metavar="S", help=_SIDE, show_default=_MODELS)
@click.option("--stop-when", type=click.Choice(["stable"]), help=_STOP)
@_preset_option
@click.option("--class", "class_name", metavar="NAME", help="Class of the model to map.", show_default=_ONLY)
@click.option("--threshold", default="auto", show_default=True, metavar="auto|otsu|NUMBER", help=_THRESHOLD)
@_min_volume_option
@_min_peak_option
@_device_option
@_precision_option
@_compile_option
@click.option(
    "--format",
    "file_format",
    default="nii.gz",
    show_default=True,
    type=click.Choice(["nii.gz", "nrrd", "dicom"]),
    help=_FORMAT,
)
@click.option("--replace-nonfinite", is_flag=True, help=_NONFINITE)
@click.option("--overwrite", is_flag=True, help="Replace existing results.")
@_quiet_option
def reconstruct(
    volume: Path, more: tuple[Path, ...], output: Path, methods: tuple[str, ...], device: str, precision: str,
    compiled: bool, overwrite: bool, quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Compute heatmaps and segmentations of VOLUME.

    VOLUME is a NIfTI, NRRD or MetaImage file, or a folder with one DICOM series.

    It may also be many volumes: a CSV file with a column `volume`, a folder of files or of DICOM folders, a pattern
    ('scans/*.nii.gz'), or several files. Each case then gets a folder in DIR/cases, summary.csv and findings.csv list
    the results of all, contact sheets show them, and running the same command again resumes. Under torchrun, the
    processes share the directions of one volume, or the volumes.
    """
    from tonno_core.cohort.find import is_cohort
    from tonno_core.progress import silenced

    with uncollected():
        from tonno_core.commands.request import Compute, Options
        from tonno_core.segmentation.threshold import parse_peak

    beside = {name: options.pop(name) for name in _BESIDE_SETTINGS}
    if not _is_stated("min_volume_mm3"):
        beside["min_volume_mm3"] = None
    if beside["min_peak"] is not None:
        beside["min_peak"] = parse_peak(beside["min_peak"])
    asked = Options(settings={"methods": methods or None, **options}, **beside)
    compute = Compute(device, precision, compiled)
    if is_cohort([volume, *more]):
        from tonno_core.commands.cohort import reconstruct_cohort

        with silenced(quiet):
            ask = not _is_stated("threshold")
            outcome = reconstruct_cohort([volume, *more], output, asked, compute, overwrite=overwrite, ask=ask)
        if not quiet:
            click.echo(f"{outcome.text}\n{_NOTICE}")
        if outcome.failed:
            raise TonnoError(outcome.failed)
        return
    from tonno_core.commands.reconstruct import Scan, reconstruct_into, single_run

    with silenced(quiet), single_run(output, asked, compute, overwrite=overwrite) as (prepared, progress, group):
        table = reconstruct_into(output, Scan(volume), prepared, progress=progress, overwrite=overwrite, group=group)
    if table and not quiet:  # of the first process alone
        click.echo(f"{table}\nwritten to {output}. {_NOTICE}")


@cli.command()
@click.argument("volume", type=_PATH)
@click.option("--model", required=True, metavar="BUNDLE", help="Model folder of a classifier.")
@click.option("--output", required=True, type=_PATH, metavar="DIR", help="Output folder.")
@click.option("--components", type=_COUNT, metavar="K", help=_COMPONENTS)
@click.option("--smooth-mm", type=_VOLUME, metavar="G", help=_FEATURE_SMOOTH, show_default="twice the nodes' distance")
@_slices_option
@_directions_option
@_lattice_option
@_filter_option
@click.option("--frame", type=_FRAMES, help=_FRAME, show_default="the model's, usually physical")
@click.option("--radius-mm", type=float, metavar="R", help=_RADIUS, show_default="that of the foreground")
@click.option("--slice-size", type=int, metavar="S", help=_SIDE, show_default=_MODELS)
@_preset_option
@_device_option
@_precision_option
@click.option("--replace-nonfinite", is_flag=True, help=_NONFINITE)
@click.option("--overwrite", is_flag=True, help="Replace existing results.")
@_quiet_option
def features(
    volume: Path, model: str, output: Path, components: int | None, smooth_mm: float | None, preset: str | None,
    device: str, precision: str, replace_nonfinite: bool, overwrite: bool, quiet: bool, **planes: Any,
) -> None:  # fmt: skip
    """Reconstruct what a classifier knows of each place of VOLUME: its dense features.

    The feature vector that the classifier's last layer weighs takes the place of the logit, and each feature is
    reconstructed as ToNNO reconstructs that. DIR gets features.nii.gz with one value per feature at M^3 nodes,
    features.json, and a picture of the first principal components, features.png.
    """
    from tonno_core.progress import silenced

    with uncollected():
        from tonno_core.commands.features import FeatureOptions, write_features
        from tonno_core.commands.request import Compute

    asked = FeatureOptions(model, preset, components, smooth_mm, replace_nonfinite)
    with silenced(quiet):
        text = write_features(volume, output, asked, planes, Compute(device, precision), overwrite=overwrite)
    if not quiet:
        click.echo(f"{text}\nwritten to {output}. {_NOTICE}")


@cli.command()
@click.option("--encoder", required=True, metavar="TIMM_NAME|SOURCE|FILE.pt2", help=_ENCODER)
@click.option("--weights", default="", metavar="FILE|none", help=_WEIGHTS)
@click.option("--layers", default="", metavar="a,b", help=_LAYERS)
@click.option("--slice-size", type=_PIXELS, metavar="S", help=_SIDE)
@click.option("--channels", default=1, show_default=_OWN_CHANNELS, type=_COUNT, metavar="C", help=_CHANNELS)
@click.option(
    "--classes", default="finding", show_default=True, metavar="a,b", help="Names of the outputs, separated by commas."
)
@click.option("--norm", default="batch", show_default=True, type=_NORMS, help=_NORM)
@click.option("--intensity", default="none", show_default=True, metavar="none|zscore|window:LO:HI", help=_INTENSITY)
@click.option("--white", default="1", show_default=True, type=click.Choice(["1", "255"]), help=_WHITE)
@click.option("--mean", metavar="timm|A,...", help=_MEAN, show_default="none")
@click.option("--std", metavar="timm|A,...", help=_STD, show_default="none")
@click.option("--pixel-mm", type=float, metavar="P", help=_PIXEL_MM, show_default="none: slices hold the whole scan")
@click.option("--neighbor-mm", type=float, metavar="D", help=_NEIGHBOR_MM, show_default="none: the same slice in each")
@click.option("--activation", default="sigmoid", show_default=True, type=_ACTIVATIONS, help=_ACTIVATION)
@click.option("--seed", default=0, show_default=True, type=_SEED, help="Seed of random weights (--weights none).")
@_about_option
@click.option("--output", required=True, type=_PATH, metavar="DIR", help="Model folder to write.")
@click.option("--overwrite", is_flag=True, help="Replace an existing model.")
def bundle(
    output: Path, overwrite: bool, classes: str, layers: str, about: tuple[str, ...], white: str, **options: Any
) -> None:
    """Make a model folder (bundle) from your own classifier.

    The folder holds the weights, and all settings that `tonno reconstruct` needs to show what the classifier sees.
    Prints what is assumed of the classifier: compare that with how it was trained.
    """
    from tabulate import tabulate

    from tonno_core.bundle.own import OwnClassifier, assumptions, make_bundle
    from tonno_core.volume.intensity import by_channel

    names = tuple(name.strip() for name in classes.split(","))
    stages = tuple(name.strip() for name in layers.split(",") if name.strip())
    options["slice_size"] = options["slice_size"] or 0
    if not _is_stated("channels"):
        options["channels"] = len(by_channel(options["intensity"]))
    own = OwnClassifier(classes=names, layers=stages, about=_pairs(about), white=int(white), **options)
    spec = make_bundle(own, output, overwrite=overwrite)
    click.echo(f"{spec.encoder} with classes {', '.join(spec.classes)} written to {output}. Assumed of its training:")
    click.echo(tabulate(assumptions(spec), tablefmt="plain", disable_numparse=True))


@cli.command()
@click.argument("name", type=click.Choice(["autopet", "mosmed", "duke", "halves", "folder"]), metavar="NAME")
@click.argument("source", type=_PATH)
@click.option("--output", required=True, type=_PATH, metavar="DIR", help=_PREPARED)
@click.option("--channel", type=click.Choice(["suv", "ct"]), help=_CHANNEL, show_default="both")
@click.option("--sequence", default="", metavar="NAME", help=_SEQUENCE, show_default="post_1")
@click.option("--table", type=_PATH, metavar="FILE", help="folder: CSV, TSV or .xlsx with a label for each case.")
@click.option("--label", default="", metavar="COLUMN", help=_LABEL, show_default="label, laterality")
@click.option("--image", default="", metavar="TEXT", help="folder: part of the image's name, where a case has several.")
@click.option("--mask", default="", metavar="TEXT", help="folder: part of the mask's name, likewise.")
@click.option("--partial", is_flag=True, help=_PARTIAL)
@click.option("--seed", default=0, show_default=True, type=_SEED, help="Seed of the split.")
@click.option("--overwrite", is_flag=True, help="Replace another preparation.")
@_quiet_option
def prepare(
    name: str, source: Path, output: Path, partial: bool, seed: int, overwrite: bool, quiet: bool, **options: Any
) -> None:
    """Write the manifest of a data set, split by patient, from its publisher's folders.

    NAME is autopet (FDG-PET-CT-Lesions), mosmed (COVID19_1110), duke (Duke-Breast-Cancer-MRI), halves (a table with a
    column laterality) or folder (BIDS, or a folder for each case). SOURCE is the folder as it was downloaded, or the
    table of halves. Prints licence and citation. Running the same command again resumes.
    """
    from tonno_core.commands.prepare import Asked, prepare_dataset
    from tonno_core.progress import silenced

    with silenced(quiet):
        text = prepare_dataset(name, source, output, Asked(**options), partial=partial, seed=seed, overwrite=overwrite)
    if not quiet:
        click.echo(as_options(text))


@cli.command()
@click.argument("manifest", type=_PATH)
@_class_of_1_option
@click.option("--target", default="", metavar="COLUMN", help=_TARGET, show_default="none: classes are learned")
def check(manifest: Path, class_name: str, target: str) -> int:
    """Check the volumes of MANIFEST before training.

    Reports counts, geometry, outliers, duplicates, damaged files and masks that do not fit, and warns if the geometry
    alone predicts the label. Of volumes it reads the headers only. Exit status 2 if something would stop training.
    """
    from tonno_core.cohort.check import check_cohort, report
    from tonno_core.cohort.manifest import read_manifest

    found = check_cohort(read_manifest(manifest, class_name=class_name, target=target, absent=True))
    click.echo(as_options(report(found)))
    return 0 if found.usable else 2


@cli.command()
@click.argument("manifest", type=_PATH)
@click.option("--output", required=True, type=_PATH, metavar="BUNDLE", help="Model folder to write.")
@click.option("--run", type=_PATH, metavar="DIR", help=_RUN, show_default="BUNDLE-run")
@click.option("--resume", is_flag=True, help="Continue from the run's checkpoint, if it has one.")
@click.option("--overwrite", is_flag=True, help="Replace an existing model and its run.")
@click.option("--encoder", default="resnet10t", show_default=True, metavar="TIMM_NAME", help="Name of a timm model.")
@click.option("--weights", default="none", show_default=True, metavar="none|imagenet|FILE", help=_START)
@click.option("--norm", type=_NORMS, help=_NORM, show_default="batch; frozen-batch with --weights")
@click.option("--channels", default=1, show_default=_OWN_CHANNELS, type=_COUNT, metavar="C", help=_CHANNELS)
@_class_of_1_option
@click.option("--target", default="", metavar="COLUMN", help=_TARGET, show_default="none: classes are learned")
@click.option("--slice-size", default=96, show_default=True, type=_PIXELS, metavar="S", help=_SIDE)
@click.option("--pixel-mm", type=float, metavar="P", help=_PIXEL_MM, show_default="from the size of the foreground")
@click.option("--intensity", default="zscore", show_default=True, metavar="none|zscore|window:LO:HI", help=_INTENSITY)
@click.option("--frame", default="physical", show_default=True, type=_FRAMES, help=_FRAME)
@click.option("--steps", default=2000, show_default=True, type=_COUNT, help="Number of training steps (batches).")
@click.option("--epochs", default=20, show_default=True, type=_COUNT, help=_EPOCHS)
@click.option("--volumes-per-batch", default=8, show_default=_BATCH, type=_COUNT, metavar="V", help=_VOLUMES)
@click.option("--slices-per-volume", default=8, show_default=True, type=_COUNT, metavar="K", help=_SLICES_PER_VOLUME)
@click.option("--bag", type=float, metavar="X", help=_BAG, show_default="0; 1 with --target")
@click.option("--rounds", default=1, show_default=True, type=click.IntRange(1, 2), help=_SECOND_ROUND)
@click.option("--learning-rate", default=1e-3, show_default=True, type=float, help="Highest learning rate.")
@click.option("--stage-decay", type=float, metavar="X", help=_STAGE_DECAY, show_default="1; 0.7 with --weights")
@click.option("--freeze", default=0, show_default=True, type=int, metavar="N", help=_FREEZE)
@click.option("--ema", default=0.0, show_default=True, type=float, metavar="D", help=_EMA)
@click.option("--seed", default=0, show_default=True, type=_SEED, help=_TRAIN_SEED)
@click.option("--stage", type=_COUNT, metavar="N", help=_CAM_STAGE, show_default="chosen by the calibration")
@click.option("--calibrate-stages", multiple=True, type=_COUNT, metavar="N", help=_STAGES, show_default="all")
@click.option("--no-calibrate", is_flag=True, help=_NO_CALIBRATE)
@click.option("--slices", type=int, metavar="M", help="Offsets that the model is calibrated for.", show_default="64")
@click.option("--directions", type=int, metavar="L", help="Directions that it is calibrated for.", show_default="256")
@_about_option
@click.option("--half", is_flag=True, help=_HALF)
@_device_option
@click.option("--precision", default="auto", show_default=True, metavar="auto|float32|bfloat16", help=_TRAIN_PRECISION)
@click.option("--compile", "compiled", is_flag=True, help="Compile the network (torch.compile); pays off on a GPU.")
def train(
    manifest: Path,
    output: Path,
    run: Path | None,
    resume: bool,
    overwrite: bool,
    class_name: str,
    stage: int | None,
    calibrate_stages: tuple[int, ...],
    no_calibrate: bool,
    slices: int | None,
    directions: int | None,
    about: tuple[str, ...],
    half: bool,
    **options: Any,
) -> None:
    """Train a classifier from the volume-level labels of MANIFEST, or with --target a regressor from its numbers.

    MANIFEST is a CSV file with the columns volume,label and optionally patient,split,mask; training never opens a mask.
    Afterwards the model is calibrated on the split val. Ctrl-C keeps a checkpoint, or what the calibration measured,
    from which --resume continues. Under torchrun, the processes share every batch.
    """
    from tonno_core.commands.train import Destination, Ending, train_bundle
    from tonno_core.training.run_folder import recorded_setting
    from tonno_core.training.settings import complete_settings
    from tonno_core.training.steps import TrainingInterrupted

    asked = {"stage": stage, "slices": slices, "directions": directions}
    planes = {name: value for name, value in asked.items() if value is not None}
    destination = Destination(output, run, resume=resume, overwrite=overwrite, half=half)
    if not _is_stated("channels"):
        options["channels"] = None  # those of the volumes
    if not any(_is_stated(name) for name in ("volumes_per_batch", "slices_per_volume")):
        # As suits the device, or as the run that goes on has it: it may have begun on another.
        recorded = recorded_setting(destination.run_folder, "volumes_per_batch") if resume else None
        options["volumes_per_batch"] = recorded
    try:
        summary = train_bundle(
            manifest,
            destination,
            complete_settings(**options),
            class_name=class_name,
            calibration=Ending(planes, calibrate_stages, not no_calibrate),
            about=_pairs(about),
        )
    except TrainingInterrupted as interruption:
        _fail(as_options(str(interruption)), 130)
    if summary:  # of the first process alone
        click.echo(as_options(summary))


@cli.command()
@click.argument("manifest", type=_PATH)
@click.option("--model", required=True, metavar="BUNDLE", help=_TEACHER)
@click.option("--output", required=True, type=_PATH, metavar="SEGMENTER", help="Folder of the model to write.")
@click.option("--run", type=_PATH, metavar="DIR", help=_RUN, show_default="SEGMENTER-run")
@click.option("--resume", is_flag=True, help="Continue from the run's last checkpoint.")
@click.option("--overwrite", is_flag=True, help="Replace an existing model and run; their heatmaps are used again.")
@click.option("--method", "methods", multiple=True, metavar="NAME", help=_TAUGHT_BY, show_default=_TAUGHT)
@click.option("--stage", type=_stage, metavar="N|N+N", help=_STAGE, show_default=_MODELS)
@_slices_option
@_directions_option
@_preset_option
@click.option("--unit", default=_DISTILLED.unit, show_default=True, type=_UNITS, help=_UNIT)
@click.option("--finding", type=float, metavar="X", help=_FINDING, show_default=f"{_DISTILLED.finding:g}")
@click.option("--background", type=float, metavar="X", help=_BACKGROUND, show_default=f"{_DISTILLED.background:g}")
@click.option("--trust", type=float, metavar="X", help=_TRUST, show_default=f"{_DISTILLED.trust:g}")
@click.option("--spacing-mm", metavar="R,A,S", help=_GRID_MM, show_default=_MEDIAN)
@click.option("--patch", metavar="R,A,S", help=_PATCH, show_default="the volumes' size, as far as memory allows")
@click.option("--steps", default=_DISTILLED.steps, show_default=True, type=_COUNT, help="Steps (batches) in a round.")
@click.option("--epochs", default=_DISTILLED.epochs, show_default=True, type=_COUNT, help=_EPOCHS)
@click.option("--rounds", default=_DISTILLED.rounds, show_default=True, type=_COUNT, help=_ROUNDS)
@click.option(
    "--volumes-per-batch",
    default=_DISTILLED.volumes_per_batch,
    show_default=True,
    type=_COUNT,
    metavar="V",
    help=_PATCHES,
)
@click.option(
    "--learning-rate", default=_DISTILLED.learning_rate, show_default=True, type=float, help="Highest learning rate."
)
@click.option("--finding-weight", type=float, metavar="X", help=_FINDING_WEIGHT, show_default="by its share of a patch")
@click.option("--mirrored", metavar="AXES", help=_MIRRORED, show_default=_DISTILLED.mirrored)
@click.option("--ema", default=_DISTILLED.ema, show_default=True, type=float, metavar="D", help=_EMA)
@click.option("--seed", default=0, show_default=True, type=_SEED, help="Seed of the weights and the batches.")
@_about_option
@click.option("--half", is_flag=True, help=_HALF)
@_device_option
@click.option("--precision", default="auto", show_default=True, metavar="auto|float32|bfloat16", help=_TRAIN_PRECISION)
def distill(
    manifest: Path,
    model: str,
    output: Path,
    run: Path | None,
    resume: bool,
    overwrite: bool,
    about: tuple[str, ...],
    half: bool,
    **options: Any,
) -> None:
    """Train a segmenter from the labels of MANIFEST and a classifier's heatmaps.

    The classifier looks for findings in the volumes of split train that have them; a 3D network learns from what its
    heatmaps are sure of, and that the other volumes show nothing. No mask is opened. The result is a model like any
    other. Ctrl-C keeps the heatmaps and a checkpoint, from which --resume continues. Under torchrun, the processes
    share the volumes and every batch. Needs MONAI: pip install 'monai>=1.4'.
    """
    from tonno_core.commands.distill import distill_bundle, settings_of
    from tonno_core.commands.train import Destination
    from tonno_core.training.steps import TrainingInterrupted

    destination = Destination(output, run, resume=resume, overwrite=overwrite, half=half)
    try:
        summary = distill_bundle(manifest, model, destination, settings_of(options), about=_pairs(about))
    except TrainingInterrupted as interruption:
        _fail(as_options(str(interruption)), 130)
    if summary:  # of the first process alone
        click.echo(as_options(summary))


@cli.command()
@click.argument("model", type=_PATH)
@click.argument("manifest", type=_PATH)
@click.option("--output", required=True, type=_PATH, metavar="BUNDLE", help="Folder to write the calibrated model to.")
@click.option("--method", "methods", multiple=True, metavar="NAME", help=_CALIBRATED, show_default="all")
@click.option("--cam", type=_CAM_KINDS, help=_CAM_CALIBRATED, show_default="the model's, usually layercam")
@click.option("--stage", "stages", multiple=True, type=int, metavar="N", help=_STAGES, show_default="all")
@click.option("--quantile", default=0.95, show_default=True, type=click.FloatRange(0, 1), metavar="Q", help=_QUANTILE)
@click.option("--sigma-scale", type=float, metavar="X", help=_SIGMA, show_default="chosen")
@click.option("--smooth-mm", type=float, metavar="G", help=_SMOOTH, show_default="chosen")
@click.option("--filter", "filter", type=_FILTERS, help=_FILTER, show_default="chosen")
@_slices_option
@_directions_option
@_lattice_option
@_device_option
@_precision_option
@click.option("--overwrite", is_flag=True, help="Replace an existing model.")
@click.option("--no-presets", is_flag=True, help=_NO_PRESETS)
@click.option("--complete", is_flag=True, help=_COMPLETE)
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
    no_presets: bool,
    complete: bool,
    **options: Any,
) -> None:
    """Choose a model's settings and thresholds anew, without training.

    The labels of MANIFEST's split val decide on each method's stage, filter, sigma, smoothing and threshold. Needed for
    other planes than the model's own, because a threshold holds for one number of slices and directions. Thresholds
    for the presets fast and balanced are measured as well.
    """
    from tonno_core.commands import calibrate as command
    from tonno_core.training.calibration import Search
    from tonno_core.training.look import Look

    look = Look(device, precision)
    if complete:
        given = [f"`{each}`" for each in ("methods", "stages", "quantile", "no_presets", *options) if _is_stated(each)]
        if given:
            raise TonnoError(f"`complete` keeps the model's choices and planes; leave out {', '.join(given)}")
        summary = command.complete(model, manifest, output, look, overwrite=overwrite)
    else:
        search = Search(stages=stages, quantile=quantile, presets=not no_presets)
        asked = {"methods": methods or None, **options}
        summary = command.recalibrate(model, manifest, output, asked, search, look, overwrite=overwrite)
    click.echo(as_options(summary))


@cli.command()
@click.argument("manifest", type=_PATH)
@click.option("--model", required=True, metavar="BUNDLE", help="Model folder.")
@click.option("--output", required=True, type=_PATH, metavar="DIR", help="Output folder. An existing one is resumed.")
@click.option(
    "--split", default="test", show_default=True, type=click.Choice(["train", "val", "test", "all"]), help=_SPLIT
)
@click.option("--method", "methods", multiple=True, metavar="NAME", help=_EVALUATED, show_default="all")
@_cam_option
@click.option("--stage", "stages", multiple=True, type=_stage, metavar="N|N+N", help=_ROWS, show_default="all")
@click.option("--segmenter", "segmenters", multiple=True, metavar="[NAME=]BUNDLE", help=_SEGMENTERS)
@_slices_option
@_directions_option
@_cam_directions_option
@_lattice_option
@_filter_option
@_min_volume_option
@_min_peak_option
@click.option("--class", "class_name", metavar="NAME", help=_EVALUATED_CLASS, show_default=_ONLY)
@click.option("--all-candidates", is_flag=True, help="Add a row for each variant that the calibration tried.")
@click.option("--seed", default=0, show_default=True, type=_SEED, help="Seed of the bootstrap.")
@_device_option
@_precision_option
@click.option("--overwrite", is_flag=True, help="Replace the results of another evaluation.")
@_quiet_option
def evaluate(
    manifest: Path,
    methods: tuple[str, ...],
    cam: str | None,
    slices: int | None,
    directions: int | None,
    cam_directions: int | None,
    lattice: str | None,
    filter: str | None,
    class_name: str | None,
    model: str,
    output: Path,
    overwrite: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """Compare all methods with the masks of MANIFEST.

    Writes tables with confidence intervals, and contact sheets. Running the same command again resumes. Under torchrun,
    the processes share the cases.
    """
    from tonno_core.commands.evaluate import Choices, evaluate_manifest
    from tonno_core.progress import silenced
    from tonno_core.segmentation.threshold import parse_peak

    options = {
        "methods": methods or None, "cam": cam, "slices": slices, "directions": directions,
        "cam_directions": cam_directions, "lattice": lattice, "filter": filter, "class_name": class_name,
    }  # fmt: skip
    choices["stages"] = tuple(map(parse_stages, choices["stages"]))
    if not _is_stated("min_volume_mm3"):
        choices["min_volume_mm3"] = None
    if choices["min_peak"] is not None:
        choices["min_peak"] = parse_peak(choices["min_peak"])
    with silenced(quiet):
        outcome = evaluate_manifest(
            manifest, model=model, output=output, choices=Choices(**choices), options=options, overwrite=overwrite
        )
    if not quiet:
        click.echo(outcome.text)
    if outcome.failed:
        raise TonnoError(outcome.failed)


@cli.command()
@click.option(
    "--output", default=Path("demo-output"), show_default=True, type=_PATH, metavar="DIR", help="Output folder."
)
@click.option("--seed", default=2026, show_default=True, type=_SEED, help="Seed of the head and its lesions.")
@click.option("--directions", type=click.IntRange(min=1), metavar="L", help=_FEWER, show_default="256")
@click.option("--overwrite", is_flag=True, help="Replace existing results.")
def demo(output: Path, seed: int, directions: int | None, overwrite: bool) -> None:
    """Find lesions that were implanted in a real brain.

    Uses the model that ships with tonno, and measures how well each method finds them.
    """
    from tonno_core.commands.demo import run_demo

    click.echo(run_demo(output, seed=seed, directions=directions, overwrite=overwrite))


@cli.command()
@click.argument("output", type=_PATH)
@click.option("--count", default=100, show_default=True, type=click.IntRange(min=4), help=_HEADS)
@click.option("--lesions", type=click.IntRange(min=1, max=8), help=_LESIONS, show_default="1 to 3 at random")
@click.option("--loads", is_flag=True, help=_LOADS)
@click.option("--spacing-mm", default=2.0, show_default=True, type=click.FloatRange(1, 8), help="Side of the voxels.")
@click.option("--seed", default=1, show_default=True, type=_SEED, help=_HEADS_SEED)
@click.option("--test", type=click.IntRange(min=0), metavar="N", help=_HEADS_TEST, show_default="0; 15 % with --loads")
@click.option("--overwrite", is_flag=True, help="Replace existing results.")
def phantoms(
    output: Path,
    count: int,
    lesions: int | None,
    loads: bool,
    spacing_mm: float,
    seed: int,
    test: int | None,
    overwrite: bool,
) -> None:
    """Write a training set like the demo's to the folder OUTPUT.

    It holds brains with and without lesions, and their manifest.
    """
    from tonno_core.demo.phantom import heads_in, write_loads, write_phantoms
    from tonno_core.output import output_folder
    from tonno_core.words import count_of

    with output_folder(output, overwrite=overwrite, last="manifest.csv") as folder:
        if loads:
            write_loads(folder, count=count, seed=seed, most=lesions or 6, spacing_mm=spacing_mm, test=test)
        else:
            write_phantoms(
                folder, count=count, seed=seed, lesions=lesions or True, spacing_mm=spacing_mm, test=test or 0
            )
        written = heads_in(folder)
        # Should the process be killed meanwhile, no list of other heads is left with these.
        (output / "manifest.csv").unlink(missing_ok=True)
    click.echo(f"{count} heads and manifest.csv written to {output}")
    if others := sorted(heads_in(output) - written):  # perhaps somebody's own
        told = f"{count_of(len(others), 'file')} that manifest.csv does not list, as {others[-1]}"
        click.echo(f"{output} also holds {told}; delete what is of an earlier set")


@cli.command()
@click.argument("name", required=False, type=click.Choice((*REPRODUCED, *_OF_TABLES)), metavar="[NAME]")
@click.argument("volumes", required=False, type=_PATH)
@click.option("--model", type=_PATH, metavar="BUNDLE", help="Model folder of a classifier.", show_default="the demo's")
@click.option(
    "--output", default=Path("reproduced"), show_default=True, type=_PATH, metavar="DIR", help="Folder of what is made."
)
@click.option("--mask", type=_PATH, metavar="FILE", help="Where the finding is, if VOLUMES is one volume.")
@click.option(
    "--split", default="test", show_default=True, type=click.Choice(["train", "val", "test", "all"]), help=_SPLIT
)
@click.option("--class", "class_name", metavar="NAME", help="Class of the model.", show_default=_ONLY)
@click.option("--row", "rows", multiple=True, metavar="NAME", help=_GRID_ROW, show_default="all")
@click.option("--weights", default="imagenet", show_default=True, metavar="imagenet|DIR", help=_GRID_WEIGHTS)
@click.option("--steps", default=2000, show_default=True, type=_COUNT, help="table1: training steps.")
@click.option(
    "--slice-size", default=224, show_default=True, type=_PIXELS, metavar="S", help="table1: side of a slice in pixels."
)
@click.option("--intensity", default="zscore", show_default=True, metavar="none|zscore|window:LO:HI", help=_GRID_SHOWN)
@click.option("--method", "methods", multiple=True, metavar="NAME", help=_COMPARED, show_default="tonno; all")
@click.option("--baseline", default="slicewise-cam", show_default=True, metavar="ROW", help=_BASELINE)
@click.option("--cam", type=_CAM_KINDS, help=_CAM_SHOWN, show_default="the model's, usually layercam")
@click.option("--heads", default=8, show_default=True, type=click.IntRange(1, 100), help=_DRAWN)
@click.option("--slices", multiple=True, type=click.IntRange(8, 1024), metavar="M", help=_GRID_SLICES)
@click.option("--directions", multiple=True, type=click.IntRange(16, 50_000), metavar="L", help=_GRID_DIRECTIONS)
@click.option("--seed", default=2026, show_default=True, type=_SEED, help=_FIGURES_SEED)
@_device_option
@_precision_option
@click.option("--overwrite", is_flag=True, help=_MADE_ANEW)
@_quiet_option
def reproduce(name: str | None, output: Path, overwrite: bool, quiet: bool, **asked: Any) -> None:
    """Make the paper's figures and tables of a model and VOLUMES.

    NAME is one of those below; VOLUMES is a volume, or a manifest as for `evaluate`. Without VOLUMES it is made of what
    needs no private data: the demo's model, and heads drawn from the MNI brain; table1 needs a manifest. Without NAME
    all figures are made so, and what was left out is said. Figures are written as PNG and SVG, with their numbers as
    CSV and JSON; tables as Markdown, CSV and JSON. Running the same command again goes on where it was stopped.

    \b
    fig2    logits of slices by class, and along directions through a volume
    fig4    a volume from its own slices, averaged in 32, 16 and 8 cells
    fig5    Dice over the stages of the encoder
    fig6    heatmaps by method and volume, and by method and stage
    fig8    ToNNO and its noise by numbers of slices and directions
    table1  encoders trained on the manifest VOLUMES, each with its norm and weights
    table2  methods of a model beside LayerCAM; VOLUMES may be an evaluation's folder
    """
    from tonno_core.commands.reproduce import Asked
    from tonno_core.commands.reproduce import reproduce as make
    from tonno_core.progress import silenced

    beside = {each: asked.pop(each) for each in _OF_TABLES_ALONE}
    if name in _OF_TABLES:
        _reproduce_table({**asked, **beside}, name, output, overwrite=overwrite, quiet=quiet)
        return
    say = _unheard if quiet else _say
    for each in beside:
        if _is_stated(each):
            raise TonnoError(f"`{each}` is of tables ({', '.join(_OF_TABLES)}); leave it out for a figure")
    with silenced(quiet):
        make(name, Asked(**asked), output, overwrite=overwrite, say=say)


def _reproduce_table(asked: dict[str, Any], name: str, output: Path, *, overwrite: bool, quiet: bool) -> None:
    """Make a table; options that it has not are refused."""
    from tonno_core.commands.tables import Comparison, Grid, Measured, make_table1, make_table2
    from tonno_core.progress import silenced
    from tonno_core.reproduction.table1 import Settings
    from tonno_core.training.steps import TrainingInterrupted

    for each in asked.keys() - _OF_TABLES[name] - {"seed", "device", "precision"}:
        if _is_stated(each):
            raise TonnoError(f"`{each}` has no meaning for {name}; leave it out")
    if name == "table2" and (asked["volumes"] is None or asked["volumes"].is_dir()):
        _refuse_choice_of_cases(asked["volumes"])
    planes = {each: _single(asked[each], each) for each in ("slices", "directions") if asked[each]}
    measured = Measured(asked["split"], asked["class_name"], asked["device"], asked["precision"], progress=not quiet)
    say = _unheard if quiet else click.echo
    with silenced(quiet):
        if name == "table1":
            if asked["volumes"] is None:
                raise TonnoError("table1: a manifest must be given; `tonno phantoms` writes one of drawn heads")
            shared = {each: asked[each] for each in ("steps", "slice_size", "intensity", "seed")}
            method = _single(asked["methods"] or ("tonno",), "method")
            grid = Grid(asked["rows"], asked["weights"], Settings(**shared, **planes, method=method))
            try:
                make_table1(asked["volumes"], grid, measured, output, overwrite=overwrite, say=say)
            except TrainingInterrupted as interruption:
                _fail(as_options(str(interruption)), 130)
        else:
            of = {each: asked[each] for each in ("volumes", "model", "methods", "baseline", "heads", "seed", "cam")}
            make_table2(Comparison(**of, planes=planes), measured, output, overwrite=overwrite, say=say)


def _refuse_choice_of_cases(evaluation: Path | None) -> None:
    """Refuse a choice among cases that are chosen already: those of an evaluation, or of heads that are drawn."""
    if evaluation is None and _is_stated("split"):
        raise TonnoError("`split` has no meaning for heads that are drawn, all of which are compared; leave it out")
    for each in ("split", "class_name"):
        if evaluation is not None and _is_stated(each):
            raise TonnoError(
                f"`{each}`: {evaluation} is the folder of an evaluation, of a split and a class of its own; leave it "
                "out, or give the manifest"
            )


def _single(values: tuple[Any, ...], name: str) -> Any:
    """The only value of an option that several figures take more than once."""
    if len(values) > 1:
        raise TonnoError(f"`{name}` is given {len(values)} times, expected once for a table")
    return values[0]


def _unheard(text: str) -> None:
    """Say nothing."""


def _say(text: str) -> None:
    """Print what becomes known, in the words of the running command."""
    click.echo(as_options(text))


@cli.command(cls=_Compiling)
@click.argument("volume", type=_PATH, required=False)
@click.option("--model", metavar="BUNDLE|TIMM_NAME", help=_BENCHED, show_default="the demo's: resnet10t, 96 pixels")
@click.option("--method", "methods", multiple=True, metavar="NAME", help=_RUN_METHODS, show_default="tonno")
@_slices_option
@_directions_option
@click.option("--slice-size", type=_PIXELS, metavar="S", help=_SIDE, show_default="the model's, or 96")
@_grid_option
@_preset_option
@_compile_option
@click.option("--repeats", default=3, show_default=True, type=_COUNT, help="Repeats; everything is measured in turn.")
@click.option("--compare", is_flag=True, help="Also time a plain reference, and the inversion of PyEPRI.")
@_device_option
@_precision_option
@click.option("--output", type=_PATH, metavar="DIR", help="Folder for bench.json and bench.png.")
@click.option("--overwrite", is_flag=True, help="Replace existing results.")
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
    """Measure where the time of a reconstruction goes.

    Reconstructs VOLUME, or a head like the demo's, on this machine, and prints seconds and rates of each stage.
    """
    from tonno_core.commands.bench import Benchmark
    from tonno_core.commands.bench import bench as measure

    chosen = {"methods": methods or ("tonno",), "slices": slices, "directions": directions, "grid": grid}
    benchmark = Benchmark(**options)
    click.echo(measure(benchmark, options=chosen, preset=preset, output=output, overwrite=overwrite))


def main(arguments: list[str] | None = None) -> None:
    """Run the command: a user's mistake is one line on stderr and exit status 2, an interruption 130.

    Args:
        arguments: Of the command line, None for the process's own.
    """
    for number in ending_signals():
        signal.signal(number, _terminate)
    arguments = sys.argv[1:] if arguments is None else arguments
    with suppress(OSError):  # nowhere for temporary files: who needs one says so
        remove_abandoned(Path(tempfile.gettempdir()))
    try:
        status = cli.main(arguments or ["--help"], prog_name="tonno", standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Abort:
        click.echo("tonno: interrupted, nothing half-written is left", err=True)
        sys.stdout.flush()
        os._exit(130)  # all is cleaned up; taking down torch's modules would last another second
    except click.ClickException as error:
        _fail(one_line(error.format_message()), 2)
    except TonnoError as error:  # only a command raises it
        _fail(as_options_of(cli.commands[arguments[0]], cli, one_line(error)), 2)
    except (MemoryError, RuntimeError, ImportError) as error:
        if not is_out_of_memory(error):
            raise
        error.__traceback__ = error.__context__ = None  # their frames hold the memory that saying so takes
    except OSError as error:  # what no reader or writer foresaw: a name too long, a folder that may not be searched
        _fail(f"{error.filename or 'a file'}: {reason_of(error)}", 2)
    # Out of the block, in which Python 3.10 keeps the frames.
    text = "out of memory; close other programs, or choose fewer `slices`, or choose a smaller `slice_size`"
    _fail(as_options_of(cli.commands[arguments[0]], cli, text), 2)


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE texts as a dictionary."""
    for text in texts:
        if not text.partition("=")[0].strip() or "=" not in text:
            raise TonnoError(f"--about '{text}': expected KEY=VALUE, as modality=MR")
    pairs = {key.strip(): value.strip() for key, _, value in (text.partition("=") for text in texts)}
    try:
        check_terminology(pairs)
    except TonnoError as error:
        raise TonnoError(f"--about {error}") from error
    return pairs


def _fail(message: str, status: int) -> None:
    click.echo(f"tonno: {message}", err=True)
    sys.exit(status)


def _terminate(number: int, frame: FrameType | None) -> None:
    """Unwind as Ctrl-C does, so that temporary files go; a signal that comes twice disturbs this no more."""
    signal.signal(number, signal.SIG_IGN)
    drop_terminal(number)
    raise KeyboardInterrupt
