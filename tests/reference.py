"""An independent reference in float64, written from the equations alone, for a few voxels and directions.

It shares no code with the engine. Frame coordinates are three numbers in [-1, 1]; a slice of S x S pixels has
its pixel (row, column) at b = 2 row / (S - 1) - 1 along v and a = 2 column / (S - 1) - 1 along u; of M slices,
number m lies at s = 2 m / (M - 1) - 1 along n, and one more is taken at each end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.float64]
# Slices T S S to logits T and activation maps T h h.
Answer = Callable[[Array], tuple[Array, Array]]


def sphere_lattice(count: int) -> Array:
    """y_l = 2 l / (L - 1) - 1, azimuth l pi (3 - sqrt 5), components (x, y, z)."""
    normals = []
    for index in range(count):
        y = 2 * index / (count - 1) - 1
        azimuth = index * np.pi * (3 - 5**0.5)
        ring = max(0.0, 1 - y**2) ** 0.5
        normals.append([ring * np.cos(azimuth), y, ring * np.sin(azimuth)])
    return np.array(normals)


def hemisphere_lattice(count: int) -> Array:
    """y_l = (l + 1/2) / L, azimuth l pi (3 - sqrt 5): the planes of the progressive order, in the lattice's own."""
    normals = []
    for index in range(count):
        y = (index + 0.5) / count
        azimuth = index * np.pi * (3 - 5**0.5)
        normals.append([(1 - y**2) ** 0.5 * np.cos(azimuth), y, (1 - y**2) ** 0.5 * np.sin(azimuth)])
    return np.array(normals)


