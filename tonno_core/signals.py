"""Signals that ask a run to end: of a terminal, a scheduler, or whoever closed the connection."""

from __future__ import annotations

import os
import signal
import stat

# SIGHUP comes when the connection to the terminal is lost, SIGUSR1 from Slurm before a job's time is up (--signal).
_ASKING = ("SIGTERM", "SIGHUP", "SIGUSR1")


def ending_signals() -> list[signal.Signals]:
    """List the signals, beside Ctrl-C, that ask this process to end.

    Returns:
        Those that the system has and this process does not ignore, as `nohup` makes it ignore SIGHUP.
    """
    known = [getattr(signal, name) for name in _ASKING if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]


def drop_terminal(number: int) -> None:
    """Send what is written to a lost terminal nowhere, where it would raise an error in whoever writes.

    Args:
        number: The signal; of no effect but for SIGHUP.
    """
    if number != getattr(signal, "SIGHUP", None):
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        if _is_gone(descriptor):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _is_gone(descriptor: int) -> bool:
    """Tell whether nothing can be written any more; a terminal that hung up is no terminal."""
    try:
        return stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor)
    except OSError:
        return False
