"""The report: one file with everything in it, whatever a volume is called, whole or not at all."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import pytest
import slicer.util
from scenes import THRESHOLD, addHeatmap, addVolume
from test_logic_findings import RESULT
from ToNNOSlicerLib.logic import ToNNOUserError, verdicts
from ToNNOSlicerLib.logic.findings import findingsOf
from ToNNOSlicerLib.logic.heatmap import recordOf, writeRecord
from ToNNOSlicerLib.logic.report import exportReport, reportSteps
from ToNNOSlicerLib.logic.summary import identityOf, reportText

VOID = {"meta", "img", "br"}
FETCHED = {"src", "href", "srcset", "data", "action", "poster", "background"}


class Page(HTMLParser):
    """What a browser sees: texts, pictures, and what it would fetch; every element that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.images: list[dict[str, str]] = []
        self.fetched: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        values = dict(attrs)
        assert not any(name.startswith("on") for name in values)
        self.fetched += [value for name, value in attrs if name in FETCHED]
        if tag == "img":
            self.images.append(values)

    def handle_endtag(self, tag) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def picturesOf(page: Page) -> list:
    from PIL import Image

    return [Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) for image in page.images]


@pytest.fixture
def result(logic):
    heatmap = addHeatmap(logic, addVolume(name="FLAIR"), result=RESULT)
    return heatmap, *logic.segments.write(heatmap, THRESHOLD)


