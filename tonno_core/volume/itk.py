"""Calls into ITK whose failures become one clean line, whatever its libraries print and throw."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tonno_core.errors import TonnoError

_STDERR_LOCK = threading.Lock()
_T = TypeVar("_T")


def run_itk(path: Path, action: Callable[[], _T]) -> _T:
    """Call ITK; its multi-line exceptions become one TonnoError.

    Args:
        path: the file that it is about, for messages.
        action: what to call.

    Returns:
        What ``action`` returns.

    Raises:
        TonnoError: ITK failed, or printed that the file is damaged.
    """
    failed = False
    with captured_stderr() as printed:
        try:
            result = action()
        except RuntimeError as error:
            failed = True
            printed.append(str(error))
    text = "\n".join(printed)
    if "only supports orthonormal direction" in text:
        raise TonnoError(f"{path}: the axes of its affine are sheared or singular; resample or repair it")
    if "unexpected scales in sform" in text:
        raise TonnoError(f"{path}: its sform and pixdim give different spacings; repair the header")
    # MetaIO reports damage on stderr only (versions differ in what they report otherwise).
    if failed or "Uncompress failed" in text or "data not read completely" in text:
        raise TonnoError(
            f"{path}: cannot be read; it is truncated, damaged or in another format: export or copy it again"
        )
    return result


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Capture what C++ libraries print to file descriptor 2, past ITK's switches, while a block runs.

    Yields:
        A list that holds the lines after the block.
    """
    lines: list[str] = []
    if sys.stderr is not None:
        sys.stderr.flush()
    with _STDERR_LOCK, tempfile.TemporaryFile() as sink:
        try:
            saved = os.dup(2)
        except OSError:  # a windowed application has no stderr
            yield lines
            return
        os.dup2(sink.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            sink.seek(0)
            lines += sink.read().decode(errors="replace").splitlines()
