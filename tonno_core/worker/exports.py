"""Files that take seconds: a compressed volume, the pictures of a report. Free of torch.

A client describes them as an `Export`, and sends its `fields` with the request ``export``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tonno_core.errors import first_line
from tonno_core.output import Json
from tonno_core.pictures.colours import COLD_HOT, PALETTES
from tonno_core.pictures.drawing import Scene
from tonno_core.pictures.report import Line, Mark, Point, draw_finding, draw_profiles
from tonno_core.protocol import ProtocolError
from tonno_core.slicing.profile import Profile
from tonno_core.volume.volume import Forms, Volume
from tonno_core.worker.failures import MissingPackage
from tonno_core.worker.files import read_array
from tonno_core.worker.job import Job
from tonno_core.worker.requests import field_of, matrix_of


@dataclass(frozen=True)
class Picture:
    """A picture of a finding: see `draw_finding`.

    Attributes:
        file: The name of its file.
        centre_ras: Where its planes meet (RAS mm).
        lines: Diameters in the axial plane, by their ends (RAS mm).
    """

    file: str
    centre_ras: Point
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Export:
    """Files to be written: a volume, or the pictures of a report.

    Attributes:
        volume: The volume for volume_file; None writes none.
        volume_file: Its name, which ends with .nrrd, .nii.gz or .nii.
        scene: What the pictures of findings show; None draws none.
        pictures: A picture for each finding.
        profiles: The classifier's answers along the patient's axes, for profiles_file; empty draws none.
        profiles_file: The name of their picture.
        marks: The findings in the picture of the profiles.
    """

    volume: Volume | None = None
    volume_file: str = ""
    scene: Scene | None = None
    pictures: tuple[Picture, ...] = ()
    profiles: tuple[Profile, ...] = ()
    profiles_file: str = ""
    marks: tuple[Mark, ...] = ()

    @property
    def files(self) -> list[str]:
        """Return the names of the files, in the order in which they are written."""
        volume, profiles = self.volume_file if self.volume else "", self.profiles_file if self.profiles else ""
        return [name for name in (volume, *(picture.file for picture in self.pictures), profiles) if name]

    def write(self, folder: Path) -> Iterator[str]:
        """Write the files, one at each step.

        Args:
            folder: Where they go; it must be there.

        Yields:
            The name of each file when it is whole.

        Raises:
            TonnoError: If a file cannot be written.
        """
        if self.volume is not None:
            from tonno_core.volume.io import write_volume

            write_volume(self.volume, folder / self.volume_file)
            yield self.volume_file
        if self.scene is not None:
            for picture in self.pictures:
                draw_finding(folder / picture.file, self.scene, picture.centre_ras, picture.lines)
                yield picture.file
        if self.profiles:
            draw_profiles(folder / self.profiles_file, self.profiles, self.marks)
            yield self.profiles_file

    def fields(self, folder: Path) -> Json:
        """Return the fields of the request, and save the voxels that they name as ``.npy`` files.

        Args:
            folder: Where the voxels go; it must be there.

        Returns:
            What JSON can hold, by the names of the attributes.
        """
        encoded: Json = _encoded(self, folder / "export")
        if encoded["scene"]:  # what earlier engines do not know is left out where it has its default
            for name, default in (("odds", False), ("colours", COLD_HOT)):
                if encoded["scene"][name] == default:
                    del encoded["scene"][name]
        return encoded

    @staticmethod
    def of(fields: Json) -> Export:
        """Read an export from a request, with its voxels.

        Args:
            fields: What the method `fields` has returned; what is absent is left out.

        Returns:
            The same export.

        Raises:
            ProtocolError: If a field is missing or wrong.
        """
        try:
            volume, scene = fields.get("volume"), fields.get("scene")
            return Export(
                None if volume is None else _volume(volume),
                fields.get("volume_file", ""),
                None if scene is None else _scene(**scene),
                tuple(Picture(**picture) for picture in fields.get("pictures", ())),
                tuple(_profile(**profile) for profile in fields.get("profiles", ())),
                fields.get("profiles_file", ""),
                tuple(fields.get("marks", ())),
            )
        except (AttributeError, EOFError, LookupError, OSError, TypeError, ValueError) as error:
            raise ProtocolError(f"a field of the export is missing or wrong ({first_line(error)})") from None


def write_files(job: Job) -> None:
    """Answer an ``export`` with ``result``; a cancel waits for the end of the file that is being written.

    Args:
        job: The request.

    Raises:
        Exception: What `failure_of` knows.
    """
    folder, export = Path(field_of(job.fields, "folder", str)), Export.of(job.fields)
    for name in export.files:
        if not isinstance(name, str) or name != Path(name).name or name == ".." or "\\" in name:
            raise ProtocolError(f"a file of the export is {name!r:.80}, expected the name of one in its folder")
    job.step("writing", total=len(export.files))
    try:
        files = export.write(folder)
        for done in range(1, len(export.files) + 1):
            with job.writing():
                next(files)
            job.progress(done, len(export.files))
    except ImportError as error:
        raise MissingPackage(str(error)) from error
    job.finish("result", files=export.files)


def _encoded(value: Any, path: Path) -> Any:
    """Return what JSON holds for a value; arrays of three axes go to files beside the path."""
    if is_dataclass(value):
        return {
            field.name: _encoded(getattr(value, field.name), path.with_name(f"{path.name}-{field.name}"))
            for field in fields(value)
        }
    if isinstance(value, tuple):
        return [_encoded(item, path) for item in value]
    if not isinstance(value, np.ndarray):
        return value
    if value.ndim < 3:
        return value.tolist()
    np.save(path.with_suffix(".npy"), value)
    return str(path.with_suffix(".npy"))


def _volume(fields: Json) -> Volume:
    stated = fields.get("forms")
    forms = None if stated is None else Forms(**{name: _tuple(value) for name, value in stated.items()})
    return Volume(read_array(Path(fields["array"])), matrix_of(fields, "ijk_to_ras"), forms)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _scene(
    image: Json,
    heatmap: Json,
    mask: str,
    *,
    window: list[float] | None = None,
    truth: str | None = None,
    **marks: Any,
) -> Scene:
    limits = None if window is None else (window[0], window[1])
    true = None if truth is None else read_array(Path(truth))
    if marks.get("colours", COLD_HOT) not in PALETTES:
        raise ValueError(f"colours {marks['colours']!r} are unknown")
    return Scene(_volume(image), _volume(heatmap), read_array(Path(mask)), window=limits, truth=true, **marks)


def _profile(axis: str, offsets_mm: list[float], logits: list[float], normal_ras: list[float] | None = None) -> Profile:
    return Profile(axis, np.array(offsets_mm), np.array(logits), None if normal_ras is None else np.array(normal_ras))
