"""Manifests: what a line means, and which line is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tonno_core.errors import TonnoError
from tonno_core.training.manifest import Case, read_manifest


@pytest.fixture(autouse=True)
def volumes(tmp_path: Path) -> None:
    """Files to name; a manifest is read without opening them."""
    (tmp_path / "sub").mkdir()
    for name in ("a.nii", "b.nii", "sub/c.nii"):
        (tmp_path / name).touch()


def manifest(folder: Path, text: str) -> Path:
    path = folder / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path) -> str:
    with pytest.raises(TonnoError) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


def test_the_shortest_manifest(tmp_path: Path) -> None:
    cases = read_manifest(manifest(tmp_path, "volume,label\na.nii,0\nsub/c.nii,1\n"))
    assert cases == [
        Case(tmp_path / "a.nii", 0, None, "a.nii", "train"),
        Case(tmp_path / "sub" / "c.nii", 1, None, "sub/c.nii", "train"),
    ]


def test_all_columns_in_any_order_with_spaces_and_a_byte_order_mark(tmp_path: Path) -> None:
    lines = [
        "split,patient,label,mask,volume,notes",
        " val , P1 , 1 , sub/m.nii , a.nii ,x",
        "train,,0,,b.nii,",
        ",P2,1,,sub/c.nii,",
    ]
    assert read_manifest(manifest(tmp_path, "\ufeff" + "\n".join(lines))) == [
        Case(tmp_path / "a.nii", 1, tmp_path / "sub" / "m.nii", "P1", "val"),
        Case(tmp_path / "b.nii", 0, None, "b.nii", "train"),
        Case(tmp_path / "sub" / "c.nii", 1, None, "P2", "train"),
    ]


def test_paths_are_relative_to_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = manifest(tmp_path, f"volume,label\na.nii,0\n{tmp_path / 'b.nii'},1\n")
    monkeypatch.chdir(tmp_path.parent)
    assert [case.volume for case in read_manifest(path)] == [tmp_path / "a.nii", tmp_path / "b.nii"]
    monkeypatch.chdir(tmp_path)
    assert read_manifest(Path("list.csv"))[0].volume.is_absolute()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("volume,label\na.nii,0\nb.nii,2\n", ", line 3: label is '2', expected 0 or 1"),
        ("volume,label\na.nii,yes\n", ", line 2: label is 'yes', expected 0 or 1"),
        ("volume,label\na.nii\n", ", line 2: label is '', expected 0 or 1"),
        ("volume,label\na.nii,0\n\nabsent.nii,1\n", ", line 4: volume 'absent.nii' does not exist (paths are relative"),
        ("volume,label\n,1\n", ", line 2: volume '' does not exist"),
        (
            # An empty line is skipped, and counted.
            "volume,label,patient,split\na.nii,0,P1,train\n\nb.nii,1,P1,val\n",
            ", line 4: patient 'P1' is in split 'val' and in 'train'; a patient belongs to one split",
        ),
        ("volume,label\na.nii,0\nb.nii,0\n", ": no training volume has label 1; training needs both classes"),
        ("volume,label,split\na.nii,0,val\nb.nii,1,train\n", ": no training volume has label 0"),
        ("volume,label\n", ": no training volume has label 0"),
        ("volume,class\na.nii,0\n", ": column label missing, found volume, class; expected volume,label"),
        ("", ": column label and volume missing, found ; expected volume,label"),
    ],
)
def test_the_line_that_is_wrong_is_named(text: str, message: str, tmp_path: Path) -> None:
    assert refused(manifest(tmp_path, text)).startswith(message)


def test_what_is_no_csv(tmp_path: Path) -> None:
    assert "no such manifest" in refused(tmp_path / "absent.csv")
    assert "no such manifest" in refused(tmp_path / "sub")
    (tmp_path / "list.csv").write_bytes(b"volume,label\n\xff\xfe,0\n")
    assert "not readable as CSV" in refused(tmp_path / "list.csv")
    (tmp_path / "list.csv").write_bytes(b"volume,label\n\x00,0\n")
    refused(tmp_path / "list.csv")


def test_a_misspelt_split_is_named(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.nii.gz").touch()
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("volume,label,split\na.nii.gz,0,train\nb.nii.gz,1,train\nc.nii.gz,1,valid\n")
    with pytest.raises(TonnoError, match=r"line 4: split is 'valid', expected train, val, test"):
        read_manifest(manifest)
