"""The report's page: one HTML file without scripts, that loads nothing, for the screen and for white paper."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from slicer.i18n import tr as _

from tonno_core.output import Json
from ToNNOSlicerLib.logic import summary
from ToNNOSlicerLib.logic.findings import MIDLINE_MM, Finding
from ToNNOSlicerLib.logic.heatmap import calibrationOf
from ToNNOSlicerLib.logic.verdicts import REJECT

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
    return _PAGE.format(title=escape(title), style=_STYLE, body=body, note=escape(summary.RESEARCH_USE))


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
    return _("{scans} scans without the finding; the threshold is the {quantile:g} quantile of their peaks").format(
        scans=scans, quantile=quantile
    )


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


_STYLE = """
:root { color-scheme: only light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2.2rem 2rem 4rem; background: #fff; color: #1b1f24;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", "DejaVu Sans", sans-serif;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
header { border-bottom: 2px solid #1b1f24; margin-bottom: 1.2rem; padding-bottom: .9rem; }
.kind { margin: 0; color: #59626d; font-size: .8rem; letter-spacing: .08em; text-transform: uppercase; }
h1 { margin: .1rem 0 .3rem; font-size: 1.9rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 1.9rem 0 .5rem; font-size: 1.1rem; }
.headline { margin: 0 0 .7rem; font-size: 1.2rem; }
.note { display: inline-block; margin: 0; padding: .2rem .7rem; border: 1.5px solid #a32020; border-radius: .25rem;
  color: #a32020; font-weight: 600; }
dl { display: grid; grid-template-columns: 1fr 1fr; gap: .15rem 2rem; margin: 0; }
dl div { display: grid; grid-template-columns: 8.5rem 1fr; gap: .6rem; padding: .15rem 0;
  border-bottom: 1px solid #e6e8eb; break-inside: avoid; }
dt { color: #59626d; }
dd { margin: 0; overflow-wrap: anywhere; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { padding: .3rem .5rem; border-bottom: 1.5px solid #1b1f24; color: #59626d; font-weight: 600; text-align: left;
  vertical-align: bottom; }
td { padding: .35rem .5rem; border-bottom: 1px solid #e6e8eb; vertical-align: top; }
td:nth-child(3), td:nth-child(4), td:nth-child(8) { white-space: nowrap; }
td:nth-child(4), th:nth-child(4), td:nth-child(5), th:nth-child(5) { text-align: right; }
tr { break-inside: avoid; }
.rejected td { color: #7a828c; text-decoration: line-through; }
.rejected td:nth-child(7) { text-decoration: none; }
.totals { margin: .6rem 0 0; font-weight: 600; }
.legend, .making { color: #3a424c; font-size: .9rem; }
.warnings { margin: 1.2rem 0; padding: .1rem 1.1rem .4rem; border-left: 4px solid #c98200; background: #fdf6e6; }
.warnings h2 { margin-top: .6rem; }
.warnings ul { margin: .2rem 0; padding-left: 1.1rem; }
figure { margin: 1rem 0 1.8rem; break-inside: avoid; }
figcaption { margin-top: .55rem; }
img { display: block; width: 100%; height: auto; }
footer { margin-top: 2.5rem; padding-top: .7rem; border-top: 1px solid #c4c9d0; color: #59626d; font-size: .85rem; }
@page { margin: 14mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2, .legend { break-after: avoid; }
  p, .legend { break-inside: avoid; }
  footer { break-before: avoid; margin-top: 1rem; }
  img { width: auto; max-width: 100%; max-height: 98mm; }
}
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="color-scheme" content="only light">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<footer>{note}</footer>
</body>
</html>
"""
