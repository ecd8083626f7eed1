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
    """Write a ``.npy`` file; it appears whole or not at all.

    Args:
        path: The file; its folder must be there.
        array: Any shape and dtype.
        job: The request, which may be cancelled while the file is written.

    Returns:
        The path as text.

    Raises:
        OSError: With its number (numpy's own writer loses that of a full disk).
        Cancelled: If the job was cancelled.
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
    """Remove unfinished files, when the process has to end at once.

    Args:
        folder: A request's folder.
    """
    with suppress(OSError):
        for partial in folder.glob(f"*{_PARTIAL}"):
            with suppress(OSError):
                partial.unlink()
