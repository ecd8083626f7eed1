"""Settings of a training, their defaults, and their checks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from tonno_core.encoding.convention import Convention, timm_statistics
from tonno_core.encoding.device import choose_device
from tonno_core.encoding.normalization import NormKind
from tonno_core.encoding.sources import is_source, read_source
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.volume.intensity import by_channel, check_inputs, has_unit_range, windows_of

# Factor on the learning rate from a stage of a pretrained network to the one before it.
PRETRAINED_STAGE_DECAY = 0.7
# Volumes in a batch on a GPU, of slices of up to 96 pixels: 256 slices fill it.
_GPU_VOLUMES, _GPU_PIXELS = 32, 96


@dataclass(frozen=True)
class TrainingSettings:
    """How a classifier is trained.

    Attributes:
        encoder: Name of a timm model.
        channels: Input channels of the network: as many as the volumes have; of volumes of one, a slice is repeated for
            each.
        classes: Names of the findings, one output each.
        norm: Kind of normalization layers.
        weights: What to start from: ``none``, ``imagenet`` or a file.
        slice_size: Pixels along the side of a slice.
        pixel_mm: Size of a pixel; None for one that suits the foregrounds of the training volumes.
        intensity: Normalization of intensities: ``none``, ``zscore`` or ``window:LO:HI``; of volumes of several
            channels one for each, see `by_channel`.
        frame: ``physical`` or ``normalized``.
        steps: Batches of ``volumes_per_batch`` x ``slices_per_volume`` slices.
        epochs: Parts of the run; each ends with a validation and a checkpoint.
        volumes_per_batch: Volumes in a batch, half of them without a finding.
        slices_per_volume: Random slices of each of these.
        bag: Share of the loss that is of a volume's slices together, from 0 to 1; of a regressor that of their mean.
        rounds: 2 for a second half of the steps in which slices keep as much of a finding's label as the heatmaps of
            the first half's classifier say.
        learning_rate: Highest learning rate.
        warmup: Share of the steps in which the learning rate rises.
        stage_decay: Factor on the learning rate from each stage to the one before it.
        freeze: Number of stages, from the input on, that keep their weights.
        ema: Decay of the moving average of the weights that the bundle gets; 0 for the last weights themselves.
        seed: Start of all random numbers.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        compiled: Compile the network for its training (`torch.compile`).
        target: Name of the quantity that a regressor learns; "" for a classifier.
    """

    encoder: str = "resnet10t"
    channels: int = 1
    classes: tuple[str, ...] = ("finding",)
    norm: NormKind = "batch"
    weights: str = "none"
    slice_size: int = 96
    pixel_mm: float | None = None
    intensity: str = "zscore"
    frame: str = "physical"
    steps: int = 2000
    epochs: int = 20
    volumes_per_batch: int = 8
    slices_per_volume: int = 8
    bag: float = 0.0
    rounds: int = 1
    learning_rate: float = 1e-3
    warmup: float = 0.05
    stage_decay: float = 1.0
    freeze: int = 0
    ema: float = 0.0
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compiled: bool = False
    target: str = ""

    @property
    def pretrained(self) -> bool:
        """Return whether training starts from weights that were trained before."""
        return self.weights != "none"

    @property
    def batch_size(self) -> int:
        """Return the slices per step, over all processes."""
        return self.volumes_per_batch * self.slices_per_volume

    @property
    def convention(self) -> Convention:
        """Return how slices become the network's input.

        ImageNet's weights get a window's 0 to 1 with the mean and standard deviation that they were trained with;
        intensities of ``zscore`` have mean 0 and standard deviation 1 already.
        """
        mean: tuple[float, ...] = ()
        std: tuple[float, ...] = ()
        if self.weights == "imagenet" and has_unit_range(self.intensity):
            mean, std = timm_statistics(self.encoder, self.channels)
        return Convention(self.channels, windows_of(self.intensity), mean=mean, std=std)

    def epoch_end(self, epoch: int) -> int:
        """Return the step at which an epoch ends; the epochs differ by one step at most.

        Args:
            epoch: Number of the epoch, from 1.

        Returns:
            Number of steps before its end.
        """
        return round(self.steps * epoch / self.epochs)

    @property
    def second_round(self) -> int:
        """Return the step at which the second round begins: at the end of an epoch, about half of the steps.

        All steps where there is none.
        """
        return self.steps if self.rounds < 2 else self.epoch_end((self.epochs + 1) // 2)

    def check(self) -> None:
        """Check the values, before hours of training.

        Raises:
            TonnoError: If a value cannot be meant.
        """
        count = len(windows_of(self.intensity))
        _require(
            count in (0, self.channels),
            "intensity",
            self.intensity,
            f"one window, or {self.channels}, as channels of the encoder; for volumes of several channels, an entry "
            "for each with a slash between, as window:0:20/window:-160:240",
        )
        check_inputs(self.intensity, self.channels)
        if self.pixel_mm is not None:
            _require(0 < self.pixel_mm < 100, "pixel_mm", self.pixel_mm, "millimeters between 0 and 100")
        _require(0 < self.learning_rate < 10, "learning_rate", self.learning_rate, "a number between 0 and 10")
        _require(0 < self.stage_decay <= 1, "stage_decay", self.stage_decay, "a number above 0, at most 1")
        _require(0 <= self.ema < 1, "ema", self.ema, "a number from 0 to below 1, as 0.99")
        _require(0 <= self.warmup < 1, "warmup", self.warmup, "a share from 0 to below 1")
        _require(0 <= self.bag <= 1, "bag", self.bag, "a share from 0 to 1")
        for name in ("steps", "epochs", "slices_per_volume"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number from 1")
        few = f"at most one for each of the {self.steps} `steps`; give both"
        _require(self.epochs <= self.steps, "epochs", self.epochs, few)
        _require(self.rounds in (1, 2), "rounds", self.rounds, "1 or 2")
        _require(self.rounds <= self.epochs, "rounds", self.rounds, f"at most one per epoch, {self.epochs}")
        if self.target and self.rounds > 1:
            raise TonnoError("`rounds` 2 lets slices without the finding lose its label; a quantity has none, give 1")
        even = self.volumes_per_batch >= 2 and self.volumes_per_batch % 2 == 0
        _require(even, "volumes_per_batch", self.volumes_per_batch, "an even number: half without a finding")
        _require(self.freeze >= 0, "freeze", self.freeze, "a whole number from 0")

    def record(self) -> Json:
        """Return the settings for a JSON file. A weights file keeps its name alone: its path tells where someone works.

        Returns:
            JSON object.
        """
        values = dataclasses.asdict(self)
        values["classes"] = list(self.classes)
        if not self.target:  # as it was before there were regressors
            del values["target"]
        values["weights"] = self.weights.replace("\\", "/").rpartition("/")[2]
        return values


def complete_settings(
    *,
    encoder: str = TrainingSettings.encoder,
    weights: str = "none",
    norm: NormKind | None = None,
    stage_decay: float | None = None,
    volumes_per_batch: int | None = None,
    bag: float | None = None,
    channels: int | None = None,
    **others: Any,
) -> TrainingSettings:
    """Make settings in which normalization and stage decay suit the weights, and the batch the device, unless given.

    Args:
        encoder: Name of a timm model, or one of timm's sources, whose weights are taken unless others are given.
        weights: What to start from.
        norm: None for frozen batch norm with pretrained weights, else batch norm.
        stage_decay: None for `PRETRAINED_STAGE_DECAY` with pretrained weights, else 1.
        volumes_per_batch: None for what `batch_on` says.
        channels: None for those that ``intensity`` is given for, one as a rule.
        bag: None for 0, of a regressor 1: its slices then tell their shares, which add up.
        others: Other `TrainingSettings` by name.

    Returns:
        The settings.

    Raises:
        TonnoError: There is no such source or device, or the source's network is not the one that timm makes by its
            name.
    """
    if volumes_per_batch is None:
        device = choose_device(others.get("device", TrainingSettings.device))
        volumes_per_batch = batch_on(device.type, others.get("slice_size", TrainingSettings.slice_size))
    if is_source(encoder):
        source = read_source(encoder)
        if not source.is_plain:
            told = ", ".join(f"{name} {value}" for name, value in source.arguments.items())
            raise TonnoError(f"`encoder` {encoder}: is no plain {source.architecture} ({told}), which training needs")
        encoder, weights = source.architecture, str(source.weights) if weights == "none" else weights
    pretrained = weights != "none"
    return TrainingSettings(
        encoder=encoder,
        weights=weights,
        norm=norm or ("frozen-batch" if pretrained else "batch"),
        stage_decay=(PRETRAINED_STAGE_DECAY if pretrained else 1.0) if stage_decay is None else stage_decay,
        volumes_per_batch=volumes_per_batch,
        channels=channels or len(by_channel(others.get("intensity", TrainingSettings.intensity))),
        bag=(1.0 if others.get("target") else 0.0) if bag is None else bag,
        **others,
    )


def batch_on(device: str, slice_size: int) -> int:
    """Choose how many volumes a batch has where nobody says; by the device, never by what is free on it.

    The learning rate and the number of steps stay: Adam's steps are as long whatever the batch, and of more slices
    less noisy.

    Args:
        device: Its kind, such as ``cuda``.
        slice_size: S.

    Returns:
        8; on CUDA 32 for slices of up to 96 pixels, and fewer, in eights that several GPUs can share, for larger ones.
    """
    least = TrainingSettings.volumes_per_batch
    if device != "cuda":
        return least
    fitting = int(_GPU_VOLUMES * min(1.0, (_GPU_PIXELS / slice_size) ** 2))
    return max(least, fitting // least * least)


def check_shares(world: int, volumes_per_batch: int, norm: str) -> None:
    """Check that processes can share a batch.

    Args:
        world: Number of processes.
        volumes_per_batch: Volumes in a batch.
        norm: Kind of normalization layers.

    Raises:
        TonnoError: If their shares would differ, or the normalization needs the whole batch.
    """
    if volumes_per_batch % world:
        raise TonnoError(f"`volumes_per_batch` is {volumes_per_batch}, expected a multiple of the {world} processes")
    if world > 1 and norm == "batch":
        raise TonnoError(
            "`norm` batch takes its statistics from a whole batch, which several processes share; "
            "choose `norm` frozen-batch or group, or a single process"
        )


def _require(condition: bool, name: str, found: object, expected: str) -> None:
    if not condition:
        raise TonnoError(f"`{name}` is {found}, expected {expected}")
