"""A test of whether a process lives."""

from __future__ import annotations

import os
import sys


def is_alive(pid: int) -> bool:
    """Tell whether a process lives.

    Args:
        pid: The process number.

    Returns:
        True for a process of this number, on POSIX also for one that has ended but was not waited for.
    """
    if sys.platform == "win32":
        return _is_alive_on_windows(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _is_alive_on_windows(pid: int) -> bool:
    # os.kill would end it there.
    import ctypes

    synchronize, timeout = 0x00100000, 0x102
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
    handle = kernel.OpenProcess(synchronize, False, pid)
    if not handle:
        return False
    try:
        return bool(kernel.WaitForSingleObject(handle, 0) == timeout)
    finally:
        kernel.CloseHandle(handle)
