"""A bundle: a folder with ``model.safetensors`` and ``model.json``, all that is needed to use a model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from tonno_core.bundle.calibration import ModelChoices, is_threshold
from tonno_core.bundle.classes import class_of
from tonno_core.bundle.kind import CLASSIFIER, KINDS, REGRESSOR, teaching
from tonno_core.bundle.quantity import Quantity
from tonno_core.encoding.classifier import Classifier, create_model, earlier_stages, stage_modules, try_slice
from tonno_core.encoding.convention import ACTIVATIONS, WHITES, Activation, Convention
from tonno_core.encoding.layers import LayeredModel
from tonno_core.encoding.normalization import NORM_KINDS, NormKind
from tonno_core.encoding.program import Program
from tonno_core.encoding.weights import StateDict, load_exactly, read_weights
from tonno_core.errors import TonnoError, first_line, plain
from tonno_core.output import Json, check_output, holds_files, output_folder
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.segmenter.segmenter import Segmenter
from tonno_core.segmenter.with_monai import build_network
from tonno_core.settings import (
    ALL_METHODS,
    SEGMENTER,
    SLICE_SIZES,
    Variant,
    combine,
    is_finite_number,
    parse_stages,
)
from tonno_core.volume.intensity import by_channel, inputs_of, windows_of

# Of a classifier; of a segmenter, and of a regressor; of any of them that looks at volumes of several channels.
SCHEMA, SEGMENTER_SCHEMA, CHANNELS_SCHEMA = 1, 2, 3
WEIGHTS_NAME = "model.safetensors"
SPEC_NAME = "model.json"
# Key of an exported program beside its tensors: one file, and one hash of both.
_PROGRAM = "tonno program"
# What lies beyond is a slip of the pen, or a file made to fill the machine's memory.
MOST_CHANNELS = 1024


@dataclass(frozen=True)
class BundleSpec:
    """What ``model.json`` holds.

    A segmenter's states none of what is about slices; here it is at values without meaning, see `segmenter_spec`.

    Attributes:
        encoder: timm's name; of a segmenter its network's.
        channels: Of the network's input: the volume's; of volumes of one, the slice is repeated, or cut to a window for
            each.
        classes: Names of the network's outputs.
        norm: Kind of its normalization layers.
        slice_size: S pixels of its input.
        pixel_mm: Pixel size of the training slices, None where the classifier saw no physical scale.
        intensity: ``none``, ``zscore`` or ``window:LO:HI``, see `parse_intensity`; of volumes of several channels one
            for each, see `by_channel`.
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
        white: What the upper end of a window is in the network's input, 1 or 255.
        mean: By channel, subtracted from the input; empty for none.
        std: By channel, by which that is divided; empty for none.
        activation: ``softmax`` where the classes exclude each other, else ``sigmoid``.
        neighbor_mm: Distance of the slices in neighbouring channels; None where all channels get the same slice.
        stages: Names of the modules that the numbers of stages mean, finest first; empty in models of earlier versions.
        layers: Names of the layers that are the stages of a classifier that is not timm's; empty for timm's.
        arguments: What else timm makes the network with, such as its pooling; empty for timm's defaults.
        kind: ``classifier`` or ``regressor`` of slices, or ``segmenter`` of volumes.
        network: A segmenter's; None for others.
        quantity: A regressor's; None for others.
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
    white: float = 1
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    activation: Activation = "sigmoid"
    neighbor_mm: float | None = None
    stages: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    arguments: Json = field(default_factory=dict)
    kind: str = CLASSIFIER
    network: SegmenterNetwork | None = None
    quantity: Quantity | None = None

    @property
    def shifts_mm(self) -> tuple[float, ...]:
        """How far each channel's slice lies along the normal; empty where all channels get the same slice."""
        if self.neighbor_mm is None:
            return ()
        return tuple((channel - (self.channels - 1) / 2) * self.neighbor_mm for channel in range(self.channels))

    @property
    def convention(self) -> Convention:
        """What the network expects of its input, and what its outputs mean."""
        windows = windows_of(self.intensity)
        scale, offset = (1.0, 0.0) if self.quantity is None else (self.quantity.sd, self.quantity.mean)
        return Convention(self.channels, windows, self.white, self.mean, self.std, self.activation, scale, offset)

    def more_than_default(self) -> Json:
        """Return what of the optional keys that shape heatmaps is not as in a model that needs none of them.

        Returns:
            By name, as JSON holds it.
        """
        names = _OPTIONAL.keys() - {"stages"}
        values = {name: (getattr(self, name), default) for name, (default, *_) in _OPTIONAL.items() if name in names}
        more = {name: list(v) if isinstance(v, tuple) else v for name, (v, default) in values.items() if v != default}
        if self.quantity is not None:
            return {**more, "kind": self.kind, "quantity": self.quantity.record()}
        return more if self.network is None else {**more, "kind": self.kind, "network": self.network.record()}

    @property
    def choices(self) -> ModelChoices:
        """What the description says of the model's heatmaps."""
        defaults = self.defaults
        if self.kind == SEGMENTER:  # the frame of all of a volume: it sees every voxel
            defaults = {**defaults, "methods": [SEGMENTER], "frame": "normalized"}
        return ModelChoices(self.classes, self.slice_size, defaults, self.thresholds, self.calibration, self.kind)


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory.

    Attributes:
        spec: Its description.
        weights: Its tensors.
        path: Its folder.
        program: Its network as JSON where that is not timm's, see `Program`.
    """

    spec: BundleSpec
    weights: StateDict
    path: Path
    program: str = ""

    def __repr__(self) -> str:
        size, taught = self.spec.slice_size, teaching(self.spec.training)
        sees = (
            f"slices of {size} x {size}"
            if self.spec.kind != SEGMENTER
            else ", ".join(filter(None, [SEGMENTER, taught]))
        )
        return f"Bundle({self.path}: {self.spec.encoder}, {', '.join(self.spec.classes)}, {sees})"

    def threshold(self, method: str, class_name: str | None = None) -> float:
        """Return the model's threshold for a method, at the model's own settings.

        Args:
            method: A name from `ALL_METHODS`.
            class_name: None for the model's first.

        Returns:
            The threshold; of a segmenter one for all volumes, where `Reconstruction.segment` takes each one's own.

        Raises:
            TonnoError: The model brings none, or has no such class or method.
        """
        if class_name is not None:
            class_of(class_name, self.spec.classes)
        settings = self.spec.choices.settings({"class_name": class_name, "methods": (method,)})
        known_threshold = self.spec.choices.threshold(self.spec.choices.variant(method, settings), settings)
        if known_threshold is None and self.spec.kind == REGRESSOR:
            raise TonnoError(f"{self.path}: is a regressor, which has no thresholds; give a number in its own unit")
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
            TonnoError: The network cannot be built, or the weights do not fit it; or it is a segmenter.
        """
        self._require_kind(CLASSIFIER, REGRESSOR)
        spec = dataclasses.replace(self.spec, slice_size=slice_size or self.spec.slice_size)
        if spec.layers:
            try:
                model = layered_program(self.program, self.weights, spec)
            except TonnoError as error:
                raise TonnoError(f"{self.path / WEIGHTS_NAME}: {error}") from error
            return layered_classifier(model, spec, device=device, precision=precision)
        network = self._network(spec.slice_size)
        if other := _numbered_otherwise(spec, network):
            raise TonnoError(
                f"{self.path / SPEC_NAME}: {other}; its choices and thresholds are of other maps than this version "
                "makes, and `tonno calibrate` finds new ones"
            )
        load_exactly(network, self.weights, str(self.path / WEIGHTS_NAME))
        return build_encoder(network, spec, device=device, precision=precision)

    def segmenter(self, *, device: torch.device | str = "cpu", precision: torch.dtype = torch.float32) -> Segmenter:
        """Build the segmenter.

        Args:
            device: Where it runs.
            precision: Of its numbers.

        Returns:
            Ready to answer volumes.

        Raises:
            TonnoError: The weights do not fit the network, MONAI is not installed, or it is a classifier.
        """
        self._require_kind(SEGMENTER)
        spec = self.spec
        assert spec.network is not None
        model = build_network(spec.network, len(spec.classes), spec.channels)
        load_exactly(model, self.weights, str(self.path / WEIGHTS_NAME))
        return Segmenter(model, spec.classes, spec.network, spec.intensity, device=device, precision=precision)

    def _require_kind(self, *kinds: str) -> None:
        if self.spec.kind not in kinds:
            raise TonnoError(f"{self.path}: is a {self.spec.kind}, expected a model of the kind {' or '.join(kinds)}")

    def to_calibrate(self) -> Bundle:
        """Return the bundle with its stages as this version numbers them, for a new calibration.

        Returns:
            The same; where an earlier version numbered them otherwise, without what named a stage.

        Raises:
            TonnoError: It is a segmenter.
        """
        self._require_kind(CLASSIFIER)
        if self.spec.layers:  # named, not numbered
            return self
        model = self._network(self.spec.slice_size)
        spec = dataclasses.replace(self.spec, stages=stage_names(model))
        if _numbered_otherwise(self.spec, model):
            spec = dataclasses.replace(spec, defaults={**spec.defaults, "stage": None}, thresholds={}, calibration=[])
        return dataclasses.replace(self, spec=spec)

    def _network(self, size: int) -> nn.Module:
        """Make the network, with random weights."""
        spec = self.spec
        try:
            return create_model(
                spec.encoder,
                channels=spec.channels,
                classes=len(spec.classes),
                norm=spec.norm,
                slice_size=size,
                arguments=spec.arguments,
            )
        except TonnoError as error:
            raise TonnoError(f"{self.path / SPEC_NAME}: {error}") from error


