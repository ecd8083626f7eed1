"""What `pip install tonno-core` brings, and what PyPI shows of it."""

from __future__ import annotations

import re
import subprocess
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import tonno_core

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive, built as pip and `python -m build` do."""
    build = pytest.importorskip("hatchling.build")
    pytest.importorskip("hatch_fancy_pypi_readme")
    folder = tmp_path_factory.mktemp("dist")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        build.build_wheel(str(folder))
        build.build_sdist(str(folder))
    return folder


def test_wheel_is_the_engine_alone_and_all_of_it(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == {name for name in tracked() if name.startswith("tonno_core/")}
    assert {"tonno_core/py.typed", "tonno_core/models/brain-lesions/model.safetensors"} < names


def test_source_archive_has_what_the_tests_need(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}
    assert names - {"PKG-INFO"} == {name for name in tracked() if not name.startswith((".github/", ".ci/", ".pre-"))}


def test_pypi_gets_whole_addresses(built: Path) -> None:
    """The README alone is shown there: a relative link would lead nowhere, and a picture would be missing."""
    text = str(metadata(built).get_payload())
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    ours = [link for link in links if "SlicerToNNO/" in link]
    assert len(ours) > 10
    missing = [link for link in ours if not (ROOT / re.split(r"/(?:blob/)?main/", link)[1].partition("#")[0]).exists()]
    assert missing == []
    assert all("raw.githubusercontent.com" in picture for picture in re.findall(r'src="([^"]+)"', text))


def test_versions_agree(built: Path) -> None:
    assert metadata(built)["Version"] == tonno_core.__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.M) == [tonno_core.__version__]


def metadata(built: Path) -> Message:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(wheel.read(name).decode("utf-8"))


def tracked() -> set[str]:
    """What git would commit."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: what belongs to the source tree cannot be told")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
