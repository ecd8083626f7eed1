"""Files of a worklist's case as nodes and arrays. Nothing is shown; files that do not fit together are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _

from tonno_core.bundle.calibration import ABOVE_HALF_PEAK, OTHER_PLANES, OWN
from tonno_core.cohort.source import source_of
from tonno_core.output import Json
from tonno_core.segmentation.binarize import peak_of
from tonno_core.settings import CAM_METHODS
from tonno_core.volume.signature import is_dicom
from ToNNOSlicerLib import worklist_files
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.geometry import corners, ijkToNode
from ToNNOSlicerLib.models import SPEC_NAME, ModelError, readModel

_SINGLE_FILE = 4  # a bit of the Volumes module's loading options: a number in the file's name does not make a series
_NORMALS = {"R": (1.0, 0.0, 0.0), "A": (0.0, 1.0, 0.0), "S": (0.0, 0.0, 1.0)}
# Two grids are the same where their corners agree to this part of a voxel: headers are rounded, series averaged.
_SAME_GRID = 0.1


@dataclass(frozen=True)
class Report:
    """What the engine says about a case.

    Attributes:
        folder: The case's.
        content: Its ``report.json``.
        settings: The run's ``settings.json``.
        run: The worklist's ``run.json``.
    """

    folder: Path
    content: Json
    settings: Json
    run: Json

    def threshold(self, method: str) -> float:
        """Return the threshold that the engine segmented with.

        Args:
            method: One of the report's.

        Returns:
            The threshold, in the heatmap's units.
        """
        return float(self.content["methods"][method]["threshold"])

    @property
    def smallestMm3(self) -> float:
        """Return the volume of the smallest component that the run kept, mm3."""
        return float(self.settings.get("min_volume_mm3") or 0.0)

    def minPeak(self, method: str) -> float:
        """Return what the peaks of the parts reach that the run kept.

        Args:
            method: One of the report's.

        Returns:
            A value in the heatmap's units; -inf for all parts.
        """
        return float(self.content["methods"][method].get("min_peak", -math.inf))

    @property
    def quality(self) -> str:
        """Return the preset that was asked for, by the panel's name for it; "" where none was."""
        words = [str(word) for word in self.run.get("arguments", ())]
        return dict(pairwise(words)).get("--preset", "")

    @property
    def identity(self) -> str:
        """Return what tells these results from all others: which file, by which run."""
        return f"{self.content.get('source', '')[:24]}-{self.content.get('run', '')[:16]}"


def readReport(case) -> Report:
    """Read what the engine says about a case.

    Args:
        case: A `worklist.Case`.

    Returns:
        The report with the settings of its run.

    Raises:
        ToNNOUserError: If the case has no results, or the volume's file has changed since they were made.
    """
    folder = Path(case.folder or "none")
    content = worklist_files.readJson(folder / worklist_files.REPORT)
    again = _("Start the list again: it makes what is missing.")
    if not case.folder or not content.get("methods"):
        raise ToNNOUserError(_("{name} has no results.").format(name=case.name), again)
    try:
        worklist_files.checked(content)
    except ValueError as error:
        raise ToNNOUserError(
            _("The report of {name} is damaged: {reason}.").format(name=case.name, reason=error), again
        ) from None
    try:
        source = source_of(Path(case.volume))
    except OSError as error:
        raise ToNNOUserError(
            _("{path} cannot be opened: {reason}.").format(path=case.volume, reason=error.strerror or error),
            _("Bring the file back to its place, or start the list again without it."),
        ) from None
    if source != content.get("source"):
        raise ToNNOUserError(
            _("The file of {name} is another than when its results were made.").format(name=case.name), again
        )
    results = folder.parent.parent
    run = worklist_files.readJson(results.parent / worklist_files.RUN)
    return Report(folder, content, worklist_files.readJson(results / "settings.json"), run)


