"""The sample in Slicer's module Sample Data: its button, and ``SampleData.downloadSample`` in a script."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
import pytest
import slicer
import vtk
from walk import MODULE


class SampleDataLogic:
    """What the module Sample Data does with a source, after its documentation; the same in Slicer 5.10 and 5.12.

    The button of a source calls its `customDownloader`; `downloadSample` knows only addresses, file names and a cache.
    """

    sources: ClassVar[list[Any]] = []
    rules: ClassVar[dict[str, Callable[[str], str]]] = {}
    cache: ClassVar[Path]

    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom",
        sampleName: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Any = None,
        thumbnailFileName: str | None = None,
        loadFileTypes: Any = None,
        loadFiles: Any = None,
        loadFileProperties: Any = None,
        checksums: Any = None,
        loadFileType: Any = None,
    ) -> None:
        # One of each, or lists of one length; None for the address is no list there.
        assert all(isinstance(text, str) for text in (uris, fileNames, nodeNames))
        assert (loadFileTypes, loadFiles, loadFileProperties, checksums, loadFileType) == (None,) * 5, "not modelled"
        SampleDataLogic.sources.append(
            SimpleNamespace(
                category=category, name=sampleName, thumbnail=thumbnailFileName, load=customDownloader,
                address=uris, file=fileNames, nodeName=nodeNames,
            )
        )  # fmt: skip

    @staticmethod
    def registerUrlRewriteRule(name: str, rewriteFunction: Callable[[str], str]) -> None:
        SampleDataLogic.rules[name] = rewriteFunction

    @classmethod
    def downloadSample(cls, name: str) -> Any:
        source = next(source for source in cls.sources if source.name == name)
        address = source.address
        for rule in cls.rules.values():
            address = rule(address)
        file = cls.cache / source.file
        if not file.exists():
            parts = urlparse(address)
            assert parts.scheme == "file", f"a download from {address}"
            file.write_bytes(Path(url2pathname(parts.path)).read_bytes())
        return cls._read(file, source.nodeName)

    @staticmethod
    def _read(file: Path, name: str) -> Any:
        """As the reader of volumes does."""
        storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
        storage.SetFileName(str(file))
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        assert storage.ReadData(node)
        return node


@pytest.fixture
def sampleData(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[SampleDataLogic]]:
    module = ModuleType("SampleData")
    module.SampleDataLogic = SampleDataLogic  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "SampleData", module)
    for name, value in (("sources", []), ("rules", {}), ("cache", tmp_path)):
        monkeypatch.setattr(SampleDataLogic, name, value, raising=False)
    yield SampleDataLogic


def test_its_button_draws_and_shows_it(qtHost: Any, sampleData: type[SampleDataLogic]) -> None:
    """And the panel's own button works without it; see the tests of the panel."""
    qtHost.loadModule(MODULE)
    assert not sampleData.sources  # nothing at import
    qtHost.completeStartup()
    (source,) = sampleData.sources
    assert (source.category, source.name) == ("ToNNO", "ToNNO sample")
    assert Path(source.thumbnail).is_file()
    source.load(source)  # as the button in Sample Data calls it
    (node,) = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    assert node.GetName() == "ToNNO sample"
    for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        assert view.GetBackgroundVolumeID() == node.GetID()


def test_a_script_gets_the_same_voxels_by_name(qtHost: Any, sampleData: type[SampleDataLogic], tmp_path: Path) -> None:
    from ToNNOSlicerLib.sample import makeSample

    qtHost.loadModule(MODULE)
    qtHost.completeStartup()
    array, ijkToRAS = makeSample()
    for _time in range(2):  # the second from Sample Data's cache
        node = sampleData.downloadSample("ToNNO sample")
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), array)
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        # Text of 17 digits in the file's head.
        np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(matrix), ijkToRAS, atol=1e-9)
        assert node.GetName() == "ToNNO sample"
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("ToNNO-sample-") and file.stat().st_size < 1_000_000


def test_its_file_lies_where_the_user_wants_temporary_files(qtHost: Any, sampleData: type[SampleDataLogic]) -> None:
    qtHost.loadModule(MODULE)
    qtHost.completeStartup()
    for _time in range(2):
        sampleData.downloadSample("ToNNO sample")
    (folder,) = Path(slicer.app.temporaryPath).glob("tonno-sample-*")  # drawn once
    assert os.name == "nt" or stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_other_samples_addresses_stay(qtHost: Any, sampleData: type[SampleDataLogic]) -> None:
    qtHost.loadModule(MODULE)
    qtHost.completeStartup()
    (rule,) = sampleData.rules.values()
    assert rule("https://example.org/a.nrrd") == "https://example.org/a.nrrd"


def test_without_sample_data_the_application_starts(qtHost: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SampleData", None)  # its import fails
    qtHost.loadModule(MODULE)
    qtHost.completeStartup()
