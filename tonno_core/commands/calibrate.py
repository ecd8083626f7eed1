"""`tonno calibrate` and the end of `tonno train`: a bundle gets its choices and thresholds from split ``val``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from tonno_core.bundle.calibration import LEAST_TO_CHOOSE, OTHER_PLANES, planes_text, threshold_key
from tonno_core.bundle.classes import first_choice
from tonno_core.bundle.file import Bundle, BundleSpec, check_can_write, load_bundle, save_description
from tonno_core.bundle.kind import REGRESSOR
from tonno_core.cohort.manifest import Manifest, read_for_model, require_volumes
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.settings import METHODS, SEGMENTER, ReconstructionSettings, Variant
from tonno_core.training.calibration import Search, calibrate
from tonno_core.training.look import NOTHING, Case, Look, Pace
from tonno_core.training.other_planes import expected_amounts, measure_other_planes
from tonno_core.volume.appearance import appearance, image_concerns, record_of_images
from tonno_core.words import count_of


def recalibrate(
    model: Path,
    manifest_path: Path,
    output: Path,
    options: Json,
    search: Search,
    look: Look,
    *,
    overwrite: bool = False,
) -> str:
    """Write a model with the choices and thresholds that a manifest's split ``val`` gives it.

    Args:
        model: A bundle's folder.
        manifest_path: CSV of volumes and labels.
        output: Folder of the calibrated model.
        options: Settings of the reconstructions by their names in files; the planes become the model's defaults.
        search: What is chosen from.
        look: Where to compute.
        overwrite: Replace a model that is there.

    Returns:
        A summary.

    Raises:
        TonnoError: The model, the manifest or an option is wrong.
    """
    bundle, manifest = _read(model, manifest_path, output, overwrite, ("val",))
    bundle = bundle.to_calibrate()
    spec = calibrate_bundle(bundle, manifest, options, search, look)
    unlike = _unlike_training(bundle.spec, manifest, look)
    kept = {*spec.defaults, "cam"}  # of thresholds in a kind's own unit
    planes = {name: value for name, value in options.items() if name in kept and value is not None}
    planes.pop("methods", None)
    if planes.get("cam") == "scorecam" and "directions" in planes:  # not more than it was calibrated with
        planes["cam_directions"] = planes["directions"]
    spec = dataclasses.replace(spec, defaults={**spec.defaults, **planes})
    save_description(output, spec, bundle, overwrite=overwrite)
    return "\n".join([*manifest.notes, *summary_of(spec), *unlike, f"written to {output}"])


def complete(model: Path, manifest_path: Path, output: Path, look: Look, *, overwrite: bool = False) -> str:
    """Write a model with what an earlier version of tonno did not measure.

    That is thresholds for the planes of presets, from the manifest's split ``val``, and what the images of its split
    ``train`` look like. The model's choices and its own thresholds stay as they are.

    Args:
        model: A bundle's folder.
        manifest_path: CSV of volumes and labels.
        output: Folder of the completed model.
        look: Where to compute.
        overwrite: Replace a model that is there.

    Returns:
        A summary.

    Raises:
        TonnoError: The model or the manifest is wrong, or the model has no thresholds.
    """
    bundle, manifest = _read(model, manifest_path, output, overwrite, ("val", "train"))
    if not bundle.spec.thresholds:
        raise TonnoError(f"{model}: has no thresholds to complete; a whole calibration finds them")
    settings = bundle.spec.choices.settings()
    with _watched(look, bundle, manifest, settings, choosing=False, presets=True) as watched:
        thresholds = _with_other_planes(bundle, manifest, settings, watched)
    training = {**bundle.spec.training, "images": _images(manifest, bundle.spec, look)}
    spec = dataclasses.replace(bundle.spec, thresholds=thresholds, training=training)
    save_description(output, spec, bundle, overwrite=overwrite)
    return "\n".join([*manifest.notes, *summary_of(spec), f"written to {output}"])


def _read(
    model: Path, manifest_path: Path, output: Path, overwrite: bool, splits: tuple[str, ...]
) -> tuple[Bundle, Manifest]:
    """Read a model, and a manifest whose volumes of some splits have to be there."""
    bundle = load_bundle(model)
    if bundle.spec.kind == SEGMENTER:
        raise TonnoError(
            f"{model}: is a segmenter; a calibration chooses among the heatmaps of a classifier, and a segmenter's "
            "threshold comes with its training (`tonno distill`)"
        )
    if bundle.spec.kind == REGRESSOR:
        raise TonnoError(
            f"{model}: is a regressor; a calibration looks for thresholds of findings, and a quantity has none: the "
            "heatmap is in the quantity's own unit (docs/regression.md)"
        )
    check_can_write(output, overwrite=overwrite)
    manifest = read_for_model(manifest_path, bundle.spec.classes, absent=True)
    if not manifest.has_split:
        raise TonnoError(
            f"{manifest.path}: gives no split, and thresholds come from the split val; after `tonno train` give "
            "split.csv in the run's folder (usually MODEL-run), else a column split with train, val and test"
        )
    require_volumes([case for case in manifest.cases if case.split in splits], manifest_path)
    first = manifest.classes.index(first_choice(manifest.classes))
    if not any(case.labels[first] == 0 for case in manifest.split("val")):
        raise TonnoError(f"{manifest.path}: no volume with label 0 has split val; a threshold comes from those")
    return bundle, manifest


def _images(manifest: Manifest, spec: BundleSpec, look: Look) -> Json:
    """Return what the manifest's training images look like; as the model has it where there are none."""
    cases = [(case.volume, 0) for case in manifest.split("train")]
    volumes = look.volumes(cases, "looking at images", spec.intensity)
    seen = [appearance(volume.array, volume.ijk_to_ras, spec.intensity) for volume, _ in volumes]
    images = [image for image in seen if image is not None]
    return record_of_images(images, spec.intensity, spec.pixel_mm) if images else spec.training.get("images", {})


