"""The quantity that a regressor predicts. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.settings import is_finite_number


@dataclass(frozen=True)
class Quantity:
    """A real-valued column of a manifest, and how a network's output becomes a number of it: output x sd + mean.

    Attributes:
        name: Of the column.
        mean: Of the training volumes' numbers.
        sd: Their standard deviation.
    """

    name: str
    mean: float
    sd: float

    @staticmethod
    def of(name: str, values: Sequence[float]) -> Quantity:
        """Measure the numbers of the training volumes.

        Args:
            name: Of the column.
            values: At least two that differ.

        Returns:
            The quantity.
        """
        mean = math.fsum(values) / len(values)
        return Quantity(name, mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values)))

    def standardized(self, value: float) -> float:
        """Return what the network shall put out.

        Args:
            value: A number of the column.

        Returns:
            Its distance from the mean in standard deviations.
        """
        return (value - self.mean) / self.sd

    def record(self) -> Json:
        """Return the quantity as JSON holds it.

        Returns:
            What `of_record` reads.
        """
        return {"name": self.name, "mean": self.mean, "sd": self.sd}

    @staticmethod
    def of_record(record: object) -> Quantity:
        """Read a quantity.

        Args:
            record: From a model's description.

        Returns:
            The quantity.

        Raises:
            TonnoError: It is none.
        """
        if isinstance(record, dict) and isinstance(record.get("name"), str):
            numbers = [record.get("mean"), record.get("sd")]
            if all(map(is_finite_number, numbers)) and record["sd"] > 0:
                return Quantity(record["name"], float(record["mean"]), float(record["sd"]))
        raise TonnoError(f"key 'quantity' is {record!r:.120}, expected an object with name, mean and an sd above 0")
