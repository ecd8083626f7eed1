"""The models that can be chosen: folders with ``model.json`` and ``model.safetensors``. Imports nothing heavy."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from tonno_core.bundle.kind import CLASSIFIER, REGRESSOR, teaching
from tonno_core.output import Json
from tonno_core.settings import SEGMENTER

SPEC_NAME = "model.json"
WEIGHTS_NAME = "model.safetensors"
# Of a classifier, and of a segmenter.
SCHEMA, SEGMENTER_SCHEMA, CHANNELS_SCHEMA = 1, 2, 3
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

    Attributes:
        folder: The model's folder.
        name: The folder's name.
        encoder: The network.
        classes: The names of its classes.
        sliceSize: Pixels along a side of its slices; 0 of a segmenter.
        about: finding, modality, data, licence (so spelled in the file), use.
        thresholds: By method, or ``method/class`` for a class other than the first.
        defaults: As the file has them.
        training: As the file has it.
        kind: "classifier" of slices, or "segmenter" of volumes.
        spacingMm: Of a segmenter's working grid along R, A and S.
    """

    folder: Path
    name: str
    encoder: str
    classes: tuple[str, ...]
    sliceSize: int
    about: Json = field(default_factory=dict)
    defaults: Json = field(default_factory=dict)
    thresholds: Json = field(default_factory=dict)
    training: Json = field(default_factory=dict)
    kind: str = CLASSIFIER
    spacingMm: tuple[float, ...] = ()

    @property
    def isSegmenter(self) -> bool:
        """Whether it answers volumes: it has no planes, no method and no quality to choose."""
        return self.kind == SEGMENTER

    def threshold(self, method: str, className: str | None = None) -> Json | None:
        """Return the calibration's record of a method.

        Args:
            method: The method.
            className: The class; None or "" for the first.

        Returns:
            The record; None without a calibration.
        """
        key = method if className in (None, "", self.classes[0]) else f"{method}/{className}"
        return self.thresholds.get(key)


class ModelError(Exception):
    """Says in a line why a folder is no usable model."""


def _(text: str) -> str:
    """Translate a text where there is a Slicer; a bare Python reads models, too."""
    try:
        from slicer.i18n import tr
    except ImportError:
        return text
    return tr(text)


