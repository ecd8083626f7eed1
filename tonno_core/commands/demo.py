"""`tonno demo`: the main job on a real brain with implanted lesions, measured."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from tabulate import tabulate

from tonno_core.bundle.decide import decide
from tonno_core.bundle.file import load_bundle
from tonno_core.bundle.ready import prepare_model
from tonno_core.commands.reconstruct import segment_all, write_images, write_report
from tonno_core.demo.phantom import Phantom, make_phantom
from tonno_core.output import check_output, output_folder
from tonno_core.pictures.drawing import Scene
from tonno_core.pictures.overview import write_overview
from tonno_core.reconstruction import Reconstruction, execute
from tonno_core.reporting import Reporter, progress_bar, progress_of
from tonno_core.reproduction.drawing import method_name
from tonno_core.segmentation.metrics import best_dice, score
from tonno_core.segmentation.threshold import Segmentation
from tonno_core.volume.io import write_volume

MODEL = Path(__file__).resolve().parent.parent / "models" / "brain-lesions"
METHODS = ("slicewise-cam", "averaged-cam", "tomographic-cam", "matched-cam", "tonno")
LESIONS = 3
# A fifth of the smallest lesion of the training set, a ball of 5 mm radius.
SMALLEST_MM3 = 100.0


def run_demo(output: Path, *, seed: int, directions: int | None = None, overwrite: bool = False) -> str:
    """Implant lesions, find them with the shipped model, and compare with the truth.

    Writes the image, its truth, heatmaps, segmentations, ``report.json`` and ``overview.png``.

    Args:
        output: Folder for these.
        seed: Chooses the head and its lesions.
        directions: Number of directions; None for the model's own.
        overwrite: Replace files of the same names.

    Returns:
        Explanation and table for a person.
    """
    check_output(output, overwrite=overwrite)
    model = load_bundle(MODEL)
    settings = model.spec.choices.settings({"methods": METHODS, "directions": directions})
    ready = prepare_model(model, settings)
    run = decide(settings, ready)
    phantom = make_phantom(seed=seed, lesions=LESIONS)
    with progress_bar() as bar:
        result = execute(phantom.image, ready.encoder, run, Reporter(progress=progress_of(bar)))
    segmentations = segment_all(result, run, min_volume_mm3=SMALLEST_MM3)
    measured = {method: _measure(phantom, result, segmentations[method], method) for method in METHODS}
    shown = "matched-cam"
    with output_folder(output, overwrite=overwrite) as folder:
        write_volume(phantom.image, folder / "image.nii.gz")
        write_volume(phantom.image.with_array(phantom.truth), folder / "truth.nii.gz", dtype="uint8")
        write_images(folder, result, segmentations, "nii.gz")
        extra = {"demo": {"seed": seed, "lesions": [asdict(lesion) for lesion in phantom.lesions], "scores": measured}}
        write_report(folder / "report.json", phantom.image, model, result, segmentations, extra)
        write_overview(
            folder / "overview.png",
            Scene(phantom.image, result.heatmaps[shown], segmentations[shown].mask, truth=phantom.truth),
            profiles=result.profiles,
            title=f"{method_name(shown)} of implanted lesions, by a classifier trained without masks",
            subtitle=f"MNI brain, head {seed}: Dice {measured[shown]['dice']:.2f} at the model's own threshold. "
            "Not for diagnosis.",
        )
    return f"{_explanation(seed, result)}\n\n{_table(measured)}\n\nwritten to {output}"


def _measure(phantom: Phantom, result: Reconstruction, segmentation: Segmentation, method: str) -> dict[str, float]:
    """Measure scores at the model's own threshold, the best Dice of any threshold, and the seconds of the method."""
    best_threshold, best = best_dice(result.heatmaps[method].array, phantom.truth, result.inside)
    return {
        **asdict(score(segmentation.mask, phantom.truth)),
        "best_dice": best,
        "best_threshold": best_threshold,
        "seconds": round(_method_seconds(result, method), 1),
    }


def _method_seconds(result: Reconstruction, method: str) -> float:
    """Add up what a method would have taken alone: the pass through the network that it shares, and its other steps."""
    seconds = result.seconds
    if method in seconds:
        return seconds[method]
    backprojection = "backprojection: values" if method == "tonno" else "backprojection: maps"
    return sum(seconds.get(name, 0.0) for name in ("slicing", "encoder", "filter", backprojection))


def _explanation(seed: int, result: Reconstruction) -> str:
    return f"""\
A head that the model never saw: the MNI brain, deformed, with {LESIONS} lesions implanted by seed {seed}. The training
set had other seeds, so other deformations and other lesions; training used one label per volume and no mask.
Precision, recall and F1 count components; they and Dice are at the model's own threshold (from negative
validation volumes). 'Best Dice' is at the threshold that the truth would choose. The last four methods share
one pass through the network; {result.slices_total} slices, {result.seconds["total"]:.0f} s in all.
Research use only, not for diagnosis."""


def _table(measured: dict[str, dict[str, float]]) -> str:
    columns = ("dice", "precision", "recall", "f1", "best_dice", "seconds")
    rows = [[method_name(method), *(values[name] for name in columns)] for method, values in measured.items()]
    headers = ["method", "Dice", "precision", "recall", "F1", "best Dice", "seconds"]
    return tabulate(rows, headers=headers, floatfmt=("", ".3f", ".3f", ".3f", ".3f", ".3f", ".1f"))