def segmenter_spec(
    network: SegmenterNetwork,
    classes: tuple[str, ...],
    intensity: str,
    *,
    thresholds: dict[str, Json] | None = None,
    training: Json | None = None,
    about: Json | None = None,
) -> BundleSpec:
    """Describe a segmenter.

    Args:
        network: Its network.
        classes: Names of the network's outputs.
        intensity: ``none``, ``zscore`` or ``window:LO:HI``, see `by_channel`.
        thresholds: By ``segmenter`` (for a class other than the first: ``segmenter/class``) a record whose
            ``threshold`` is a logit; its ``settings`` may hold ``smooth_mm``, ``min_volume_mm3`` is the smallest
            component that is kept by default, and ``min_peak`` the logit that its highest one must reach.
        training: How the weights came about; ``taught_by`` is ``heatmaps`` or ``masks``.
        about: What a person should know.

    Returns:
        The description, to be written by `save_bundle`.
    """
    return BundleSpec(
        encoder=network.name,
        channels=inputs_of(intensity),
        classes=classes,
        norm="group",
        slice_size=0,
        pixel_mm=None,
        intensity=intensity,
        frame="physical",
        thresholds=thresholds or {},
        training=training or {},
        about=about or {},
        schema=schema_of(SEGMENTER, intensity),
        kind=SEGMENTER,
        network=network,
    )


