"""Logits of parallel planes."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field

import numpy as np
import numpy.typing as npt

_AXES = dict(zip("RAS", np.eye(3), strict=True))


@dataclass(frozen=True)
class Profile:
    """The classifier's logits of parallel planes (paper, Fig. 2b).

    Attributes:
        axis: 'R', 'A' or 'S' where the planes are laid along an axis of the patient, else "".
        offsets_mm: N, where the planes cut that axis in RAS mm; without an axis their signed distances from RAS 0 along
            the normal.
        logits: N.
        normal_ras: 3, the planes' unit normal; the axis where no ``normal`` is given.
    """

    axis: str
    offsets_mm: npt.NDArray[np.floating]
    logits: npt.NDArray[np.floating]
    normal: InitVar[npt.NDArray[np.float64] | None] = None
    normal_ras: npt.NDArray[np.float64] = field(init=False)

    def __post_init__(self, normal: npt.NDArray[np.float64] | None) -> None:
        """Take the axis for the normal where none is given; a ValueError for an unknown axis."""
        if normal is None and self.axis not in _AXES:
            raise ValueError(f"axis {self.axis!r}, expected R, A or S, or a normal")
        object.__setattr__(self, "normal_ras", _AXES[self.axis] if normal is None else normal)
