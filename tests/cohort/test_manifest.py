"""Manifests: what a line means, and which line is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tonno_core.cohort.manifest import Case, Manifest, read_for_model, read_manifest, require_trainable, write_manifest
from tonno_core.errors import TonnoError


@pytest.fixture(autouse=True)
def volumes(tmp_path: Path) -> None:
    """Files to name; a manifest is read without opening them."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "series").mkdir()
    for name in ("a.nii", "a.nii.gz", "b.nii", "sub/c.nii", "d.nii"):
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


def labels(folder: Path, *cells: str) -> tuple[tuple[str, ...], list[tuple[int, ...]]]:
    """Classes and labels of a manifest whose column ``label`` has these cells."""
    lines = [f"{name},{cell}" for name, cell in zip(("a.nii", "b.nii", "d.nii", "sub/c.nii"), cells, strict=False)]
    content = read_manifest(manifest(folder, "\n".join(["volume,label", *lines])))
    return content.classes, [case.labels for case in content.cases]


# -------------------- what a line means


def test_the_shortest_manifest(tmp_path: Path) -> None:
    content = read_manifest(manifest(tmp_path, "volume,label\na.nii,0\nsub/c.nii,1\n"), class_name="lesion")
    assert content.classes == ("lesion",)
    assert content.cases == (
        Case(tmp_path / "a.nii", (0,), (None,), "a.nii", ""),
        Case(tmp_path / "sub" / "c.nii", (1,), (None,), "sub/c.nii", ""),
    )
    assert [case.line for case in content.cases] == [2, 3]
    assert not content.has_split
    assert content.split("train") == ()


def test_all_columns_in_any_order_with_spaces_and_a_byte_order_mark(tmp_path: Path) -> None:
    lines = [
        "Split, patient ,LABEL,mask,volume,notes",
        " val , P1 , 1 , sub/m.nii , a.nii ,x",
        "Train,,0,,series,",
        "train,P2,1,,sub/c.nii",
        ",,,,,",
    ]
    content = read_manifest(manifest(tmp_path, "\ufeff" + "\r\n".join(lines)))
    assert content.cases == (
        Case(tmp_path / "a.nii", (1,), (tmp_path / "sub" / "m.nii",), "P1", "val"),
        Case(tmp_path / "series", (0,), (None,), "series", "train"),
        Case(tmp_path / "sub" / "c.nii", (1,), (None,), "P2", "train"),
    )
    assert content.has_split
    assert content.split("train") == content.cases[1:]
    assert content.split("test") == ()
    with pytest.raises(ValueError, match="split 'validation', expected one of"):
        content.split("validation")


def test_paths_are_relative_to_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = manifest(tmp_path, f"volume,label\na.nii,0\n{tmp_path / 'b.nii'},1\n")
    monkeypatch.chdir(tmp_path.parent)
    assert [case.volume for case in read_manifest(path).cases] == [tmp_path / "a.nii", tmp_path / "b.nii"]
    monkeypatch.chdir(tmp_path)
    assert read_manifest(Path("list.csv")).cases[0].volume.is_absolute()


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_separators_of_spreadsheets(tmp_path: Path, delimiter: str) -> None:
    text = 'volume,label,patient\na.nii,0,"Doe, J"\nb.nii,1,P2\n'.replace(",", delimiter).replace(
        f"Doe{delimiter}", "Doe,"
    )
    content = read_manifest(manifest(tmp_path, text))
    assert [case.patient for case in content.cases] == ["Doe, J", "P2"]


@pytest.mark.parametrize("said", ['sep="\n', "sep=\r\n", 'sep="\r\n'])
def test_a_line_that_says_no_separator_is_no_such_line(tmp_path: Path, said: str) -> None:
    assert "column volume and label missing" in refused(manifest(tmp_path, f"{said}volume,label\na.nii,0\nb.nii,1\n"))


def test_names_are_classes_and_words_for_no_finding_are_not(tmp_path: Path) -> None:
    content = labels(tmp_path, "tumour", "Healthy", "bleeding", "0")
    assert content == (("bleeding", "tumour"), [(0, 1), (0, 0), (1, 0), (0, 0)])
    assert labels(tmp_path, "tumour", "NONE", "negative", "Normal") == (("tumour",), [(1,), (0,), (0,), (0,)])


