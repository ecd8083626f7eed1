"""A bundle: a folder with ``model.safetensors`` and ``model.json``, all that is needed to use a classifier."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from tonno_core.bundle.calibration import ModelChoices, is_threshold
from tonno_core.encoding.classifier import Classifier, create_model, try_slice
from tonno_core.encoding.normalization import NORM_KINDS, NormKind
from tonno_core.encoding.weights import StateDict, load_exactly, read_weights
from tonno_core.errors import TonnoError, first_line, plain
from tonno_core.output import Json, check_output, output_folder
from tonno_core.settings import METHODS, Variant, combine, model_defaults
from tonno_core.volume.intensity import parse_intensity

SCHEMA = 1
WEIGHTS_NAME = "model.safetensors"
SPEC_NAME = "model.json"


@dataclass(frozen=True)
class BundleSpec:
    """What ``model.json`` holds.

    Attributes:
        encoder: timm's name.
        channels: Of the network's input; the slice is repeated.
        classes: Names of the network's outputs.
        norm: Kind of its normalization layers.
        slice_size: S pixels of its input.
        pixel_mm: Pixel size of the training slices, None where the classifier saw no physical scale.
        intensity: ``none``, ``zscore`` or ``window:LO:HI``.
        frame: ``physical`` or ``normalized``.
        defaults: Settings of a reconstruction by name (slices, directions, stage, ...).
        thresholds: By method (for a class other than the first: ``method/class``) a record whose ``threshold`` is the
            default for ``auto``, whose ``settings`` hold the stage, filter, sigma_scale and smooth_mm that suit the
            method and the planes that the threshold is for, and whose ``other_planes`` are records for others.
        training: How the weights came about.
        about: What a person should know (finding, modality, licence, data).
        calibration: A record of each variant that was tried: class, the fields of a `Variant`, its own threshold.
        sha256: Of the weights.
        schema: Version of the description.
    """

    encoder: str
    channels: int
    classes: tuple[str, ...]
    norm: NormKind
    slice_size: int
    pixel_mm: float | None
    intensity: str
    frame: str
    defaults: Json = field(default_factory=dict)
    thresholds: dict[str, Json] = field(default_factory=dict)
    training: Json = field(default_factory=dict)
    about: Json = field(default_factory=dict)
    calibration: list[Json] = field(default_factory=list)
    sha256: str = ""
    schema: int = SCHEMA

    @property
    def choices(self) -> ModelChoices:
        """What the description says of the model's heatmaps."""
        return ModelChoices(self.classes, self.slice_size, self.defaults, self.thresholds, self.calibration)


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory.

    Attributes:
        spec: Its description.
        weights: Its tensors.
        path: Its folder.
    """

    spec: BundleSpec
    weights: StateDict
    path: Path

    def __repr__(self) -> str:
        size = self.spec.slice_size
        return f"Bundle({self.path}: {self.spec.encoder}, {', '.join(self.spec.classes)}, slices of {size} x {size})"

    def threshold(self, method: str, class_name: str | None = None) -> float:
        """Return the model's threshold for a method, at the model's own settings.

        Args:
            method: A name from `METHODS`.
            class_name: None for the model's first.

        Returns:
            The threshold.

        Raises:
            TonnoError: The model brings none, or has no such class.
        """
        if class_name is not None and class_name not in self.spec.classes:
            known = ", ".join(self.spec.classes)
            raise TonnoError(f"`class_name` '{class_name}' is unknown to this model, expected one of {known}")
        settings = self.spec.choices.settings({"class_name": class_name})
        known_threshold = self.spec.choices.threshold(self.spec.choices.variant(method, settings), settings)
        if known_threshold is None:
            raise TonnoError(
                f"{self.path}: brings no threshold for {method}; calibrate it (`tonno calibrate`), or let the result "
                "segment by Otsu's"
            )
        return known_threshold.value

    def classifier(
        self,
        *,
        device: torch.device | str = "cpu",
        precision: torch.dtype = torch.float32,
        slice_size: int | None = None,
    ) -> Classifier:
        """Build the encoder.

        Args:
            device: Where it runs.
            precision: Of its numbers.
            slice_size: S, None for the bundle's own; another one fits models of any input size.

        Returns:
            Ready to run.

        Raises:
            TonnoError: The network cannot be built, or the weights do not fit it.
        """
        spec = self.spec
        size = slice_size or spec.slice_size
        try:
            model = create_model(
                spec.encoder, channels=spec.channels, classes=len(spec.classes), norm=spec.norm, slice_size=size
            )
        except TonnoError as error:
            raise TonnoError(f"{self.path / SPEC_NAME}: {error}") from error
        load_exactly(model, self.weights, str(self.path / WEIGHTS_NAME))
        encoder = Classifier(model, spec.classes, channels=spec.channels, device=device, precision=precision)
        try_slice(encoder, size, spec.encoder)
        return encoder


def load_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read and check a bundle's folder.

    Args:
        path: The folder.

    Returns:
        The bundle.

    Raises:
        TonnoError: Something is missing or wrong in it.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise TonnoError(f"{folder}: no such model folder, expected one with {SPEC_NAME} and {WEIGHTS_NAME}")
    spec = _read_spec(folder / SPEC_NAME)
    weights_path = folder / WEIGHTS_NAME
    if not weights_path.is_file():
        raise TonnoError(f"{weights_path}: missing; the bundle is incomplete, copy the whole folder again")
    try:
        found = _sha256(weights_path)
    except OSError as error:
        raise TonnoError(f"{weights_path}: cannot be read ({error.strerror})") from error
    if found != spec.sha256:
        raise TonnoError(
            f"{weights_path}: SHA-256 is {found[:12]}..., {SPEC_NAME} states {spec.sha256[:12]}...; "
            "the weights were changed or damaged, copy the bundle again"
        )
    weights = {name: tensor.float() for name, tensor in read_weights(weights_path).items()}
    return Bundle(spec, weights, folder)


def save_bundle(
    path: str | os.PathLike[str],
    spec: BundleSpec,
    weights: StateDict,
    *,
    half: bool = False,
    overwrite: bool = False,
) -> BundleSpec:
    """Write a bundle; the folder appears whole or not at all.

    Should a crash fall between the two files of a bundle that is replaced, `load_bundle` reports that the hash does not
    agree.

    Args:
        path: The folder.
        spec: The description.
        weights: The tensors.
        half: Store the weights as float16, half the size.
        overwrite: Replace a bundle that is there.

    Returns:
        The description with the weights' hash.

    Raises:
        TonnoError: The folder exists and is not to be replaced, or cannot be written.
    """
    folder = Path(path)
    check_can_write(folder, overwrite=overwrite)
    plain = {name: _stored(tensor, half=half) for name, tensor in weights.items()}
    with output_folder(folder, overwrite=overwrite) as temporary:
        try:
            save_file(plain, temporary / WEIGHTS_NAME)
        except SafetensorError as error:  # a full disk
            raise TonnoError(f"{folder}: the weights could not be written ({first_line(error)})") from error
        spec = dataclasses.replace(spec, sha256=_sha256(temporary / WEIGHTS_NAME))
        (temporary / SPEC_NAME).write_text(_as_json(spec), encoding="utf-8")
    return spec


def save_description(
    path: str | os.PathLike[str], spec: BundleSpec, bundle: Bundle, *, overwrite: bool = False
) -> BundleSpec:
    """Write a bundle with the weights of another, to the last bit; else as `save_bundle`.

    Args:
        path: The folder.
        spec: The description.
        bundle: Whose weights are taken.
        overwrite: Replace a bundle that is there.

    Returns:
        The description with the weights' hash.
    """
    folder = Path(path)
    check_can_write(folder, overwrite=overwrite)
    spec = dataclasses.replace(spec, sha256=bundle.spec.sha256)
    with output_folder(folder, overwrite=overwrite) as temporary:
        shutil.copyfile(bundle.path / WEIGHTS_NAME, temporary / WEIGHTS_NAME)
        (temporary / SPEC_NAME).write_text(_as_json(spec), encoding="utf-8")
    return spec


def _as_json(spec: BundleSpec) -> str:
    """Return text for people: the hundreds of variants that a calibration tries have a line each, at the end."""
    data = dataclasses.asdict(spec)
    records = ",\n    ".join(json.dumps(record) for record in data.pop("calibration"))
    head = json.dumps(data, indent=2).removesuffix("\n}")
    return f'{head},\n  "calibration": [\n    {records}\n  ]\n}}\n'


def _stored(tensor: torch.Tensor, *, half: bool) -> torch.Tensor:
    """A copy to write. Only kernels become float16: a norm's statistics span more than its range."""
    plain = tensor.detach().to("cpu", copy=True).contiguous()
    if not plain.is_floating_point():
        return plain
    return plain.to(torch.float16 if half and plain.ndim > 1 else torch.float32)


