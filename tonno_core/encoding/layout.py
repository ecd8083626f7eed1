"""The memory layout in which an encoder runs fastest on a device: measured once, and remembered.

Channels last is faster for most networks, but up to 1.25 times slower for some (group norm in bfloat16). Both layouts
give the same answers but for rounding. So that a repeated run gives the very same bits, the choice is made once per
device, torch, network, slice size and precision, and read from a file of the user's cache ever after; where that file
cannot be written, nothing is measured and the layout is channels last. ``TONNO_PROBE=off`` does the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import sys
import timeit
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from tonno_core.encoding.classifier import Classifier
from tonno_core.encoding.device import cpu_has_bfloat16_units
from tonno_core.errors import TonnoError
from tonno_core.output import atomic_file

SWITCH = "TONNO_PROBE"
CHANNELS_LAST, CONTIGUOUS = "channels-last", "contiguous"
_LAYOUTS = {CHANNELS_LAST: torch.channels_last, CONTIGUOUS: torch.contiguous_format}
# So many times as fast another layout than channels last must be: more than a busy machine's noise.
_CLEARLY = 1.1
_REPEATS, _SECONDS, _SLICES = 3, 0.1, (4, 32)


def settle_layout(encoder: Classifier, name: str, size: int) -> str:
    """Put an encoder into its fastest layout for slices of ``size`` pixels; returns which. name: of the network."""
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "no") or not encoder.images:
        return CHANNELS_LAST
    path = _cache() / f"{_key(encoder, name, size)}.json"
    chosen = _remembered(path)
    if chosen is None and _remember(path, CHANNELS_LAST):  # else it could not be remembered
        chosen = faster(encoder, size)
        _remember(path, chosen)
    encoder.set_layout(_LAYOUTS[chosen or CHANNELS_LAST])
    return chosen or CHANNELS_LAST


def faster(encoder: Classifier, size: int, clock: Callable[[Callable[[], object]], float] | None = None) -> str:
    """Measure both layouts in turn. clock: seconds of a call, torch's own by default."""
    measure = clock or (lambda action: _seconds(action, encoder.device))
    slices = torch.zeros(_SLICES[0], size, size, device=encoder.device)
    encoder.logits(slices)  # what is done once is not counted
    if measure(lambda: encoder.logits(slices)) < _SECONDS:
        slices = torch.zeros(_SLICES[1], size, size, device=encoder.device)
    ratios = []
    for _ in range(_REPEATS):
        seconds = []
        for layout in _LAYOUTS.values():
            encoder.set_layout(layout)
            encoder.logits(slices)
            seconds.append(measure(lambda: encoder.logits(slices)))
        ratios.append(seconds[0] / seconds[1])
    return CONTIGUOUS if statistics.median(ratios) > _CLEARLY else CHANNELS_LAST


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    def synchronized() -> None:
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return timeit.timeit(synchronized, number=1)


def _key(encoder: Classifier, name: str, size: int) -> str:
    device = encoder.device
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {_processor()}"
    parts = (hardware, torch.__version__, name, encoder.channels, encoder.norms, size, encoder.precision)
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:24]


def _processor() -> str:
    """What the CPU can do, which is what decides."""
    return f"{torch.backends.cpu.get_cpu_capability()} {'AMX' if cpu_has_bfloat16_units() else ''}"


def _cache() -> Path:
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "tonno" / "layouts"


def _remembered(path: Path) -> str | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        layout = json.loads(path.read_text(encoding="utf-8"))["layout"]
        return str(layout) if layout in _LAYOUTS else None
    return None


def _remember(path: Path, layout: str) -> bool:
    try:
        with atomic_file(path, make_folders=True) as partial:
            partial.write_text(json.dumps({"layout": layout}) + "\n", encoding="utf-8")
    except TonnoError:  # a home that may not be written
        return False
    return True