def test_words_for_no_finding_are_no_classes(tmp_path: Path) -> None:
    assert labels(tmp_path, "tumour", "neg", "absent", "No Finding") == (("tumour",), [(1,), (0,), (0,), (0,)])
    assert labels(tmp_path, "TRUE", "False", "yes", "no") == (("finding",), [(1,), (0,), (1,), (0,)])
    text = "volume,label:a,label:b\na.nii,Yes,absent\nb.nii,neg,True\n"
    assert [case.labels for case in read_manifest(manifest(tmp_path, text)).cases] == [(1, 0), (0, 1)]


def test_of_two_names_that_exclude_each_other_one_is_chosen(tmp_path: Path) -> None:
    path = manifest(tmp_path, "volume,label\na.nii,Benign\nb.nii,malignant\n")
    chosen = read_manifest(path, class_name="Malignant")
    assert (chosen.classes, [case.labels for case in chosen.cases]) == (("malignant",), [(0,), (1,)])
    # A model that tells both leaves no question; nor do three names, or one volume without a finding.
    assert read_for_model(path, ("malignant", "benign")).cases[0].labels == (0, 1)
    assert len(labels(tmp_path, "a", "b", "c")[0]) == 3
    assert labels(tmp_path, "benign", "malignant", "none")[0] == ("benign", "malignant")


@pytest.mark.parametrize(
    ("classes", "header", "cells", "expected"),
    [
        (("normal", "lesion"), "label", ("1", "0"), [(0, 1), (1, 0)]),
        (("normal", "lesion"), "label", ("Lesion", "none"), [(0, 1), (1, 0)]),
        (("normal", "lesion"), "label:lesion", ("1", "0"), [(0, 1), (1, 0)]),
        (("normal", "lesion"), "label:normal,label:lesion", ("1,0", "1,1"), [(1, 0), (1, 1)]),
        (("lesion",), "label", ("1", "0"), [(1,), (0,)]),
        (("b", "a"), "label:a,label:b", ("1,0", "0,1"), [(0, 1), (1, 0)]),
        (("healthy", "a", "b"), "label", ("a", "none"), "none are of 'b'"),
        (("healthy", "a", "b"), "label:a,label:b", ("0,1", "0,0"), [(0, 0, 1), (1, 0, 0)]),
        (("a", "b"), "label", ("1", "0"), "labels are 0 and 1, the model tells a, b; which of them label 1 means: "),
        (("lesion",), "label:edema", ("1", "0"), "labels are of edema, the model tells lesion: none are of 'lesion'"),
        (("normal",), "label", ("1", "0"), [(1,), (0,)]),
        (("lesion",), "label", ("benign", "malignant"), "Give columns label:NAME for what the model tells, lesion"),
        (("lesion",), "label:normal", ("1", "0"), "labels are of normal, the model tells lesion: none are of 'lesion'"),
    ],
)  # fmt: skip
def test_labels_of_the_classes_of_a_model(
    classes: tuple[str, ...], header: str, cells: tuple[str, str], expected: list[tuple[int, ...]] | str, tmp_path: Path
) -> None:
    path = manifest(tmp_path, f"volume,{header}\na.nii,{cells[0]}\nb.nii,{cells[1]}\n")
    if isinstance(expected, str):
        with pytest.raises(TonnoError, match=expected):
            read_for_model(path, classes)
        return
    content = read_for_model(path, classes)
    assert (content.classes, [case.labels for case in content.cases]) == (classes, expected)
    for index, name in enumerate(classes):
        one = read_for_model(path, classes, wanted=name)
        assert [case.labels for case in one.cases] == [(values[index],) for values in expected]


def test_the_absence_of_a_finding_has_no_mask(tmp_path: Path) -> None:
    path = manifest(tmp_path, "volume,label,mask\na.nii,1,m.nii#2\nb.nii,0,\n")
    case = read_for_model(path, ("normal", "lesion")).cases[0]
    assert (case.masks, case.mask_values) == ((None, tmp_path / "m.nii"), (None, (2,)))


