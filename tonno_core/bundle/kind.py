"""The kinds of model, and what a segmenter was taught by. Free of torch."""

from __future__ import annotations

from tonno_core.output import Json
from tonno_core.settings import SEGMENTER

CLASSIFIER = "classifier"
# Answers slices as a classifier does, but with a quantity in place of the logit of a class.
REGRESSOR = "regressor"
KINDS = (CLASSIFIER, SEGMENTER, REGRESSOR)
# What ``training["taught_by"]`` of a segmenter says.
HEATMAPS, MASKS = "heatmaps", "masks"


def teaching(training: Json) -> str:
    """Return what a segmenter was trained from, in words for whoever uses it.

    Args:
        training: Of its description.

    Returns:
        A phrase; "" where the record does not say.
    """
    phrases = {HEATMAPS: "trained from labels by heatmaps, no mask", MASKS: "trained on masks"}
    return phrases.get(str(training.get("taught_by")), "")
