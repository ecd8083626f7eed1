"""The one place that decides: what is asked, and what the model brings, become a complete run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from tonno_core.bundle.calibration import ModelChoices, ModelThreshold
from tonno_core.bundle.classes import class_of
from tonno_core.bundle.ready import ReadyModel
from tonno_core.encoding.encoder import Encoder, without_map
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.segmenter.segmenter import Segmenter
from tonno_core.settings import CAM_METHODS, ReconstructionSettings, Variant, choices_of, stages_text
from tonno_core.slicing.region import Region


@dataclass(frozen=True)
class Target:
    """A class of the model, and the heatmaps of it that are wanted.

    Attributes:
        name: The class's.
        output: Index of the encoder's output.
        variants: By names of the caller's.
    """

    name: str
    output: int
    variants: Mapping[str, Variant]


@dataclass(frozen=True)
class Run:
    """All that a reconstruction needs beside the volume and the encoder. Nothing in it is left to be chosen.

    Attributes:
        asked: The settings that it was made from; planes, frame and grid are taken from them as they are.
        targets: The classes, each with its heatmaps; previews are of the first.
        pixels: S, along a slice's side.
        intensity: Normalization of the volume's intensities.
        pixel_mm: Pixel size of the training slices; None where the model saw no physical scale.
        shifts_mm: By channel of the encoder's input how far its slice lies along the normal; empty where all channels
            get the same slice.
        region: Where alone heatmaps are wanted; None for everywhere.
        zoom: Whether all offsets and pixels go into the region.
        device: Where to compute.
        precision: Of the encoder.
        choices: The model's choices, which bring the heatmaps' thresholds.
        training: What the model's description says of its training, so of its images; empty where there is none.
        profiles: Whether the planes along R, A and S are looked at for the logits' profiles.
        network: A segmenter's, which looks at no planes; None where an encoder answers slices.
        halves: Whether heatmaps of either half of the directions can be made as well.
    """

    asked: ReconstructionSettings
    targets: tuple[Target, ...]
    pixels: int
    intensity: str
    pixel_mm: float | None
    shifts_mm: tuple[float, ...]
    region: Region | None
    zoom: bool
    device: torch.device
    precision: torch.dtype
    choices: ModelChoices
    training: Json = field(default_factory=dict)
    profiles: bool = True
    network: SegmenterNetwork | None = None
    halves: bool = False

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All variants of all classes, each once."""
        return tuple(dict.fromkeys(variant for target in self.targets for variant in target.variants.values()))

    def directions_of(self, variant: Variant) -> int:
        """Return how many directions a variant's heatmap is made of.

        Args:
            variant: Any.

        Returns:
            L; 0 for a method whose planes are those of axes, or that has none.
        """
        tomographic = variant.method == "tonno" or variant.method in CAM_METHODS
        return self.asked.directions_for(variant.method) if tomographic else 0

    def threshold(self, target: Target, name: str, directions: int | None = None) -> ModelThreshold | None:
        """Return the model's threshold of a heatmap.

        Args:
            target: One of the run's.
            name: Of one of its variants.
            directions: Of which the heatmap is made where these are fewer than the run has; None for all.

        Returns:
            The threshold, None where the model brings none for the method and class.
        """
        settings = replace(self.asked, class_name=target.name)
        if directions:
            cam = settings.cam_directions
            settings = replace(
                settings,
                directions=min(settings.directions, directions),
                cam_directions=None if cam is None else min(cam, directions),
            )
        return self.choices.threshold(target.variants[name], settings, zoom=self.zoom)


