"""The files of an export that take seconds: pictures and compressed volumes. Neither Qt nor MRML.

`write` writes them; ``python -m ToNNOSlicerLib.slow_files FOLDER PLACE`` does so in a process of its own, with what
`save` has laid into FOLDER, so that nobody's window stands still.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from tonno_core.errors import TonnoError
from tonno_core.slicing.profile import Profile
from tonno_core.volume.volume import Volume

_ARRAYS = ("heatmap", "image", "mask")
_MATRICES = ("heatmapToFile", "heatmapToWorld", "imageToWorld")
_JOB = "job.json"
REFUSED = 2  # the exit code where the last line on stderr is for the user


@dataclass(frozen=True)
class Picture:
    """Three planes through a point (RAS mm in the world), with lines in the axial one by their ends."""

    file: str
    centerRAS: tuple[float, float, float]
    lines: tuple = ()


@dataclass(frozen=True)
class SlowFiles:
    """A heatmap's file, or pictures with image and mask.

    heatmap, image: Z Y X float32. mask: Z Y X uint8 on the heatmap's grid. heatmapToFile, heatmapToWorld, imageToWorld:
    4 x 4 from voxel (i, j, k) to RAS mm, in the file and in the world. heatmapFile: "" for none. threshold: to be
    marked in the pictures. window: the image's values that are black and white, None: nearly all. profiles, marks: of
    the picture profilesFile ("" for none), the classifier's answers, and the findings' names and places. What no file
    needs may be missing.
    """

    heatmap: np.ndarray
    heatmapToFile: np.ndarray
    heatmapFile: str = ""
    pictures: tuple[Picture, ...] = ()
    heatmapToWorld: np.ndarray | None = None
    image: np.ndarray | None = None
    imageToWorld: np.ndarray | None = None
    mask: np.ndarray | None = None
    threshold: float | None = None
    window: tuple[float, float] | None = None
    profilesFile: str = ""
    profiles: tuple[Profile, ...] = ()
    marks: tuple = ()

    @property
    def names(self) -> list[str]:
        files = [self.heatmapFile, *(picture.file for picture in self.pictures), self.profilesFile]
        return [file for file in files if file]


def write(files: SlowFiles, place: Path) -> Iterator[str]:
    """Write into the folder, and yield each file's name when it is whole. Raises TonnoError where that fails."""
    if files.heatmapFile:
        from tonno_core.volume.io import write_volume

        write_volume(Volume(files.heatmap, files.heatmapToFile), place / files.heatmapFile)
        yield files.heatmapFile
    for picture in files.pictures:
        _draw(files, picture, place)
        yield picture.file
    if files.profilesFile:
        from ToNNOSlicerLib.report_pictures import drawProfiles

        drawProfiles(place / files.profilesFile, files.profiles, files.marks)
        yield files.profilesFile


def _draw(files: SlowFiles, picture: Picture, place: Path) -> None:
    from ToNNOSlicerLib.report_pictures import drawFinding

    drawFinding(
        place / picture.file,
        Volume(files.image, files.imageToWorld),
        Volume(files.heatmap, files.heatmapToWorld),
        files.mask,
        picture.centerRAS,
        picture.lines,
        files.threshold,
        files.window,
    )


def save(files: SlowFiles, folder: Path) -> None:
    """What `load` reads, in another process: arrays as .npy, the rest as JSON."""
    for name in _ARRAYS:
        array = getattr(files, name)
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    rest = asdict(replace(files, **dict.fromkeys(_ARRAYS)))
    (folder / _JOB).write_text(json.dumps(rest, default=np.ndarray.tolist), encoding="utf-8")


def load(folder: Path) -> SlowFiles:
    rest = json.loads((folder / _JOB).read_text(encoding="utf-8"))
    rest |= {name: np.load(folder / f"{name}.npy") for name in _ARRAYS if (folder / f"{name}.npy").exists()}
    rest |= {name: np.array(rest[name]) for name in _MATRICES if rest[name] is not None}
    rest["pictures"] = tuple(Picture(**picture) for picture in rest["pictures"])
    rest["profiles"] = tuple(
        Profile(profile["axis"], np.array(profile["offsets_mm"]), np.array(profile["logits"]))
        for profile in rest["profiles"]
    )
    return SlowFiles(**rest)


def main(folder: str, place: str) -> int:
    try:
        for _name in write(load(Path(folder)), Path(place)):
            pass
    except TonnoError as error:
        print(error, file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