def test_numbers_as_pandas_writes_them_and_words_beside_them(tmp_path: Path) -> None:
    assert labels(tmp_path, "1.0", "0.0", "1", "control") == (("finding",), [(1,), (0,), (1,), (0,)])


def test_a_column_for_each_class(tmp_path: Path) -> None:
    text = "volume,label:Tumour,label: bleeding,mask:bleeding\na.nii,1,0,\nb.nii,1,1.0,m.nii\n"
    assert read_manifest(manifest(tmp_path, text)) == Manifest(
        tmp_path / "list.csv",
        ("Tumour", "bleeding"),
        (
            Case(tmp_path / "a.nii", (1, 0), (None, None), "a.nii", ""),
            Case(tmp_path / "b.nii", (1, 1), (None, tmp_path / "m.nii"), "b.nii", ""),
        ),
    )


@pytest.mark.parametrize("columns", ["label,mask", "label,mask:tumour", "label:tumour,mask"])
def test_masks_of_the_only_class(tmp_path: Path, columns: str) -> None:
    value = "1" if ":tumour,mask" in columns else "tumour"
    content = read_manifest(manifest(tmp_path, f"volume,{columns}\na.nii,{value},m.nii\n"))
    assert content.classes == ("tumour",)
    assert content.cases[0].masks == (tmp_path / "m.nii",)


def test_paths_of_another_machine(tmp_path: Path) -> None:
    """Of Windows, and of a Mac, whose names have their accents as signs of their own."""
    (tmp_path / "E\u0301tude").mkdir()
    (tmp_path / "E\u0301tude" / "cre\u0302te.nii").touch()
    (tmp_path / "sub" / "m\u00e9.nii").touch()
    text = "volume,label,mask\nsub\\c.nii,1,sub\\me\u0301.nii#2\n.\\\u00c9tude\\cr\u00eate.nii,0,sub\\none.nii#2\n"
    cases = read_manifest(manifest(tmp_path, text)).cases
    assert all(case.volume.is_file() for case in cases)
    assert cases[0].masks == (tmp_path / "sub" / "m\u00e9.nii",)
    assert cases[1].masks[0] is not None and not cases[1].masks[0].exists()  # evaluation says so
    # A name with a backslash in it is that file.
    (tmp_path / "sub\\c.nii").touch()
    assert read_manifest(manifest(tmp_path, text)).cases[0].volume == tmp_path / "sub\\c.nii"


def test_a_line_of_excel_that_names_the_separator(tmp_path: Path) -> None:
    for separator in ";,\t|":
        text = f"\ufeffsep={separator}\r\nvolume,label,patient\r\na.nii,0,P\u200b1\r\n".replace(",", separator)
        cases = read_manifest(manifest(tmp_path, text.replace("sep=;", "SEP=;"))).cases
        assert [(case.volume, case.patient, case.line) for case in cases] == [(tmp_path / "a.nii", "P1", 3)]


@pytest.mark.parametrize(
    ("lines", "notes"),
    [
        (["volume,label", "a.nii,0", "b.nii,1"], []),
        (
            ["volume,label,patient", "a.nii,0,P01", "b.nii,1,p1", "d.nii,1,P2"],
            ["patients 'P01' (line 2) and 'p1' (line 3) differ in spelling alone: spell a person one way, or rename"],
        ),
        (
            ["volume,label", "a.nii,tumour", "b.nii,tumor", "d.nii,oedema", "sub/c.nii,none"],
            ["classes 'tumor' and 'tumour' differ by little: spell one class one way"],
        ),
        (
            ["volume,label,patient", "a.nii,0,1.23457E+15", "b.nii,1,P"],
            ["patient '1.23457E+15' (line 2) looks like a long number that a spreadsheet rounded"],
        ),
        (
            ["volume,label", "a.nii,0", "b.nii,1", "a.nii.gz,1"],
            ["the volumes of lines 2 and 4 have one name but for the ending: is it one scan twice?"],
        ),
        (
            ["volume,label,patient", "a.nii,0,P1", "b.nii,1,"],
            ["no patient in 1 of 2 lines, such as 3: each is its own patient"],
        ),
    ],
)
def test_what_a_person_may_have_meant_otherwise_is_noted(lines: list[str], notes: list[str], tmp_path: Path) -> None:
    found = read_manifest(manifest(tmp_path, "\n".join(lines))).notes
    assert len(found) == len(notes)
    assert all(note.startswith(start) for note, start in zip(found, notes, strict=True))