def decide(
    asked: ReconstructionSettings | None,
    model: ReadyModel,
    *,
    variants: Mapping[str, Variant] | None = None,
    classes: Sequence[str] = (),
    region: Region | None = None,
    zoom: bool = False,
) -> Run:
    """Decide what a reconstruction makes, and how.

    Args:
        asked: The settings, None for the model's own.
        model: Ready on its device.
        variants: The heatmaps wanted, by names of the caller's; None for one of each of the settings' methods, as the
            model makes it, named by its method.
        classes: Of which heatmaps are wanted; none for the settings' class alone, see `class_of`.
        region: Where alone heatmaps are wanted: fewer planes are looked at.
        zoom: Put all offsets and pixels into the region.

    Returns:
        The run.

    Raises:
        TonnoError: The model cannot serve what is asked, or parts of it contradict each other.
    """
    choices = model.choices
    asked = asked or choices.settings()
    choices.check_methods([variant.method for variant in variants.values()] if variants else asked.methods)
    if isinstance(model.encoder, Segmenter):
        if zoom:
            raise TonnoError("`zoom` has no meaning for a segmenter, which looks at no planes; leave it out")
        asked = replace(asked, slice_size=None, radius_mm=None, frame="normalized")
    size = asked.slice_size or choices.slice_size
    if size != model.slice_size:
        raise TonnoError(f"`slice_size` is {asked.slice_size}, the model was made ready for {model.slice_size}")
    if zoom:
        check_zoom(region, asked)
    if model.shifts_mm and asked.frame != "physical":
        raise TonnoError(f"`frame` {asked.frame}: the model's channels are slices some mm apart; expected physical")
    targets = []
    for name in dict.fromkeys(class_of(each, model.encoder.classes) for each in classes or (asked.class_name,)):
        settings = replace(asked, class_name=name)
        wanted = variants or {method: choices.variant(method, settings) for method in asked.methods}
        output = model.encoder.classes.index(name)
        complete = wanted
        if not isinstance(model.encoder, Segmenter):
            complete = {key: _with_stages(variant, model.encoder, output, size) for key, variant in wanted.items()}
        targets.append(Target(name, output, complete))
    return Run(
        asked=asked,
        targets=tuple(targets),
        pixels=size,
        intensity=model.intensity,
        pixel_mm=model.pixel_mm,
        shifts_mm=model.shifts_mm,
        region=region,
        zoom=zoom,
        device=model.device,
        precision=model.precision,
        choices=choices,
        training={} if model.spec is None else model.spec.training,
        profiles=not isinstance(model.encoder, Segmenter),
        network=model.encoder.network if isinstance(model.encoder, Segmenter) else None,
    )


def check_zoom(region: Region | None, asked: ReconstructionSettings) -> None:
    """Check that all offsets can go into a region.

    Args:
        region: To zoom into.
        asked: The settings of the run.

    Raises:
        TonnoError: There is no region, or the ball is determined otherwise.
    """
    if region is None:
        raise TonnoError("`zoom` needs a region to zoom into; give `region`")
    if asked.frame != "physical":
        raise TonnoError(f"`zoom` has no meaning with `frame` {asked.frame}; leave one of them out")
    if asked.radius_mm is not None:
        raise TonnoError("`zoom` and `radius_mm` both determine the ball; leave one of them out")


def check_stages(stages: Sequence[int], encoder: Encoder, class_index: int, size: int) -> None:
    """Check that an encoder has some stages, and that these give maps of a class.

    Args:
        stages: From 1, the finest.
        encoder: The encoder.
        class_index: Of the class, from 0.
        size: S, pixels along a slice's side.

    Raises:
        TonnoError: A stage does not exist, or gives no map.
    """
    if any(not 1 <= stage <= encoder.stages for stage in stages):
        text = stages_text(tuple(stages))
        raise TonnoError(f"`stage` {text} does not exist in this encoder, expected 1 to {encoder.stages}")
    usable = encoder.stages_with_maps(class_index, size) if stages else ()
    for stage in stages:
        if stage not in usable:
            raise without_map(stage, encoder.classes[class_index], usable)


def standard_stage(encoder: Encoder, class_index: int, size: int) -> int:
    """Return the stage that is taken where nobody chose one.

    Args:
        encoder: The encoder.
        class_index: Of the class, from 0.
        size: S, pixels along a slice's side.

    Returns:
        The last but one; where that gives no map, the nearest that does.
    """
    standard = max(1, encoder.stages - 1)
    usable = encoder.stages_with_maps(class_index, size)
    return min(usable or (standard,), key=lambda stage: abs(stage - standard))


def _with_stages(variant: Variant, encoder: Encoder, class_index: int, size: int) -> Variant:
    if "stages" not in choices_of(variant.method):
        return variant
    stages = variant.stages or (standard_stage(encoder, class_index, size),)
    check_stages(stages, encoder, class_index, size)
    if len(stages) > 1 and not variant.weights:
        raise TonnoError(
            f"`stage` {stages_text(stages)}: how much each of these counts in {variant.method} is not known; give one "
            "stage, or those that the model's calibration added up (`tonno calibrate` tries neighbors)"
        )
    return replace(variant, stages=stages)
