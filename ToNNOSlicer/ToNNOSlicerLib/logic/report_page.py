"""The report's page: one HTML file without scripts, that loads nothing, for the screen and for white paper."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from slicer.i18n import tr as _

from tonno_core.output import Json
from ToNNOSlicerLib.logic import summary
from ToNNOSlicerLib.logic.findings import MIDLINE_MM, Finding
from ToNNOSlicerLib.logic.heatmap import calibrationOf
from ToNNOSlicerLib.logic.verdicts import REJECT

_TEMPLATE = Path(__file__).resolve().parents[2] / "Resources" / "report.html"
PROFILES = "profiles.png"
HIGHEST = "highest.png"  # the picture where there is no finding


@dataclass(frozen=True)
class Contents:
    """What the page tells; no node is needed for it any more.

    Attributes:
        identity: What the result is.
        record: The heatmap's, as far as the page needs it.
        findings: All of the segment, the highest peak first.
        headline: A sentence.
        written: When the report was written, ISO time.
        pictured: Labels of the findings that have a picture.
    """

    identity: summary.Identity
    record: Json
    findings: tuple[Finding, ...]
    headline: str
    written: str
    pictured: tuple[int, ...]


def pictureOf(label: int) -> str:
    """Name the file of a finding's picture.

    Args:
        label: The finding's.

    Returns:
        The file's name.
    """
    return f"finding-{label}.png"


def page(contents: Contents, folder: Path) -> str:
    """Write the page.

    Args:
        contents: What it tells.
        folder: Where the pictures are; those that are not there are left out.

    Returns:
        HTML.
    """
    title = _("ToNNO report: {volume}").format(volume=contents.identity.volume)
    body = "\n".join((
        _head(contents),
        _warnings(contents),
        _table(contents.findings),
        _pictures(contents, folder),
        _answers(contents, folder),
        _making(contents),
    ))  # fmt: skip
    template = Template(_TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=escape(title), body=body, note=escape(summary.RESEARCH_USE))


def _head(contents: Contents) -> str:
    identity = contents.identity
    rows = [*summary.facts(identity), (_("Noise floor"), _number(calibrationOf(contents.record).get("noise_floor")))]
    rows.append((_("Report written"), contents.written.replace("T", " ")))
    return f"""<header>
<p class="kind">{escape(_("ToNNO report"))}</p>
<h1>{escape(identity.volume or _("Unnamed volume"))}</h1>
<p class="headline">{escape(contents.headline)}</p>
<p class="note">{escape(summary.RESEARCH_USE)}</p>
</header>
<section>
{_list(rows)}
</section>"""


def _warnings(contents: Contents) -> str:
    """Write what a reader has to know before the numbers."""
    record, stopped, texts = contents.record, contents.identity.stopped, []
    if stopped:
        stopped += " " + _("directions") if record.get("planned") else ""
        texts.append(
            _("The run was {stopped}: its heatmap is noisier than that of a whole run.").format(stopped=stopped)
        )
    if record.get("zoom"):
        texts.append(_("All planes were put into a region. The model's threshold was calibrated for whole volumes."))
    texts += summary.warnings(record)
    if not texts:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<section class="warnings"><h2>{escape(_("Warnings"))}</h2><ul>{items}</ul></section>'


def _table(findings: tuple[Finding, ...]) -> str:
    if not findings:
        return ""
    topics = ("#", _("Side"), _("Size in mm"), _("ml"), _("Peak"), _("Confidence"), _("Verdict"), _("Peak at"))
    heads = "".join(f'<th scope="col">{escape(topic)}</th>' for topic in topics)
    return f"""<section>
