"""What a cohort's summary reads of a case's ``report.json``, which `tonno reconstruct` wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tonno_core.errors import TonnoError, one_line
from tonno_core.output import Json
from tonno_core.records import made_of, read_record
from tonno_core.segmentation.binarize import Component
from tonno_core.segmentation.threshold import NO_FINDINGS
from tonno_core.volume.intensity import shown_window


@dataclass(frozen=True)
class OfMethod:
    """A method's heatmap, and what is segmented in it.

    Attributes:
        threshold_source: How the threshold was found.
        peak: Highest value of the heatmap.
        components: Of the segmentation.
        threshold: The threshold; None where nothing is a finding.
        volume_mm3: Volume of the segmentation, likewise.
    """

    threshold_source: str
    peak: float
    components: tuple[Component, ...]
    threshold: float | None = None
    volume_mm3: float | None = None

    @property
    def segmented(self) -> bool:
        """Whether a threshold tells what is a finding; reports of earlier builds have numbers where none does."""
        return self.threshold_source != NO_FINDINGS


@dataclass(frozen=True)
class Seconds:
    """Times of a run.

    Attributes:
        total: Of all of it.
    """

    total: float


@dataclass(frozen=True)
class CaseReport:
    """A case's report, as far as a summary needs it.

    Attributes:
        run: Hash of the cohort's settings.
        model: What tells the model from others.
        class_name: Of the finding.
        score: The classifier's; None where it is not known.
        warnings: Texts for the reader.
        seconds: Times.
        methods: By name; at least one.
        intensity: As the model was shown the volume; earlier builds do not tell.
        source: Hash of place, size and time of the volume, "" where an earlier build kept none.
        content: Hash of the volume's bytes, likewise.
    """

    run: str
    model: str | Json
    class_name: str
    score: float | None
    warnings: tuple[str, ...]
    seconds: Seconds
    methods: dict[str, OfMethod]
    intensity: str = "none"
    source: str = ""
    content: str = ""

    @property
    def network(self) -> str:
        """Name of the model's network."""
        return self.model if isinstance(self.model, str) else str(self.model["encoder"])


def load_report(path: Path, run: str) -> tuple[CaseReport, Json] | None:
    """Read and check a case's report.

    Args:
        path: The file.
        run: Hash of the cohort's settings.

    Returns:
        The report, and all that the file holds; None where there is none, or that of another cohort.

    Raises:
        TonnoError: The file is damaged.
    """
    try:
        content = read_record(path)
        if content.get("run") != run:
            return None
        named = {**content, "class_name": content.get("class")}
        report = made_of(CaseReport, named, others=True)
        _check(report)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise TonnoError(f"{path}: not readable as a case's report ({one_line(error)}); delete its folder") from error
    return report, content


def _check(report: CaseReport) -> None:
    """Raise ValueError where values of the right types are none that a run writes."""
    if isinstance(report.model, dict) and not isinstance(report.model.get("encoder"), str):
        raise ValueError("its model has no encoder")
    try:
        shown_window(report.intensity)
    except TonnoError as error:
        raise ValueError(f"its intensity is none: {error}") from error
    if not report.methods:
        raise ValueError("it has no methods")
    for name, method in report.methods.items():
        if not name or Path(name).name != name:  # files are named by it
            raise ValueError(f"a method is {name[:30]!r}")
        if method.segmented and (method.threshold is None or method.volume_mm3 is None):
            raise ValueError(f"{name} lacks its threshold or volume_mm3")