def check_can_write(folder: Path, *, overwrite: bool) -> None:
    """Check that a bundle may be written here, before hours of training.

    Args:
        folder: Of the bundle.
        overwrite: Whether a bundle that is there may be replaced.

    Raises:
        TonnoError: It may not.
    """
    check_output(folder, overwrite=overwrite)
    if folder.exists() and not (folder / SPEC_NAME).is_file() and any(folder.iterdir()):
        raise TonnoError(f"`output` {folder}: is a folder of something else (no {SPEC_NAME}); choose another name")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_spec(path: Path) -> BundleSpec:
    if not path.is_file():
        raise TonnoError(f"{path}: missing; expected a bundle made by `tonno train` or `tonno bundle`")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TonnoError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(data, dict):
        raise TonnoError(f"{path}: holds a {type(data).__name__}, expected an object")
    if data.get("schema") != SCHEMA:
        raise TonnoError(f"{path}: schema {data.get('schema')!r} is unknown, this version reads schema {SCHEMA}")
    data.setdefault("calibration", [])  # models of version 0.1.0 have none
    for name, (kinds, text) in _EXPECTED.items():
        if name not in data:
            raise TonnoError(f"{path}: key '{name}' is missing, expected {text}")
        if not isinstance(data[name], kinds) or isinstance(data[name], bool):
            raise TonnoError(f"{path}: key '{name}' is {data[name]!r}, expected {text}")
    return _checked(data, path)


