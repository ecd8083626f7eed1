"""The devices that this torch can compute on."""

from __future__ import annotations

import os

import torch

from tonno_core.errors import first_line
from tonno_core.output import Json
from tonno_core.worker.versions import light_versions


def describe() -> Json:
    """Describe devices and versions.

    Returns:
        The fields of a ``description`` event; the best device comes first.
    """
    devices = [_cuda(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        devices.append(_device("mps", "Apple GPU", *_main_memory()))
    devices.append(_device("cpu", f"CPU, {torch.get_num_threads()} threads", *_main_memory()))
    return {"devices": devices, **light_versions(), "torch": torch.__version__}


def _cuda(index: int) -> Json:
    name = f"cuda:{index}"
    try:
        shown = torch.cuda.get_device_name(index)
        free, total = torch.cuda.mem_get_info(index)
        # The only sure test: a card whose architecture this torch was not built for fails at its first kernel.
        float(torch.ones(8, device=name).sum())
    except RuntimeError as error:
        major, minor = torch.cuda.get_device_capability(index)
        built = ", ".join(torch.cuda.get_arch_list())
        problem = f"{first_line(error)} (the card is sm_{major}{minor}; this PyTorch was built for {built})"
        return _device(name, torch.cuda.get_device_name(index), None, None, problem)
    return _device(name, shown, free, total)


def _device(name: str, shown: str, free: int | None, total: int | None, problem: str | None = None) -> Json:
    return {
        "name": name,
        "kind": name.split(":")[0],
        "title": shown,
        "free_bytes": free,
        "total_bytes": total,
        "usable": problem is None,
        "problem": problem,
    }


def _main_memory() -> tuple[int | None, int | None]:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page
    except (AttributeError, ValueError, OSError):  # Windows, macOS: not told
        return None, None
