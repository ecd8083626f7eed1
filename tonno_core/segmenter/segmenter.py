"""A trained segmentation network on a device: it answers whole volumes, window by window."""

from __future__ import annotations

import math

import torch
from torch import nn

from tonno_core.errors import TonnoError, is_out_of_memory
from tonno_core.reporting import Reporter
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.segmenter.with_monai import count_windows, slide
from tonno_core.segmenter.working import WorkingImage, prepare_image
from tonno_core.volume.volume import Volume

# Voxels of the windows that a GPU answers at once, where its memory allows; a CPU is no faster with several.
_GPU_VOXELS = 1 << 23


class Segmenter:
    """A function of volumes: a logit for each of K classes at each voxel.

    The network's layers run in ``precision`` by autocast, the last one in float32.

    Attributes:
        classes: Names of the K classes.
        network: The description.
        intensity: How intensities are normalised.
        device: On which it runs.
        precision: Of its layers.
        layout: Memory format of its numbers, as reports give it.
    """

    layout = "contiguous"

    def __init__(
        self,
        model: nn.Module,
        classes: tuple[str, ...],
        network: SegmenterNetwork,
        intensity: str,
        *,
        device: torch.device | str = "cpu",
        precision: torch.dtype = torch.float32,
    ) -> None:
        """Make a network ready.

        Args:
            model: The network with its weights, which goes to the device.
            classes: Names of its outputs.
            network: Its description.
            intensity: How intensities are normalised, see `volume.intensity.by_channel`.
            device: Where it runs.
            precision: Of its layers.
        """
        self.classes = classes
        self.network = network
        self.intensity = intensity
        self.device = torch.device(device)
        self.precision = precision
        self._model = model.eval().requires_grad_(False).to(self.device)
        voxels = math.prod(network.patch)
        self._at_once = max(1, _GPU_VOXELS // voxels) if self.device.type == "cuda" else 1

    def answer(self, volume: Volume) -> torch.Tensor:
        """Answer a volume.

        Args:
            volume: The scan.

        Returns:
            Logits ``K Z Y X`` on its grid, on the device.

        Raises:
            TonnoError: The volume is too large, or has no contrast to normalise.
        """
        image = prepare_image(volume, self.network, self.intensity)
        return image.grid.give_back(self.logits(image))

    def logits(self, image: WorkingImage, reporter: Reporter | None = None) -> torch.Tensor:
        """Answer an image on its working grid.

        Where memory runs out, fewer windows are answered at once from then on; where it does not suffice for the
        image, that stays on the CPU.

        Args:
            image: What the network sees.
            reporter: Is told of the windows, and may end it between them.

        Returns:
            ``K Z Y X`` in float32, on the device or, where that has no room, on the CPU.

        Raises:
            TonnoError: The logits are no finite numbers.
        """
        reporter, logits = reporter or Reporter(), None
        try:
            logits = self._slide(image, image.array.to(self.device), reporter)
        except (TonnoError, RuntimeError, MemoryError) as error:
            if self.device.type == "cpu" or not is_out_of_memory(error):
                raise
        if logits is None:  # not before the error is gone, which holds on to all that filled the memory
            logits = self._slide(image, image.array, reporter)
        if not logits.isfinite().all():
            raise TonnoError(
                "the segmenter's logits are not finite numbers; try `precision` float32, else look at its weights and "
                "its intensity normalization"
            )
        return logits

    def count(self, image: WorkingImage) -> int:
        """Count the windows of an image.

        Args:
            image: What the network sees.

        Returns:
            Their number.
        """
        z, y, x = image.grid.shape
        return count_windows((z, y, x), self.network.window_zyx)

    def _slide(self, image: WorkingImage, array: torch.Tensor, reporter: Reporter) -> torch.Tensor:
        """Answer an image, whose answer lies where its array does."""
        done, total = 0, self.count(image)

        def predict(windows: torch.Tensor) -> torch.Tensor:
            nonlocal done
            reporter.check()
            answer = self._predict(windows)
            done += len(windows)
            reporter.progress(done, total)
            return answer

        with torch.inference_mode():
            return slide(
                array,
                predict,
                self.network.window_zyx,
                fill=image.fill,
                at_once=self._at_once,
                device=self.device,
            )

    def _predict(self, windows: torch.Tensor) -> torch.Tensor:
        """Answer windows, in several parts where memory does not suffice for all at once."""
        parts: list[torch.Tensor] = []
        done = 0
        while done < len(windows):
            some = windows[done : done + self._at_once]
            try:
                with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
                    parts.append(self._model(some))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self._at_once == 1:
                    side = " x ".join(map(str, self.network.patch))
                    raise TonnoError(
                        f"out of memory for a single window of {side} voxels; close other programs, or choose "
                        "`device` cpu"
                    ) from error
                self._at_once //= 2
                continue
            done += len(some)
        return parts[0] if len(parts) == 1 else torch.cat(parts)
