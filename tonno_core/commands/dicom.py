"""Results as DICOM: segmentations (SEG) and heatmaps (parametric maps) that refer to the slices of their series."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import tonno_core
from tonno_core.bundle.decide import Run
from tonno_core.bundle.file import Bundle
from tonno_core.bundle.terminology import Code, Terminology, check_terminology, terminology_of
from tonno_core.errors import TonnoError, first_line
from tonno_core.reconstruction import Reconstruction
from tonno_core.segmentation.threshold import Segmentation
from tonno_core.volume.dicom_source import OTHER_FORMATS, Source, quiet, read_source
from tonno_core.volume.volume import Volume

FORMAT, ENDING = "dicom", ".dcm"
_OLDEST = (0, 28)  # highdicom's whose parametric maps take what is given here
COLOR = (0x3D, 0xFF, 0x9E)  # of the contours in our pictures, and of the Slicer module's first segment
_LONG = 64  # characters of DICOM's LO
# A person chose a threshold that differs by more from the model's, as in the Slicer module.
_SAME_THRESHOLD = 5e-3
# dcmqi, and 3D Slicer by it, ends abnormally on a map that names no anatomy; this is true of any.
_ANY_REGION = Code("SCT", "123037004", "Anatomical Structure")


@dataclass(frozen=True)
class Statement:
    """What files say of the model.

    Attributes:
        model: Its name.
        sha256: Of its weights; the name where it has none.
        terminology: Codes of the class.
        unit: Of the heatmap.
    """

    model: str
    sha256: str
    terminology: Terminology
    unit: str


def check_dicom(model: Bundle | str) -> None:
    """Check before any volume is read that DICOM can be written of a model.

    Args:
        model: A bundle, or ``pixel-sum``.

    Raises:
        TonnoError: highdicom is missing or too old, or the model's codes are wrong.
    """
    wanted, found = ".".join(map(str, _OLDEST)), None
    with suppress(importlib.metadata.PackageNotFoundError):
        found = importlib.metadata.version("highdicom")
    numbers = [int(number) for number in re.findall(r"\d+", found or "0")[:2]]
    if tuple(numbers) < _OLDEST:
        raise TonnoError(
            f"`file_format` {FORMAT}: needs the package highdicom {wanted} or newer, "
            f"{f'found {found}' if found else 'which is not installed'}; pip install 'highdicom>={wanted}'"
        )
    if isinstance(model, Bundle):
        try:
            check_terminology(model.spec.about, model.spec.classes)
        except TonnoError as error:
            raise TonnoError(f"{model.path}: about {error}") from error


def statement_of(model: Bundle | str, class_name: str) -> Statement:
    """Gather what files say of a model.

    Args:
        model: A bundle, or ``pixel-sum``.
        class_name: Of its classes.

    Returns:
        The statement.
    """
    if isinstance(model, str):
        return Statement(model, model, terminology_of({}, None), "intensity")
    name = model.path.absolute().name
    return Statement(name, model.spec.sha256, terminology_of(model.spec.about, class_name), "logit")


def check_places(path: Path, output: Path) -> None:
    """Check before a volume is read that it can be a series, and that its results will not lie among its files.

    Args:
        path: Of the volume, which may not be there.
        output: Where the results will be.

    Raises:
        TonnoError: They would, or it is a file.
    """
    if path.is_file():
        raise TonnoError(
            f"{path}: is no folder of DICOM files, to whose slices `file_format` {FORMAT} refers; {OTHER_FORMATS}"
        )
    if output.absolute().resolve() == path.absolute().resolve():
        raise TonnoError(
            f"`output` {output}: is the folder of the series, where results would be taken for slices; choose another"
        )


def check_source(path: Path, volume: Volume) -> Source:
    """Read the headers of a volume's series, and check before a long computation that results can refer to it.

    Args:
        path: The folder.
        volume: That was read from it.

    Returns:
        The series.

    Raises:
        TonnoError: See `read_source`; or highdicom refuses it.
    """
    source = read_source(path, volume)
    mask = np.zeros(volume.array.shape, dtype=np.uint8)
    mask[0, 0, 0] = 1
    words = _Words("class", "method", Statement("", "", terminology_of({}, None), "logit"))
    try:
        with quiet():  # the whole series for a mask of one frame, and a map of one slice: quick
            _segmentation(source, mask, words, omit_empty_frames=True)
            _map(dataclasses.replace(source, headers=source.headers[:1]), volume.array[:1], words)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        if isinstance(error, AttributeError) and error.name:
            reason = f"no {error.name}"
        else:  # a value may be the patient's
            reason = re.sub(r"(['\"]).*?\1", "...", first_line(error)).rstrip(".")
        raise TonnoError(
            f"{path}: the package highdicom cannot refer to this series ({reason}); {OTHER_FORMATS}"
        ) from None
    return source


def write_dicom(
    folder: Path,
    result: Reconstruction,
    segmentations: Mapping[str, Segmentation],
    run: Run,
    source: Source,
    said: Statement,
) -> None:
    """Write ``heatmap-METHOD.dcm`` and ``segmentation-METHOD.dcm`` of each method, each a series of its own.

    A segmentation has one segment, the class, whose pieces are not told apart, as in the Slicer module. All frames are
    written, also empty ones, along k: so each reader finds the spacing, and dcmqi the place of a map's frames.

    Args:
        folder: That is there.
        result: With the heatmaps.
        segmentations: By method.
        run: That they are from.
        source: The series.
        said: About the model.
    """
    for method, heatmap in result.heatmaps.items():
        made, known = segmentations[method], run.threshold(run.targets[0], method, result.ended_at)
        own = None if known is None else known.within(float(heatmap.array[result.inside].max(initial=-np.inf))).value
        is_models = own is not None and math.isclose(made.threshold, own, rel_tol=_SAME_THRESHOLD)
        by_hand = made.source == "given" and not is_models
        words = _Words(result.class_name, method, said, made.threshold, by_hand=by_hand)
        with quiet():
            _map(source, heatmap.array, words).save_as(folder / f"heatmap-{method}{ENDING}")
            _segmentation(source, made.mask, words).save_as(folder / f"segmentation-{method}{ENDING}")


def read_frames(path: Path) -> npt.NDArray[np.generic]:
    """Read the frames of a file that `write_dicom` wrote.

    Args:
        path: The file.

    Returns:
        ``Z Y X`` on the grid of the volume.

    Raises:
        TonnoError: It cannot be read.
    """
    from pydicom import dcmread

    try:
        with quiet():
            array: npt.NDArray[np.generic] = dcmread(path).pixel_array
    except Exception as error:  # damaged bytes make pydicom raise nearly any kind
        raise TonnoError(f"{path}: cannot be read as DICOM ({type(error).__name__}); delete it and run again") from None
    return array


# -------------------- the files


@dataclass(frozen=True)
class _Words:
    """What a pair of files says of itself."""

    class_name: str
    method: str
    said: Statement
    threshold: float = 0.0
    by_hand: bool = False

    @property
    def label(self) -> str:
        return _plain(self.class_name)

    @property
    def title(self) -> str:
        return _plain(f"Research use: {self.class_name}, ToNNO {self.method}")

    @property
    def result(self) -> str:
        """One line, as the Slicer module has it."""
        parts = (self.class_name, f"ToNNO {self.method}", f"model {self.said.model}", f"threshold {self.threshold:.4g}")
        return _plain(", ".join(parts), 1000)


def _segmentation(source: Source, mask: npt.NDArray[np.generic], words: _Words, **options: Any) -> Any:
    """Make a BINARY segmentation: other kinds are mirrored, scaled or refused by some readers."""
    import highdicom
    from pydicom.sr.codedict import codes

    terms = words.said.terminology
    name = _plain(f"ToNNO {tonno_core.__version__} {words.method} {words.said.model}")
    series = source.headers[0].SeriesInstanceUID
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label=words.label,
        segmented_property_category=_concept(terms.category),
        segmented_property_type=_concept(terms.kind),
        algorithm_type="SEMIAUTOMATIC" if words.by_hand else "AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=name, family=codes.DCM.ArtificialIntelligence, version=tonno_core.__version__
        ),
        tracking_uid=_tracking_uid(str(series), words.said.sha256, words.class_name, words.method),
        tracking_id=_plain(f"ToNNO {words.class_name}"),
        anatomic_regions=[_concept(terms.region)] if terms.region else None,
        display_color=highdicom.color.CIELabColor.from_rgb(*COLOR),
    )
    segment.SegmentDescription = f"{words.result}; research use only, not for diagnosis"
    if terms.modifier:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(terms.modifier)]
    if terms.region and terms.region_modifier:
        segment.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [_concept(terms.region_modifier)]
    made = highdicom.seg.Segmentation(
        source_images=source.headers,
        pixel_array=mask.astype(np.uint8, copy=False),
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        **{"omit_empty_frames": False, **options},
        **_identity(source, words, "segmentation"),
    )
    if not options:
        bits = np.packbits(mask != 0, axis=None, bitorder="little").tobytes()
        made.PixelData = bits + b"\0" * (len(bits) % 2)
        _along_k(made, source)
    return _finished(made, source)


def _map(source: Source, heatmap: npt.NDArray[np.float32], words: _Words) -> Any:
    """Make a parametric map of float32 values, which are the heatmap's own."""
    import highdicom
    from pydicom.dataset import Dataset
    from pydicom.sr.codedict import codes

    low, high = float(heatmap.min()), float(heatmap.max())
    mapping = highdicom.pm.RealWorldValueMapping(
        lut_label=words.said.unit,
        lut_explanation=_plain(f"{words.said.unit} of {words.class_name}, ToNNO {words.method}"),
        unit=codes.UCUM.NoUnits,
        value_range=(low, high),
    )
    black = 0.0 if high > 0 else low
    made = highdicom.pm.ParametricMap(
        source_images=source.headers,
        pixel_array=heatmap,
        contains_recognizable_visual_features=words.said.unit == "intensity",  # then the map is the scan
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[
            highdicom.VOILUTTransformation(window_center=(black + high) / 2, window_width=max(high - black, 1e-6))
        ],
        content_label="HEATMAP",
        **_identity(source, words, "heatmap"),
    )
    made.FloatPixelData = np.ascontiguousarray(heatmap, dtype="<f4").tobytes()
    _along_k(made, source)
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = [_concept(words.said.terminology.region or _ANY_REGION)]
    anatomy.FrameLaterality = "U"
    made.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]
    return _finished(made, source)


