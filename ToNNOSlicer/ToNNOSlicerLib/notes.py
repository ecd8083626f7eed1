"""Reasons for caution with a result, for the panel and every export."""

from __future__ import annotations

from slicer.i18n import tr as _

from tonno_core.segmentation.threshold import MOST
from tonno_core.settings import SEGMENTER
from ToNNOSlicerLib.logic.heatmap import calibrationOf, shareAbove
from ToNNOSlicerLib.logic.results import Result, stoppedText
from ToNNOSlicerLib.words import shortNumber


def notesOf(result: Result) -> tuple[str, ...]:
    """Return reasons for caution: a run that was stopped, a threshold without calibration, the engine's warnings.

    Args:
        result: The result.

    Returns:
        Sentences, each of them once.
    """
    notes = []
    if result.record.get("stopped"):
        text = _("The run was {stopped} directions. Click Apply to go on to the end.")
        notes.append(text.format(stopped=stoppedText(result.record)))
    notes += _aboutThreshold(result)
    share = shareAbove(result.record, result.threshold)
    isImage = (result.record.get("model") or {}).get("name") == "pixel-sum"
    isOdds = _isOdds(result)
    isWritten = result.segment is not None and not result.isEdited  # else the threshold says nothing of it
    if share and isWritten and not isImage and (share > MOST or not (result.threshold > 0 or isOdds)):
        text = _("The segment takes {share:.0%} of what was looked at: that is no finding. Raise the threshold.")
        notes.append(text.format(share=share))
    notes += result.record.get("warnings") or ()
    return tuple(dict.fromkeys(text for text in notes if text))


def _isOdds(result: Result) -> bool:
    """Return whether the heatmap is a segmenter's, whose logits below 0 mean something and whose parts peaks tell."""
    return result.record.get("method") == SEGMENTER


def _aboutThreshold(result: Result) -> list[str]:
    calibration = calibrationOf(result.record)
    value = calibration.get("threshold")
    if value is None:
        return [_("The model has no threshold for this method, so Otsu's method chose it. Check it, and adjust it.")]
    if result.record.get("zoom"):
        text = _(
            "The model's threshold was calibrated for the whole volume, not for a finer region: look, and tune it."
        )
        return [text]
    notes = [str(calibration["note"])] if calibration.get("note") else []
    floor = calibration.get("noise_floor")
    if floor is not None and result.threshold < floor and not _isOdds(result):
        text = _("The threshold is below the noise floor ({floor}): scans without the finding reach it too.")
        notes.append(text.format(floor=shortNumber(floor)))
    if result.threshold < result.minPeak and result.segment is not None and not result.isEdited:
        text = _("Parts that reach {peak} nowhere are left out (Segment and views, Leave out weak parts).")
        notes.append(text.format(peak=shortNumber(result.minPeak)))
    return notes
