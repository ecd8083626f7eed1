"""The kernels' proof: it compiles what reconstructions run, once, and may begin before anybody needs it."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.networks import write_random_bundle
from tests.triton_kernels import needs_triton
from tonno_core import ReconstructionSettings, Volume, kernels, reconstruct
from tonno_core.slicing.directions import hemisphere
from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography.grid import Nodes, TargetGrid

CPU = torch.device("cpu")
# A device that no machine has, so that what the stand-in leaves behind meets no real one.
_NOWHERE = 99


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that Triton would compile for a GPU of compute capability 9.0, one by one, as they are launched.

    Triton itself tells new code from code that it has; nothing is compiled or run, and every result is -1.
    """
    triton = pytest.importorskip("triton", minversion="3.4", reason="counts by the interface of Triton 3.4")
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    found: list[str] = []
    stand_in = SimpleNamespace(
        get_current_device=lambda: _NOWHERE, get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
    )  # fmt: skip
    run = JITFunction.run

    def launch(kernel: Any, *arguments: Any, **options: Any) -> None:
        seen = kernel.device_caches[_NOWHERE][1]
        before = len(seen)
        run(kernel, *arguments, **{**options, "warmup": True})
        found.extend([kernel.fn.__name__] * (len(seen) - before))
        arguments[0].fill_(-1.0)

    monkeypatch.setattr(triton.knobs.runtime, "jit_cache_hook", lambda **compilation: True)  # in place of compiling
    monkeypatch.setattr(JITFunction, "run", launch)
    # Its setter cannot put back "not chosen yet", which is so where there is no GPU.
    monkeypatch.setattr(driver, "_active" if hasattr(driver, "_active") else "active", stand_in)
    return found


@needs_triton
def test_importing_ahead_needs_a_gpu_and_spares_a_proof_the_hash_of_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = pytest.importorskip("triton.runtime.cache")
    if not hasattr(cache, "triton_key"):
        pytest.skip("this Triton hashes itself elsewhere")
    hashed, used = list[None](), torch.cuda.is_initialized()
    monkeypatch.setattr(cache, "triton_key", lambda: hashed.append(None))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    kernels.import_ahead()
    assert not hashed
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    kernels.import_ahead()
    assert hashed
    assert torch.cuda.is_initialized() == used
    monkeypatch.delattr(cache, "triton_key")
    kernels.import_ahead()  # what is missing is left out


@needs_triton
def test_all_volumes_and_batches_run_what_the_proof_compiled(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tonno_core.slicing import kernel as slicing
    from tonno_core.tomography import kernel as tomography

    with monkeypatch.context() as context:
        context.setattr(torch, "allclose", lambda *values: True)  # -1 is no right result
        assert slicing.works(CPU)
        assert tomography.works(CPU)
    # Voxels in float32 and in float16; profiles; maps.
    assert sorted(compiled) == ["_add_maps", "_add_profiles", "_sample_planes", "_sample_planes"]

    for shape in ((94, 114, 100), (96, 112, 64), (97, 112, 64), (1, 256, 181)):
        for dtype in (torch.float16, torch.float32):
            for pixels in (64, 96, 224):
                slicing.sample_planes(torch.zeros(shape, dtype=dtype), torch.zeros(6, 3, 3)[1:], pixels, 0.5)
    # Presets fast, balanced and paper: directions of a batch and of the last, cells of the last two stages.
    for count, last, offsets, cells in ((41, 14, 48, 3), (31, 8, 64, 6), (3, 1, 100, 7), (32, 16, 64, 1)):
        nodes = Nodes(TargetGrid((offsets,) * 3, np.eye(4)), torch.zeros(0))
        plan = SlicePlan(np.eye(4), hemisphere(count + last), offsets, 96)
        batches = (slice(0, count), slice(count, count + last))
        profiles = tomography.KernelProfiles(nodes)
        for which in batches:
            number = which.stop - which.start
            profiles.add(torch.zeros(number, offsets), plan, which)
            for channels in (1, 3):
                of_stage = torch.zeros(number, channels, offsets, cells, cells)
                tomography.KernelMaps(nodes, channels).add(of_stage, plan, which)
    assert len(compiled) == 4


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", [(33, 30, 41), (32, 48, 64)])
def test_a_run_on_a_gpu_compiles_nothing_that_the_proof_has_not(shape: tuple[int, int, int], tmp_path: Path) -> None:
    from tonno_core.slicing import kernel as slicing
    from tonno_core.tomography import kernel as tomography

    device = torch.device("cuda", torch.cuda.current_device())
    assert set(kernels.status(device).values()) == {"triton"}
    launched = (slicing._sample_planes, tomography._add_profiles, tomography._add_maps)
    before = [len(each.device_caches[device.index][0]) for each in launched]
    settings = ReconstructionSettings(methods=("tonno", "matched-cam"), slices=24, directions=50)
    image = Volume(np.random.default_rng(0).random(shape, dtype=np.float32), np.eye(4))
    reconstruct(image, write_random_bundle(tmp_path / "model"), settings, device="cuda", progress=False)
    assert [len(each.device_caches[device.index][0]) for each in launched] == before


def test_a_proof_that_has_begun_is_waited_for_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on, proofs = threading.Event(), threading.Event(), []

    def works(device: torch.device) -> bool:
        proofs.append(device)
        began.set()
        return go_on.wait(60)

    module = SimpleNamespace(works=works)
    monkeypatch.setattr(kernels, "import_module", lambda name: module)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 7)
    kernels.prove_ahead(CPU)  # nothing to prove
    kernels.prove_ahead(torch.device("cuda"))
    assert began.wait(60)
    # Each of them would call `works` if it did not wait for the one that runs.
    waiting = [
        threading.Thread(target=kernels.load, args=("slicing", device, torch.float32))
        for device in (torch.device("cuda"), torch.device("cuda:7"))
    ]
    for thread in waiting:
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
    go_on.set()
    for thread in waiting:
        thread.join(60)
    assert kernels.load("backprojection", torch.device("cuda:7"), torch.float32) is module
    assert proofs == [torch.device("cuda:7")] * 2  # of each kernel once
    kernels._tested.cache_clear()


def test_a_proof_that_lacks_memory_is_repeated_by_who_needs_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def full(name: str) -> None:
        asked.append(name)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(kernels, "import_module", full)
    cuda = torch.device("cuda:6")
    kernels._prove(cuda)
    with pytest.raises(torch.OutOfMemoryError):
        kernels.load("slicing", cuda, torch.float32)
    assert len(asked) == 3  # of both kernels, then of one again