def basis(normal: Array) -> tuple[Array, Array]:
    """u = n x h normalised and v = n x u, with h = (1, 0, 0) where |n_0| < 0.9, else (0, 1, 0)."""
    helper = np.array([1.0, 0.0, 0.0]) if abs(normal[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    u = np.cross(normal, helper)
    u = u / np.sqrt((u**2).sum())
    return u, np.cross(normal, u)


def normalized_to_index(shape: tuple[int, int, int]) -> Array:
    """3 x 4: the paper's (i', j', k') to array indices (z, y, x), voxel centres 0 and D - 1 at -1 and 1."""
    half = (np.array(shape) - 1) / 2
    return np.column_stack([np.diag(half), half])


def physical_to_index(ijk_to_ras: Array, centre_ras: Array, radius_mm: float) -> Array:
    """3 x 4: isotropic coordinates (R, A, S) around a centre, in units of a radius, to array indices (z, y, x)."""
    ras_to_ijk = np.linalg.inv(ijk_to_ras)
    matrix = np.column_stack([ras_to_ijk[:3, :3] * radius_mm, ras_to_ijk[:3, :3] @ centre_ras + ras_to_ijk[:3, 3]])
    return matrix[::-1]


def trilinear(array: Array, index: Array) -> Array:
    """Values at fractional array indices P 3; the array goes on with zeros."""
    below = np.floor(index).astype(int)
    values = np.zeros(len(index))
    for corner in np.ndindex(2, 2, 2):
        at = below + np.array(corner)
        weight = np.prod(1 - np.abs(index - at), axis=1)
        inside = np.all((at >= 0) & (at < array.shape), axis=1)
        z, y, x = at[inside].T
        values[inside] += weight[inside] * array[z, y, x]
    return values


def take_slice(array: Array, to_index: Array, normal: Array, offset: float, pixels: int) -> Array:
    """The plane x . n = offset as S x S pixels: rows run along u, columns along v."""
    u, v = basis(normal)
    side = 2 * np.arange(pixels) / (pixels - 1) - 1
    a, b = side[None, :, None], side[:, None, None]  # columns, rows
    points = (offset * normal + a * u + b * v).reshape(-1, 3)
    return trilinear(array, points @ to_index[:, :3].T + to_index[:, 3]).reshape(pixels, pixels)


def along_normal(values: Array, s: float) -> Array:
    """Linear interpolation of M values (or maps) at s, zero outside of [-1, 1]."""
    position = (s + 1) / 2 * (len(values) - 1)
    if not -1e-9 <= position <= len(values) - 1 + 1e-9:
        return np.zeros_like(values[0])
    low = min(max(int(np.floor(position)), 0), len(values) - 2)
    part = position - low
    return (1 - part) * values[low] + part * values[low + 1]


def in_map(cells: Array, pixels: int, a: float, b: float) -> float:
    """A map of h x h cells at (a, b). Cell c lies at pixel (c + 1/2) S / h - 1/2; bilinear between the centres,
    the outermost value up to the window's edge, zero outside."""
    if max(abs(a), abs(b)) > 1 + 1e-9:
        return 0.0
    count = len(cells)
    weights = []
    for coordinate in (b, a):  # rows lie along v
        pixel = (coordinate + 1) / 2 * (pixels - 1)
        cell = min(max((pixel + 0.5) * count / pixels - 0.5, 0.0), count - 1.0)
        weights.append(np.maximum(0, 1 - np.abs(cell - np.arange(count))))
    return float(weights[0] @ cells @ weights[1])


def gradcam_plus_plus(a: Array, g: Array) -> Array:
    """Chattopadhay et al. 2018 for the score Y = exp(S) of a logit S: activations C h w, gradients g of S.

    alpha = d2Y/dA2 / (2 d2Y/dA2 + sum A d3Y/dA3), w_k = sum alpha ReLU(dY/dA), map = ReLU(sum_k w_k A_k),
    with dY/dA = Y g, d2Y/dA2 = Y g^2, d3Y/dA3 = Y g^3. Y, the same for all of a slice, is left out of the weights.
    The paper's A is the output of a ReLU; where it is not, its positive part is what the denominator adds up.
    """
    total = np.zeros(a.shape[1:])
    for channel, gradient in zip(a, g, strict=True):
        weight, positive = 0.0, np.maximum(channel, 0).sum()
        for slope in gradient.ravel():
            if slope > 0:
                alpha = slope**2 / (2 * slope**2 + positive * slope**3)
                weight += alpha * slope
        total += weight * channel
    return np.maximum(total, 0)


def enlarge(cells: Array, pixels: int) -> Array:
    """A map of h x h cells as an image: bilinear between the cells' centres, the outermost value up to the edge."""
    count = len(cells)
    cell = np.clip((np.arange(pixels) + 0.5) * count / pixels - 0.5, 0, count - 1)
    weights = np.maximum(0, 1 - np.abs(cell[:, None] - np.arange(count)))
    return np.asarray(weights @ cells @ weights.T)


def score_cam(image: Array, a: Array, score: Callable[[Array], Array]) -> Array:
    """Wang et al. 2020: activations C h w of an image C' S S, scores N of images N C' S S.

    Each channel, enlarged and brought to 0..1, masks the image; how much that raises the score over a baseline of zeros
    is the channel's weight. The paper's softmax over these weights is left out.
    """
    masked = [np.zeros_like(image)]
    for channel in a:
        mask = enlarge(channel, image.shape[-1]) - enlarge(channel, image.shape[-1]).min()
        masked.append(image * mask / mask.max() if channel.max() > channel.min() else np.zeros_like(image))
    scores = np.concatenate([score(np.array(masked[i : i + 64])) for i in range(0, len(masked), 64)])
    return np.maximum(np.tensordot(scores[1:] - scores[0], a, axes=1), 0)


def resnet_answer(model: Any, channels: int, class_index: int, stage: int, kind: str) -> Answer:
    """A timm ResNet, step by step: logit, activation A after layer ``stage`` and its gradient g by autograd.

    LayerCAM is ReLU(sum_k ReLU(g_k) A_k), cell by cell; GradCAM is sum_k mean(g_k) A_k, signed. GradCAM++ and
    ScoreCAM have functions of their own.
    """
    model = model.double().eval()

    @torch.no_grad()
    def score(images: Array) -> Array:
        return np.asarray(model(torch.from_numpy(images))[:, class_index].numpy())

    def answer(images: Array) -> tuple[Array, Array]:
        x = torch.from_numpy(images)[:, None].repeat(1, channels, 1, 1)
        x = model.maxpool(model.act1(model.bn1(model.conv1(x))))
        activation = x
        for number, layer in enumerate((model.layer1, model.layer2, model.layer3, model.layer4), start=1):
            x = layer(x)
            if number == stage:
                activation = x
        logit = model.fc(x.mean(dim=(2, 3)))[:, class_index]
        (gradient,) = torch.autograd.grad(logit.sum(), activation)
        a, g = activation.detach().numpy(), gradient.numpy()
        if kind == "layercam":
            maps = np.maximum((np.maximum(g, 0) * a).sum(axis=1), 0)
        elif kind == "gradcam++":
            maps = np.array([gradcam_plus_plus(*pair) for pair in zip(a, g, strict=True)])
        elif kind == "scorecam":
            shown = images[:, None].repeat(channels, axis=1)
            maps = np.array([score_cam(image, each, score) for image, each in zip(shown, a, strict=True)])
        else:
            maps = (g.mean(axis=(2, 3))[:, :, None, None] * a).sum(axis=1)
        return logit.detach().numpy(), maps

    return answer


@dataclass(frozen=True)
class Chain:
    """The whole method in a volume: array Z Y X, to_index from frame coordinates to its indices (3 x 4)."""

    array: Array
    to_index: Array
    slices: int
    pixels: int
    answer: Answer

    def heatmaps(self, normals: Array, points: Array, sigma_scale: float = 1.0) -> dict[str, Array]:
        """The four methods' values at points P 3 of the frame, with the paper's second difference."""
        total = {name: np.zeros(len(points)) for name in ("tonno", "averaged-cam", "tomographic-cam")}
        cells = 0
        for normal in normals:
            logits, maps = self._project(normal)
            cells = maps.shape[-1]
            curvature = (self.slices - 1) ** 2 * (logits[2:] + logits[:-2] - 2 * logits[1:-1])
            curvature *= self.pixels**2 / (self.pixels - 1) ** 2
            # d2/ds2 with s in frame units: the step is 2 / (M - 1).
            map_curvature = (maps[2:] + maps[:-2] - 2 * maps[1:-1]) / (2 / (self.slices - 1)) ** 2
            for index, point in enumerate(points):
                total["tonno"][index] += along_normal(curvature, float(point @ normal))
                total["averaged-cam"][index] += self._at(maps[1:-1], normal, point)
                total["tomographic-cam"][index] -= self._at(map_curvature, normal, point)
        found = {name: one / len(normals) for name, one in total.items()}
        found["tonno"] = -found["tonno"] / (2 * np.pi)
        pitch = self.pixels / cells * 2 / (self.pixels - 1)
        sigma = sigma_scale * pitch / 2
        found["matched-cam"] = found["averaged-cam"] + sigma**2 * found["tomographic-cam"]
        return found

    def slicewise(self, axes: Array, points: Array) -> Array:
        """Mean of the plain maps over slices along some axes."""
        total = np.zeros(len(points))
        for normal in axes:
            _, maps = self._project(normal)
            total += [self._at(maps[1:-1], normal, point) for point in points]
        return total / len(axes)

    def _project(self, normal: Array) -> tuple[Array, Array]:
        offsets = [2 * m / (self.slices - 1) - 1 for m in range(-1, self.slices + 1)]
        images = [take_slice(self.array, self.to_index, normal, s, self.pixels) for s in offsets]
        return self.answer(np.array(images))

    def _at(self, maps: Array, normal: Array, point: Array) -> float:
        u, v = basis(normal)
        cells = along_normal(maps, float(point @ normal))
        return in_map(cells, self.pixels, float(point @ u), float(point @ v))
