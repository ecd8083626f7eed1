"""The models that can be chosen: folders with ``model.json`` and ``model.safetensors``. Standard library only."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SPEC_NAME = "model.json"
WEIGHTS_NAME = "model.safetensors"
SCHEMA = 1
# What a model's description calls a kind of image, and what DICOM calls it.
_MODALITIES = {
    "MR": r"\b(MRI?|magnetic|T1|T2|FLAIR|DWI|ADC)\b",
    "CT": r"\b(CT|computed tomograph\w*)\b",
    "PT": r"\b(PET|positron)\b",
    "US": r"\b(ultrasound|sonograph\w*)\b",
}


@dataclass(frozen=True)
class Model:
    """What is known about a model without loading it.

    about: finding, modality, data, licence, use. thresholds: by method, or ``method/class`` for a class other than
    the first. defaults, training: as the file has them.
    """

    folder: Path
    name: str
    encoder: str
    classes: tuple[str, ...]
    sliceSize: int
    about: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    thresholds: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    def threshold(self, method: str, className: str | None = None) -> dict[str, Any] | None:
        """The calibration's record of a method, or None."""
        key = method if className in (None, "", self.classes[0]) else f"{method}/{className}"
        return self.thresholds.get(key)


class ModelError(Exception):
    """A folder that is no usable model: one line."""


def readModel(folder: str | Path) -> Model:
    """Raises ModelError with what is missing or wrong in the folder. The weights are checked by the engine."""
    folder = Path(folder)
    spec = folder / SPEC_NAME
    for name in (SPEC_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: {name} is missing")
    try:
        data = json.loads(spec.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise ModelError(f"{spec}: schema {data['schema']} is unknown; it needs another version of ToNNO")
        classes = tuple(str(name) for name in data["classes"])
        if not classes:
            raise ModelError(f"{spec}: it names no class")
        parts = {name: dict(data.get(name) or {}) for name in ("about", "defaults", "thresholds", "training")}
        return Model(folder, folder.name, str(data["encoder"]), classes, int(data["slice_size"]), **parts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{spec}: not a model's description ({type(error).__name__}: {error})") from None


def findModels(*folders: str | Path) -> list[Model]:
    """The models that ship with the engine, then those in the given folders; what is no model is passed over."""
    found: dict[Path, Model] = {}
    for place in (*shippedFolders(), *map(Path, folders)):
        if not place.is_dir():
            continue
        for folder in sorted(place.iterdir()):
            try:
                found.setdefault(folder.resolve(), readModel(folder))
            except ModelError:
                continue
    return list(found.values())


def shippedFolders() -> list[Path]:
    """Where the engine's package keeps its models."""
    spec = find_spec("tonno_core")
    return [Path(place) / "models" for place in (spec.submodule_search_locations if spec else ())]


def otherModality(model: Model, dicomModality: str | None) -> str | None:
    """What the model was made for, where the volume's DICOM modality is plainly another; else None."""
    text = str(model.about.get("modality", ""))
    made = {kind for kind, words in _MODALITIES.items() if re.search(words, text, re.IGNORECASE)}
    return text if dicomModality in _MODALITIES and made and dicomModality not in made else None


def description(model: Model) -> list[tuple[str, str]]:
    """What a person should know, as (topic, text): for the text that is shown on hovering."""
    about = model.about
    rows = [(topic, str(about[topic])) for topic in ("finding", "modality", "data", "use", "licence") if topic in about]
    rows.append(("classes", ", ".join(model.classes)))
    rows.append(("network", f"{model.encoder}, {model.sliceSize} x {model.sliceSize} pixels"))
    calibrated = [record for record in model.thresholds.values() if isinstance(record, dict)]
    if calibrated:
        count = calibrated[0].get("negative_volumes")
        methods = ", ".join(model.thresholds)
        rows.append(("calibration", f"on {count} volumes without the finding: {methods}"))
    else:
        rows.append(("calibration", "none: the threshold starts at Otsu's"))
    return rows
