"""The checked fields of requests. A mistake here is the client's, not the user's, and raises ProtocolError."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tonno_core.output import Json
from tonno_core.protocol import ProtocolError
from tonno_core.settings import ReconstructionSettings
from tonno_core.volume.volume import Matrix

_OPTIONS = set(ReconstructionSettings().record())


@dataclass(frozen=True)
class ReconstructRequest:
    """A new run.

    Attributes:
        array: The ``.npy`` file of the volume, Z Y X.
        ijk_to_ras: 4 x 4, from the centre of voxel (i, j, k) to RAS mm.
        model: A bundle's folder, or ``pixel-sum``.
        options: The settings that were asked for, by name.
        classes: The model's classes for this run; None for the one that the options name, or the first.
        preset: The preset's name; None for none.
        ras_to_box: 4 x 4, to a frame in which the region is [-1, 1]^3; None for the whole volume.
        zoom: Whether all offsets and pixels of the planes go into the region.
        device: The torch device, or ``auto``.
        precision: The number format of the network, or ``auto``.
        preview: Whether previews are sent.
        folder: Where the results go.
    """

    array: Path
    ijk_to_ras: Matrix
    model: str
    options: Json
    classes: tuple[str, ...] | Literal["all"] | None
    preset: str | None
    ras_to_box: Matrix | None
    zoom: bool
    device: str
    precision: str
    preview: bool
    folder: Path

    @staticmethod
    def of(fields: Json) -> ReconstructRequest:
        """Check a message.

        Args:
            fields: A ``reconstruct``.

        Returns:
            The request.

        Raises:
            ProtocolError: Names the field that is missing or wrong.
        """
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
    """A result from the projections of the last run, as they are or once it has been resumed.

    Attributes:
        options: The settings that change, by name.
        ras_to_box: 4 x 4, to a frame in which the region is [-1, 1]^3; None for that of the run.
        zoom: Whether the planes lie in the region alone; None for the run's choice.
        run: The id of the ``reconstruct`` that is meant; None for the last.
        preview: Whether previews are sent while the run goes on.
        folder: Where the results go.
    """

    options: Json
    ras_to_box: Matrix | None
    zoom: bool | None
    run: int | None
    preview: bool
    folder: Path

    @staticmethod
    def of(fields: Json) -> RefineRequest:
        """Check a message.

        Args:
            fields: A ``refine`` or ``resume``.

        Returns:
            The request.

        Raises:
            ProtocolError: Names the field that is missing or wrong.
        """
        return RefineRequest(
            options=_options(fields),
            ras_to_box=_roi(fields),
            zoom=field_of(fields, "zoom", bool, None),
            run=field_of(fields, "run", int, None),
            preview=field_of(fields, "preview", bool, False),
            folder=_folder(fields),
        )


def target_of(fields: Json) -> int:
    """Read which request a `stop` or `cancel` means.

    Args:
        fields: The message.

    Returns:
        The id of that request.

    Raises:
        ProtocolError: If it is missing or no whole number.
    """
    return int(field_of(fields, "target", int))


_REQUIRED = object()


def field_of(fields: Json, name: str, kind: type, default: Any = _REQUIRED) -> Any:
    """Read a field and check its type.

    Args:
        fields: The message, or an object in it.
        name: The field.
        kind: The type that its value must have.
        default: What stands for null or an absent field; without one, the field is required.

    Returns:
        The value.

    Raises:
        ProtocolError: If the field is missing or of another type.
    """
    value = fields.get(name)
    if value is None:
        if default is _REQUIRED:
            raise ProtocolError(f"the field '{name}' is missing")
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ProtocolError(f"the field '{name}' is a {type(value).__name__}, expected a {kind.__name__}")
    return value


def _options(fields: Json) -> Json:
    """Read the settings that were asked for; null is as if absent."""
    options = {name: value for name, value in field_of(fields, "options", dict, {}).items() if value is not None}
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise ProtocolError(f"the option '{unknown[0]}' is unknown")
    return options


def _classes(fields: Json) -> tuple[str, ...] | Literal["all"] | None:
    names = fields.get("classes")
    if names is None:
        return None
    if names == "all":
        return "all"
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ProtocolError("the field 'classes' is neither a list of names nor 'all'")
    return tuple(dict.fromkeys(names))


def _roi(fields: Json) -> Matrix | None:
    roi = field_of(fields, "roi", dict, None)
    return None if roi is None else matrix_of(roi, "ras_to_box")


def _folder(fields: Json) -> Path:
    folder = Path(field_of(fields, "folder", str))
    if not os.path.isdir(folder):  # noqa: PTH112 - which is false of names that are too long, too
        raise ProtocolError("the field 'folder' names no folder")
    return folder


def matrix_of(fields: Json, name: str) -> Matrix:
    """Read an affine matrix.

    Args:
        fields: The message, or an object in it.
        name: The field.

    Returns:
        4 x 4 float64.

    Raises:
        ProtocolError: If it is missing or not an invertible 4 x 4 matrix.
    """
    try:
        matrix = np.asarray(field_of(fields, name, list), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ProtocolError(f"the field '{name}' holds what is no number") from None
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        raise ProtocolError(f"the field '{name}' is no invertible 4 x 4 matrix")
    return matrix