def _identity(source: Source, words: _Words, what: str) -> dict[str, Any]:
    """Return what both kinds of files say of themselves, with new UIDs of no organization's root."""
    from pydicom.uid import generate_uid

    return {
        "series_instance_uid": generate_uid(prefix=None),
        "series_number": 1000,
        "sop_instance_uid": generate_uid(prefix=None),
        "instance_number": 1,
        "manufacturer": "ToNNO",
        "manufacturer_model_name": "ToNNO",
        "software_versions": tonno_core.__version__,
        "device_serial_number": "none",
        "series_description": _plain(f"{words.title} {what}"),
        "content_description": words.title,
    }


def _along_k(made: Any, source: Source) -> None:
    """Order the frames' descriptions along k, as their pixels are, and place them evenly, as the volume is.

    highdicom orders them against it, and dcmqi reads a map's frames as they lie. SimpleITK gives a segmentation whose
    slices are uneven by a micrometre a spacing of 1 x 1 x 1.
    """
    frames = list(made.PerFrameFunctionalGroupsSequence)
    positions = np.array([frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], dtype=np.float64)
    orientation = made.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    normal = np.cross(*np.reshape(np.asarray(orientation, dtype=np.float64), (2, 3)))
    ordered = [frames[index] for index in np.argsort(positions @ normal)]
    for number, frame in enumerate(ordered, start=1):
        frame.PlanePositionSequence[0].ImagePositionPatient = source.position(number - 1)
        content = frame.FrameContentSequence[0]
        values = content.DimensionIndexValues
        content.DimensionIndexValues = [*values[:-1], number] if isinstance(values, Sequence) else number
    made.PerFrameFunctionalGroupsSequence = ordered


def _finished(made: Any, source: Source) -> Any:
    """Put in what readers rely on: the slices' true distance, which many scanners state otherwise or not at all."""
    made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = f"{source.step_mm:.10g}"
    made.ContentCreatorName = ""  # must be there, may be empty: nobody is named unasked
    return made


def _concept(code: Code) -> Any:
    import highdicom

    return highdicom.sr.CodedConcept(code.value, code.scheme, code.meaning)


def _tracking_uid(*facts: str) -> str:
    """Return the UID of a finding: the same model's class in the same series is the same finding in each run."""
    digest = hashlib.sha256("\n".join(facts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _plain(text: str, length: int = _LONG) -> str:
    """Replace what ends a value in DICOM or a line, and cut to the characters that fit."""
    return re.sub(r"[\\\s\x00-\x1f]+", " ", text).strip()[:length].strip() or "finding"
