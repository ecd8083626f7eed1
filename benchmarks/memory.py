"""Memory of a reconstruction of a large CT in the paper's setting, by stage. Linux; on the CPU, with few directions.

    python benchmarks/memory.py [--size 512 512 600] [--directions 3] [--method tonno] [--preset paper]

The number of directions adds a number per plane and no more. Each stage is a fresh process, because a peak never falls.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

STAGES = ("import", "read", "prepare", "reconstruct", "all")
SPACING_MM = (0.7, 0.7, 1.0)


def write_body(path: Path, size: tuple[int, int, int]) -> None:
    """Write an ellipsoid of 40 HU in air, with bones, lungs and noise, as float32; slice by slice, so this stays small.

    Args:
        path: Image file.
        size: Voxels along i, j, k.
    """
    import SimpleITK as sitk

    i, j = (np.linspace(-1.0, 1.0, n, dtype=np.float32) for n in size[:2])
    rng = np.random.default_rng(0)
    image = np.empty(size[::-1], dtype=np.float32)
    for plane, z in zip(image, np.linspace(-1.0, 1.0, size[2]), strict=True):
        square = (i[None] / 0.9) ** 2 + (j[:, None] / 0.7) ** 2 + (z / 0.98) ** 2
        plane[:] = np.where(square < 1.0, 40.0, -1000.0)
        plane[((i[None] - 0.4) / 0.25) ** 2 + (j[:, None] / 0.4) ** 2 + (z / 0.5) ** 2 < 1.0] = -800.0
        plane[(i[None] / 0.08) ** 2 + ((j[:, None] - 0.45) / 0.1) ** 2 < 1.0] = 600.0
        plane += rng.normal(0.0, 15.0, plane.shape).astype(np.float32)
    written = sitk.GetImageFromArray(image)
    written.SetSpacing(SPACING_MM)
    sitk.WriteImage(written, str(path))


def run(stage: str, scan: Path, options: argparse.Namespace) -> None:
    """Run a stage, and all before it, in this process; print its peak memory in GiB.

    Args:
        stage: Name from `STAGES`.
        scan: Image file.
        options: Options of the command line.
    """
    from tonno_core.bundle.ready import prepare_model
    from tonno_core.commands.reconstruct import Scan, reconstruct_into, single_run
    from tonno_core.commands.request import Compute, Options, read_options
    from tonno_core.reconstruction import reconstruct
    from tonno_core.slicing.preparation import prepare_volume
    from tonno_core.volume.io import read_volume

    planes = {"directions": options.directions, "methods": (options.method,)}
    asked = Options(options.model, planes, options.preset)
    if stage == "all":
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "out"
            with single_run(output, asked, Compute("cpu")) as (prepared, progress, _):
                reconstruct_into(output, Scan(scan), prepared, progress=progress)
    elif stage != "import":
        request = read_options(asked)
        volume = read_volume(scan)
        if stage == "prepare":
            frame, intensity = request.settings.frame, "window:-150:250"
            prepare_volume(volume, frame=frame, intensity=intensity, slice_size=request.settings.slice_size or 96)
        elif stage == "reconstruct":
            reconstruct(volume, prepare_model(request.model, request.settings, "cpu"), request.settings)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def main() -> None:
    """Print the table, or run a single stage in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 600))
    parser.add_argument("--directions", type=int, default=3)
    parser.add_argument("--method", default="tonno")
    parser.add_argument("--model", default="pixel-sum")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--stage", choices=("write", *STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--scan", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage == "write":
        write_body(options.scan, tuple(options.size))
        return
    if options.stage:
        run(options.stage, options.scan, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.mha"
        print(f"{' x '.join(map(str, options.size))} voxels: {np.prod(options.size) * 4 / 2**30:.2f} GiB as float32")
        for stage in ("write", *options.stages):
            words = [sys.executable, __file__, *sys.argv[1:], "--stage", stage, "--scan", str(scan)]
            # The parent stays small: a process's peak counts from that of the one that started it.
            done = subprocess.run(words, stdout=subprocess.PIPE, encoding="utf-8", check=True)
            if stage == "write":
                continue
            print(f"{stage:12s} {float(done.stdout.split()[-1]):6.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
