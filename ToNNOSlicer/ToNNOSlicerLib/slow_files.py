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
from tonno_core.evaluation.profile import Profile
from tonno_core.volume.volume import Volume

_ARRAYS = ("heatmap", "image", "mask")
_MATRICES = ("heatmapToFile", "heatmapToWorld", "imageToWorld")
_JOB = "job.json"
REFUSED = 2  # the exit code where the last line on stderr is for the user


@dataclass(frozen=True)
class Picture:
    """Three planes through a point (RAS mm in the world; None: the heatmap's peak)."""

    file: str
    title: str
    subtitle: str
    centreRAS: tuple[float, float, float] | None


@dataclass(frozen=True)
class SlowFiles:
    """A heatmap's file, and pictures with image and mask.

    heatmap, image: Z Y X float32. mask: Z Y X uint8 on the heatmap's grid. heatmapToFile, heatmapToWorld, imageToWorld:
    4 x 4 from voxel (i, j, k) to RAS mm, in the file and in the world. Without pictures the rest may be missing.
    """

    heatmap: np.ndarray
    heatmapToFile: np.ndarray
    heatmapFile: str
    pictures: tuple[Picture, ...] = ()
    heatmapToWorld: np.ndarray | None = None
    image: np.ndarray | None = None
    imageToWorld: np.ndarray | None = None
    mask: np.ndarray | None = None
    profiles: tuple[Profile, ...] = ()

    @property
    def names(self) -> list[str]:
        return [self.heatmapFile, *(picture.file for picture in self.pictures)]


def write(files: SlowFiles, place: Path) -> Iterator[str]:
    """Write into the folder, and yield each file's name when it is whole. Raises TonnoError where that fails."""
    from tonno_core.volume.io import write_volume

    write_volume(Volume(files.heatmap, files.heatmapToFile), place / files.heatmapFile)
    yield files.heatmapFile
    for picture in files.pictures:
        _draw(files, picture, place)
        yield picture.file


def _draw(files: SlowFiles, picture: Picture, place: Path) -> None:
    from tonno_core.evaluation.overview import write_overview

    write_overview(
        place / picture.file,
        Volume(files.image, files.imageToWorld),
        Volume(files.heatmap, files.heatmapToWorld),
        files.mask,
        profiles=files.profiles,
        title=picture.title,
        subtitle=picture.subtitle,
        centre_ras=picture.centreRAS,
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
    rest["pictures"] = tuple(Picture(**one) for one in rest["pictures"])
    profiles = ((one["axis"], np.array(one["offsets_mm"]), np.array(one["logits"])) for one in rest["profiles"])
    rest["profiles"] = tuple(Profile(*one) for one in profiles)
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