def loadVolume(applicationLogic, case):
    """Load a case's volume into the scene, as the Volumes module does.

    Args:
        applicationLogic: The application's vtkMRMLApplicationLogic.
        case: A `worklist.Case`.

    Returns:
        The volume's node.

    Raises:
        ToNNOUserError: If the file cannot be loaded.
    """
    path = Path(case.volume)
    files, options = vtk.vtkStringArray(), 0 if path.is_dir() else _SINGLE_FILE
    for file in _slices(path) if path.is_dir() else []:
        files.InsertNextValue(str(file))
    first = files.GetValue(0) if files.GetNumberOfValues() else str(path)
    volumes = applicationLogic.GetModuleLogic("Volumes")
    scene = volumes.GetMRMLScene()
    isFree = scene.GetFirstNodeByName(case.name) is None
    node = volumes.AddArchetypeScalarVolume(first, case.name, options, files)
    if node is None or node.GetImageData() is None:
        raise ToNNOUserError(
            _("{path} cannot be loaded.").format(path=path),
            _("Look into Slicer's error log (Window menu) for the cause."),
        )
    if isFree:  # the scene remembers the names of nodes that have gone
        node.SetName(case.name)
    return node


def readHeatmap(report: Report, method: str, volumeNode) -> np.ndarray:
    """Read a heatmap's file.

    Args:
        report: The case's.
        method: One of its methods.
        volumeNode: The case's volume in the scene.

    Returns:
        The voxels, Z Y X float32, in the order of the volume's.

    Raises:
        ToNNOUserError: If the file cannot be read, is not the report's, or has another grid than the volume.
    """
    path = report.folder / f"heatmap-{method}.nrrd"
    node = slicer.vtkMRMLScalarVolumeNode()
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetSingleFile(True)
    again = _("Remove the folder {folder} and start the list again.").format(folder=report.folder)
    if not path.is_file() or not storage.ReadData(node) or node.GetImageData() is None:
        raise ToNNOUserError(_("{path} cannot be read.").format(path=path), again)
    array = ordered(slicer.util.arrayFromVolume(node), ijkToNode(node), volumeNode)
    if array is None:
        raise ToNNOUserError(
            _("The heatmap {path} has another grid than {name}.").format(path=path.name, name=volumeNode.GetName()),
            again,
        )
    peak = report.content["methods"][method]["peak"]
    # Both come from the same float32. Earlier reports counted the zeros outside of the planes.
    if not np.isclose([peak_of(array), float(array.max())], peak, rtol=1e-6, atol=1e-12).any():
        raise ToNNOUserError(_("{path} is not the heatmap of its report.").format(path=path), again)
    return np.ascontiguousarray(array, dtype=np.float32)


def ordered(array: np.ndarray, ijkToRAS: np.ndarray, volumeNode) -> np.ndarray | None:
    """Flip an array's axes so that its voxels are in the order of a volume's.

    Args:
        array: Z Y X.
        ijkToRAS: 4 x 4, from the array's voxels to RAS mm.
        volumeNode: The volume.

    Returns:
        A view of the array; None where its grid is not the volume's.
    """
    size = volumeNode.GetImageData().GetDimensions()
    if array.shape[::-1] != size:
        return None
    volumeToRAS = ijkToNode(volumeNode)
    between = np.linalg.inv(ijkToRAS) @ volumeToRAS  # from the volume's voxels to the array's
    signs = np.sign(np.diag(between)[:3])
    expected = np.diag([*signs, 1.0])
    expected[:3, 3] = np.where(signs < 0, np.array(size) - 1, 0)
    apart = corners(size, between - expected)
    if not signs.all() or np.abs(apart).max() > _SAME_GRID:
        return None
    return np.flip(array, [2 - axis for axis in range(3) if signs[axis] < 0])