<h2>{escape(_("Findings"))}</h2>
<table>
<thead><tr>{heads}</tr></thead>
<tbody>
{"".join(_row(finding) for finding in findings)}</tbody>
</table>
<p class="totals">{escape(summary.totals(findings))}</p>
</section>"""


def _row(finding: Finding) -> str:
    cells = (
        str(finding.label),
        summary.side(finding),
        summary.size(finding).removesuffix(" mm").replace(" x ", " \N{MULTIPLICATION SIGN} "),
        summary.ml(finding.ml).removesuffix(" ml"),
        f"{finding.peak:.3g}",
        finding.confidence,
        summary.verdict(finding),
        summary.place(finding.peakRAS),
    )
    kind = ' class="rejected"' if finding.verdict == REJECT else ""
    return f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>\n"


def _pictures(contents: Contents, folder: Path) -> str:
    """Show the findings' pictures, or that of the highest voxel where there is no finding."""
    shown = [
        _figure(
            folder / pictureOf(finding.label),
            _("Finding {label}: {text}").format(label=finding.label, text=summary.described(finding)),
            _("Three planes through finding {label}, {side}, {size}.").format(
                label=finding.label, side=summary.side(finding), size=summary.size(finding)
            ),
        )
        for finding in contents.findings
        if finding.label in contents.pictured
    ]
    shown = shown or [
        _figure(
            folder / HIGHEST, _("The heatmap's highest voxel"), _("Three planes through the heatmap's highest voxel.")
        )
    ]
    legend = _("Above: the whole image with the heatmap. Below: the white square without it.")
    if contents.pictured:
        legend = _(
            "Above: the whole image with the heatmap and the outline of the segment. Below: the white square without "
            "the heatmap, with the longest axial diameter and its perpendicular."
        )
    legend += " " + _("The patient's right is on the picture's left.")
    left = len(summary.counted(contents.findings)) - len(contents.pictured)
    if left == 1:
        legend += " " + _("1 more finding is in the table alone.")
    elif left > 1:
        legend += " " + _("{count} more findings are in the table alone.").format(count=left)
    if any(finding.verdict == REJECT for finding in contents.findings):
        legend += " " + _("Rejected findings have no picture.")
    return f"""<section>
<h2>{escape(_("Pictures"))}</h2>
<p class="legend">{escape(legend)}</p>
{"".join(shown)}</section>"""


def _answers(contents: Contents, folder: Path) -> str:
    """Write the classifier's score, and what it said to planes along the patient's axes."""
    record = contents.record
    lines = []
    if record.get("score") is not None:
        lines.append(
            _("Score of the volume: {score:.3g} (the mean of the highest tenth of all planes' logits).").format(
                score=record["score"]
            )
        )
    if record.get("explained") is not None:
        lines.append(
            _("The heatmap explains {share:.0f} % of the classifier's output.").format(share=100 * record["explained"])
        )
    picture = _figure(
        folder / PROFILES,
        _("The classifier's answers to planes along the patient's axes; dashed: where the findings' peaks are."),
        _("Plots of the classifier's logit by the place of axial, coronal and sagittal planes."),
    )
    if not lines and not picture:
        return ""
    texts = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f"<section><h2>{escape(_('What the classifier said'))}</h2>{texts}{picture}</section>"


def _making(contents: Contents) -> str:
    record, calibration = contents.record, calibrationOf(contents.record)
    model, seconds = record.get("model") or {}, (record.get("seconds") or {}).get("total")
    about = model.get("about") or {}
    topics = (
        ("finding", _("Trained to find")), ("modality", _("Made for")), ("data", _("Trained on")),
        ("use", _("Use")), ("licence", _("License")),
    )  # fmt: skip
    rows = [
        (_("Network"), model.get("encoder") or ""),
        (_("Weights (SHA-256)"), model.get("sha256") or ""),
        *((title, str(about.get(topic, ""))) for topic, title in topics),
        (_("Model's threshold"), _number(calibration.get("threshold"))),
        (_("Calibrated on"), _calibratedOn(calibration)),
        (_("Computed on"), record.get("device") or ""),
        (_("Computed in"), "" if seconds is None else _("{seconds:.0f} s").format(seconds=seconds)),
    ]  # fmt: skip
    texts = (
        _(
            "A classifier of 2D slices looked at planes of many directions through the volume. Tomographic "
            "reconstruction made a heatmap of its answers. The voxels at or above the threshold are the segment, the "
            "connected pieces of the segment the findings."
        ),
        _(
            "Size: the longest diameter in an axial plane of the patient, and the longest perpendicular to it in that "
            "plane. Side: by the finding's center; the midline is taken to be the middle of what the planes cover, or "
            "of the volume, and what is within {mm:.0f} mm of it is called midline. Confidence: the finding's peak "
            "beside what scans without the finding reached when the model was calibrated. Volumes and sizes are those "
            "of the segment: they change with the threshold."
        ).format(mm=MIDLINE_MM),
    )
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in texts)
    return f"<section class='making'><h2>{escape(_('How it was made'))}</h2>{paragraphs}{_list(rows)}</section>"


def _calibratedOn(calibration: Json) -> str:
    scans, quantile = calibration.get("negative_volumes"), calibration.get("volume_quantile")
    if not scans or quantile is None:
        return ""
    text = _("{scans} scans without the finding; the threshold is the {quantile:g} quantile of their peaks")
    if scans == 1:
        text = _("1 scan without the finding; the threshold is its peak")
    return text.format(scans=scans, quantile=quantile)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _list(rows: Iterable[tuple[str, str]]) -> str:
    """Write topics and texts; those without a text are left out."""
    items = "".join(f"<div><dt>{escape(topic)}</dt><dd>{escape(text)}</dd></div>" for topic, text in rows if text)
    return f"<dl>{items}</dl>"


def _figure(path: Path, caption: str, alt: str) -> str:
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )
