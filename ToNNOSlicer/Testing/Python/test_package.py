"""The extension as CMake makes it: built, installed and packed with a stand-in for Slicer's CMake package."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
STAND_IN = ROOT / "ToNNOSlicer" / "Testing" / "CMake"
MODULES = Path("lib/Slicer-5.10/qt-scripted-modules")
DESCRIPTION = Path("share/Slicer-5.10/ToNNO.s4ext")
CONFIGURE = ("-G", "Unix Makefiles", f"-DSlicer_DIR={STAND_IN}")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the build tree, ``installed`` and the archive of ``make package``."""
    _needs_cmake()
    folder = tmp_path_factory.mktemp("build")
    _cmake("-S", ROOT, "-B", folder, *CONFIGURE)
    _cmake("--build", folder)
    _cmake("--install", folder, "--prefix", folder / "installed")
    _cmake("--build", folder, "--target", "package")
    return folder


def test_every_file_is_shipped_and_nothing_else(build: Path) -> None:
    assert _files(build / "installed") == _expected()


def test_shipped_files_are_the_source_trees(build: Path) -> None:
    installed = build / "installed" / MODULES
    for file in _expected() - {DESCRIPTION}:
        name = file.relative_to(MODULES)
        source = ROOT / name if name.parts[0] == "tonno_core" else ROOT / "ToNNOSlicer" / name
        assert (installed / name).read_bytes() == source.read_bytes(), name


def test_make_package_leaves_an_archive_of_the_same_files(build: Path) -> None:
    with tarfile.open(build / "ToNNO-extension.tar.gz") as archive:
        packed = {Path(*Path(one.name).parts[1:]) for one in archive.getmembers() if one.isfile()}
    assert packed == _expected()


def test_description_names_the_extension_it_needs(build: Path) -> None:
    text = (build / "installed" / DESCRIPTION).read_text(encoding="utf-8")
    assert "depends PyTorch\n" in text
    assert "category Segmentation\n" in text


def test_description_is_whole(build: Path) -> None:
    text = (build / "installed" / DESCRIPTION).read_text(encoding="utf-8")
    assert re.search(r"^description .*For research only\.$", text, re.M)
    assert re.search(r"^contributors [^(]+ \([^)]+\)$", text, re.M)  # name (organization)
    assert re.search(r"^keywords \S+( \S+)+$", text, re.M)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        pytest.param("project(ToNNO)", "project(ToNNO LANGUAGES NONE)", "Mismatch between bitness", id="no-language"),
        pytest.param(
            "segmentation, without", "segmentation; without", "EXTENSION_DESCRIPTION holds a semicolon", id="semicolon"
        ),
        pytest.param("set(EXTENSION_KEYWORDS", "set(KEYWORDS", "EXTENSION_KEYWORDS is not set", id="no-keywords"),
    ],
)
def test_what_slicer_refuses_or_cuts_is_refused(tmp_path: Path, right: str, wrong: str, message: str) -> None:
    _needs_cmake()
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert right in text
    source = tmp_path / "source"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(text.replace(right, wrong), encoding="utf-8")
    for name in ("ToNNOSlicer", "tonno_core"):
        (source / name).symlink_to(ROOT / name)
    result = _run_cmake("-S", source, "-B", tmp_path / "build", *CONFIGURE)
    assert result.returncode != 0
    assert message in " ".join(result.stderr.split())


def test_index_entry_follows_the_rules_of_the_index() -> None:
    """Its schema 1.0.1, which cannot be had without a network, and what its check of a new entry asks beyond that."""
    raw = (ROOT / "ToNNO.json").read_bytes()
    assert b"\r" not in raw
    entry = json.loads(raw)
    texts = {"$schema", "category", "scm_url", "scm_revision", "build_subdirectory"}
    assert {name for name, value in entry.items() if isinstance(value, str)} == texts
    assert set(entry) - texts == {"build_dependencies", "tier"}
    assert entry["$schema"].endswith("/slicer-extension-catalog-entry-schema-v1.0.1.json#")
    assert entry["build_dependencies"] == ["PyTorch"]
    assert entry["tier"] == 1  # experimental: what every new entry is
    assert entry["scm_url"].startswith("https://github.com/") and entry["scm_url"].endswith(".git")
    assert entry["scm_url"].rsplit("/", 1)[-1].startswith("Slicer")
    assert (ROOT / "LICENSE.txt").is_file()


