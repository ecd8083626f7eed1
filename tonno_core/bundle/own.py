"""Classifiers that somebody trained elsewhere: what is said of one, its bundle, and all that is assumed of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tonno_core.bundle.file import (
    MOST_CHANNELS,
    BundleSpec,
    build_encoder,
    check_can_write,
    layered_classifier,
    layered_program,
    save_bundle,
    schema_of,
    stage_names,
)
from tonno_core.bundle.kind import CLASSIFIER
from tonno_core.encoding.classifier import create_model
from tonno_core.encoding.convention import TIMM, Activation, parse_statistics, timm_statistics
from tonno_core.encoding.normalization import NormKind
from tonno_core.encoding.program import Program, read_program
from tonno_core.encoding.sources import Source, is_source, read_source
from tonno_core.encoding.weights import load_exactly, weights_for
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.settings import SLICE_SIZES, model_defaults
from tonno_core.volume.intensity import (
    by_channel,
    check_inputs,
    has_unit_range,
    inputs_of,
    parse_intensity,
    windows_of,
)

PROGRAM_SUFFIX = ".pt2"


@dataclass(frozen=True)
class OwnClassifier:
    """A classifier that somebody trained elsewhere.

    Attributes:
        encoder: timm's name, one of timm's sources (see `read_source`), or a file with an exported program (.pt2).
        weights: A file, or ``none`` for random weights of a seed; empty for a source's or program's own.
        slice_size: S pixels of its input; 0 for a source's or program's own.
        channels: Of its input: the volumes'; of volumes of one, the slice is repeated for each.
        classes: Names of its outputs.
        norm: Kind of its normalization layers.
        intensity: ``none``, ``zscore`` or ``window:LO:HI``; of volumes of several channels one for each, see
            `by_channel`.
        white: What a window's upper end is in its input, 1 or 255.
        mean: Of its input, subtracted: ``timm``, a number, or one for each channel separated by commas; None for none.
        std: By which that is divided, likewise.
        pixel_mm: Pixel size of its training slices; None where they had no physical scale.
        activation: ``softmax`` where its classes exclude each other, else ``sigmoid``.
        neighbor_mm: Distance of the slices in neighbouring channels; None where all channels get the same slice.
        seed: For random weights.
        about: What a person should know.
        layers: Names of the program's layers that are its stages.
    """

    encoder: str
    weights: str = ""
    slice_size: int = 0
    channels: int = 1
    classes: tuple[str, ...] = ("finding",)
    norm: NormKind = "batch"
    intensity: str = "none"
    white: float = 1
    mean: str | None = None
    std: str | None = None
    pixel_mm: float | None = None
    activation: Activation = "sigmoid"
    neighbor_mm: float | None = None
    seed: int = 0
    about: dict[str, str] = field(default_factory=dict)
    layers: tuple[str, ...] = ()


def make_bundle(classifier: OwnClassifier, output: Path, *, overwrite: bool = False) -> BundleSpec:
    """Write a bundle of a classifier from elsewhere.

    Args:
        classifier: Any timm model and weights file.
        output: Folder of the bundle.
        overwrite: Replace a bundle that is there.

    Returns:
        The bundle's description.

    Raises:
        TonnoError: The network, the weights or a name is wrong, or the folder cannot be written.
    """
    check_can_write(output, overwrite=overwrite)
    if classifier.encoder.endswith(PROGRAM_SUFFIX):
        return _bundle_of_program(classifier, output, overwrite=overwrite)
    arguments: Json = {}
    if is_source(classifier.encoder):
        source = read_source(classifier.encoder)
        classifier, arguments = _of_source(classifier, source), source.arguments
    missing = [name for name in ("weights", "slice_size") if not getattr(classifier, name)]
    if missing:
        raise TonnoError(
            f"`{missing[0]}`: missing; only an exported program ({PROGRAM_SUFFIX}) or a source of timm's brings it"
        )
    if classifier.layers:
        raise TonnoError(f"`layers`: are for an exported program ({PROGRAM_SUFFIX}) alone; timm's models have stages")
    spec = dataclasses.replace(describe(classifier), arguments=arguments)
    torch.manual_seed(classifier.seed)
    model = create_model(
        spec.encoder,
        channels=spec.channels,
        classes=len(spec.classes),
        norm=spec.norm,
        slice_size=spec.slice_size,
        arguments=arguments,
    )
    training: Json = {"weights": f"random, seed {classifier.seed}"}
    if classifier.weights != "none":
        weights, taken = weights_for(model, Path(classifier.weights))
        load_exactly(model, weights, f"`weights` {classifier.weights}")
        training = {"weights": Path(classifier.weights).name} | ({"taken": list(taken)} if taken else {})
    build_encoder(model, spec)
    spec = dataclasses.replace(spec, training=training, stages=stage_names(model))
    return save_bundle(output, spec, model.state_dict(), overwrite=overwrite)


def _of_source(classifier: OwnClassifier, source: Source) -> OwnClassifier:
    """Put in what a source says of its classifier; classes, slice size and weights where nobody said others."""
    _check_input(dataclasses.replace(classifier, channels=source.channels))
    mean, std = classifier.mean, classifier.std
    if TIMM in (mean, std) and {mean, std} <= {TIMM, None} and source.mean and source.std:
        mean, std = (
            ",".join(str(classifier.white * value) for value in values) for values in (source.mean, source.std)
        )
    unnamed = classifier.classes == OwnClassifier.classes
    return dataclasses.replace(
        classifier,
        encoder=source.architecture,
        weights=classifier.weights or str(source.weights),
        slice_size=classifier.slice_size or source.slice_size,
        channels=source.channels,
        classes=source.classes if unnamed else classifier.classes,
        mean=mean,
        std=std,
    )


def _bundle_of_program(classifier: OwnClassifier, output: Path, *, overwrite: bool) -> BundleSpec:
    """Write a bundle of an exported program, which brings its weights, channels and mostly its slice size."""
    path = Path(classifier.encoder)
    if classifier.weights:
        raise TonnoError(f"`weights` {classifier.weights}: {path.name} brings its own, leave it out")
    if not classifier.layers:
        raise TonnoError(
            f"`layers`: missing; {path.name} has no stages of its own, name one or more layers that put out "
            "B x channels x height x width, such as layer4"
        )
    text, tensors = read_program(path, classifier.layers)
    program = Program(text, tensors)
    size = classifier.slice_size or program.slice_size
    if not size:
        raise TonnoError(f"`slice_size`: missing; {path.name} takes any")
    named = dataclasses.replace(classifier, encoder=path.name, channels=program.channels, slice_size=size)
    spec = dataclasses.replace(describe(named), layers=classifier.layers, training={"weights": "of the program"})
    model = layered_program(text, tensors, spec)
    spec = dataclasses.replace(spec, layers=model.layers)
    layered_classifier(model, spec)
    return save_bundle(output, spec, tensors, overwrite=overwrite, program=text)


def describe(classifier: OwnClassifier) -> BundleSpec:
    """Describe a classifier from elsewhere as a bundle does; how its weights came about is left out.

    Args:
        classifier: What is said of it.

    Returns:
        The description.

    Raises:
        TonnoError: Something that is said of it cannot be meant.
    """
    _check_input(classifier)
    for name, (least, most) in {"channels": (1, MOST_CHANNELS), "slice_size": SLICE_SIZES}.items():
        if not least <= getattr(classifier, name) <= most:
            raise TonnoError(f"`{name}` is {getattr(classifier, name)}, expected a whole number from {least} to {most}")
    mean, std = _statistics(classifier)
    classes = classifier.classes
    if not classes or not all(classes) or len(set(classes)) != len(classes):
        raise TonnoError(f"`classes` '{','.join(classes)}': expected different names separated by commas")
    if classifier.activation == "softmax" and len(classes) == 1:
        raise TonnoError("`activation` softmax: one class has no others to exclude; name all outputs by `classes`")
    return BundleSpec(
        encoder=classifier.encoder,
        channels=classifier.channels,
        classes=classes,
        norm=classifier.norm,
        slice_size=classifier.slice_size,
        pixel_mm=classifier.pixel_mm,
        intensity=classifier.intensity,
        frame="physical",
        defaults=model_defaults(),
        about=dict(classifier.about),
        white=classifier.white,
        mean=mean,
        std=std,
        activation=classifier.activation,
        neighbor_mm=classifier.neighbor_mm,
        schema=schema_of(CLASSIFIER, classifier.intensity),
    )


def _check_input(classifier: OwnClassifier) -> None:
    """Raise TonnoError where what is said of the input cannot be meant."""
    windows, channels = windows_of(classifier.intensity), classifier.channels
    if len(windows) not in (0, channels):
        raise TonnoError(
            f"`intensity` {classifier.intensity}: {len(windows)} windows for `channels` {channels}; "
            "give one for all channels, or one for each"
        )
    check_inputs(classifier.intensity, channels)
    if classifier.neighbor_mm is not None:
        if not 0 < classifier.neighbor_mm < 100:
            raise TonnoError(f"`neighbor_mm` is {classifier.neighbor_mm}, expected millimeters between 0 and 100")
        if channels == 1 or inputs_of(classifier.intensity) > 1:
            found = "one channel" if channels == 1 else "a window in each channel"
            found = found if windows or channels == 1 else "the volumes' own channels in them"
            raise TonnoError(f"`neighbor_mm` puts neighbouring slices into the channels; this classifier has {found}")
    if classifier.pixel_mm is not None and not 0 < classifier.pixel_mm < 100:
        raise TonnoError(f"`pixel_mm` is {classifier.pixel_mm}, expected millimeters between 0 and 100")
    scaled = {"white": classifier.white != 1, "mean": classifier.mean == TIMM, "std": classifier.std == TIMM}
    for name in (name for name, given in scaled.items() if given and not has_unit_range(classifier.intensity)):
        raise TonnoError(
            f"`{name}` {getattr(classifier, name)}: needs intensities from 0 to 1, `intensity` {classifier.intensity} "
            "gives others; give `intensity` window:LO:HI"
        )


def _statistics(classifier: OwnClassifier) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation by channel; ``timm`` for one of them means both."""
    mean, std, channels = classifier.mean, classifier.std, classifier.channels
    if TIMM in (mean, std):
        if not {mean, std} <= {TIMM, None}:
            raise TonnoError("`mean` and `std`: one is timm, expected both to be timm, or both numbers")
        means, stds = timm_statistics(classifier.encoder, channels)
        scale = classifier.white
        return tuple(scale * value for value in means), tuple(scale * value for value in stds)
    means, stds = parse_statistics("mean", mean, channels), parse_statistics("std", std, channels)
    _check_scale(classifier, means, stds)
    return means, stds


