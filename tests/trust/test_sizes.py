"""SECURITY.md: what a file claims is checked before memory is taken for it. Random claims: tests/fuzz."""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from tests.encoding.test_program import Small, export
from tests.memory import little_memory
from tests.networks import write_random_bundle
from tests.volume.test_dicom import write_slice
from tonno_core.bundle import file as bundle_file
from tonno_core.bundle.file import load_bundle
from tonno_core.bundle.quantity import Quantity
from tonno_core.cohort.find import find_volumes
from tonno_core.cohort.source import content_of
from tonno_core.encoding import program
from tonno_core.encoding.classifier import create_model
from tonno_core.encoding.weights import read_weights
from tonno_core.errors import TonnoError
from tonno_core.volume.io import read_header, read_volume
from tonno_core.volume.signature import data_files
from tonno_core.worker.files import read_array


@pytest.fixture(autouse=True)
def limited() -> Iterator[None]:
    """Half a gigabyte is left for each test."""
    with little_memory(1 << 29):
        yield


def refused(path: Path, read: Any = read_volume) -> str:
    with pytest.raises(TonnoError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def nifti(path: Path, dimensions: tuple[int, int, int], *, voxels: bytes = b"") -> Path:
    """A header of int16 that claims dimensions, and what follows it."""
    image = sitk.GetImageFromArray(np.zeros((2, 2, 2), np.int16))
    sitk.WriteImage(image, str(path))
    header = bytearray(path.read_bytes()[:352])
    struct.pack_into("<3h", header, 42, *dimensions)
    path.write_bytes(bytes(header) + voxels)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and alarms of POSIX")
def test_a_pipe_among_the_scans_is_not_waited_for(tmp_path: Path) -> None:
    """Whoever may put files into a folder of scans could stop a cohort for ever."""

    def waits(*_: object) -> None:
        raise AssertionError("waits for whoever writes to the pipe")

    pipe = tmp_path / "a.nii.gz"
    os.mkfifo(pipe)
    nifti(tmp_path / "b.nii", (2, 2, 2))
    before = signal.signal(signal.SIGALRM, waits)
    signal.alarm(60)
    try:
        for read in (read_volume, read_header):
            assert "is a pipe or a device, expected a file" in refused(pipe, read)
        with pytest.raises(OSError, match="a pipe or a device"):
            content_of(pipe)
        assert [found.volume.name for found in find_volumes([tmp_path], [])] == ["b.nii"]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_nifti_header_that_claims_more_than_any_memory(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", (32767, 32767, 1024))  # 2^40 voxels
    assert "32767 x 32767 x 1024 voxels; expected at most 2,147,483,648" in refused(path)
    assert refused(path, read_header) == refused(path)


def test_a_nifti_header_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", (2000, 1000, 1000), voxels=bytes(100))  # 4 GB
    assert "truncated: 452 bytes, its header asks for 4000000352" in refused(path)


def test_a_bomb_of_gzip_is_not_kept_in_memory(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    with (tmp_path / "a.nii.gz").open("wb") as file:
        file.write(packer.compress(nifti(tmp_path / "a.nii", (4, 5, 6)).read_bytes() + bytes(range(240))))
        for _ in range(300):
            file.write(packer.compress(bytes(1 << 20)))
        file.write(packer.flush())
    assert read_volume(tmp_path / "a.nii.gz").size_ijk == (4, 5, 6)


@pytest.mark.parametrize("sizes", ["65536 65536 256", "1099511627776 1 1", "1048576 1048576 1048576"])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_text_header_that_claims_more_than_any_memory(tmp_path: Path, suffix: str, sizes: str) -> None:
    nrrd = f"NRRD0005\ntype: float\ndimension: 3\nsizes: {sizes}\nencoding: raw\nendian: little\n\n"
    meta = f"ObjectType = Image\nNDims = 3\nDimSize = {sizes}\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    (tmp_path / f"a{suffix}").write_bytes((nrrd if suffix == ".nrrd" else meta).encode() + bytes(64))
    refused(tmp_path / f"a{suffix}")
    refused(tmp_path / f"a{suffix}", read_header)


def test_a_header_that_names_more_files_than_any_folder_has(tmp_path: Path) -> None:
    text = "NRRD0005\ntype: float\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: {} 0 999999999 1\n\n"
    for pattern in ("a%d.raw", "a%0999999999d.raw"):
        (tmp_path / "a.nhdr").write_text(text.format(pattern))
        assert len(data_files(tmp_path / "a.nhdr")) <= 65536
    (tmp_path / "a.nhdr").write_text(text.format("a%03d.raw"))
    assert "a000.raw" in refused(tmp_path / "a.nhdr")


def series(folder: Path) -> list[Path]:
    for k in range(3):
        write_slice(folder / f"{k}.dcm", np.random.default_rng(k).normal(size=(4, 5)), (0, 0, 2.0 * k))
    return sorted(folder.iterdir())


@pytest.mark.parametrize("compressed", [False, True])
def test_dicom_slices_of_absurd_rows(tmp_path: Path, compressed: bool) -> None:
    for path in series(tmp_path):
        data = pydicom.dcmread(path)
        if compressed:
            data.compress(RLELossless)
        data.Rows = data.Columns = 65535
        data.save_as(path)
    found = refused(tmp_path)
    expected = "65535 x 65535 x 3 voxels; expected at most" if compressed else "of fewer pixels than its header says"
    assert expected in found


def test_a_bomb_of_deflated_dicom(tmp_path: Path) -> None:
    paths = series(tmp_path)
    data = pydicom.dcmread(paths[1])
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.PixelData = bytes(1 << 20)
    data.save_as(paths[1])
    content = paths[1].read_bytes()
    start = content.index(b"UL\x04\x00") + 8 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = zlib.decompress(content[start:], -15)[: -(1 << 20)]
    with paths[1].open("wb") as file:
        file.write(content[:start] + packer.compress(head))
        for _ in range(300):
            file.write(packer.compress(bytes(1 << 20)))
        file.write(packer.flush())
    assert "of more than 256 MB once it is inflated: 1.dcm" in refused(tmp_path)


def test_a_models_description_of_absurd_sizes(tmp_path: Path) -> None:
    folder = write_random_bundle(tmp_path / "model")
    path = folder / "model.json"
    right = json.loads(path.read_text())
    for key, value in {"slice_size": 10**9, "channels": 10**9, "mean": [10**400], "pixel_mm": 10**400}.items():
        path.write_text(json.dumps({**right, key: value}))
        assert f"key '{key}' is " in refused(folder, load_bundle)
    path.write_text("[" * 100_000)
    assert "not readable as JSON" in refused(folder, load_bundle)
    path.write_text('{"schema": ' + "9" * 5000 + "}")
    assert "not readable as JSON" in refused(folder, load_bundle)


def test_a_quantity_beyond_floats() -> None:
    for record in ({"name": "a", "mean": 10**400, "sd": 1}, {"name": "a", "mean": 0, "sd": 10**400}):
        with pytest.raises(TonnoError, match="expected an object with name, mean and an sd above 0"):
            Quantity.of_record(record)


def test_a_network_that_its_arguments_make_absurdly_large() -> None:
    with pytest.raises(TonnoError, match=r"its arguments make [\d,]+ weights, expected at most"):
        create_model("test_vit", channels=1, classes=1, norm="batch", slice_size=32, arguments={"embed_dim": 40_000})


def test_a_safetensors_header_of_absurd_length(tmp_path: Path) -> None:
    folder = write_random_bundle(tmp_path / "model")
    weights = folder / "model.safetensors"
    for content in (struct.pack("<Q", 1 << 62) + b"{}", struct.pack("<Q", 99_000_000) + b"{" + bytes(100)):
        weights.write_bytes(content)
        assert "not a readable safetensors file" in refused(weights, read_weights)
        data = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps(data | {"sha256": bundle_file._sha256(weights)}))
        assert "not a readable safetensors file" in refused(folder, load_bundle)
    header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    weights.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    assert "not a readable safetensors file" in refused(weights, read_weights)


@pytest.mark.filterwarnings("ignore")  # of torch.export, about itself
def test_an_exported_program_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    right = export(Small().eval(), tmp_path / "a.pt2", size=32)
    with zipfile.ZipFile(right) as source, zipfile.ZipFile(tmp_path / "b.pt2", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr("more", bytes(100 << 20))
    assert "torch packs nothing" in refused(tmp_path / "b.pt2", lambda path: program.read_program(path, ["body"]))

    def repeated(content: bytes) -> bytes:
        data = json.loads(content)
        meta = next(iter(data["config"].values()))["tensor_meta"]
        meta["sizes"], meta["strides"] = [{"as_int": 1 << 40}], [{"as_int": 0}]
        return json.dumps(data).encode()

    with zipfile.ZipFile(right) as source, zipfile.ZipFile(tmp_path / "c.pt2", "w") as target:
        for name in source.namelist():
            held = source.read(name)
            target.writestr(name, repeated(held) if name.endswith("model_weights_config.json") else held)
    assert "1,099,511,627,776 numbers in" in refused(
        tmp_path / "c.pt2", lambda path: program.read_program(path, ["body"])
    )


def test_an_array_that_claims_more_than_its_file_holds(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
    padded = header.ljust(117) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + bytes(16))
    with pytest.raises(ValueError, match="no file of numbers"):
        read_array(tmp_path / "a.npy")
