"""Connected pieces of a segment as runs of voxels along i, and the piece at a point."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ToNNOSlicerLib.logic.geometry import transformPoint

NOTHING = 0  # the label of a point that lies in no piece, and of a piece that is not listed


@dataclass(frozen=True)
class Pieces:
    """The pieces of a mask by their labels 1, 2, ...

    Attributes:
        first: Flat indices (Z Y X, rising) of the first voxel of each run along i, N.
        last: The same of the last voxels, N.
        label: Label of the piece that each run belongs to, N.
        size: (i, j, k) of the grid.
        ijkToNode: 4 x 4, from its voxels to the frame of the heatmap's node.
    """

    first: np.ndarray
    last: np.ndarray
    label: np.ndarray
    size: tuple[int, int, int]
    ijkToNode: np.ndarray

    def listed(self) -> Pieces:
        """Return the pieces without those that are not listed.

        Returns:
            Pieces none of whose runs has the label NOTHING.
        """
        kept = self.label != NOTHING
        return replace(self, first=self.first[kept], last=self.last[kept], label=self.label[kept])

    @property
    def start(self) -> np.ndarray:
        """The first voxel of each run: 3 x N, i, j, k."""
        width, height, _depth = self.size
        return np.stack((self.first % width, self.first // width % height, self.first // (width * height)))

    def labelAt(self, ijk: np.ndarray) -> np.ndarray:
        """Return the labels of voxels.

        Args:
            ijk: N x 3, whole numbers.

        Returns:
            N labels, NOTHING where there is no piece or beyond the grid.
        """
        if not self.first.size:
            return np.full(len(ijk), NOTHING)
        run = self._runAt(ijk)
        return np.where(run < 0, NOTHING, self.label[run])

    def labelOf(self, place, reachMm: float) -> int:
        """Return the label of the piece that holds a place, else of the nearest within reach.

        Args:
            place: RAS mm of the node.
            reachMm: Greatest distance to the center of a piece's nearest voxel.

        Returns:
            The label; NOTHING where none is within reach.
        """
        if not self.first.size:
            return NOTHING
        run = int(self._runAt(self._ijkOf(place).round().astype(np.intp)[np.newaxis])[0])
        if run >= 0:
            return int(self.label[run])
        distances = self._distances(place)
        nearest = int(distances.argmin())
        return int(self.label[nearest]) if distances[nearest] < reachMm else NOTHING

    def reachAt(self, place, label: int, mostMm: float) -> float:
        """Return how far around a place there is nothing but one piece.

        Args:
            place: RAS mm of the node.
            label: The piece's label.
            mostMm: Where the search ends.

        Returns:
            mm, `mostMm` at most.
        """
        center = self._ijkOf(place).round().astype(int)
        # At most this many steps along an axis reach that far, also where the axes are not square to each other.
        nodeToIJK = np.linalg.inv(self.ijkToNode[:3, :3])
        radius = np.ceil(mostMm * np.linalg.norm(nodeToIJK, axis=1)).astype(int)
        ijk = np.stack(np.meshgrid(*(np.arange(c - r, c + r + 1) for c, r in zip(center, radius, strict=True))), -1)
        ijk = ijk.reshape(-1, 3)
        others = ijk[self.labelAt(ijk) != label]
        ras = others @ self.ijkToNode[:3, :3].T + self.ijkToNode[:3, 3]
        return float(min(np.linalg.norm(ras - np.asarray(place), axis=1).min(initial=mostMm), mostMm))

    def _runAt(self, ijk: np.ndarray) -> np.ndarray:
        """Return the number of the run that holds each voxel (N x 3), -1 where none does. There must be a run."""
        beyond = ((ijk < 0) | (ijk >= self.size)).any(axis=1)
        flat = (ijk[:, 2] * self.size[1] + ijk[:, 1]) * self.size[0] + ijk[:, 0]
        run = np.maximum(np.searchsorted(self.first, flat, side="right") - 1, 0)
        outside = beyond | (flat < self.first[run]) | (flat > self.last[run])
        return np.where(outside, -1, run)

    def _ijkOf(self, place) -> np.ndarray:
        return transformPoint(np.linalg.inv(self.ijkToNode), place)

    def _distances(self, place) -> np.ndarray:
        """Return the distance from a place to the nearest voxel's center of each run, mm."""
        step = self.ijkToNode[:3, 0]
        ras = self.ijkToNode[:3, :3] @ self.start + self.ijkToNode[:3, 3:]
        along = step @ (np.asarray(place)[:, np.newaxis] - ras) / (step @ step)
        along = np.clip(along.round(), 0, self.last - self.first)
        return np.linalg.norm(ras + step[:, np.newaxis] * along - np.asarray(place)[:, np.newaxis], axis=0)
