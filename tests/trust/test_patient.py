"""SECURITY.md: what a header says of a patient reaches no result, no report and no message, but DICOM results."""

from __future__ import annotations

import gzip
import re
import shutil
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from tests.commands.test_dicom import write_series
from tests.commands.within import Command
from tests.networks import write_random_bundle

PRIVATE = {
    "PatientName": "Zyxwvu^Qelmina", "PatientID": "MRN8675309", "PatientBirthDate": "19370214",
    "OtherPatientIDs": "OTHER4477", "AccessionNumber": "ACC5566123", "InstitutionName": "Hospital Qrstuv",
    "ReferringPhysicianName": "Jklmno^Xaver", "PatientAddress": "Wxyzstrasse 9", "StudyDescription": "Study of Vutsrq",
    "SeriesDescription": "Series of Ponmlk", "PatientComments": "Comment Gfedcb", "StudyDate": "20210317",
    "DeviceSerialNumber": "SN99881277",
}  # fmt: skip
WORDS = ("Zyxwvu", "Qelmina", "8675309", "19370214", "4477", "5566123", "Qrstuv", "Jklmno", "Wxyzstrasse", "Vutsrq",
         "Ponmlk", "Gfedcb", "20210317", "99881277")  # fmt: skip
COARSE = ("--slices", "10", "--directions", "6", "--slice-size", "16", "--device", "cpu", "--precision", "float32")


def unpacked(content: bytes) -> bytes:
    """What is inside of gzip, of a compressed NRRD, and of the texts of a picture."""
    if content.startswith(b"\x1f\x8b"):
        return gzip.decompress(content)
    if content.startswith(b"NRRD"):
        head, _, voxels = content.partition(b"\n\n")
        return head + (gzip.decompress(voxels) if voxels.startswith(b"\x1f\x8b") else voxels)
    texts = re.findall(rb"(?:zTXt|iTXt)[^\0]*\0+(x.{20,400})", content, re.DOTALL)
    return content + b"".join(zlib.decompressobj().decompress(text) for text in texts)


def leaks(*texts: str, folder: Path | None = None) -> list[str]:
    """Words of the patient in what was said, and in the names and the content of all files."""
    found = [word for word in WORDS for text in texts if word.lower() in text.lower()]
    for path in folder.rglob("*") if folder else ():
        content = path.name.encode() + (unpacked(path.read_bytes()) if path.is_file() else b"")
        found += [f"{word} in {path.name}" for word in WORDS if word.encode().lower() in content.lower()]
        found += [f"{word} in {path.name}" for word in WORDS if word.encode("utf-16-le") in content]
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_bundle(tmp_path_factory.mktemp("model") / "random")


@pytest.fixture
def tonno(capfd: pytest.CaptureFixture[str], kept_signals: None) -> Command:
    return Command(capfd)


def dicom(folder: Path) -> Path:
    write_series(folder / "scan", **PRIVATE)
    return folder / "scan"


def nifti(folder: Path) -> Path:
    array = np.random.default_rng(0).normal(size=(12, 13, 14)).astype(np.float32)
    image = nibabel.Nifti1Image(array, np.diag([2.0, 2.0, 3.0, 1.0]))
    header: Any = image.header
    header["descrip"], header["aux_file"] = b"Zyxwvu^Qelmina MRN8675309", b"Vutsrq 19370214"
    header["db_name"], header["intent_name"] = b"Jklmno", b"Qrstuv"
    data = pydicom.Dataset()
    data.PatientName, data.PatientID = PRIVATE["PatientName"], PRIVATE["PatientID"]
    for code, content in ((6, b"Wxyzstrasse"), (2, data), (4, b"Gfedcb 20210317")):
        header.extensions.append(nibabel.nifti1.Nifti1Extension(code, content) if code != 2 else
                                 nibabel.nifti1.Nifti1DicomExtension(code, content))  # fmt: skip
    nibabel.save(image, folder / "scan.nii.gz")
    assert b"Qelmina" in gzip.decompress((folder / "scan.nii.gz").read_bytes())
    return folder / "scan.nii.gz"


def nrrd(folder: Path) -> Path:
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(12, 13, 14)).astype(np.float32))
    for name, value in PRIVATE.items():
        image.SetMetaData(f"DICOM.{name}", value)
    sitk.WriteImage(image, str(folder / "scan.nrrd"))
    assert b"Qelmina" in (folder / "scan.nrrd").read_bytes()
    return folder / "scan.nrrd"


def meta(folder: Path) -> Path:
    scan = nrrd(folder)
    sitk.WriteImage(sitk.ReadImage(str(scan)), str(folder / "scan.mha"))
    scan.unlink()
    assert b"Qelmina" in (folder / "scan.mha").read_bytes()
    return folder / "scan.mha"


@pytest.mark.parametrize("write", [dicom, nifti, nrrd, meta])
def test_results_and_messages_do_not_name_the_patient(
    write: Callable[[Path], Path], model: Path, tonno: Command, tmp_path: Path
) -> None:
    scan = write(tmp_path)
    output = tmp_path / "out"
    suffix = ".nrrd" if write is meta else ".nii.gz"
    status, out, err = tonno("reconstruct", scan, "--model", model, *COARSE, "--format", suffix[1:], "--output", output)
    assert status == 0, err
    assert (output / f"heatmap-matched-cam{suffix}").exists()
    assert leaks(out, err, folder=output) == []


def test_a_cohort_does_not_name_the_patient(model: Path, tonno: Command, tmp_path: Path) -> None:
    scan = dicom(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.csv").write_text("volume,label\nscan,1\nempty,0\n")
    output = tmp_path / "out"
    status, out, err = tonno(
        "reconstruct", tmp_path / "list.csv", "--model", model, *COARSE, "--threshold", 0.1, "--output", output
    )
    assert status != 0 and "empty" in err + out  # of which one failed
    said = tonno("check", tmp_path / "list.csv")
    assert leaks(out, err, *map(str, said), folder=output) == []
    assert scan.exists()


@pytest.mark.parametrize(
    "fault", ["cut off", "two series", "another class", "no class", "phases", "length", "scrambled"]
)
def test_refusals_do_not_name_the_patient(fault: str, model: Path, tonno: Command, tmp_path: Path) -> None:
    scan = dicom(tmp_path)
    files = sorted(scan.iterdir())
    data = pydicom.dcmread(files[3])
    if fault == "cut off":
        files[3].write_bytes(files[3].read_bytes()[:-100])
    elif fault == "two series":
        write_series(tmp_path / "other", **PRIVATE)
        shutil.copy(tmp_path / "other" / files[3].name, scan / "more.dcm")
    elif fault in ("another class", "no class"):
        data.SOPClassUID = "1.2.3.4" if fault == "another class" else ""
        data.save_as(files[3])
    elif fault == "phases":
        data.ImagePositionPatient = pydicom.dcmread(files[4]).ImagePositionPatient
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's: no such type conforms
            data.ImageType = ["ORIGINAL", PRIVATE["PatientName"]]
            data.save_as(files[3])
    else:
        content = bytearray(files[3].read_bytes())
        at = content.index(b"\x08\x00\x16\x00UI" if fault == "length" else b"\x08\x00\x18\x00UI", 132) + 6
        content[at : at + 2] = b"\xf0\x01"  # the class, or the instance, takes the patient's name in
        files[3].write_bytes(content)
    status, out, err = tonno("reconstruct", scan, "--model", model, *COARSE, "--output", tmp_path / "out")
    if status:
        assert (status, out, err.count("\n")) == (2, "", 1)
    assert leaks(out, err) == []
