"""Settings of a distillation, their defaults, and their checks."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.settings import METHODS

Unit = Literal["peak", "threshold"]


@dataclass(frozen=True)
class DistillationSettings:
    """How a segmenter is trained from heatmaps.

    Attributes:
        classes: Names of the findings, one output each.
        methods: Whose heatmaps are averaged, each in its unit.
        planes: Settings of these heatmaps by their names in files; the rest is the model's own.
        unit: What a heatmap is divided by: ``peak``, its highest value in the foreground of the volume, or
            ``threshold``, the model's own for the method.
        finding: In that unit, from which value on the mean is taken for the finding's core.
        background: In that unit, below which value it is taken for none; between both nothing is learned of a heatmap
            alone.
        trust: How far the heatmaps of a volume with the finding must reach to be learned from: the least mean of their
            peaks, each divided by the model's threshold for it. Where they stay below, the classifier itself does not
            see the finding, and their peaks lie anywhere. 0 trusts all, as does a model without thresholds.
        contrast: Where core and surroundings differ in brightness by more than this, in standard deviations of the
            foreground, that decides what of the rest is the finding; infinite for never.
        bright: Share of that difference from which on a voxel is taken for the finding.
        dark: Below which it is taken for none.
        smoothing: Standard deviation of the Gaussian by which brightness is smoothed, in voxels of the working grid.
        own_finding: In a further round the probability from which on the network's own answer is taken for the finding.
        own_background: Below which it is taken for none.
        spacing_mm: Of the working grid along R, A and S; None for the training volumes' median, no finer than
            the classifier's pixels.
        patch: Voxels of a window along R, A and S; None for one that holds the volumes, as far as memory allows.
        filters: Channels of the network's finest level.
        blocks: Its residual blocks by level, the finest first.
        steps: Batches in a round.
        epochs: Parts of a round; each ends with a validation and a checkpoint.
        rounds: The first learns from the heatmaps, each further one from the answers of the one before.
        volumes_per_batch: Patches in a batch, each of a volume of its own; half of them without a finding.
        centred: Share of the patches of volumes with a finding that are laid around a voxel of it.
        learning_rate: Highest learning rate.
        warmup: Share of the steps in which the learning rate rises.
        prior: Probability of the finding that a new network answers at first.
        ema: Decay of the moving average of the weights that the model gets; 0 for the last weights themselves.
        voxel_weight: Of the robust cross-entropy of known voxels.
        robustness: q of the generalized cross-entropy (1 - p^q) / q: near 0 it is the cross-entropy, 1 the error
            itself, which stands most wrong labels.
        robust_ramp: Share of a round's steps in which q rises from 0 to its value. The robust loss learns little from
            what is far off, which at first is everything.
        finding_weight: What a voxel of the finding counts against one of none; None for as much as small findings need,
            see `finding_weight`.
        dice_weight: Of the soft Dice of a batch's known voxels.
        volume_weight: Of the image-level term.
        highest: Share of a patch's voxels whose logits' mean is its soft highest.
        mirrored: Axes along which patches are mirrored at random, some of R, A and S. Not along one whose ends differ,
            such as midline and temple in half heads.
        rotation: Largest angle of the random rotations, degrees.
        scaling: Largest share by which sizes are changed.
        intensity_scaling: Largest share by which contrasts are changed.
        intensity_shift: Largest shift, in standard deviations of the volume's intensities.
        noise: Largest standard deviation of noise, in the same.
        gamma: Largest exponent by which the brightness between a patch's darkest and brightest voxel is bent, and the
            inverse of the smallest; 1 for none.
        seed: Start of all random numbers.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``float32`` or ``bfloat16``; see `loop.network_precision`.
    """

    classes: tuple[str, ...] = ("finding",)
    methods: tuple[str, ...] = ("tonno", "averaged-cam")
    planes: Json = field(default_factory=dict)
    unit: Unit = "peak"
    finding: float = 0.7
    background: float = 0.2
    trust: float = 1.0
    contrast: float = 0.3
    bright: float = 0.65
    dark: float = 0.35
    smoothing: float = 0.6
    own_finding: float = 0.5
    own_background: float = 0.2
    spacing_mm: tuple[float, float, float] | None = None
    patch: tuple[int, int, int] | None = None
    filters: int = 16
    blocks: tuple[int, ...] = (1, 2, 2, 4)
    steps: int = 1600
    epochs: int = 4
    rounds: int = 1
    volumes_per_batch: int = 2
    centred: float = 0.5
    learning_rate: float = 2e-3
    warmup: float = 0.1
    prior: float = 0.05
    ema: float = 0.99
    voxel_weight: float = 1.0
    robustness: float = 0.7
    robust_ramp: float = 0.5
    finding_weight: float | None = None
    dice_weight: float = 1.0
    volume_weight: float = 0.1
    highest: float = 0.001
    mirrored: str = "RAS"
    rotation: float = 15.0
    scaling: float = 0.2
    intensity_scaling: float = 0.2
    intensity_shift: float = 0.1
    noise: float = 0.1
    gamma: float = 1.5
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"

    def epoch_end(self, epoch: int) -> int:
        """Return the step of a round at which an epoch ends; the epochs differ by one step at most.

        Args:
            epoch: Number of the epoch in its round, from 1.

        Returns:
            Number of steps before its end.
        """
        return round(self.steps * epoch / self.epochs)

    def robustness_at(self, step: int) -> float:
        """Return q at a step.

        Args:
            step: Of the round, from 0.

        Returns:
            From 0 to `robustness`.
        """
        rising = self.robust_ramp * self.steps
        return self.robustness * (min(1.0, step / rising) if rising else 1.0)

    def check(self) -> None:
        """Check the values, before hours of training.

        Raises:
            TonnoError: If a value cannot be meant.
        """
        for method in self.methods:
            _require(method in METHODS, "methods", method, f"one of {', '.join(METHODS)}")
        _require(len(self.methods) > 0, "methods", "empty", "at least one")
        _require(self.unit in get_args(Unit), "unit", self.unit, f"one of {', '.join(get_args(Unit))}")
        for low, high in (("background", "finding"), ("own_background", "own_finding"), ("dark", "bright")):
            values = getattr(self, low), getattr(self, high)
            good = all(math.isfinite(value) for value in values) and 0 < values[0] <= values[1]
            _require(good, high, values[1], f"a number not below that of `{low}`, {values[0]:g}; both above 0")
            _require(high == "finding" or values[1] < 1, high, values[1], "a share below 1")
        for name in ("steps", "epochs", "rounds"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number from 1")
        few = f"at most one for each of the {self.steps} `steps`; give both"
        _require(self.epochs <= self.steps, "epochs", self.epochs, few)
        even = self.volumes_per_batch >= 2 and self.volumes_per_batch % 2 == 0
        _require(even, "volumes_per_batch", self.volumes_per_batch, "an even number: half without a finding")
        _require(0 < self.learning_rate < 10, "learning_rate", self.learning_rate, "a number between 0 and 10")
        _require(0 < self.prior < 1, "prior", self.prior, "a probability between 0 and 1")
        _require(0 < self.robustness <= 1, "robustness", self.robustness, "a number above 0, at most 1")
        _require(0 < self.highest <= 1, "highest", self.highest, "a share above 0, at most 1")
        for name in ("ema", "warmup", "scaling", "intensity_scaling"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "a number from 0 to below 1")
        _require(0 <= self.robust_ramp <= 1, "robust_ramp", self.robust_ramp, "a share from 0 to 1")
        _require(0 <= self.trust < math.inf, "trust", self.trust, "a number from 0")
        axes = set(self.mirrored) <= set("RAS") and len(set(self.mirrored)) == len(self.mirrored)
        _require(axes, "mirrored", repr(self.mirrored), "some of the letters R, A and S, or none")
        _require(self.contrast >= 0, "contrast", self.contrast, "a number from 0")
        _require(0 <= self.smoothing < 100, "smoothing", self.smoothing, "voxels from 0")
        _require(0 <= self.centred <= 1, "centred", self.centred, "a share from 0 to 1")
        _require(1 <= self.gamma < 10, "gamma", self.gamma, "a number from 1 to below 10")
        _require(0 <= self.rotation <= 90, "rotation", self.rotation, "degrees from 0 to 90")
        for name in ("voxel_weight", "dice_weight", "volume_weight", "finding_weight", "intensity_shift", "noise"):
            value = getattr(self, name)
            _require(value is None or 0 <= value < math.inf, name, value, "a number from 0")
        learned = self.voxel_weight + self.dice_weight > 0
        _require(learned, "voxel_weight", "0, as that of the Dice", "one of them above 0: nothing would be learned")
        step = 2 ** (len(self.blocks) - 1)
        try:
            self.network(self.spacing_mm or (1.0, 1.0, 1.0), self.patch or (step, step, step))
        except TonnoError as error:  # where it is a value of a file
            raise TonnoError(re.sub(r"^'network': '(\w+)'", r"`\1`", str(error))) from error

    def network(self, spacing_mm: tuple[float, float, float], patch: tuple[int, int, int]) -> SegmenterNetwork:
        """Describe the network.

        Args:
            spacing_mm: Of the working grid along R, A and S.
            patch: Voxels of a window along R, A and S.

        Returns:
            The description.

        Raises:
            TonnoError: A value is out of its range.
        """
        return SegmenterNetwork(spacing_mm, patch, self.filters, self.blocks)

    def record(self) -> Json:
        """Return the settings for a JSON file.

        Returns:
            JSON object.
        """
        return {name: _listed(value) for name, value in dataclasses.asdict(self).items()}


def check_shares(world: int, volumes_per_batch: int) -> None:
    """Check that processes can share a batch.

    Args:
        world: Number of processes.
        volumes_per_batch: Patches in a batch.

    Raises:
        TonnoError: Their shares would differ.
    """
    if volumes_per_batch % world:
        raise TonnoError(f"`volumes_per_batch` is {volumes_per_batch}, expected a multiple of the {world} processes")


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _require(condition: bool, name: str, found: object, expected: str) -> None:
    if not condition:
        raise TonnoError(f"`{name}` is {found}, expected {expected}")
