"""The logit along an axis of the patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Profile:
    """The classifier's answer to parallel planes (paper, Fig. 2b).

    axis: 'R', 'A' or 'S', the planes' normal.
    offsets_mm: N, where each plane cuts that axis, in RAS mm of the patient.
    logits: N.
    """

    axis: str
    offsets_mm: npt.NDArray[np.floating]
    logits: npt.NDArray[np.floating]