def test_index_entry_is_of_the_same_extension() -> None:
    entry = json.loads((ROOT / "ToNNO.json").read_text(encoding="utf-8"))
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert "project(ToNNO)" in text  # the index takes the name from the file ToNNO.json
    assert entry["category"] == "Segmentation" and f'EXTENSION_CATEGORY "{entry["category"]}"' in text
    assert f'EXTENSION_DEPENDS "{" ".join(entry["build_dependencies"])}"' in text
    assert f'EXTENSION_HOMEPAGE "{entry["scm_url"].removesuffix(".git")}"' in text


def test_pictures_of_the_index_are_in_the_repository() -> None:
    """Their addresses are the branch's files; an icon is a square of 128 pixels, a screenshot large enough to read."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    branch = json.loads((ROOT / "ToNNO.json").read_text(encoding="utf-8"))["scm_revision"]
    addresses = dict(re.findall(r'set\(EXTENSION_(ICONURL|SCREENSHOTURLS) "([^"]+)"\)', text))
    for name, least in {"ICONURL": 128, "SCREENSHOTURLS": 1000}.items():
        for address in addresses[name].split():
            start = rf"https://raw\.githubusercontent\.com/[^/]+/Slicer[^/]+/{branch}/"
            picture = ROOT / re.sub(start, "", address)
            head = picture.read_bytes()[:24]
            width, height = struct.unpack(">II", head[16:])
            assert head.startswith(b"\x89PNG")
            assert (width, height) == (128, 128) if name == "ICONURL" else width >= least


def test_a_clone_is_small() -> None:
    """The index refuses a clone with its history of over 100 MB; this tree is to be under a third of that."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: what a clone holds cannot be told")
    assert sum(file.stat().st_size for line in listed.stdout.splitlines() if (file := ROOT / line).is_file()) < 33e6


def test_requirements_are_the_engines_but_torch() -> None:
    """Two lists of one thing: the package's own, and the one that Slicer installs beside the PyTorch extension."""
    block = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.S | re.M)
    assert block is not None
    engine = set(re.findall(r'"([^"]+)"', block[1]))
    lines = (ROOT / "ToNNOSlicer/Resources/requirements.txt").read_text(encoding="utf-8").splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == {
        one for one in engine if not one.startswith("torch>")
    }


def test_a_segmenter_needs_one_package_more() -> None:
    lines = [
        {line for line in (ROOT / "ToNNOSlicer/Resources" / name).read_text("utf-8").splitlines() if line[0] != "#"}
        for name in ("requirements.txt", "requirements-segmenter.txt")
    ]
    extra = re.search(r'^segmenter = \["([^"]+)"\]', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert extra is not None
    assert lines[1] - lines[0] == {extra[1]}
    assert lines[0] < lines[1]


def test_installed_layout_is_importable_by_a_bare_python(build: Path) -> None:
    """No site-packages (-S), so neither torch nor numpy nor this repository: what it needs, it brings."""
    code = (
        "import ToNNOSlicerLib.models, ToNNOSlicerLib.pip_process, ToNNOSlicerLib.timing, ToNNOSlicerLib.engine, sys;"
        "import tonno_core.protocol, tonno_core.settings;"
        "found = ToNNOSlicerLib.models.findModels();"
        "print(found[0].name, found[0].classes, 'torch' in sys.modules)"
    )
    said = _python(build / "installed" / MODULES, "-S", "-c", code).stdout.strip()
    assert said == "brain-lesions ('lesion',) False"


def test_worker_starts_from_the_installed_layout(build: Path) -> None:
    folder = build / "installed" / MODULES
    request = json.dumps({"v": 1, "id": 1, "type": "describe"}) + "\n"
    result = _python(folder, "-m", "tonno_core.worker", input=request)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert events[0]["type"] == "ready"
    assert events[0]["protocol"] == 1


def _needs_cmake() -> None:
    if find_spec("cmake") is None:
        pytest.skip("the package cmake (CMake from PyPI) is not installed here")
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler here: CMake, and so Slicer's macros, want it even where nothing is compiled")


def _run_cmake(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cmake", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def _cmake(*arguments: object) -> None:
    result = _run_cmake(*arguments)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


def _python(path: Path, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=path, env=environment, input=input, timeout=120
    )


def _files(folder: Path) -> set[Path]:
    return {file.relative_to(folder) for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc"}


def _expected() -> set[Path]:
    """What git would commit of the module and the engine, tests and build files left out."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "ToNNOSlicer", "tonno_core"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: what belongs to the source tree cannot be told")
    files = {Path(line) for line in listed.stdout.splitlines() if (ROOT / line).is_file()}
    kept = {MODULES / _shipped(f) for f in files if f.name != "CMakeLists.txt" and "Testing" not in f.parts}
    return kept | {DESCRIPTION}


def _shipped(file: Path) -> Path:
    return file.relative_to("ToNNOSlicer") if file.parts[0] == "ToNNOSlicer" else file