def _unlike_training(spec: BundleSpec, manifest: Manifest, look: Look) -> list[str]:
    """Return a line where volumes of split ``val`` differ from the images that the model was trained on."""
    if not spec.training.get("images"):
        return []
    paths = [case.volume for case in manifest.split("val")]
    volumes = look.volumes([(path, 0) for path in paths], "looking at images", spec.intensity)
    found = [image_concerns(spec.training, volume.array, volume.ijk_to_ras) for volume, _ in volumes]
    unlike = [(path.name, concerns) for path, concerns in zip(paths, found, strict=True) if concerns]
    if not unlike:
        return []
    name, concerns = unlike[0]
    return [
        f"warning: {len(unlike)} of {count_of(len(paths), 'volume')} of split val differ from the model's training "
        f"images, and thresholds hold for scans like these; {name}: {' '.join(concerns)}"
    ]


def calibrate_bundle(bundle: Bundle, manifest: Manifest, options: Json, search: Search, look: Look) -> BundleSpec:
    """Calibrate a model for each of its classes, from a manifest's split ``val``.

    Args:
        bundle: The model.
        manifest: With labels of its classes.
        options: Settings of the reconstructions by their names in files (all methods by default); what they state is
            not chosen.
        search: What is chosen from.
        look: Where to compute.

    Returns:
        The model's description with choices and thresholds.
    """
    asked = {name: value for name, value in options.items() if value is not None}
    settings = bundle.spec.choices.settings({"methods": METHODS, **asked})
    thresholds: dict[str, Json] = {}
    records: list[Json] = []
    with _watched(look, bundle, manifest, settings, choosing=True, presets=search.presets) as look:
        for index in range(len(bundle.spec.classes)):
            calibration = calibrate(bundle, _labelled(manifest, index), settings, search, look, class_index=index)
            thresholds |= calibration.thresholds
            records += calibration.records
        spec = dataclasses.replace(bundle.spec, thresholds=thresholds, calibration=records)
        if not search.presets:
            return spec
        calibrated = dataclasses.replace(bundle, spec=spec)
        return dataclasses.replace(spec, thresholds=_with_other_planes(calibrated, manifest, settings, look))


@contextmanager
def _watched(
    look: Look, bundle: Bundle, manifest: Manifest, settings: ReconstructionSettings, *, choosing: bool, presets: bool
) -> Iterator[Look]:
    """Show one bar for all that is measured in a block, after a line that says what it is of."""
    labelled = [_labelled(manifest, index) for index in range(len(bundle.spec.classes))]
    calibrated = [cases for cases in labelled if not all(label for _, label in cases)]
    if not calibrated:
        yield look
        return
    if look.progress:
        volumes = count_of(len(calibrated[0]), "volume")
        tqdm.write(f"calibrating on {volumes} of split val; how long it takes shows after the first", file=sys.stderr)
    amounts = [expected_amounts(cases, settings) for cases in calibrated] if presets else []
    with Pace(len(calibrated) if choosing else 0, sum(amounts, NOTHING), show=look.progress) as pace:
        yield dataclasses.replace(look, pace=pace)


