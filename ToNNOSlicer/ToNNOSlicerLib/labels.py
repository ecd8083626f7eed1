"""Translates the engine's messages for the panel: labels for arguments, and remedies that the panel offers."""

from __future__ import annotations

import re

from slicer.i18n import tr as _

from tonno_core.errors import rename

# The panel's label for each argument of the engine that it has a control for.
LABELS = {
    "volume": _("Volume"),
    "model": _("Model"),
    "class_name": _("Class"),
    "region": _("Region"),
    "zoom": _("Finer in the region"),
    "method": _("Method"),
    "methods": _("Method"),
    "preset": _("Quality"),
    "slices": _("Slices"),
    "directions": _("Directions"),
    "stage": _("Stage"),
    "sigma_scale": _("Sigma"),
    "filter": _("Filter"),
    "device": _("Device"),
    "threshold": _("Threshold"),
    "min_volume_mm3": _("Smallest part"),
    "min_peak": _("Leave out weak parts"),
}
# Messages that name what the panel has no control for, and the text that replaces each.
_WITHOUT_CONTROL = {
    "`zoom` has no meaning with `frame` .*": _(
        "{zoom} does not go with this {preset} or {model}: its planes always span the whole volume. "
        "Choose another {preset}, or untick {zoom}."
    ),
    "`zoom` and `radius_mm` both determine the ball; .*": _(
        "The field of view of this {model} is fixed. Untick {zoom}."
    ),
    "the classifier's logits are not finite numbers; .*": _(
        "The model's answers for this volume are not finite numbers. Choose CPU as {device}, or another {model}."
    ),
    r"encoder (.*) cannot take slices of (\d+) x \d+ pixels \((.*)\); .*": _(
        "The network {0} cannot take slices of {1} pixels ({2}). Choose another {preset} or {model}."
    ),
    r"`stage` ([\d+]+): how much each of these counts in .*": _(
        "{stage} {0} was not calibrated for this {method} and {class_name}. Choose a single {stage}."
    ),
    r"`intensity` \S+: the \d+ foreground voxels have no contrast; .*": _(
        "What is brighter than the background of this volume has no contrast. Choose another {volume}."
    ),
    "ended before .* could be made": _("The run was stopped before its heatmap could be made. Click Apply."),
    "(.*): missing; expected a bundle made by .*": _(
        "{0} is missing. Choose a {model} whose folder holds model.json and model.safetensors."
    ),
    "every slice was blank: .*": _(
        "Every slice was blank: the intensities that the model looks at leave nothing of this volume. "
        "Choose a {volume} of the kind that the model was trained on."
    ),
}
_SCALE = re.compile(r"slices have pixels of ([\d.]+) mm, the model was trained at ([\d.]+) mm; give (.*)")
# An argument or a command.
_CODE = re.compile(r"`([^`]+)`")


def forPanel(message: str) -> str:
    """Return an error or a warning of the engine as sentences about the panel's controls.

    Args:
        message: The engine's text, with the names of arguments in backquotes.

    Returns:
        Sentences with a capital letter and a full stop.
    """
    scale = _SCALE.fullmatch(message)
    if scale is not None:
        return _aboutScale(*scale.groups())
    for pattern, text in _WITHOUT_CONTROL.items():
        match = re.fullmatch(pattern, message)
        if match is not None:
            return text.format(*match.groups(), **LABELS)
    return _sentence(_reachable(rename(message, LABELS)))


def _aboutScale(pixelMm: str, trainedMm: str, advice: str) -> str:
    """Say that the pixels are larger or smaller than in training; the panel has no control for their size."""
    isZoomed, isCoarser = "`radius_mm`" not in advice, float(pixelMm) > float(trainedMm)
    step = {
        (False, True): _("Draw a {region} around the part in question and tick {zoom}."),
        (True, True): _("Draw a smaller {region}."),
        (True, False): _("Compare with a run without {zoom}, or draw a larger {region}."),
        (False, False): _("Choose another {preset} or {model}."),
    }[isZoomed, isCoarser]
    fact = _("The model sees pixels of {pixelMm} mm here, it was trained at {trainedMm} mm.")
    effect = _("Small findings may be missed.") if isCoarser else _("Findings may be false.")
    return f"{fact} {effect} {step}".format(pixelMm=pixelMm, trainedMm=trainedMm, **LABELS)


def _reachable(text: str) -> str:
    """Drop the advice after a semicolon that names an argument or a command that the panel does not have."""
    first, *others = text.split("; ")
    kept = [re.sub(r"^`\w+` ", "", first), *(clause for clause in others if not _CODE.search(clause))]
    return _CODE.sub(lambda match: match[1].replace("_", " "), "; ".join(kept))


def _sentence(text: str) -> str:
    """Add a full stop, and a capital letter unless the text begins with the name of a file."""
    word = text.partition(" ")[0].rstrip(":")
    start = text if re.search(r"[/\\.:]", word) else text[:1].upper() + text[1:]
    return start if not start or start.endswith((".", "?", "!")) else f"{start}."