def written(logic, result, tmp_path: Path) -> Page:
    exportReport(tmp_path / "report.html", *result)
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_one_file_has_everything_and_fetches_nothing(logic, result, tmp_path) -> None:
    page = written(logic, result, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert all(source.startswith("data:image/png;base64,") for source in page.fetched)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "url(" not in text and "@import" not in text and "prefers-color-scheme" not in text
    assert len(page.images) == 3  # two findings, and the profiles
    assert all(len(image["alt"]) > 20 for image in page.images)
    for picture in picturesOf(page):
        assert picture.width == 1210 and len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_what_the_report_says(logic, result, tmp_path) -> None:
    heatmap, segmentation, segmentId = result
    calibration = {"threshold": THRESHOLD, "noise_floor": 1.0, "volume_quantile": 0.95, "negative_volumes": 12}
    writeRecord(heatmap, recordOf(heatmap) | {
        "threshold": calibration, "quality": "Fast", "made": "2026-11-02T14:03:11", "stopped": True,
        "directions": 38, "planned": 96, "slices": 2432, "warnings": ["The series has a gap."],
        "seconds": {"total": 75.4}, "device": "cpu",
        "model": {"name": "brain-lesions", "encoder": "resnet10t", "sha256": "ee79", "about": {"use": "demonstration"}},
    })  # fmt: skip
    first, second = findingsOf(segmentation, segmentId, heatmap)
    verdicts.setVerdict(heatmap, second, verdicts.REJECT)
    text = written(logic, result, tmp_path).text
    for expected in (
        "FLAIR", "Research use only, not for diagnosis.", "1 finding, 0.08 ml; largest", "1 rejected (0.08 ml)",
        "Looked for lesion", "Model brain-lesions", "quality Fast", "2432 planes along 38 directions",
        "stopped at 38 of 96", "Threshold 3 (the model's)", "Noise floor 1", "Made 2026-11-02 14:03",
        "Report written 20",
        "The run was stopped at 38 of 96 directions", "The series has a gap.", "Score of the volume: 4.25",
        "explains 75 %", "Network resnet10t", "Use demonstration", "12 scans without the finding", "75 s",
        "All but rejected: 1 finding, 0.08 ml. Accepted only: no finding.", "rejected", "not judged",
        f"{first.longestMm:.1f} \N{MULTIPLICATION SIGN} {first.perpendicularMm:.1f}",
        "Rejected findings have no picture.",
    ):  # fmt: skip
        assert expected in text


def test_what_is_said_of_the_threshold_is_in_both_reports(logic, result, tmp_path) -> None:
    heatmap = result[0]
    note = "The model's threshold was calibrated for 64 slices; the heatmap has 48 slices: look, and tune it."
    writeRecord(heatmap, recordOf(heatmap) | {"threshold": recordOf(heatmap)["threshold"] | {"note": note}})
    assert note in written(logic, result, tmp_path).text
    listed = findingsOf(*result[1:], heatmap)
    assert f"\n{note}\n" in reportText(identityOf(*result), listed, recordOf(heatmap))


def test_texts_are_texts_whatever_they_hold(logic, tmp_path) -> None:
    volume = addVolume(name='<b>x</b> & "y" {0} <script>alert(1)</script>')
    heatmap = addHeatmap(logic, volume, className="<i>lesion</i>", result=RESULT)
    writeRecord(heatmap, recordOf(heatmap) | {
        "warnings": ["a < b"], "quality": "'><img src=x>", "model": {"name": "<u>m</u>", "about": {"data": "</dd>"}},
    })  # fmt: skip
    page = written(logic, (heatmap, *logic.segments.write(heatmap, THRESHOLD)), tmp_path)
    assert not {"script", "b", "i", "u"} & set(page.tags) and len(page.images) == 3
    for expected in (volume.GetName(), "<i>lesion</i>", "a < b", "'><img src=x>", "<u>m</u>", "</dd>"):
        assert expected in page.text


def test_nothing_found_is_a_report_too(logic, tmp_path) -> None:
    heatmap = addHeatmap(logic, addVolume())
    page = written(logic, (heatmap, *logic.segments.write(heatmap, 10.0)), tmp_path)
    assert "Nothing above the threshold 10. Highest: 9 (90 % of it) at" in page.text
    assert len(page.images) == 1 and "table" not in page.tags


def test_parts_that_were_too_small_are_told_by_that_volume(logic, tmp_path) -> None:
    heatmap = addHeatmap(logic, addVolume())
    page = written(logic, (heatmap, *logic.segments.write(heatmap, THRESHOLD, 1e6)), tmp_path)
    assert "is 1000 ml or larger. Highest: 9" in page.text


def test_findings_that_were_all_removed_by_hand_are_not_below_the_threshold(logic, result, tmp_path) -> None:
    for finding in findingsOf(*result[1:], result[0]):
        logic.removeFinding(result[0], finding)
    page = written(logic, result, tmp_path)
    assert "No finding " in page.text and "Nothing above" not in page.text


def test_many_findings_have_a_row_each_and_some_a_picture(logic, tmp_path, monkeypatch) -> None:
    from importlib import import_module

    monkeypatch.setattr(import_module("ToNNOSlicerLib.logic.report"), "LARGEST_NUMBER_OF_PICTURES", 1)
    heatmap = addHeatmap(logic, addVolume())
    page = written(logic, (heatmap, *logic.segments.write(heatmap, THRESHOLD)), tmp_path)
    assert page.tags.count("tr") == 3 and len(page.images) == 1
    assert "1 more finding is in the table alone." in page.text


def test_another_ending_and_a_missing_volume_are_refused(logic, host, result, tmp_path) -> None:
    with pytest.raises(ToNNOUserError, match=r"End the name with \.html"):
        exportReport(tmp_path / "report.pdf", *result)
    host.scene.RemoveNode(slicer.util.getNode("FLAIR"))
    with pytest.raises(ToNNOUserError, match="no longer in the scene"):
        exportReport(tmp_path / "report.html", *result)
    assert not any(tmp_path.iterdir())


def test_an_old_report_stays_until_the_new_one_is_whole(logic, result, tmp_path) -> None:
    (tmp_path / "report.html").write_text("old")

    def breaks(_files, _place):
        yield 0.5
        raise ToNNOUserError("the process has died")

    with pytest.raises(ToNNOUserError, match="died"):
        list(reportSteps(tmp_path / "report.html", *result, breaks))
    assert (tmp_path / "report.html").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    written(logic, result, tmp_path)


def test_the_report_shows_the_image_as_the_views_do(logic, result) -> None:
    given = []

    def keep(files, _place):
        given.append(files)
        yield 1.0

    slicer.util.getNode("FLAIR").GetDisplayNode().SetAutoWindowLevel(False)
    slicer.util.getNode("FLAIR").GetDisplayNode().SetWindowLevelMinMax(80.0, 130.0)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        list(reportSteps(Path(folder) / "report.html", *result, keep))
    (files,) = given
    assert files.scene.window == (80.0, 130.0) and files.scene.threshold == THRESHOLD
    listed = findingsOf(result[1], result[2], result[0])
    assert [picture.lines for picture in files.pictures] == [(f.longestRAS, f.perpendicularRAS) for f in listed]
    assert [picture.centre_ras[2] for picture in files.pictures] == [f.longestRAS[0][2] for f in listed]
