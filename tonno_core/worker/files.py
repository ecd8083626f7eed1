"""Arrays as files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tonno_core.errors import first_line
from tonno_core.output import PARTIAL, atomic_file

if TYPE_CHECKING:
    import numpy.typing as npt

    from tonno_core.worker.job import Job

# NumPy's own format, of whose functions NumPy of before 2.3 does not tell the types.
_NPY: Any = np.lib.format
# Between two parts of this many bytes a cancel is heard.
_PART = 8 << 20


def read_array(path: Path) -> npt.NDArray[Any]:
    """Read a ``.npy`` file of numbers. It is mapped first: a header that claims more than the file holds takes nothing.

    Args:
        path: The file.

    Returns:
        A copy in memory.

    Raises:
        OSError: The file is missing or cannot be opened.
        ValueError: It holds something else, objects included, or is cut off.
    """
    try:
        return np.array(_NPY.open_memmap(path, mode="r"))
    except OSError:
        raise
    except Exception as error:  # a damaged header makes numpy's parser raise nearly any kind
        raise ValueError(f"no file of numbers ({first_line(error)})") from error


def write_array(path: Path, array: npt.NDArray[Any], job: Job) -> str:
    """Write a ``.npy`` file that appears whole or not at all.

    Args:
        path: The file, in a folder that exists.
        array: Its content.
        job: The request; a cancel is heard between two parts of the file.

    Returns:
        The path as text.

    Raises:
        TonnoError: The file cannot be written. The cause is the system's own error, with the number of a full disk,
            which numpy's writer would lose.
        Cancelled: The request was cancelled.
    """
    plain = np.ascontiguousarray(array)
    with job.writing(), atomic_file(path) as partial, partial.open("wb") as file:
        _NPY.write_array_header_1_0(file, _NPY.header_data_from_array_1_0(plain))
        data = plain.data.cast("B")
        for start in range(0, len(data), _PART):
            job.check()
            file.write(data[start : start + _PART])
    return os.fspath(path)


def remove_partial(folder: Path) -> None:
    """Remove what was being written when the process has to end at once.

    Args:
        folder: The folder of a request.
    """
    for partial in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(partial, ignore_errors=True)