def schema_of(kind: str, intensity: str) -> int:
    """Return the version of the description that a model has: the lowest, so that earlier builds read what they can.

    Args:
        kind: Of the model.
        intensity: Its own.

    Returns:
        The version.
    """
    if len(by_channel(intensity)) > 1:
        return CHANNELS_SCHEMA
    return SCHEMA if kind == CLASSIFIER else SEGMENTER_SCHEMA


def stage_names(model: nn.Module) -> tuple[str, ...]:
    """List what a description says of a network's stages.

    Args:
        model: A timm model.

    Returns:
        Names of the modules that the numbers of stages mean, finest first.
    """
    return tuple(name for _, name in stage_modules(model))


def _numbered_otherwise(spec: BundleSpec, model: nn.Module) -> str:
    """Say which stage of a description meant another module to the version that wrote it; "" where none did."""
    records = [spec.defaults, *(record.get("settings", {}) for record in spec.thresholds.values()), *spec.calibration]
    numbers = sorted({number for record in records for number in parse_stages(record.get("stage"))})
    if not numbers:
        return ""
    now, then = stage_names(model), spec.stages or tuple(earlier_stages(model))
    for number in numbers:
        was, is_now = then[number - 1 : number], now[number - 1 : number]
        if was != is_now:
            before = f"was {was[0]}" if was else "did not exist"
            after = f"is {is_now[0]}" if is_now else "does not exist"
            return f"stage {number} of {spec.encoder} {before} to the version that wrote this model, and {after} now"
    return ""


def build_encoder(
    network: nn.Module, spec: BundleSpec, *, device: torch.device | str = "cpu", precision: torch.dtype = torch.float32
) -> Classifier:
    """Build the encoder of a network, and try it with a slice.

    Args:
        network: With its weights.
        spec: Its description.
        device: Where it runs.
        precision: Of its numbers.

    Returns:
        Ready to run.

    Raises:
        TonnoError: The network takes no slices of that size, or its logits are not finite.
    """
    encoder = Classifier(
        network,
        spec.classes,
        channels=spec.channels,
        device=device,
        precision=precision,
        convention=spec.convention,
    )
    try_slice(encoder, spec.slice_size, spec.encoder)
    return encoder