def _check_scale(classifier: OwnClassifier, means: tuple[float, ...], stds: tuple[float, ...]) -> None:
    """Raise TonnoError where mean and std are those of bytes and the window goes to 1, or the other way round."""
    if not has_unit_range(classifier.intensity):
        return
    white = classifier.white
    beyond = any(not 0 <= value <= white for value in means) or any(value > white for value in stds)
    below = white > 1 and (max(stds) < 1 if stds else any(0 < value < 1 for value in means))
    if beyond or below:
        given = [f"`{name}` {text}" for name, text in (("mean", classifier.mean), ("std", classifier.std)) if text]
        other = 255 if white == 1 else 1
        raise TonnoError(
            f"{' and '.join(given)}: cannot be those of intensities from 0 to {white}, to which `intensity` "
            f"{classifier.intensity} and `white` {white} lead; "
            f"give `white` {other} if the classifier was fed 0 to {other}"
        )


def assumptions(spec: BundleSpec) -> list[tuple[str, str]]:
    """List what is assumed of a classifier, in the order in which it acts.

    Args:
        spec: The description.

    Returns:
        Pairs of topic and text.
    """
    windows, several = windows_of(spec.intensity), by_channel(spec.intensity)
    size = f"{spec.slice_size} x {spec.slice_size}"
    scale = "no scale: the whole scan in each" if spec.pixel_mm is None else f"of {spec.pixel_mm:g} mm"
    texts = [_normalization(one, spec.white) for one in several]
    intensities = texts[0] if len(texts) == 1 else "; ".join(f"channel {n}: {text}" for n, text in enumerate(texts, 1))
    if windows:
        bounds = spec.intensity.partition(":")[2].replace(",", ", ")
        intensities = f"a window for each channel, {bounds}, becomes 0 to {spec.white:g}; 0 outside of the scan"
    channels = "1" if spec.channels == 1 else f"{spec.channels}, {'a window' if windows else 'the same slice'} in each"
    if len(several) > 1:
        channels = f"{spec.channels}, those of the volumes in their order, such as a 4D NIfTI has"
    if spec.neighbor_mm is not None:
        channels = f"{spec.channels}, neighbouring slices {spec.neighbor_mm:g} mm apart, the middle one in its place"
    statistics = " and ".join(
        f"{verb} {', '.join(f'{value:.6g}' for value in dict.fromkeys(values))}"
        for verb, values in (("less", spec.mean), ("divided by", spec.std))
        if values
    )
    outputs = (
        "each class is a question of its own (sigmoid)"
        if spec.activation == "sigmoid"
        else "the classes exclude each other (softmax): log-odds of a class against all others"
    )
    weights = "; ".join(map(str, (spec.training.get("weights", "trained by tonno"), *spec.training.get("taken", ()))))
    stages = [("stages", f"layers {', '.join(spec.layers)}")] if spec.layers else []
    return [
        ("weights", weights),
        *stages,
        ("pixels", f"{size}, {scale}"),
        ("intensities", intensities),
        ("channels", channels),
        ("mean and std", statistics or "none"),
        ("outputs", f"{', '.join(spec.classes)}: {outputs}"),
    ]


def _normalization(intensity: str, white: float) -> str:
    """Say what becomes of a channel's intensities."""
    kind, low, high, _ = parse_intensity(intensity)
    return {
        "none": "the scan's own, 0 outside of it",
        "zscore": "mean 0 and standard deviation 1 over the scan's foreground",
        "window": f"{low:g} to {high:g} become 0 to {white:g}, cut off beyond; 0 outside of the scan",
    }[kind]
