"""A stand-in for Slicer's module Sample Data: the list of samples, what a click on one does, and the download.

As Slicer's: the panel's button calls a sample's custom downloader, and everything else ignores it: `downloadSample`
fetches the sample's address into the cache folder, or takes what is there under its file's name, and loads that.
"""

from __future__ import annotations

import types
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import slicer

_ATTEMPTS = 3


class SampleDataSource:
    """A sample of one or several files; a custom downloader is kept for the panel's button."""

    def __init__(
        self,
        sampleName=None,
        sampleDescription=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        checksums=None,
        loadFiles=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileTypes=None,
        loadFileProperties=None,
    ) -> None:
        if checksums or loadFiles or loadFileTypes or loadFileProperties:
            raise NotImplementedError("checksums, loadFiles, loadFileTypes and properties of samples are not modelled")
        if isinstance(uris, str):
            uris, fileNames, nodeNames = [uris], [fileNames], [nodeNames]
        if not len(uris) == len(fileNames) == len(nodeNames):
            raise ValueError("All fields of sample data source must have the same length")
        if None in (*fileNames, *nodeNames):
            raise NotImplementedError("samples without names of files and nodes are not modelled")
        self.sampleName, self.sampleDescription = sampleName, sampleDescription or sampleName
        self.uris, self.fileNames, self.nodeNames = uris, fileNames, nodeNames
        self.customDownloader, self.thumbnailFileName = customDownloader, thumbnailFileName

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SampleDataSource) and vars(self) == vars(other)

    __hash__ = None


class SampleDataLogic:
    """The samples lie in slicer.modules.sampleDataSources, by category."""

    @staticmethod
    def registerCustomSampleDataCategory(category: str, title: str) -> None:
        """New in 5.12: a title for a category."""
        _kept("sampleDataSourceCategories").setdefault(category, {})["title"] = title

    @staticmethod
    def registerCustomSampleDataSource(category: str = "Custom", sampleName: str | None = None, **fields: Any) -> None:
        sources = _kept("sampleDataSources").setdefault(category, [])
        source = SampleDataSource(sampleName=sampleName, **fields)
        if source not in sources:
            sources.append(source)

    @staticmethod
    def registerUrlRewriteRule(name: str, rewriteFunction: Any) -> None:
        """rewriteFunction: from the address that was registered to the one that is fetched."""
        if not callable(rewriteFunction):
            raise TypeError(f"Expected 'rewriteFunction' to be callable, got {type(rewriteFunction)}")
        _kept("sampleDataUrlRewriteRules")[name] = rewriteFunction

    def sourceForSampleName(self, sampleName: str) -> SampleDataSource | None:
        sources = [source for sources in _kept("sampleDataSources").values() for source in sources]
        return next((source for source in sources if source.sampleName == sampleName), None)

    def downloadSample(self, sampleName: str) -> Any:
        return self.downloadSamples(sampleName)[0]

    def downloadSamples(self, sampleName: str) -> list[Any]:
        source = self.sourceForSampleName(sampleName)
        return self.downloadFromSource(source) if source else []

    def downloadFromSource(self, source: SampleDataSource) -> list[Any]:
        """The nodes that were loaded; what cannot be fetched is left out without a word."""
        found = []
        for uri, fileName, nodeName in zip(source.uris, source.fileNames, source.nodeNames, strict=True):
            for _attempt in range(_ATTEMPTS):
                try:
                    path = self.downloadFileIntoCache(uri, fileName)
                except ValueError:
                    continue
                found.append(_load(path, nodeName))
                break
        return found

    def downloadFileIntoCache(self, uri: str, name: str) -> str:
        """A file of that name in the cache folder, which is fetched if it is not there. Raises ValueError."""
        for rewrite in _kept("sampleDataUrlRewriteRules").values():
            uri = rewrite(uri)
        path = Path(slicer.mrmlScene.GetCacheManager().GetRemoteCacheDirectory()) / name
        if not path.is_file() or not path.stat().st_size:
            if urllib.parse.urlparse(uri).scheme not in ("", "file"):
                raise AssertionError(f"a test would fetch {uri}")
            try:
                urllib.request.urlretrieve(uri, path)
            except OSError as error:
                raise ValueError(f"Failed to download {uri} to {path}") from error
        return str(path)


def click(sampleName: str) -> Any:
    """What a click on a sample in the module's panel does."""
    logic = SampleDataLogic()
    source = logic.sourceForSampleName(sampleName)
    return source.customDownloader(source) if source.customDownloader else logic.downloadFromSource(source)


def module() -> types.ModuleType:
    """What `import SampleData` gives."""
    found = types.ModuleType("SampleData")
    found.SampleDataLogic, found.SampleDataSource = SampleDataLogic, SampleDataSource
    found.downloadSample = lambda sampleName: SampleDataLogic().downloadSample(sampleName)
    found.downloadSamples = lambda sampleName: SampleDataLogic().downloadSamples(sampleName)
    return found


def _kept(name: str) -> dict[str, Any]:
    if not hasattr(slicer.modules, name):
        setattr(slicer.modules, name, {})
    return getattr(slicer.modules, name)


def _load(path: str, nodeName: str) -> Any:
    node = slicer.modules.volumes.logic().AddArchetypeVolume(path, nodeName)
    if node is None:
        raise NotImplementedError(f"{path}: only volumes are loaded by the stand-in")
    slicer.mrmlScene.RemoveNode(node.GetStorageNode())
    node.SetAndObserveStorageNodeID(None)
    return node