def layered_program(text: str, tensors: StateDict, spec: BundleSpec) -> LayeredModel:
    """Build the network of an exported program.

    Args:
        text: The program as JSON.
        tensors: By name.
        spec: The description of the classifier.

    Returns:
        The network, in float32.

    Raises:
        TonnoError: The program cannot be built, or was exported for another size.
    """
    program, size = Program(text, tensors).float(), spec.slice_size
    if program.slice_size not in (0, size):
        raise TonnoError(
            f"`slice_size` {size}: the program was exported for slices of {program.slice_size} pixels; choose that"
        )
    return LayeredModel(program, spec.layers, channels=spec.channels, slice_size=size)


def layered_classifier(
    model: LayeredModel, spec: BundleSpec, *, device: torch.device | str = "cpu", precision: torch.dtype = torch.float32
) -> Classifier:
    """Build the encoder of a classifier whose layers were named.

    Args:
        model: The network.
        spec: Its description.
        device: Where it runs.
        precision: Of its numbers.

    Returns:
        Ready to run.

    Raises:
        TonnoError: The description names another number of classes, or the logits are not finite.
    """
    if model.classes != len(spec.classes):
        raise TonnoError(
            f"`classes` '{','.join(spec.classes)}': the classifier has {model.classes} outputs; name each of them"
        )
    return build_encoder(model, spec, device=device, precision=precision)


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
    if not os.path.isdir(folder):  # noqa: PTH112 - which is false of names that are too long, too
        expected = f"expected a model's folder, with {SPEC_NAME} and {WEIGHTS_NAME}"
        if os.path.isfile(folder):  # noqa: PTH113 - likewise
            beside = folder.name in (SPEC_NAME, WEIGHTS_NAME)
            raise TonnoError(f"{folder}: is a file, {expected}" + (f": give {folder.parent}" if beside else ""))
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
    weights = read_weights(weights_path)
    if not spec.layers:
        return Bundle(spec, {name: tensor.float() for name, tensor in weights.items()}, folder)
    with safe_open(weights_path, "pt") as file:
        program = (file.metadata() or {}).get(_PROGRAM, "")
    return Bundle(spec, weights, folder, program)


