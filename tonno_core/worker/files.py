"""Arrays as files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tonno_core.output import PARTIAL, atomic_file

if TYPE_CHECKING:
    import numpy.typing as npt

    from tonno_core.worker.job import Job

# Between two parts of this many bytes a cancel is heard.
_PART = 8 << 20


def write_array(path: Path, array: npt.NDArray[Any], job: Job) -> str:
    """Write a ``.npy`` file and return its path; the folder must be there.

    Raises TonnoError whose cause has the system's number (numpy's own writer loses that of a full disk), and Cancelled.
    """
    plain = np.ascontiguousarray(array)
    with job.writing(), atomic_file(path) as partial, partial.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(plain))
        data = plain.data.cast("B")
        for start in range(0, len(data), _PART):
            job.check()
            file.write(data[start : start + _PART])
    return os.fspath(path)


def remove_partial(folder: Path) -> None:
    """Remove what was being written when the process has to end at once."""
    for partial in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(partial, ignore_errors=True)