def test_a_class_name_that_is_not_used_is_noted(tmp_path: Path) -> None:
    path = manifest(tmp_path, "volume,label\na.nii,tumour\nb.nii,none\n")
    assert read_manifest(path, class_name="lesion").notes == (
        "the labels name tumour; 'lesion', which label 1 would mean, is not used",
    )
    assert read_manifest(path, class_name="Tumour").notes == read_for_model(path, ("tumour",)).notes == ()


def test_volumes_of_one_subject_without_a_column_patient_are_noted(tmp_path: Path) -> None:
    names = [f"sub-{person}_ses-{session}_T1w.nii.gz" for person in ("01", "02") for session in (1, 2)]
    for name in names:
        (tmp_path / name).touch()
    lines = "".join(f"{name},0\n" for name in names)
    assert read_manifest(manifest(tmp_path, f"volume,label\n{lines}")).notes == (
        "no column patient, but 2 volumes are of sub-01: without it, each is its own patient",
    )


@pytest.mark.parametrize(
    ("names", "cells", "refused_as"),
    [
        ("subject_id", ("s1", "s1"), "patient"),
        ("Participant", ("s1", "s1"), "patient"),
        ("subject_id", ("s1", "s2"), None),  # nobody twice: nothing is lost
        ("patient,subject_id", ("p,s1", "q,s1"), None),
        ("set", ("train", "Test"), "split"),
        ("set", ("train", "train"), None),
        ("case", ("1", "1"), None),
    ],
)
def test_columns_of_patients_and_splits_under_other_names(
    names: str, cells: tuple[str, str], refused_as: str | None, tmp_path: Path
) -> None:
    path = manifest(tmp_path, f"volume,label,{names}\na.nii,0,{cells[0]}\nb.nii,1,{cells[1]}\n")
    if refused_as is None:
        assert len(read_manifest(path).cases) == 2
    else:
        assert f"no {refused_as}; did you mean {refused_as}? Rename it" in refused(path)


@pytest.mark.parametrize(
    ("header", "cells", "values"),
    [
        ("mask", "m.nii#2", (2,)),
        ("mask", "m.nii#1+4", (1, 4)),
        ("mask", "m.nii#any", ()),
        ("mask,mask_label", "m.nii,2.0", (2,)),
        ("mask_label:tumour,mask:tumour", "2,m.nii", (2,)),
        ("mask,mask_label", "m.nii#2,2", (2,)),
    ],
)
def test_values_of_a_mask_that_mean_the_finding(
    header: str, cells: str, values: tuple[int, ...], tmp_path: Path
) -> None:
    content = read_manifest(manifest(tmp_path, f"volume,label:tumour,{header}\na.nii,1,{cells}\nb.nii,0{',' * 3}\n"))
    case, without = content.cases
    assert (case.masks, case.values_of(0)) == ((tmp_path / "m.nii",), values)
    assert (without.masks, without.values_of(0)) == ((None,), None)
    written(content, tmp_path / "new.csv")


def test_a_number_sign_in_the_name_of_a_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "m#2").mkdir()
    case = read_manifest(manifest(tmp_path, "volume,label,mask\na.nii,1,m#2\n")).cases[0]
    assert (case.masks, case.values_of(0)) == ((tmp_path / "m#2",), None)