def _labelled(manifest: Manifest, index: int) -> list[Case]:
    """Return the volumes of split ``val`` with their labels of a class."""
    return [(case.volume, case.labels[index]) for case in manifest.split("val")]


def _with_other_planes(
    bundle: Bundle, manifest: Manifest, settings: ReconstructionSettings, look: Look
) -> dict[str, Json]:
    """Return the bundle's thresholds, with those for the planes of presets."""
    thresholds = dict(bundle.spec.thresholds)
    for index in range(len(bundle.spec.classes)):
        cases = _labelled(manifest, index)
        thresholds |= measure_other_planes(bundle, cases, settings, look, class_index=index)
    return thresholds


def summary_of(spec: BundleSpec) -> list[str]:
    """Return a calibration in words.

    Args:
        spec: The model's description.

    Returns:
        Lines for the terminal: each method's threshold, AUC and choices, and by what it was chosen.
    """
    lines = []
    for key, record in spec.thresholds.items():
        names = Variant(key.partition("/")[0]).choices()
        chosen = ", ".join(f"{name} {record['settings'][name]}" for name in names)
        lines.append(f"{key}: threshold {record['threshold']:.4g}, {_area_of(record)}; {chosen}{_reason_of(record)}")
        for other in record.get(OTHER_PLANES, ()):
            lines.append(f"  {planes_text(other['settings'])}: threshold {other['threshold']:.4g}")
    few = [record for record in spec.thresholds.values() if _is_few(record)]
    if few:
        positive, negative = count_of(few[0]["positive_volumes"], "volume"), few[0]["negative_volumes"]
        lines.append(
            f"nothing was chosen, each method has its default: split val has {positive} with and {negative} without "
            f"the finding, a choice takes {LEAST_TO_CHOOSE} of each"
        )
    lines += _without_thresholds(spec) if spec.thresholds else []
    for key, record in spec.thresholds.items():
        if record["threshold"] <= 0:
            lines.append(f"warning: {key}: the threshold is not above 0; the classifier may have learned nothing")
    return lines or ["no negative volume in split val: nothing calibrated, `threshold` auto will be Otsu's"]


def _without_thresholds(spec: BundleSpec) -> list[str]:
    """Return a line for the classes, and one for the methods, for which a calibrated model has no thresholds."""
    known = {
        (method, name)
        for method in METHODS
        for name in spec.classes
        if threshold_key(method, name, spec.classes) in spec.thresholds
    }
    classes = [name for name in spec.classes if name not in {other for _, other in known}]
    methods = [method for method in METHODS if method not in {other for other, _ in known}]
    reasons = {"class": (classes, "split val has no volume without it"), "method": (methods, "not asked for")}
    return [
        f"no thresholds for {kind} {', '.join(names)} ({reason}): `threshold` auto will be Otsu's there"
        for kind, (names, reason) in reasons.items()
        if names
    ]


def _is_few(record: Json) -> bool:
    """Return whether a method has its default because there were too few volumes to choose by."""
    counts = [record.get(f"{kind}_volumes", LEAST_TO_CHOOSE) for kind in ("positive", "negative")]
    return "nested_auc" in record and bool(min(counts) < LEAST_TO_CHOOSE)


def _reason_of(record: Json) -> str:
    """Return by what a record's variant was chosen; nothing where it was not, or an earlier version does not say."""
    reasons = {"agreement": f" (by agreement, {record.get('agreement', 0.0):.2f})", "auc": " (by peak AUC)"}
    return reasons.get(record.get("chosen_by", ""), "")


def _area_of(record: Json) -> str:
    """Return a record's AUC as it is expected of other volumes, with its interval and the counts."""
    area = record.get("nested_auc", record.get("auc"))
    if area is None:
        return "no peak AUC"
    if "nested_auc_interval" not in record:  # of an earlier version: the highest of all that were tried
        return f"peak AUC {area:.3f} (of the variant chosen by it)"
    low, high = record["nested_auc_interval"]
    volumes = f"{record['positive_volumes']} + {record['negative_volumes']} volumes"
    among = f", chosen from {record['chosen_from']} without the volumes compared" if record["chosen_from"] > 1 else ""
    return f"peak AUC {area:.3f} ({low:.2f} to {high:.2f}; {volumes}{among})"
