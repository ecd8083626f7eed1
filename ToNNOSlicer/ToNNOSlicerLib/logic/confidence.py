"""The meaning of a finding's peak, in words that claim no more than the model's calibration does."""

from __future__ import annotations

import math

from slicer.i18n import tr as _

from tonno_core.output import Json
from ToNNOSlicerLib.logic.heatmap import calibrationOf


def confidence(finding, record: Json) -> str:
    """Say where a finding's peak lies between the model's noise floor and its threshold, or above.

    The model's threshold is a quantile of the highest voxels of scans without the finding. So a peak above it is above
    as many of these scans as the quantile covers for certain (95 % of 12 scans: 11), which is said where the heatmap
    was made of as many directions as the calibration's.

    Args:
        finding: With a `peak`, in the heatmap's units.
        record: The heatmap's (`heatmap.recordOf`).

    Returns:
        A phrase such as "above at least 11 of 12 negative scans"; "not calibrated" where the model has no threshold for
        this method, or where all planes were put into a region, for which there is none.
    """
    calibration = calibrationOf(record)
    threshold, floor = calibration.get("threshold"), calibration.get("noise_floor")
    if threshold is None or record.get("zoom"):
        return _("not calibrated")
    if finding.peak >= threshold:
        return _aboveScans(record, calibration) or _("above the model's threshold")
    if floor is None:
        return _("below the model's threshold")
    return _("between noise floor and threshold") if finding.peak >= floor else _("below the noise floor")


def _aboveScans(record: Json, calibration: Json) -> str:
    """Say above how many scans without the finding a peak over the threshold lies; "" where that is not known."""
    scans, quantile = calibration.get("negative_volumes"), calibration.get("volume_quantile")
    if not scans or quantile is None or not _isOfTheSamePlanes(record, calibration):
        return ""
    # numpy.quantile lies between two of the sorted peaks, or on one.
    below = math.floor(quantile * (scans - 1) + 1e-9) + 1
    if scans == 1:
        return _("above the only negative scan")
    if below >= scans:
        return _("above all of {scans} negative scans").format(scans=scans)
    return _("above at least {below} of {scans} negative scans").format(below=below, scans=scans)


def _isOfTheSamePlanes(record: Json, calibration: Json) -> bool:
    """Return False where the heatmap or the threshold is known to be of other planes than the calibration."""
    if record.get("stopped") or calibration.get("source") not in (None, "calibrated"):
        return False
    here, there = record.get("directions"), (calibration.get("settings") or {}).get("directions")
    return here is None or there is None or here == there