_EXPECTED: dict[str, tuple[tuple[type, ...], str]] = {
    "encoder": ((str,), "the name of a timm model"),
    "channels": ((int,), "a whole number from 1"),
    "classes": ((list,), "a list of different names"),
    "norm": ((str,), f"one of {', '.join(NORM_KINDS)}"),
    "slice_size": ((int,), "a number of pixels from 8"),
    "pixel_mm": ((float, int, type(None)), "millimeters between 0 and 100, or null"),
    "intensity": ((str,), "none, zscore or window:LO:HI"),
    "frame": ((str,), "physical or normalized"),
    "defaults": ((dict,), "an object"),
    "thresholds": ((dict,), "by method an object with a finite number 'threshold'"),
    "calibration": ((list,), "a list of objects with a finite number 'threshold'"),
    "training": ((dict,), "an object"),
    "about": ((dict,), "an object"),
    "sha256": ((str,), "64 hexadecimal digits"),
}


def _checked(data: Json, path: Path) -> BundleSpec:
    def require(condition: bool, name: str) -> None:
        if not condition:
            raise TonnoError(f"{path}: key '{name}' is {data[name]!r}, expected {_EXPECTED[name][1]}")

    require(data["channels"] >= 1, "channels")
    names = data["classes"]
    require(len(names) >= 1 and all(isinstance(c, str) for c in names) and len(set(names)) == len(names), "classes")
    require(data["norm"] in NORM_KINDS, "norm")
    require(data["slice_size"] >= 8, "slice_size")
    require(data["pixel_mm"] is None or 0 < data["pixel_mm"] < 100, "pixel_mm")
    require(all(is_threshold(record) for record in data["thresholds"].values()), "thresholds")
    require(all(is_threshold(record) for record in data["calibration"]), "calibration")
    require(data["frame"] in ("physical", "normalized"), "frame")
    try:
        parse_intensity(data["intensity"])
    except TonnoError:
        require(False, "intensity")
    try:
        combine(defaults=data["defaults"], explicit={})
    except TonnoError as error:
        raise TonnoError(f"{path}: key 'defaults': {plain(error)}") from error
    for key, record in data["thresholds"].items():
        method, chosen = key.partition("/")[0], record.get("settings", {})
        try:
            if method in METHODS:
                Variant.of_record({name: chosen[name] for name in Variant(method).choices() if name in chosen}, method)
        except TonnoError as error:
            raise TonnoError(f"{path}: key 'thresholds', {key}: {plain(error)}") from error
    for number, record in enumerate(data["calibration"]):
        try:
            if record.get("method") in METHODS:
                Variant.of_record(record)
        except (TonnoError, TypeError) as error:
            raise TonnoError(f"{path}: key 'calibration', record {number + 1}: {plain(first_line(error))}") from error
    known = {f.name for f in dataclasses.fields(BundleSpec)}
    values: Json = {name: value for name, value in data.items() if name in known}
    values["classes"] = tuple(values["classes"])
    return BundleSpec(**values)


