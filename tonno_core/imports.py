"""What makes importing large packages quicker."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage while packages are imported, nor later among what they have defined: it is there to stay.

    Python would look through the several 100,000 objects of torch again and again, for a sixth of the time. Where
    nothing was imported, nothing is set aside: garbage would be with it.

    Yields:
        Nothing.
    """
    collects, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:
            gc.freeze()
        if collects:
            gc.enable()
