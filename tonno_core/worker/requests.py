"""The fields of a request, checked. What is wrong here is the client's fault, not the user's: ProtocolError."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tonno_core.protocol import ProtocolError
from tonno_core.settings import ReconstructionSettings
from tonno_core.volume.volume import Matrix

_OPTIONS = {field.name for field in dataclasses.fields(ReconstructionSettings)}


@dataclass(frozen=True)
class ReconstructRequest:
    """array: a ``.npy`` of the volume, Z Y X. ras_to_box: 4 x 4, the region's box is [-1, 1]^3 there.

    classes: of the model, in one run; None for the one of the options alone. zoom: whether all offsets and pixels go
    into the region.
    """

    array: Path
    ijk_to_ras: Matrix
    model: str
    options: dict[str, Any]
    classes: tuple[str, ...] | Literal["all"] | None
    preset: str | None
    ras_to_box: Matrix | None
    zoom: bool
    device: str
    precision: str
    preview: bool
    folder: Path

    @staticmethod
    def of(fields: dict[str, Any]) -> ReconstructRequest:
        """Raises ProtocolError, naming the field."""
        volume = field_of(fields, "volume", dict)
        zoom, ras_to_box = field_of(fields, "zoom", bool, False), _roi(fields)
        options, classes = _options(fields), _classes(fields)
        if classes is not None and "class_name" in options:
            raise ProtocolError("the field 'classes' and the option 'class_name' both name classes; leave one out")
        if zoom and ras_to_box is None:
            raise ProtocolError("the field 'zoom' is true without a region to zoom into; give the field 'roi'")
        return ReconstructRequest(
            array=Path(field_of(volume, "array", str)),
            ijk_to_ras=matrix_of(volume, "ijk_to_ras"),
            model=field_of(fields, "model", str),
            options=options,
            classes=classes,
            preset=field_of(fields, "preset", str, None),
            ras_to_box=ras_to_box,
            zoom=zoom,
            device=field_of(fields, "device", str, "auto"),
            precision=field_of(fields, "precision", str, "auto"),
            preview=field_of(fields, "preview", bool, False),
            folder=_folder(fields),
        )


@dataclass(frozen=True)
class RefineRequest:
    """What is to be made of the last reconstruction's projections, as they are or when it has gone on to its end.

    ras_to_box, zoom: None for its own. run: the id of the reconstruction that is meant, None for whichever is the
    last. preview: while it goes on.
    """

    options: dict[str, Any]
    ras_to_box: Matrix | None
    zoom: bool | None
    run: int | None
    preview: bool
    folder: Path

    @staticmethod
    def of(fields: dict[str, Any]) -> RefineRequest:
        """Raises ProtocolError, naming the field."""
        return RefineRequest(
            options=_options(fields),
            ras_to_box=_roi(fields),
            zoom=field_of(fields, "zoom", bool, None),
            run=field_of(fields, "run", int, None),
            preview=field_of(fields, "preview", bool, False),
            folder=_folder(fields),
        )


def target_of(fields: dict[str, Any]) -> int:
    """Whom `stop` and `cancel` mean. Raises ProtocolError."""
    return int(field_of(fields, "target", int))


_REQUIRED = object()


def field_of(fields: dict[str, Any], name: str, kind: type, default: Any = _REQUIRED) -> Any:
    value = fields.get(name)
    if value is None:
        if default is _REQUIRED:
            raise ProtocolError(f"the field '{name}' is missing")
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ProtocolError(f"the field '{name}' is a {type(value).__name__}, expected a {kind.__name__}")
    return value


def _options(fields: dict[str, Any]) -> dict[str, Any]:
    """Those that were asked for; None is as if absent."""
    options = {name: value for name, value in field_of(fields, "options", dict, {}).items() if value is not None}
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise ProtocolError(f"the option '{unknown[0]}' is unknown")
    return options


def _classes(fields: dict[str, Any]) -> tuple[str, ...] | Literal["all"] | None:
    names = fields.get("classes")
    if names is None:
        return None
    if names == "all":
        return "all"
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ProtocolError("the field 'classes' is neither a list of names nor 'all'")
    return tuple(dict.fromkeys(names))


def _roi(fields: dict[str, Any]) -> Matrix | None:
    roi = field_of(fields, "roi", dict, None)
    return None if roi is None else matrix_of(roi, "ras_to_box")


def _folder(fields: dict[str, Any]) -> Path:
    folder = Path(field_of(fields, "folder", str))
    if not folder.is_dir():
        raise ProtocolError("the field 'folder' names no folder")
    return folder


def matrix_of(fields: dict[str, Any], name: str) -> Matrix:
    try:
        matrix = np.asarray(field_of(fields, name, list), dtype=np.float64)
    except (TypeError, ValueError):
        raise ProtocolError(f"the field '{name}' holds what is no number") from None
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        raise ProtocolError(f"the field '{name}' is no invertible 4 x 4 matrix")
    return matrix
