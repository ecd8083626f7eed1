"""A bundle: a folder with ``model.safetensors`` and ``model.json``, all that is needed to use a classifier."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from tonno_core.bundle.calibration import ModelThreshold, is_threshold, threshold_for, threshold_key
from tonno_core.encoding.classifier import Classifier, create_model, try_slice
from tonno_core.encoding.normalization import NORM_KINDS, NormKind
from tonno_core.encoding.weights import StateDict, load_exactly, read_weights
from tonno_core.errors import TonnoError, first_line, plain
from tonno_core.output import check_output, output_folder
from tonno_core.settings import (
    METHODS,
    ReconstructionSettings,
    Variant,
    choices_of,
    combine,
    model_defaults,
    variant_of,
)
from tonno_core.volume.intensity import parse_intensity

SCHEMA = 1
WEIGHTS_NAME = "model.safetensors"
SPEC_NAME = "model.json"


@dataclass(frozen=True)
class BundleSpec:
    """What ``model.json`` holds.

    encoder: timm's name. channels: of the network's input (the slice is repeated). pixel_mm: pixel size
    of the training slices, None where the classifier saw no physical scale. intensity: ``none``,
    ``zscore`` or ``window:LO:HI``. frame: ``physical`` or ``normalized``. defaults: settings of a
    reconstruction by name (slices, directions, stage, ...). thresholds: method (for a class other than the
    first: ``method/class``) to a record whose ``threshold`` is the default for ``--threshold auto``, whose
    ``settings`` hold the stage, filter, sigma_scale and smooth_mm that suit the method and the planes that the
    threshold is for, and whose ``other_planes`` are records for others. calibration:
    a record of each variant that was tried: class, the fields of a `Variant`, its own threshold. training:
    how the weights came about. about: what a person should know (finding, modality, licence, data).
    sha256: of the weights.
    """

    encoder: str
    channels: int
    classes: tuple[str, ...]
    norm: NormKind
    slice_size: int
    pixel_mm: float | None
    intensity: str
    frame: str
    defaults: dict[str, Any] = field(default_factory=dict)
    thresholds: dict[str, dict[str, Any]] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    calibration: list[dict[str, Any]] = field(default_factory=list)
    sha256: str = ""
    schema: int = SCHEMA

    def record(self, method: str, class_name: str | None = None) -> dict[str, Any] | None:
        """The calibration of a method for a class (None: the first), None where it has none."""
        return self.thresholds.get(threshold_key(method, class_name, self.classes))

    def variant(self, method: str, settings: ReconstructionSettings | None = None) -> Variant:
        """What a reconstruction under some settings (None: the model's own) makes for a method."""
        settings = settings or combine(defaults=self.defaults, explicit={})
        record = self.record(method, settings.class_name) or {}
        variant = variant_of(method, settings, calibrated=record.get("settings"), defaults=self.defaults)
        return self.weighted(variant, settings.class_name)

    def weighted(self, variant: Variant, class_name: str | None = None) -> Variant:
        """A variant that adds up stages with the weights of the calibration's variant of these stages that is most
        alike; as it is where there is none, and where it adds nothing up."""
        if not isinstance(variant.stage, str) or variant.weights:
            return variant
        same = [one for one in self.tried(class_name) if (one.method, one.stage) == (variant.method, variant.stage)]
        if not same:
            return variant
        names = choices_of(variant.method)
        alike = max(same, key=lambda one: sum(getattr(one, name) == getattr(variant, name) for name in names))
        return dataclasses.replace(variant, weights=alike.weights)

    def tried(self, class_name: str | None = None) -> dict[Variant, dict[str, Any]]:
        """The calibration's records for a class (None: the first) by what they are about."""
        first = self.classes[0]
        records = [one for one in self.calibration if one.get("class", first) == (class_name or first)]
        return {_variant_in(one): one for one in records if one.get("method") in METHODS}

    def candidate(self, variant: Variant, class_name: str | None = None) -> dict[str, Any] | None:
        """The calibration's record of just this variant (its stage given) for a class, None where it has none."""
        return self.tried(class_name).get(variant.canonical())

    def threshold_for(
        self, variant: Variant, settings: ReconstructionSettings, *, zoom: bool = False
    ) -> ModelThreshold | None:
        """The threshold of a heatmap that is made by a variant (its stage given), see `calibration.threshold_for`."""
        if settings.slice_size == self.slice_size:
            settings = dataclasses.replace(settings, slice_size=None)
        return threshold_for(
            self.thresholds,
            variant.method,
            settings,
            classes=self.classes,
            variant=variant,
            tried=self.candidate(variant, settings.class_name),
            zoom=zoom,
        )


def _variant_in(record: Mapping[str, Any]) -> Variant:
    names = [field.name for field in dataclasses.fields(Variant)]
    return Variant(**{name: record[name] for name in names if name in record}).canonical()


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory: its description and its tensors."""

    spec: BundleSpec
    weights: StateDict
    path: Path

    def classifier(
        self,
        *,
        device: torch.device | str = "cpu",
        precision: torch.dtype = torch.float32,
        slice_size: int | None = None,
    ) -> Classifier:
        """The encoder, ready to run. A slice size other than the bundle's fits models of any input size."""
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
    """Read and check a bundle's folder. Raises TonnoError with what is wrong in it."""
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
    """Write a bundle; the folder appears whole or not at all. Returns the spec with the weights' hash.

    Should a crash fall between the two files of a bundle that is replaced, `load_bundle` reports that the hash
    does not agree. half: store the weights as float16, half the size. Raises TonnoError if the folder exists and
    ``overwrite`` is not set, or cannot be written.
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
    """Write a bundle with the weights of another, to the last bit; else as `save_bundle`."""
    folder = Path(path)
    check_can_write(folder, overwrite=overwrite)
    spec = dataclasses.replace(spec, sha256=bundle.spec.sha256)
    with output_folder(folder, overwrite=overwrite) as temporary:
        shutil.copyfile(bundle.path / WEIGHTS_NAME, temporary / WEIGHTS_NAME)
        (temporary / SPEC_NAME).write_text(_as_json(spec), encoding="utf-8")
    return spec


def _as_json(spec: BundleSpec) -> str:
    """For people: one line for each of the hundreds of variants that a calibration tries, at the end."""
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
    """Raise TonnoError if a bundle may not be written here (asked before hours of training)."""
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


def _checked(data: dict[str, Any], path: Path) -> BundleSpec:
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
                Variant(method, **{name: chosen[name] for name in choices_of(method) if name in chosen})
        except TonnoError as error:
            raise TonnoError(f"{path}: key 'thresholds', {key}: {plain(error)}") from error
    for number, record in enumerate(data["calibration"]):
        try:
            if record.get("method") in METHODS:
                _variant_in(record)
        except (TonnoError, TypeError) as error:
            raise TonnoError(f"{path}: key 'calibration', record {number + 1}: {plain(first_line(error))}") from error
    known = {f.name for f in dataclasses.fields(BundleSpec)}
    values: dict[str, Any] = {name: value for name, value in data.items() if name in known}
    values["classes"] = tuple(values["classes"])
    return BundleSpec(**values)


def make_bundle(
    *,
    encoder: str,
    weights: str,
    slice_size: int,
    channels: int,
    classes: tuple[str, ...],
    norm: NormKind,
    intensity: str,
    seed: int,
    about: dict[str, str],
    output: Path,
    overwrite: bool,
) -> BundleSpec:
    """`tonno bundle`: a bundle of any timm model and weights file (``none``: random weights of a seed)."""
    check_can_write(output, overwrite=overwrite)
    parse_intensity(intensity)
    if not all(classes) or len(set(classes)) != len(classes):
        raise TonnoError(f"`classes` '{','.join(classes)}': expected different names separated by commas")
    torch.manual_seed(seed)
    model = create_model(encoder, channels=channels, classes=len(classes), norm=norm, slice_size=slice_size)
    if weights != "none":
        load_exactly(model, read_weights(Path(weights)), f"`weights` {weights}")
    spec = BundleSpec(
        encoder=encoder,
        channels=channels,
        classes=classes,
        norm=norm,
        slice_size=slice_size,
        pixel_mm=None,
        intensity=intensity,
        frame="physical",
        defaults=model_defaults(),
        about=dict(about),
        training={"weights": f"random, seed {seed}" if weights == "none" else Path(weights).name},
    )
    try_slice(Classifier(model, classes, channels=channels), slice_size, encoder)
    return save_bundle(output, spec, model.state_dict(), overwrite=overwrite)