# -------------------- which line is wrong


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("volume,label\na.nii,0\nb.nii,2\n", ", line 3: label is '2', expected 0 or 1, or the name of a class"),
        ("volume,label\na.nii,0.5\n", ", line 2: label is '0.5', expected 0 or 1"),
        (
            "volume,label\na.nii,0\nb.nii,N/A\n",
            ", line 3: label is 'N/A', expected 0 or 1, or the name of a class; leave out volumes whose label is not",
        ),
        ("volume,label\na.nii,tumour\nb.nii,unknown\n", ", line 3: label is 'unknown', expected 0 or 1, or the name"),
        ("volume,label:a\na.nii,nan\n", ", line 2: label:a is 'nan', expected 0 or 1; leave out volumes whose label"),
        ("volume,label\na.nii,glioma-1\nb.nii,Glioma 1\n", ", line 3: class 'Glioma 1' is 'glioma-1' elsewhere; spe"),
        (
            "volume,label\na.nii,benign\nb.nii,malignant\nd.nii,benign\n",
            ": every label is 'benign' (2) or 'malignant' (1), so that the one is the absence of the other; which is "
            "the finding? Name it by `class_name`, or write 0 for the other, or give columns label:benign and label:",
        ),
        (
            "volume,label,patient,split\na.nii,0,001,train\nb.nii,1,1,val\nd.nii,1,1.0,test\n",
            ", line 3: patient '1' is in split 'val', and '001' in 'train' (line 2); a patient belongs to one split: "
            "spell it one way, or rename one if they are two persons",
        ),
        ("sep=;\nvolume;label\na.nii;0\nb.nii;2\n", ", line 4: label is '2', expected 0 or 1"),
        ("volume,label\nA.nii,0\n", ", line 2: volume 'A.nii' does not exist (did you mean 'a.nii'?)"),
        ("volume,label\nC:\\scans\\x.nii,0\n", ", line 2: volume 'C:\\\\scans\\\\x.nii' does not exist (a path of W"),
        ("volume,label\na.nii\n", ", line 2: label is '', expected 0 or 1"),
        ("volume,label\na.nii,0\nb.nii,1\nd.nii,tumuor\n", ", line 3: label is '1', but 'tumuor' in line 4; expected"),
        ("volume,label\na.nii,Tumour\nb.nii,tumour\n", ", line 3: class 'tumour' is 'Tumour' elsewhere; spell it"),
        ("volume,label:a\na.nii,x\n", ", line 2: label:a is 'x', expected 0 or 1"),
        ("volume,label\na.nii,0\n\nabsent.nii,1\n", ", line 4: volume 'absent.nii' does not exist (paths are relative"),
        ("volume,label\n,1\n", ", line 2: no volume; write its path, or remove the line"),
        ("volume,label\na.nii,0\nb.nii,1\nsub/../a.nii,1\n", ", line 4: the volume of line 2 again; remove one"),
        ("volume,label\na.nii,0,x\n", ", line 2: 3 cells under 2 columns; put names that contain \",\" in double"),
        ('volume,label\n"a.nii,0\n', ", line 2: not readable as CSV (unexpected end of data)"),
        (
            # An empty line is skipped, and counted.
            "volume,label,patient,split\na.nii,0,P1,train\n\nb.nii,1,P1,val\n",
            ", line 4: patient 'P1' is in split 'val' and in 'train' (line 2); a patient belongs to one split",
        ),
        ("volume,label,mask\na.nii,1,m#0\n", ", line 2: mask: '0': 0 is the background of a mask, expected values of"),
        (f"volume,label,mask\na.nii,1,m#{'9' * 400}\n", ", line 2: mask: '999"),
        ("volume,label,mask,mask_label\na.nii,1,m,tumour\n", ", line 2: mask_label: 'tumour' is no value of a mask"),
        ("volume,label,mask,mask_label\na.nii,1,m#1,2\n", ", line 2: mask is 'm#1', but mask_label '2'; leave one"),
        (
            "volume,label,mask\na.nii,1,m#2\nb.nii,1,n\n",
            ", line 3: the mask of finding states no value, but that of line 2 2; state it in all lines that",
        ),
        ("volume,label,split\na.nii,0,\nb.nii,1,val\n", ", line 2: no split, but line 3 has one; give train, val"),
        ("volume,label,split\na.nii,0,val\nb.nii,1,valid\n", ", line 3: split is 'valid', expected train, val, test"),
    ],
)  # fmt: skip
def test_the_line_that_is_wrong_is_named(text: str, message: str, tmp_path: Path) -> None:
    assert refused(manifest(tmp_path, text)).startswith(message)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("volume,class", ": column label missing, found volume, class; expected volume,label[,mask,patient,split]"),
        ("volume,labels", ": unknown column labels; did you mean label? Rename it"),
        ("volume,label,masks", ": unknown column masks; did you mean mask? Rename it"),
        ("volume,label,Patient_ID", ": unknown column patient_id; did you mean patient? Rename it"),
        ("volume,label:a,masks:a", ": unknown column masks:a; did you mean mask:a? Rename it"),
        ("volume,label,label:a", ": columns label and label:a; expected one or the other"),
        ("volume,label:a,mask,mask:a", ": columns mask and mask:a; expected one or the other"),
        ("volume,label:", ": column 'label:' names no class, expected label:NAME"),
        ("volume,label,volume", ": column volume stands there 2 times; remove or rename one"),
        ("volume,label:a,label:b,mask", ": column mask is for one class, there are 2; expected mask:a, mask:b"),
        ("volume,label:a,mask:b", ": column mask:b for no class of the labels, these are a"),
    ],
)
def test_columns_that_are_wrong(header: str, message: str, tmp_path: Path) -> None:
    assert refused(manifest(tmp_path, f"{header}\na.nii{',1' * header.count(',')}\n")).startswith(message)


