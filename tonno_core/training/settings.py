"""How a classifier is trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from tonno_core.encoding.normalization import NormKind
from tonno_core.errors import TonnoError
from tonno_core.volume.intensity import parse_intensity


@dataclass(frozen=True)
class TrainingSettings:
    """The names are those of the command line's options.

    steps: batches of volumes_per_batch x slices_per_volume slices. epochs: parts of the run; each ends with a
    validation and a checkpoint. warmup: share of the steps. stage_decay: the learning rate's factor from one stage
    to the one before it. freeze: stages from the input on that keep their weights. ema: decay of the moving average
    of the weights that the bundle gets, 0 for the last weights themselves.
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
    learning_rate: float = 1e-3
    warmup: float = 0.05
    stage_decay: float = 1.0
    freeze: int = 0
    ema: float = 0.0
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"

    @property
    def pretrained(self) -> bool:
        """Whether training starts from weights that were trained before."""
        return self.weights != "none"

    @property
    def batch_size(self) -> int:
        """Slices per step, over all processes."""
        return self.volumes_per_batch * self.slices_per_volume

    def epoch_end(self, epoch: int) -> int:
        """The step at which an epoch (from 1) ends; the epochs differ by one step at most."""
        return round(self.steps * epoch / self.epochs)

    def check(self) -> None:
        """Raise TonnoError for values that cannot be meant, before hours of training."""
        parse_intensity(self.intensity)
        if self.pixel_mm is not None:
            _require(0 < self.pixel_mm < 100, "pixel_mm", self.pixel_mm, "millimeters between 0 and 100")
        _require(0 < self.learning_rate < 10, "learning_rate", self.learning_rate, "a number between 0 and 10")
        _require(0 < self.stage_decay <= 1, "stage_decay", self.stage_decay, "a number above 0, at most 1")
        _require(0 <= self.ema < 1, "ema", self.ema, "a number from 0 to below 1, as 0.99")
        _require(0 <= self.warmup < 1, "warmup", self.warmup, "a share from 0 to below 1")
        for name in ("steps", "epochs", "slices_per_volume"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number from 1")
        _require(self.epochs <= self.steps, "epochs", self.epochs, f"at most one per step, {self.steps}")
        even = self.volumes_per_batch >= 2 and self.volumes_per_batch % 2 == 0
        _require(even, "volumes_per_batch", self.volumes_per_batch, "an even number: half without a finding")
        _require(self.freeze >= 0, "freeze", self.freeze, "a whole number from 0")

    def record(self) -> dict[str, Any]:
        """As JSON holds it; of a weights file only the name, as its path says where someone works."""
        values = dataclasses.asdict(self)
        values["classes"] = list(self.classes)
        values["weights"] = self.weights.replace("\\", "/").rpartition("/")[2]
        return values


def check_shares(world: int, volumes_per_batch: int, norm: str) -> None:
    """Raise TonnoError for a batch that ``world`` processes cannot share alike."""
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
