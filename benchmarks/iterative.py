"""Matched CAM against an iterative reconstruction of the same maps: quality and cost side by side.

    python -m benchmarks.iterative [--directions 128] [--heads 4] [--picture iterative.png]

A map is taken for a volume's slice, averaged over each of its cells. That is a linear operator A from the nodes of the
reconstruction's grid to all maps. Matched CAM inverts it with one filter and one backprojection. The alternative is to
minimize the squared difference between A x and the maps by conjugate gradients on the normal equations
(`scipy.sparse.linalg.cg`), which needs A and its adjoint alone; neither is ever stored. Two kinds of maps are inverted:

- slices of the MNI brain, averaged over 32, 16 and 8 cells (the paper's Fig. 4): the truth is the image;
- the LayerCAM of the model that ships, of heads that it has not seen: the truth is where lesions were drawn.

Seconds are processor time of one thread. Matched CAM is timed after each iteration, so that both meet the same machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, cg
from tabulate import tabulate

from tonno_core.bundle.decide import Run, decide
from tonno_core.bundle.file import load_bundle
from tonno_core.bundle.ready import prepare_model
from tonno_core.commands.demo import LESIONS, MODEL
from tonno_core.demo.phantom import brain, make_phantom
from tonno_core.encoding.encoder import Encoder
from tonno_core.reconstruction.planes import Planes
from tonno_core.segmentation.metrics import best_dice
from tonno_core.segmenter.segmenter import Segmenter
from tonno_core.settings import ReconstructionSettings, Variant
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.preparation import PreparedVolume, prepare_volume
from tonno_core.slicing.sampling import SliceSource, sample_slices
from tonno_core.tomography.grid import Nodes, TargetGrid
from tonno_core.tomography.inversion import invert
from tonno_core.tomography.projection import BatchSize, Maps, Projections, Projector
from tonno_core.volume.grid import affine_points, ijk_to_grid, resample
from tonno_core.volume.volume import Volume

Array = npt.NDArray[np.float64]
# What a reconstruction is worth, by the names of a table's columns.
Quality = dict[str, float]

ITERATIONS = 20
SHOWN = (1, 2, 5, 10, 20)
# Samples along a map's side of about the pitch of 64 nodes: closer ones meet no other nodes.
SAMPLES = 48
# Directions in a batch of Matched CAM, about as many as in a run.
BATCH = 4
# Heads of the demo's seed and after, none of which the model has seen.
FIRST_HEAD = 7


class PooledSlices(LinearOperator):
    """The linear operator A from a volume to its slices, each averaged over the cells of a map.

    A volume is its values at the nodes of a grid, trilinear between and zero beyond them. Its rows are the cells of all
    maps, L T h h, its columns the nodes that the grid computes. The adjoint is the one that autograd derives from the
    operator itself, so it is exact but for rounding.
    """

    def __init__(
        self, plan: SlicePlan, grid: TargetGrid, cells: int, samples: int, dtype: torch.dtype = torch.float32
    ) -> None:
        """Prepare the operator.

        Args:
            plan: The planes; all their offsets are rows.
            grid: The nodes.
            cells: h, along a map's side.
            samples: Along a slice's side, a multiple of h. As many as the slice has pixels are these.
            dtype: Of the computation; vectors are float64.

        Raises:
            ValueError: The samples do not divide into cells.
        """
        if samples % cells:
            raise ValueError(f"{samples} samples are not a multiple of {cells} cells")
        self._plan, self._grid, self._cells, self._samples = plan, grid, cells, samples
        like = torch.empty(0, dtype=dtype)
        mask = Nodes(grid, like).mask()
        self._mask = torch.ones(grid.shape, dtype=torch.bool) if mask is None else mask
        z, y, x = grid.shape
        to_unit = ijk_to_grid((x, y, z)) @ np.linalg.inv(grid.ijk_to_frame) @ plan.slice_to_frame(slice(None))
        # Sample r of R is pixel (r + 1/2) S / R - 1/2 of those at 2 t / (S - 1) - 1.
        to_unit[:, :, :2] *= plan.pixels * (1.0 - 1.0 / samples) / (plan.pixels - 1.0)
        self._to_unit = torch.as_tensor(to_unit, dtype=dtype)
        rows = len(plan.directions) * (plan.slices + 2) * cells**2
        super().__init__(np.float64, (rows, int(self._mask.sum())))

    def volume(self, x: Array) -> torch.Tensor:
        """Put a vector of the operator's columns on the grid.

        Args:
            x: Values at the nodes that are computed.

        Returns:
            ``Z Y X``, zero at the others.
        """
        volume = torch.zeros(self._grid.shape, dtype=self._to_unit.dtype)
        volume[self._mask] = torch.as_tensor(x.ravel(), dtype=volume.dtype)
        return volume

    def vector(self, volume: torch.Tensor) -> Array:
        """Take the operator's columns from a volume.

        Args:
            volume: ``Z Y X``.

        Returns:
            Values at the nodes that are computed.
        """
        return np.asarray(volume[self._mask].numpy(), dtype=np.float64)

    def _maps(self, volume: torch.Tensor, direction: int) -> torch.Tensor:
        """Average the slices of a direction over cells: T h h."""
        shape = (self._plan.slices + 2, self._samples, self._samples)
        points = affine_points(self._to_unit[direction : direction + 1], shape)
        slices = F.grid_sample(volume[None, None], points, align_corners=True)[0]
        return F.avg_pool2d(slices, self._samples // self._cells)[0]

    def _matvec(self, x: Array) -> Array:
        volume = self.volume(x)
        maps = [self._maps(volume, direction).flatten() for direction in range(len(self._to_unit))]
        return np.asarray(torch.cat(maps).numpy(), dtype=np.float64)

    def _rmatvec(self, y: Array) -> Array:
        volume = torch.zeros(self._grid.shape, dtype=self._to_unit.dtype, requires_grad=True)
        shape = (len(self._to_unit), self._plan.slices + 2, self._cells, self._cells)
        total = torch.zeros_like(volume)
        for direction, values in enumerate(torch.as_tensor(y, dtype=volume.dtype).reshape(shape)):
            (gradient,) = torch.autograd.grad(self._maps(volume, direction), volume, values)
            total += gradient
        return self.vector(total)


@dataclass
class Comparison:
    """What came of one set of maps.

    Attributes:
        qualities: By name of the reconstruction.
        volumes: ``Z Y X`` on the nodes, likewise.
        matched: Seconds of Matched CAM, one for each time.
        iterative: Seconds of the adjoint at the start, and of each iteration.
        network: Seconds of the pass through the network, which both need.
    """

    qualities: dict[str, Quality] = field(default_factory=dict)
    volumes: dict[str, torch.Tensor] = field(default_factory=dict)
    matched: list[float] = field(default_factory=list)
    iterative: list[float] = field(default_factory=list)
    network: float = 0.0

    @property
    def ratio(self) -> float:
        """Seconds of all iterations over those of Matched CAM."""
        return sum(self.iterative) / float(np.median(self.matched))

    @property
    def whole_ratio(self) -> float:
        """The same of whole runs, with the pass through the network."""
        return (self.network + sum(self.iterative)) / (self.network + float(np.median(self.matched)))


def compare(
    operator: PooledSlices,
    plan: SlicePlan,
    grid: TargetGrid,
    maps: torch.Tensor,
    judge: Callable[[torch.Tensor], Quality],
) -> Comparison:
    """Reconstruct from maps by Averaged and Matched CAM, and by iterations, in turn.

    Args:
        operator: From the grid's nodes to the maps.
        plan: The planes.
        grid: The nodes.
        maps: ``L T h h``.
        judge: Measures a reconstruction ``Z Y X`` on the nodes.

    Returns:
        Qualities and seconds.
    """
    result = Comparison()

    def keep(name: str, volume: torch.Tensor) -> None:
        result.volumes[name], result.qualities[name] = volume, judge(volume)

    def time_matched() -> torch.Tensor:
        start = time.process_time()
        volume = direct(plan, grid, maps, "matched-cam")
        result.matched.append(time.process_time() - start)
        return volume

    keep("Averaged CAM", direct(plan, grid, maps, "averaged-cam"))
    keep("Matched CAM", time_matched())
    started = time.process_time()

    def after(x: Array) -> None:
        nonlocal started
        result.iterative.append(time.process_time() - started)
        number = len(result.iterative) - 1
        if number in SHOWN:
            keep(f"{number} iteration{'s' if number > 1 else ''}", operator.volume(x))
        time_matched()
        started = time.process_time()

    right = operator.rmatvec(np.asarray(maps.flatten().numpy(), dtype=np.float64))
    result.iterative.append(time.process_time() - started)
    started = time.process_time()
    # Without a tolerance none ends before the last iteration, whose number regularizes.
    cg(operator.T @ operator, right, rtol=0.0, maxiter=ITERATIONS, callback=after)
    return result


def direct(plan: SlicePlan, grid: TargetGrid, maps: torch.Tensor, method: str) -> torch.Tensor:
    """Reconstruct from maps by a method of the engine.

    Args:
        plan: The planes.
        grid: The nodes.
        maps: ``L T h h``.
        method: One of the CAM methods over the sphere.

    Returns:
        ``Z Y X`` on the nodes.
    """
    starts = range(0, len(maps), BATCH)
    parts = [slice(start, min(start + BATCH, len(maps))) for start in starts]
    batches = (Projections(part, maps.new_zeros(maps[part].shape[:2]), {1: maps[part]}) for part in parts)
    variant = Variant(method, (1,))
    return invert(batches, plan, grid, [variant]).heatmaps[variant]


def samples_for(cells: int) -> int:
    """Choose the operator's samples along a side.

    Args:
        cells: h.

    Returns:
        The multiple of h next above `SAMPLES`.
    """
    return -(-SAMPLES // cells) * cells


def pooled(prepared: PreparedVolume, plan: SlicePlan, cells: int) -> torch.Tensor:
    """Cut a volume's slices and average them over cells.

    Args:
        prepared: The volume in its frame.
        plan: The planes.
        cells: h.

    Returns:
        Maps: ``L T h h``.
    """
    source = SliceSource.from_volume(prepared.volume, fills=prepared.fills, blank=True)
    parts = []
    for direction in range(len(plan.directions)):
        slices = sample_slices(source, plan, slice(direction, direction + 1))
        parts.append(F.adaptive_avg_pool2d(slices[:, None], cells)[:, 0])
    return torch.stack(parts)


def network_maps(
    prepared: PreparedVolume, planes: Planes, encoder: Encoder, plan: SlicePlan, stage: int
) -> torch.Tensor:
    """Compute an encoder's maps of all slices, less those of a blank one: outside of the volume there is nothing.

    Args:
        prepared: The volume.
        planes: Of the run.
        encoder: Answers slices.
        plan: The planes.
        stage: From 1, the finest.

    Returns:
        Maps: ``L T h h``.
    """
    source = SliceSource.from_volume(prepared.volume, fills=prepared.fills)
    projector = Projector(encoder, source, Maps({0: (stage,)}, planes.run.asked.cam), BatchSize())
    maps = torch.cat([batch[0].maps[stage] for batch in projector.project(plan)])
    blank = torch.full((1, plan.pixels, plan.pixels), prepared.fill)
    return maps - encoder.cam(blank, [(0, stage)], planes.run.asked.cam)[1][0, stage]


def at_voxels(volume: torch.Tensor, grid: TargetGrid, planes: Planes) -> npt.NDArray[np.float32]:
    """Bring a reconstruction to a scan's voxels.

    Args:
        volume: ``Z Y X`` on the nodes.
        grid: The nodes.
        planes: With the scan.

    Returns:
        ``Z Y X`` of the scan.
    """
    to_nodes = np.linalg.inv(planes.frame_to_ras @ grid.ijk_to_frame) @ planes.volume.ijk_to_ras
    z, y, x = planes.volume.array.shape
    return np.asarray(resample(volume[None], to_nodes, (z, y, x))[0].numpy())


def of_brain(directions: int, cells: int) -> tuple[Comparison, Planes, TargetGrid]:
    """Compare on averaged slices of the MNI brain, with 64 pixels at a side.

    Args:
        directions: L.
        cells: h.

    Returns:
        The comparison, and the planes and nodes it was made of.
    """
    image = brain()
    asked = ReconstructionSettings(methods=("matched-cam",), slices=64, directions=directions, slice_size=64)
    ready = prepare_model("pixel-sum", asked, "cpu", "float32")
    planes, prepared = _planes(image, decide(asked, ready))
    plan = planes.tomographic(directions)
    grid = planes.grid(plan)

    def judge(volume: torch.Tensor) -> Quality:
        values = at_voxels(volume, grid, planes)[planes.inside]
        return {"correlation": float(np.corrcoef(values, image.array[planes.inside])[0, 1])}

    operator = PooledSlices(plan, grid, cells, plan.pixels)
    return compare(operator, plan, grid, pooled(prepared, plan, cells), judge), planes, grid


def of_head(directions: int, seed: int) -> Comparison:
    """Compare on the shipped model's maps of a head with lesions.

    Args:
        directions: L.
        seed: Of the head.

    Returns:
        The comparison.
    """
    phantom = make_phantom(seed=seed, lesions=LESIONS)
    model = load_bundle(MODEL)
    asked = model.spec.choices.settings({"methods": ("matched-cam",), "directions": directions})
    ready = prepare_model(model, asked, "cpu", "float32")
    planes, prepared = _planes(phantom.image, decide(asked, ready))
    plan = planes.tomographic(directions)
    grid = planes.grid(plan)
    (stage,) = planes.run.variants[0].stages
    assert not isinstance(ready.encoder, Segmenter)
    start = time.process_time()
    maps = network_maps(prepared, planes, ready.encoder, plan, stage)
    network = time.process_time() - start
    truth = phantom.truth[planes.inside]

    def judge(volume: torch.Tensor) -> Quality:
        heatmap = at_voxels(volume, grid, planes)
        correlation = float(np.corrcoef(heatmap[planes.inside], truth)[0, 1])
        return {"correlation": correlation, "best Dice": best_dice(heatmap, phantom.truth, planes.inside)[1]}

    cells = maps.shape[-1]
    result = compare(PooledSlices(plan, grid, cells, samples_for(cells)), plan, grid, maps, judge)
    return replace(result, network=network)


def _planes(image: Volume, run: Run) -> tuple[Planes, PreparedVolume]:
    """Prepare a scan and lay its planes."""
    prepared = prepare_volume(
        image, frame=run.asked.frame, intensity=run.intensity, slice_size=run.pixels, pixel_mm=run.pixel_mm
    )
    return Planes(image, run, prepared.frame_to_ras), prepared


def write_picture(path: Path, rows: Sequence[tuple[str, Comparison, Planes, TargetGrid]]) -> None:
    """Draw an axial slice of the brain and of its reconstructions.

    Args:
        path: Image file.
        rows: Title, comparison, planes and nodes of each row.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = ("Averaged CAM", "Matched CAM", "5 iterations", "20 iterations")
    figure, axes = plt.subplots(len(rows), 5, figsize=(11, 2.75 * len(rows)), squeeze=False)
    for line, (title, result, planes, grid) in zip(axes, rows, strict=True):
        image = planes.volume.array
        middle = len(image) // 2
        pictures = {"image": image[middle]}
        pictures |= {name: at_voxels(result.volumes[name], grid, planes)[middle] for name in names}
        for axis, (name, picture) in zip(line, pictures.items(), strict=True):
            axis.imshow(picture, cmap="gray", origin="lower", vmin=0.0, vmax=1.1)
            axis.set_axis_off()
            correlation = result.qualities.get(name, {}).get("correlation")
            axis.set_title(title if correlation is None else f"{name}: {correlation:.3f}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _cost(results: Sequence[Comparison]) -> list[str]:
    """Return seconds and their ratio, with the range over results, and that of whole runs through a network."""
    matched = np.median([np.median(each.matched) for each in results])
    ratios = [each.ratio for each in results]
    total = np.median([sum(each.iterative) for each in results])
    span = f" ({min(ratios):.0f} to {max(ratios):.0f})" if len(ratios) > 1 else ""
    whole = f"{np.median([each.whole_ratio for each in results]):.1f}" if results[0].network else ""
    return [f"{matched:.2f}", f"{total:.0f}", f"{np.median(ratios):.0f}{span}", whole]


@click.command()
@click.option("--directions", default=128, show_default=True)
@click.option("--cells", default="32,16,8", show_default=True, help="Of the brain's slices, along a side.")
@click.option("--heads", default=4, show_default=True, help="Number of heads with lesions.")
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), help="Write the brain's reconstructions.")
def main(directions: int, cells: str, heads: int, picture: Path | None) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    names = ["Averaged CAM", "Matched CAM", *(f"{n} iteration{'s' if n > 1 else ''}" for n in SHOWN)]
    headers = ["", *names, "Matched, s", f"{ITERATIONS} iterations, s", "ratio", "whole run"]
    rows, drawn = [], []
    for count in (int(each) for each in cells.split(",") if each):
        result, planes, grid = of_brain(directions, count)
        drawn.append((f"image, {count} cells", result, planes, grid))
        qualities = [f"{result.qualities[name]['correlation']:.4f}" for name in names]
        rows.append([f"brain, {count} cells", *qualities, *_cost([result])])
        print(tabulate([rows[-1]], headers=headers, disable_numparse=True), flush=True)
    if picture is not None and drawn:
        write_picture(picture, drawn)
    results = []
    for seed in range(FIRST_HEAD, FIRST_HEAD + heads):
        results.append(of_head(directions, seed))
        for measure in ("correlation", "best Dice"):
            values = [f"{results[-1].qualities[name][measure]:.3f}" for name in names]
            print(f"head {seed}, {measure}:", *values, *_cost(results[-1:]), flush=True)
    for measure in ("correlation", "best Dice") if results else ():
        values = [np.mean([each.qualities[name][measure] for each in results]) for name in names]
        rows.append([f"{heads} heads, {measure}", *(f"{value:.3f}" for value in values), *_cost(results)])
    print(f"\nM = 64, L = {directions}; correlation with the truth at the voxels, or as named")
    print(tabulate(rows, headers=headers, disable_numparse=True))


if __name__ == "__main__":
    main()