def test_further_columns_that_only_resemble_those_in_use(tmp_path: Path) -> None:
    text = "volume,label,labels,volumes,age,note:x\na.nii,1,2,3,4,5\n"
    assert read_manifest(manifest(tmp_path, text)).cases[0].labels == (1,)


@pytest.mark.parametrize("text", ["volume,label\n", "volume,label\n\n,\n"])
def test_no_volumes(text: str, tmp_path: Path) -> None:
    assert refused(manifest(tmp_path, text)).startswith(": no volumes in it, expected a line for each")


def test_a_link_to_a_volume_is_the_same_volume(tmp_path: Path) -> None:
    (tmp_path / "link.nii").symlink_to("a.nii")
    assert "line 3: the volume of line 2 again" in refused(manifest(tmp_path, "volume,label\na.nii,0\nlink.nii,1\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": column volume and label missing, found nothing; expected"),
        (b"volume,label\na.nii,0\nb\xfc.nii,1\n", ", line 3: not readable as CSV, it is no UTF-8 text; save it as CSV"),
        ("volume,label\n".encode("utf-16"), ": not readable as CSV, it is no UTF-8 text; save it as CSV UTF-8"),
        (b"PK\x03\x04\x14\0", ": not readable as CSV, it is a spreadsheet's own format; save it as CSV UTF-8"),
    ],
)
def test_what_is_no_csv(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    assert refused(tmp_path / "list.csv").startswith(message)


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "no such manifest" in refused(tmp_path / "absent.csv")
    assert "is a folder (it holds c.nii), expected a manifest" in refused(tmp_path / "sub")


# -------------------- writing


def written(manifest: Manifest, path: Path) -> str:
    """What stands in the file; reading it gives the same cases."""
    write_manifest(path, manifest)
    content = read_manifest(path)
    assert (content.classes, content.cases) == (manifest.classes, manifest.cases)
    assert not [entry for entry in path.parent.iterdir() if entry.name.startswith(".")]
    return path.read_text(encoding="utf-8")


def test_a_written_manifest_is_read_back(tmp_path: Path) -> None:
    cases = (
        Case(tmp_path / "a.nii", (1, 0), (tmp_path / "m.nii", None), "a.nii", "train"),
        Case(tmp_path / "sub" / "c.nii", (0, 0), (None, None), "Doe, J", "val"),
    )
    both = Manifest(tmp_path / "old.csv", ("tumour", "bleeding"), cases)
    assert written(both, tmp_path / "new.csv") == (
        "volume,label:tumour,label:bleeding,mask:tumour,mask:bleeding,patient,split\n"
        "a.nii,1,0,m.nii,,a.nii,train\n"
        'sub/c.nii,0,0,,,"Doe, J",val\n'
    )
    # Its folder is not above the data: absolute paths, and what was there is replaced.
    assert f"\n{tmp_path / 'a.nii'},1,0," in written(both, tmp_path / "sub" / "new.csv")
    written(Manifest(tmp_path, ("tumour", "bleeding"), cases[:1]), tmp_path / "new.csv")


def test_the_default_class_is_written_without_its_name(tmp_path: Path) -> None:
    case = Case(tmp_path / "a.nii", (1,), (None,), "P", "")
    assert (
        written(Manifest(tmp_path, ("finding",), (case,)), tmp_path / "new.csv") == "volume,label,patient\na.nii,1,P\n"
    )
    assert "label:lesion" in written(Manifest(tmp_path, ("lesion",), (case,)), tmp_path / "new.csv")


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, ("x",), (Case(tmp_path / "a.nii", (1,), (None,), os.fsdecode(b"\xff"), ""),))
    with pytest.raises(TonnoError, match=r"^\S+absent/new\.csv: cannot be written \(No such file or directory\)$"):
        write_manifest(tmp_path / "absent" / "new.csv", manifest)
    (tmp_path / "new.csv").write_text("before")
    with pytest.raises(TonnoError, match=r"cannot be written .*can't encode"):
        write_manifest(tmp_path / "new.csv", manifest)
    assert (tmp_path / "new.csv").read_text() == "before"


