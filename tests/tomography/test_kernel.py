"""The Triton kernel, in Triton's interpreter (on the CPU), against the plain way."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from tonno_core.slicing.directions import hemisphere
from tonno_core.tomography.backprojection import Backprojector
from tonno_core.volume.grid import ijk_to_grid

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton, which torch for Linux brings")

# In a process of its own: the interpreter is chosen when Triton is imported.
INTERPRETED = """
import sys, numpy as np, torch
from tonno_core.tomography.kernel import KernelProfiles
given = np.load(sys.argv[1])
shape = tuple(int(n) for n in given["shape"])
wanted = torch.as_tensor(given["wanted"])
sums = KernelProfiles(shape, given["matrix"], wanted, torch.zeros(()))
profiles = torch.as_tensor(given["profiles"])
for part in (slice(0, 5), slice(5, None)):
    sums.add(profiles[part], given["normals"][part])
np.save(sys.argv[2], sums.total().numpy())
"""


def smooth(count: int, offsets: int) -> torch.Tensor:
    """Profiles that end at zero: behind their ends a node may fall on either side by rounding."""
    s = np.linspace(-1, 1, offsets)
    return torch.as_tensor(np.stack([np.cos(s * np.pi / 2) * np.sin(s * (3 + k)) for k in range(count)])).float()


def test_the_kernel_equals_the_plain_way(tmp_path: object) -> None:
    shape, count, radius = (13, 11, 12), 17, 1.2
    matrix = ijk_to_grid(shape[::-1])
    turn = np.eye(4)
    turn[:3, :3] = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    matrix = turn @ matrix
    normals, profiles = hemisphere(count), smooth(count, 33)
    plain = Backprojector(shape, matrix, "cpu", torch.float64, radius=radius)
    plain.add_profiles(profiles.double(), normals)
    k, j, i = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    points = np.stack([i, j, k], axis=-1) @ matrix[:3, :3].T + matrix[:3, 3]
    given, found = f"{tmp_path}/given.npz", f"{tmp_path}/found.npy"
    np.savez(
        given, shape=shape, matrix=matrix, normals=normals, profiles=profiles.numpy(),
        wanted=(points**2).sum(-1) <= radius**2,
    )  # fmt: skip
    subprocess.run(
        [sys.executable, "-c", INTERPRETED, given, found],
        check=True, env={**os.environ, "TRITON_INTERPRET": "1"}, timeout=300,
    )  # fmt: skip
    expected = plain.profile_mean.flatten().numpy() * count
    # float32 positions of 33 offsets are good to 4e-6 steps, as are sums of 17 terms.
    np.testing.assert_allclose(np.load(found), expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected).max() > 1


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernel_on_a_gpu() -> None:
    from tonno_core.tomography.kernel import KernelProfiles

    shape, normals, profiles = (24, 20, 22), hemisphere(50), smooth(50, 96)
    plain = Backprojector(shape, ijk_to_grid(shape[::-1]), "cpu", torch.float64)
    plain.add_profiles(profiles.double(), normals)
    kernel = KernelProfiles(shape, ijk_to_grid(shape[::-1]), None, torch.zeros((), device="cuda"))
    kernel.add(profiles.cuda(), normals)
    expected = plain.profile_mean.flatten() * 50
    torch.testing.assert_close(kernel.total().cpu().double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_where_the_kernel_cannot_run_the_plain_way_remains() -> None:
    # Triton has no compiler for CPUs, and this process no interpreter: what a GPU that it does not know looks like.
    from tonno_core.tomography.backprojection import _kernel

    assert _kernel(torch.device("cpu")) is None