def save_bundle(
    path: str | os.PathLike[str],
    spec: BundleSpec,
    weights: StateDict,
    *,
    half: bool = False,
    overwrite: bool = False,
    program: str = "",
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
        program: The network as JSON where it is not timm's.

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
            save_file(plain, temporary / WEIGHTS_NAME, {_PROGRAM: program} if program else None)
        except SafetensorError as error:  # a full disk
            raise TonnoError(f"{folder}: the weights could not be written ({first_line(error)})") from error
        spec = dataclasses.replace(spec, sha256=_sha256(temporary / WEIGHTS_NAME))
        (temporary / SPEC_NAME).write_text(_as_json(spec), encoding="utf-8")
        # safetensors makes a file that nobody else may read, whatever the umask.
        shutil.copymode(temporary / SPEC_NAME, temporary / WEIGHTS_NAME)
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
    """Return text for people: the hundreds of variants that a calibration tries have a line each, at the end.

    An optional key at its default is left out.
    """
    data = dataclasses.asdict(spec)
    if spec.network is not None:
        data = {name: data[name] for name in _OF_A_SEGMENTER} | {"network": spec.network.record()}
    else:
        left_out = [name for name, (default, *_) in _OPTIONAL.items() if getattr(spec, name) == default]
        stated = spec.kind == REGRESSOR or spec.schema == CHANNELS_SCHEMA
        for name in (*left_out, "network", *(() if stated else ("kind",))):
            del data[name]
        if spec.quantity is None:
            del data["quantity"]
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
    if folder.exists() and not (folder / SPEC_NAME).is_file() and holds_files(folder):
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
    except (OSError, ValueError, RecursionError) as error:
        raise TonnoError(f"{path}: not readable as JSON ({first_line(error)})") from error
    if not isinstance(data, dict):
        raise TonnoError(f"{path}: holds a {type(data).__name__}, expected an object")
    schema, known = data.get("schema"), f"this version reads schema {SCHEMA} to {CHANNELS_SCHEMA}"
    if isinstance(schema, bool) or schema not in (SCHEMA, SEGMENTER_SCHEMA, CHANNELS_SCHEMA):
        newer = isinstance(schema, int) and schema > CHANNELS_SCHEMA
        said = "was made by a newer version of tonno" if newer else "is unknown"
        raise TonnoError(f"{path}: schema {schema!r:.40} {said}, {known}")
    data.setdefault("calibration", [])  # models of version 0.1.0 have none
    kind = CLASSIFIER if schema == SCHEMA else data.get("kind")
    if kind not in KINDS or (schema == SEGMENTER_SCHEMA and kind == CLASSIFIER):
        raise TonnoError(
            f"{path}: key 'kind' is {kind!r:.40}, expected {SEGMENTER} or {REGRESSOR} in schema {SEGMENTER_SCHEMA}; a "
            f"model of another kind than {', '.join(KINDS)} needs a newer version of tonno"
        )
    if kind == SEGMENTER:
        return _segmenter_in(data, path)
    _check_kinds(data, _EXPECTED, path)
    for name, (default, kinds, text) in _OPTIONAL.items():
        value = data.setdefault(name, default)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise TonnoError(f"{path}: key '{name}' is {value!r:.120}, expected {text}")
    spec = _checked(data, path)
    return spec if kind == CLASSIFIER else _regressor_of(spec, data, path)


def _check_kinds(data: Json, expected: dict[str, tuple[tuple[type, ...], str]], path: Path) -> None:
    """Check that keys are there, with values of the kinds expected."""
    for name, (kinds, text) in expected.items():
        if name not in data:
            raise TonnoError(f"{path}: key '{name}' is missing, expected {text}")
        if not isinstance(data[name], kinds) or isinstance(data[name], bool):
            raise TonnoError(f"{path}: key '{name}' is {data[name]!r:.120}, expected {text}")


def _segmenter_in(data: Json, path: Path) -> BundleSpec:
    """Read a segmenter's description."""
    shared = {name: row for name, row in _EXPECTED.items() if name in _OF_A_SEGMENTER}
    data.setdefault("defaults", {})
    _check_kinds(data, shared, path)
    try:
        network = SegmenterNetwork.of_record(data.get("network"))
    except TonnoError as error:
        raise TonnoError(f"{path}: {error}") from error
    _check_shared(data, path)
    _check_intensity(data, path)
    made = segmenter_spec(network, tuple(data["classes"]), data["intensity"])
    names = ("defaults", "thresholds", "training", "about", "calibration", "sha256")
    return dataclasses.replace(made, **{name: data[name] for name in names})


def _regressor_of(spec: BundleSpec, data: Json, path: Path) -> BundleSpec:
    """Make a regressor's description of what it shares with a classifier's."""
    try:
        quantity = Quantity.of_record(data.get("quantity"))
    except TonnoError as error:
        raise TonnoError(f"{path}: {error}") from error
    if spec.classes != (quantity.name,):
        raise _wrong(data, "classes", path)
    return dataclasses.replace(spec, kind=REGRESSOR, quantity=quantity)


# Keys of a segmenter's description, in their order.
_OF_A_SEGMENTER = (
    "schema", "kind", "network", "classes", "intensity", "defaults", "thresholds", "training", "about", "sha256",
    "calibration",
)  # fmt: skip
# Keys that a description may leave out: their value then, their kinds, and what they are.
_OPTIONAL: dict[str, tuple[object, tuple[type, ...], str]] = {
    "white": (1, (int,), "1 or 255"),
    "mean": ((), (list, tuple), "a list with a finite number for each channel"),
    "std": ((), (list, tuple), "a list with a finite number above 0 for each channel"),
    "activation": ("sigmoid", (str,), f"one of {', '.join(ACTIVATIONS)}"),
    "neighbor_mm": (None, (float, int, type(None)), "millimeters between 0 and 100 for several channels, or null"),
    "stages": ((), (list, tuple), "a list of names of modules"),
    "layers": ((), (list, tuple), "a list of different names"),
    "arguments": ({}, (dict,), "an object"),
}
_EXPECTED: dict[str, tuple[tuple[type, ...], str]] = {
    "encoder": ((str,), "the name of a timm model"),
    "channels": ((int,), f"a whole number from 1 to {MOST_CHANNELS}"),
    "classes": ((list,), "a list of different names"),
    "norm": ((str,), f"one of {', '.join(NORM_KINDS)}"),
    "slice_size": ((int,), f"a number of pixels from {SLICE_SIZES[0]} to {SLICE_SIZES[1]}"),
    "pixel_mm": ((float, int, type(None)), "millimeters between 0 and 100, or null"),
    "intensity": (
        (str,),
        "none, zscore, window:LO:HI, a window for each channel as window:LO:HI,LO:HI, or one of the former for each "
        "channel of the volumes as window:LO:HI/zscore",
    ),
    "frame": ((str,), "physical or normalized"),
    "defaults": ((dict,), "an object"),
    "thresholds": ((dict,), "by method an object with a finite number 'threshold'"),
    "calibration": ((list,), "a list of objects with a finite number 'threshold'"),
    "training": ((dict,), "an object"),
    "about": ((dict,), "an object"),
    "sha256": ((str,), "64 hexadecimal digits"),
}


def _wrong(data: Json, name: str, path: Path) -> TonnoError:
    text = (_EXPECTED | {key: row[1:] for key, row in _OPTIONAL.items()})[name][1]
    return TonnoError(f"{path}: key '{name}' is {data[name]!r:.120}, expected {text}")


def _checked(data: Json, path: Path) -> BundleSpec:
    def require(condition: bool, name: str) -> None:
        if not condition:
            raise _wrong(data, name, path)

    require(1 <= data["channels"] <= MOST_CHANNELS, "channels")
    names = data["classes"]
    require(data["norm"] in NORM_KINDS, "norm")
    require(SLICE_SIZES[0] <= data["slice_size"] <= SLICE_SIZES[1], "slice_size")
    require(data["pixel_mm"] is None or 0 < data["pixel_mm"] < 100, "pixel_mm")
    require(data["frame"] in ("physical", "normalized"), "frame")
    inputs = _check_intensity(data, path)
    require(inputs in (1, data["channels"]), "intensity")
    require(data["white"] in WHITES, "white")
    for name in ("mean", "std"):
        numbers = data[name]
        require(all(map(is_finite_number, numbers)) and len(numbers) in (0, data["channels"]), name)
    require(all(number > 0 for number in data["std"]), "std")
    require(all(isinstance(stage, str) for stage in data["stages"]), "stages")
    layers = data["layers"]
    require(all(isinstance(name, str) for name in layers) and len(set(layers)) == len(layers), "layers")
    require(data["activation"] in ACTIVATIONS, "activation")
    require(data["activation"] == "sigmoid" or len(names) > 1, "activation")
    distance = data["neighbor_mm"]
    require(distance is None or (0 < distance < 100 and data["channels"] > 1), "neighbor_mm")
    require(distance is None or (data["frame"] == "physical" and inputs == 1), "neighbor_mm")
    _check_shared(data, path)
    known = {f.name for f in dataclasses.fields(BundleSpec)} - {"kind", "network", "quantity"}
    values: Json = {name: value for name, value in data.items() if name in known}
    values |= {name: tuple(values[name]) for name in ("classes", "mean", "std", "stages", "layers")}
    return BundleSpec(**values)


def _check_intensity(data: Json, path: Path) -> int:
    """Check that an intensity is one, of as many channels as the schema says; returns the inputs that it asks for."""
    try:
        inputs, several = inputs_of(data["intensity"]), len(by_channel(data["intensity"])) > 1
    except TonnoError:
        raise _wrong(data, "intensity", path) from None
    if several != (data["schema"] == CHANNELS_SCHEMA):
        raise TonnoError(
            f"{path}: key 'intensity' is {data['intensity']!r} in schema {data['schema']}, expected one for each of "
            f"several channels, separated by slashes, in schema {CHANNELS_SCHEMA} alone"
        )
    return inputs


def _check_shared(data: Json, path: Path) -> None:
    """Check what models of both kinds state."""
    names = data["classes"]
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise _wrong(data, "classes", path)
    for key, records in (("thresholds", data["thresholds"].values()), ("calibration", data["calibration"])):
        if not all(is_threshold(record) for record in records):
            raise _wrong(data, key, path)
    try:
        combine(defaults=data["defaults"], explicit={})
    except TonnoError as error:
        raise TonnoError(f"{path}: key 'defaults': {plain(error)}") from error
    for key, record in data["thresholds"].items():
        method, chosen = key.partition("/")[0], record.get("settings", {})
        try:
            if method in ALL_METHODS:
                Variant.of_record({name: chosen[name] for name in Variant(method).choices() if name in chosen}, method)
        except TonnoError as error:
            raise TonnoError(f"{path}: key 'thresholds', {key}: {plain(error)}") from error
    for number, record in enumerate(data["calibration"]):
        try:
            if record.get("method") in ALL_METHODS:
                Variant.of_record(record)
        except (TonnoError, TypeError) as error:
            raise TonnoError(f"{path}: key 'calibration', record {number + 1}: {plain(first_line(error))}") from error