# -------------------- what training needs


def cohort(*lines: str, classes: tuple[str, ...] = ("x",)) -> Manifest:
    """Volumes from labels and split, as "10 train"."""
    words = [line.partition(" ")[::2] for line in lines]
    none = (None,) * len(classes)
    cases = (
        Case(Path(f"/{i}"), tuple(int(digit) for digit in digits), none, f"p{i}", split)
        for i, (digits, split) in enumerate(words)
    )
    return Manifest(Path("list.csv"), classes, tuple(cases))


def test_what_can_be_trained(capsys: pytest.CaptureFixture[str]) -> None:
    require_trainable(cohort("0", "1"))
    require_trainable(cohort("0 train", "1 train", "1 test"))
    require_trainable(cohort("10", "01", classes=("x", "y")))  # each class's volumes are the other's negatives


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1"], "list.csv: volumes: 1; training needs two or more: add some"),
        (["1 train", "0 val"], "list.csv: volumes in split train: 1; training needs two or more: add some"),
        (["1 test", "0 val"], "list.csv: volumes in split train: 0; training needs"),
        (["1", "1"], "list.csv: no volume has label 0 of class 'x', all 2 have 1; training needs both: add volumes w"),
        (
            ["0 train", "0 train", "0 train", "1 val"],
            "list.csv: no volume in split train has label 1 of class 'x', all 3 have 0; training needs both: move one",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_trained(lines: list[str], message: str) -> None:
    with pytest.raises(TonnoError) as caught:
        require_trainable(cohort(*lines))
    assert str(caught.value).startswith(message)


def test_the_class_that_cannot_be_trained_is_named() -> None:
    with pytest.raises(
        TonnoError, match=r"label 1 of class 'y', all 2 have 0; training needs both: add volumes with it"
    ):
        require_trainable(cohort("10", "00", classes=("x", "y")))


def test_further_columns_are_written_and_a_second_channel_is_told(tmp_path: Path) -> None:
    path, ct = tmp_path / "written.csv", tmp_path / "sub" / "c.nii"
    cases = (
        Case(tmp_path / "a.nii", (1,), (None,), "P1", "train"),
        Case(tmp_path / "b.nii", (0,), (None,), "P2", "val"),
    )
    write_manifest(path, Manifest(path, ("finding",), cases), {"volume:CT": [ct, ""], "side": ["left", "right"]})
    assert path.read_text() == (
        "volume,label,patient,split,volume:CT,side\na.nii,1,P1,train,sub/c.nii,left\nb.nii,0,P2,val,,right\n"
    )
    content = read_manifest(path)
    assert content.cases == cases
    assert content.notes == ("column volume:CT is not read: channels are read from one file, such as a 4D NIfTI",)


def test_names_that_no_file_can_have_are_of_no_file(tmp_path: Path) -> None:
    long = "x" * 300
    path = manifest(tmp_path, f"volume,label,mask\n{long},1,{long}\na.nii,0,\n")
    assert "line 2: volume 'xxx" in refused(path) and "does not exist" in refused(path)
    assert [bool(case.absent) for case in read_manifest(path, absent=True).cases] == [True, False]
