"""Heatmaps of the volumes that hold a finding, by a classifier: each a file, which a run that goes on finds again.

Volumes without a class need no heatmap of it: they are background everywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from tonno_core.bundle.decide import Run, decide
from tonno_core.bundle.file import Bundle
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.cohort.ahead import read_ahead
from tonno_core.cohort.manifest import Case
from tonno_core.cohort.source import source_of
from tonno_core.distillation.settings import DistillationSettings
from tonno_core.distributed import Processes
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.progress import progress_bar
from tonno_core.reconstruction import project
from tonno_core.reconstruction.run import ReadyScan, get_ready
from tonno_core.reporting import Reporter
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.segmenter.working import working_grid
from tonno_core.settings import ReconstructionSettings
from tonno_core.training.look import facts_of
from tonno_core.training.tensor_file import TensorFiles
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.io import read_volume

# A case with its place in the manifest.
Numbered = tuple[int, Case]


@dataclass(frozen=True)
class Heatmaps:
    """The heatmaps of one volume and class.

    Attributes:
        maps: ``M Z Y X`` on the working grid, one for each method.
        peaks: Of each the highest value in the volume's foreground, on the scan's own grid.
        thresholds: Of each the model's own; None where it brings none.
        foreground: Of the volume, bool Z Y X.
    """

    maps: torch.Tensor
    peaks: tuple[float, ...]
    thresholds: tuple[float | None, ...]
    foreground: torch.Tensor


class Teacher:
    """A classifier whose heatmaps are learned from.

    Args:
        bundle: The classifier.
        settings: The methods and their planes.
        device: Where to compute.

    Raises:
        TonnoError: If the model cannot make these heatmaps, or has no threshold in which they shall be measured.
    """

    def __init__(self, bundle: Bundle, settings: DistillationSettings, device: str) -> None:
        self._classes = settings.classes
        asked = asked_of(bundle, settings)
        self._model: ReadyModel = prepare_model(bundle, asked, device, settings.precision)
        self.run = replace(decide(asked, self._model, classes=settings.classes), profiles=False)
        for target in self.run.targets if settings.unit == "threshold" else ():
            for method in target.variants:
                if self.run.threshold(target, method) is None:
                    raise TonnoError(
                        f"`unit` threshold: {bundle.path} brings no threshold for {method} of {target.name}; calibrate "
                        "it (`tonno calibrate`), or choose `unit` peak"
                    )

    def key(self, case: Case, network: SegmenterNetwork) -> str:
        """Return what the heatmaps of a volume depend on.

        Args:
            case: The volume.
            network: Whose working grid they are brought to.

        Returns:
            A hash.
        """
        run = self._of(case)
        known = [[run.threshold(target, name) for name in target.variants] for target in run.targets]
        facts = facts_of(self._model, run) | {
            "volume": source_of(case.volume),
            "classes": [target.name for target in run.targets],
            "thresholds": [[None if each is None else each.value for each in some] for some in known],
            "spacing_mm": network.spacing_mm,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _of(self, case: Case) -> Run:
        """Return the run for those classes that a volume has."""
        present = {name for name, label in zip(self._classes, case.labels, strict=True) if label}
        return replace(self.run, targets=tuple(target for target in self.run.targets if target.name in present))

    def read(self, case: Case) -> ReadyScan:
        """Read a volume, and find what is found before any plane is looked at.

        Args:
            case: The volume.

        Returns:
            The scan.
        """
        return get_ready(read_volume(case.volume, intensity=self.run.intensity), self.run)

    def look(self, scan: ReadyScan, case: Case, network: SegmenterNetwork) -> Json:
        """Make the heatmaps of a volume, for each of its findings.

        Args:
            scan: The volume.
            case: Its labels.
            network: Whose working grid they are brought to.

        Returns:
            Tensors and plain values by class: ``maps`` in float16 with their ``scales``, ``peaks``, ``thresholds``; and
            the ``foreground``, uint8 Z Y X of the working grid.
        """
        run, grid = self._of(case), working_grid(scan.volume, network.spacing_mm)
        foreground = scan.prepared.foreground
        foreground = foreground_mask(scan.volume) if foreground is None else foreground
        share = grid.take(torch.as_tensor(foreground, dtype=torch.float32)[None])[0]
        found: Json = {"foreground": (share >= 0.5).to(torch.uint8)}
        for projected in project(scan.volume, self._model.encoder, run):
            result = projected.finish(projected.target.variants, run.asked, Reporter())
            seen = foreground & result.inside
            seen = seen if seen.any() else result.inside
            arrays = [result.heatmaps[name].array for name in projected.target.variants]
            # One after the other: they are as large as the scan.
            maps = torch.cat([grid.take(torch.as_tensor(array)[None]) for array in arrays])
            scales = maps.abs().amax(dim=(1, 2, 3)).clamp(min=torch.finfo(torch.float32).tiny)
            known = [run.threshold(projected.target, name) for name in projected.target.variants]
            found[projected.target.name] = {
                # Each by its own scale: values of ToNNO are as small as 1e-5, where float16 has few digits.
                "maps": (maps / scales[:, None, None, None]).to(torch.float16),
                "scales": scales,
                "peaks": [float(array[seen].max()) for array in arrays],
                "thresholds": [None if each is None else each.value for each in known],
            }
        return found


def show_volumes(
    teacher: Teacher,
    network: SegmenterNetwork,
    cases: Sequence[Numbered],
    files: TensorFiles,
    group: Processes,
    *,
    progress: bool,
) -> None:
    """Make the heatmaps that are not there yet; the processes share the volumes, and the next one is read meanwhile.

    Args:
        teacher: Makes them.
        network: Whose working grid they are brought to.
        cases: The volumes, of which those with a finding are looked at.
        files: Where heatmaps are kept.
        group: The processes that share the work.
        progress: Show a bar, in the first process alone.

    Raises:
        TonnoError: If a volume cannot be read or used, or a file not be written.
    """
    shared = [(number, case) for number, case in cases if any(case.labels)][group.rank :: group.world]
    keys = {number: teacher.key(case, network) for number, case in shared}
    waiting = [(number, case) for number, case in shared if not files.is_current(number, keys[number])]
    bar = progress_bar(
        total=len(shared), initial=len(shared) - len(waiting), desc="looking for findings", unit="volume",
        disable=not progress,
    )  # fmt: skip
    with bar:
        for (number, case), get in read_ahead(waiting, lambda item: teacher.read(item[1])):
            try:
                made = teacher.look(get(), case, network)
            except TonnoError as error:
                told = str(error)
                raise TonnoError(told if told.startswith(str(case.volume)) else f"{case.volume}: {told}") from error
            files.save(number, keys[number], made)
            bar.update()


def load_heatmaps(files: TensorFiles, number: int, class_name: str) -> Heatmaps:
    """Load the heatmaps of a volume.

    Args:
        files: Where heatmaps are kept.
        number: The volume's place in the manifest.
        class_name: One of its findings.

    Returns:
        The heatmaps.
    """
    values = files.load(number)
    content = values[class_name]
    maps = content["maps"].float() * content["scales"][:, None, None, None]
    return Heatmaps(maps, tuple(content["peaks"]), tuple(content["thresholds"]), values["foreground"].bool())


def asked_of(bundle: Bundle, settings: DistillationSettings) -> ReconstructionSettings:
    """Return the settings of the heatmaps.

    Args:
        bundle: The classifier, whose own planes are taken where none are asked for.
        settings: The methods, and what is asked for.

    Returns:
        As for a reconstruction.

    Raises:
        TonnoError: A name or a value is unknown.
    """
    planes = dict(settings.planes)
    preset = planes.pop("preset", None)
    return bundle.spec.choices.settings({**planes, "methods": settings.methods}, preset)


def record_of(bundle: Bundle, settings: DistillationSettings) -> Json:
    """Describe heatmaps for a JSON file, without making a model ready.

    Args:
        bundle: The classifier.
        settings: The methods and their planes.

    Returns:
        JSON object.
    """
    asked, choices = asked_of(bundle, settings), bundle.spec.choices
    values = asked.record()
    names = ("slices", "directions", "cam_directions", "lattice", "cam", "frame", "grid")
    heatmaps = [choices.variant(method, asked) for method in asked.methods]
    return {
        "encoder": bundle.spec.encoder,
        "sha256": bundle.spec.sha256,
        "heatmaps": [{"method": each.method, **json.loads(json.dumps(each.choices()))} for each in heatmaps],
        "planes": {name: values[name] for name in names},
    }