def inside(report: Report, volumeNode) -> np.ndarray:
    """Mark the voxels that the planes of a run cover: those in the frame's ball, and in the region.

    Args:
        report: The case's.
        volumeNode: The case's volume in the scene.

    Returns:
        Bool, Z Y X, on the volume's grid.
    """
    size, ijkToRAS = volumeNode.GetImageData().GetDimensions(), ijkToNode(volumeNode)
    covered = np.ones(size[::-1], dtype=bool)
    if report.content["settings"]["frame"] == "physical":
        rasToFrame = np.linalg.inv(np.array(report.content["frame_to_ras"]))
        _cut(covered, rasToFrame @ ijkToRAS, lambda x: (x * x).sum(axis=0) <= 1)
    if report.content.get("region"):
        rasToBox = np.linalg.inv(np.array(report.content["region"]["box_to_ras"]))
        _cut(covered, rasToBox @ ijkToRAS, lambda x: (np.abs(x) <= 1 + 1e-6).all(axis=0))
    return covered


def resultOf(report: Report, method: str) -> Json:
    """Put a report into the form of the worker's answer, which `showHeatmap` takes.

    Args:
        report: The case's.
        method: One of its methods.

    Returns:
        What the heatmap's record keeps of an answer.
    """
    content = report.content
    settings = content["settings"]
    directions = settings.get("cam_directions") if method in CAM_METHODS else None
    profiles = [
        {"normal_ras": _NORMALS[profile["axis"]], "positions_mm": profile["offsets_mm"], "logits": profile["logits"]}
        for profile in content.get("profiles", ())
    ]
    return {
        "score": content.get("score"),
        "explained": content.get("explained_by_tonno"),
        "profiles": profiles,
        "model": _model(report),
        "warnings": content.get("warnings", []),
        "seconds": content.get("seconds", {}),
        "slices": content.get("slices", {}).get("total"),
        "directions": directions or settings.get("directions"),
        "stopped": False,
        "device": content.get("device"),
    }


def thresholdRecord(report: Report, method: str) -> Json | None:
    """Return the model's calibration for a method, with the threshold that the run took from it.

    Args:
        report: The case's.
        method: One of its methods.

    Returns:
        The calibration as ``model.json`` holds it; None where the threshold is not the model's, or the model is gone
        or was changed.
    """
    facts, folder = report.content["methods"][method], Path(str(report.run.get("model", "")))
    if worklist_files.readJson(folder / SPEC_NAME).get("sha256") != _model(report)["sha256"]:
        return None
    try:
        record = readModel(folder).threshold(method, report.content.get("class"))
    except ModelError:
        return None
    if not record or not str(facts.get("threshold_source", "")).startswith(OWN):
        return None
    calibration = {name: value for name, value in record.items() if name != OTHER_PLANES}
    value = report.threshold(method)
    for other in (calibration, *record.get(OTHER_PLANES, ())):
        if other["threshold"] == value:
            return {**calibration, **other}
    if ABOVE_HALF_PEAK in record:  # each volume has its own
        return {**calibration, "threshold": value}
    # Scaled for these planes: its noise floor is in no file.
    return {**calibration, "threshold": value, "noise_floor": None, "source": "scaled"}


def _model(report: Report) -> Json:
    model, name = report.content.get("model"), Path(str(report.run.get("model", ""))).name
    known = model if isinstance(model, dict) else {}
    ofSegmenter = {key: known[key] for key in ("kind", "taught_by") if key in known}
    stated = {key: known.get(key) for key in ("encoder", "sha256")}
    return {"name": name, **stated, "about": known.get("about") or {}, **ofSegmenter}


def _slices(folder: Path) -> list[Path]:
    """List the DICOM files of a folder, which may hold others."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return [file for file in files if is_dicom(file)] or files


def _cut(covered: np.ndarray, ijkToSpace: np.ndarray, holds: Callable[[np.ndarray], np.ndarray]) -> None:
    """Clear the voxels whose coordinates in a space (3 x ...) do not hold, plane by plane."""
    j, i = np.indices(covered.shape[1:])
    first = np.tensordot(ijkToSpace[:3, :2], np.stack((i, j)), 1) + ijkToSpace[:3, 3, np.newaxis, np.newaxis]
    for k, plane in enumerate(covered):
        plane &= holds(first + k * ijkToSpace[:3, 2, np.newaxis, np.newaxis])