@dataclass(frozen=True)
class OwnClassifier:
    """A classifier that somebody trained elsewhere.

    Attributes:
        encoder: timm's name.
        weights: A file, or ``none`` for random weights of a seed.
        slice_size: S pixels of its input.
        channels: Of its input.
        classes: Names of its outputs.
        norm: Kind of its normalization layers.
        intensity: ``none``, ``zscore`` or ``window:LO:HI``.
        seed: For random weights.
        about: What a person should know.
    """

    encoder: str
    weights: str
    slice_size: int
    channels: int = 1
    classes: tuple[str, ...] = ("finding",)
    norm: NormKind = "batch"
    intensity: str = "none"
    seed: int = 0
    about: dict[str, str] = field(default_factory=dict)


def make_bundle(classifier: OwnClassifier, output: Path, *, overwrite: bool = False) -> BundleSpec:
    """Write a bundle of a classifier from elsewhere.

    Args:
        classifier: Any timm model and weights file.
        output: Folder of the bundle.
        overwrite: Replace a bundle that is there.

    Returns:
        The bundle's description.

    Raises:
        TonnoError: The network, the weights or a name is wrong, or the folder cannot be written.
    """
    check_can_write(output, overwrite=overwrite)
    parse_intensity(classifier.intensity)
    classes, size, channels = classifier.classes, classifier.slice_size, classifier.channels
    if not all(classes) or len(set(classes)) != len(classes):
        raise TonnoError(f"`classes` '{','.join(classes)}': expected different names separated by commas")
    torch.manual_seed(classifier.seed)
    model = create_model(
        classifier.encoder, channels=channels, classes=len(classes), norm=classifier.norm, slice_size=size
    )
    random = classifier.weights == "none"
    if not random:
        load_exactly(model, read_weights(Path(classifier.weights)), f"`weights` {classifier.weights}")
    spec = BundleSpec(
        encoder=classifier.encoder,
        channels=channels,
        classes=classes,
        norm=classifier.norm,
        slice_size=size,
        pixel_mm=None,
        intensity=classifier.intensity,
        frame="physical",
        defaults=model_defaults(),
        about=dict(classifier.about),
        training={"weights": f"random, seed {classifier.seed}" if random else Path(classifier.weights).name},
    )
    try_slice(Classifier(model, classes, channels=channels), size, classifier.encoder)
    return save_bundle(output, spec, model.state_dict(), overwrite=overwrite)