def readModel(folder: str | Path) -> Model:
    """Read a model's description. A run reads it anew: the folder may be gone or hold another model since.

    The weights are checked by the engine.

    Args:
        folder: The model's folder.

    Returns:
        The model.

    Raises:
        ModelError: With what is missing or wrong in the folder.
    """
    folder = Path(folder)
    spec = folder / SPEC_NAME
    try:
        if folder.is_file():
            text = _("{folder}: is a file, and a model is a folder with {spec} and {weights}")
            raise ModelError(text.format(folder=folder, spec=SPEC_NAME, weights=WEIGHTS_NAME))
        if not folder.is_dir():
            raise ModelError(_("{folder}: the folder is gone").format(folder=folder))
        for name in (SPEC_NAME, WEIGHTS_NAME):
            if not (folder / name).is_file():
                raise ModelError(_("{folder}: {name} is missing").format(folder=folder, name=name))
        data = json.loads(spec.read_text(encoding="utf-8"))
        isSegmenter = data["schema"] == SEGMENTER_SCHEMA and data.get("kind") == SEGMENTER
        if data["schema"] != SCHEMA and data.get("kind") == REGRESSOR:
            text = _("{file}: a regressor, which has no findings to show; use it with tonno reconstruct")
            raise ModelError(text.format(file=spec))
        if data["schema"] == CHANNELS_SCHEMA:
            text = _(
                "{file}: for volumes of several channels, as PET and CT, and an image here has one; use it with "
                "tonno reconstruct"
            )
            raise ModelError(text.format(file=spec))
        if data["schema"] != SCHEMA and not isSegmenter:
            text = _("{file}: schema {number} is unknown; it needs another version of ToNNO")
            raise ModelError(text.format(file=spec, number=data["schema"]))
        parts = {name: dict(data.get(name) or {}) for name in ("about", "defaults", "thresholds", "training")}
        if isSegmenter:
            network = data["network"]
            spacingMm = tuple(float(mm) for mm in network["spacing_mm"])
            name = str(network.get("name", "segresnet"))
            return Model(folder, folder.name, name, _classes(data), 0, **parts, kind=SEGMENTER, spacingMm=spacingMm)
        return Model(folder, folder.name, str(data["encoder"]), _classes(data), int(data["slice_size"]), **parts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        text = _("{file}: not a model's description ({reason})").format(file=spec, reason=reason)
        raise ModelError(text) from None


def _classes(data: Json) -> tuple[str, ...]:
    names = data["classes"]
    if not isinstance(names, list) or not names:
        raise ValueError(f"classes is {names!r}, not a list of names")
    return tuple(map(str, names))


def findModels(*folders: str | Path) -> list[Model]:
    """List the models that ship with the engine, then those in the given folders; pass over what is no model.

    Args:
        folders: Folders that hold models' folders.

    Returns:
        The models, each once.
    """
    models: dict[Path, Model] = {}
    for place in (*shippedFolders(), *map(Path, folders)):
        for folder in _inside(place):
            try:
                models.setdefault(folder.resolve(), readModel(folder))
            except (ModelError, OSError):
                continue
    return list(models.values())


def _inside(place: Path) -> Iterator[Path]:
    """List a folder by name; nothing where it is no folder or cannot be read, such as a share that is away."""
    try:
        yield from sorted(place.iterdir())
    except OSError:
        return


def labels(models: Sequence[Model]) -> list[str]:
    """Name models for a list, those of the same name by their folders too: ``brain (Models)``.

    Args:
        models: The models.

    Returns:
        Their names, in the same order.
    """
    names = [model.name for model in models]
    for depth in range(2, max((len(model.folder.parts) for model in models), default=0) + 1):
        counts = Counter(names)
        for n, model in enumerate(models):
            if counts[names[n]] > 1:
                names[n] = f"{model.name} ({Path(*model.folder.parts[-depth:-1])})"
    return names


def notice(model: Model) -> str:
    """Say what a person must know before looking at a result of the model.

    Args:
        model: The model.

    Returns:
        A sentence; "" where there is nothing to know.
    """
    if "demonstration" not in str(model.about.get("use", "")).lower():
        return ""
    if re.search(r"implanted|drawn|synthetic", str(model.about.get("data", "")), re.IGNORECASE):
        return _("Demonstration model, trained on drawn lesions: do not read patients with it.")
    return _("Demonstration model: do not read patients with it.")


def kindOf(model: Model) -> str:
    """Say what a segmenter is, and what it was trained from.

    Args:
        model: The model.

    Returns:
        Words such as `segmenter, trained from labels by heatmaps, no mask`; "" for a classifier.
    """
    return ", ".join(filter(None, [SEGMENTER, teaching(model.training)])) if model.isSegmenter else ""


def shippedFolders() -> list[Path]:
    """Say where the engine's package keeps its models.

    Returns:
        Folders.
    """
    spec = find_spec("tonno_core")
    return [Path(place) / "models" for place in (spec.submodule_search_locations if spec else ())]


def otherModality(model: Model, dicomModality: str | None) -> str | None:
    """Compare a volume's modality with the model's.

    Args:
        model: The model.
        dicomModality: The volume's, such as "MR"; None where it is not known.

    Returns:
        What the model was made for, where the volume's modality is plainly another; else None.
    """
    text = str(model.about.get("modality", ""))
    made = {kind for kind, words in _MODALITIES.items() if re.search(words, text, re.IGNORECASE)}
    return text if dicomModality in _MODALITIES and made and dicomModality not in made else None


def description(model: Model) -> list[tuple[str, str]]:
    """List what a person should know, for the text that is shown on hovering.

    Args:
        model: The model.

    Returns:
        Pairs of topic and text.
    """
    about = {("license" if topic == "licence" else topic): str(text) for topic, text in model.about.items()}
    topics = {
        "finding": _("finding"),
        "modality": _("modality"),
        "data": _("data"),
        "use": _("use"),
        "license": _("license"),
    }
    rows = [(name, about[topic]) for topic, name in topics.items() if topic in about]
    rows.append((_("classes"), ", ".join(model.classes)))
    if model.isSegmenter:
        spacing = " x ".join(f"{mm:g}" for mm in model.spacingMm)
        network = _("{name}, voxels of {spacing} mm").format(name=model.encoder, spacing=spacing)
        rows.append((_("kind"), kindOf(model)))
    else:
        network = _("{name}, {size} x {size} pixels").format(name=model.encoder, size=model.sliceSize)
    rows.append((_("network"), network))
    rows.append((_("calibration"), _calibration(model)))
    return rows


def _calibration(model: Model) -> str:
    records = {key: record for key, record in model.thresholds.items() if isinstance(record, dict)}
    if not records:
        return _("none: the threshold starts at Otsu's")
    methods = ", ".join(dict.fromkeys(key.partition("/")[0] for key in records))
    counts = {record.get("negative_volumes") for record in records.values()} - {None}
    if not counts:
        return _("on volumes without the finding: {methods}").format(methods=methods)
    text = _("on {count} volumes without the finding: {methods}")
    if min(counts) == 1:
        text = _("on 1 volume without the finding: {methods}")
    return text.format(count=min(counts), methods=methods)
