"""Arrays as files that appear whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from tonno_core.worker.job import Job

_PARTIAL = ".partial"
# Between two parts of this many bytes a cancel is heard.
_PART = 8 << 20


def write_array(path: Path, array: npt.NDArray[Any], job: Job) -> str:
    """Write a ``.npy`` file and return its path; the folder must be there.

    Raises OSError with its number (numpy's own writer loses that of a full disk), and Cancelled.
    """
    partial = path.with_name(path.name + _PARTIAL)
    plain = np.ascontiguousarray(array)
    with job.writing():
        try:
            with partial.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(plain))
                data = plain.data.cast("B")
                for start in range(0, len(data), _PART):
                    job.check()
                    file.write(data[start : start + _PART])
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
    return os.fspath(path)


def remove_partial(folder: Path) -> None:
    """Remove what was being written when the process has to end at once."""
    with suppress(OSError):
        for partial in folder.glob(f"*{_PARTIAL}"):
            with suppress(OSError):
                partial.unlink()
