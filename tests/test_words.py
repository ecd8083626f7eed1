"""Words for no finding, for a finding and for not knowing; spellings of one name."""

from __future__ import annotations

import pytest

from tonno_core.words import (
    findings_of,
    is_finding,
    is_image_file,
    is_no_finding,
    is_not_known,
    spelling,
    visible,
    without_ending,
)


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        (
            "0, 0.0, none, None, neg, Neg., NEGATIVE, absent, No Finding, no_finding, No-Findings, normal, healthy, "
            "healthy control, control, background, no, FALSE, notumor, no tumour, non-lesion, not present, "
            "tumour-free, without haemorrhage, normal brain, within normal limits, nil",
            "none",
        ),
        ("1, 1.0, yes, True, positive", "finding"),
        (
            "nan, NaN, N/A, n.a., <NA>, #N/A, NA, null, unknown, Unclear, ?, -, --, ..., -1, not known, not available, "
            "no data, no label, uncertain, pending, TBD",
            "not known",
        ),
        (
            "tumour, lesion, normal pressure hydrocephalus, node, nodule, non-enhancing, noncontrast, notch, benign, "
            "abnormal, triple negative, unknown primary, present, other, 2, 0.5, 10, T1, HER2-",
            "a name",
        ),
    ],
)
def test_words_have_one_meaning(words: str, meaning: str) -> None:
    for word in words.split(", "):
        told = {"none": is_no_finding(word), "finding": is_finding(word), "not known": is_not_known(word)}
        assert [name for name, is_so in told.items() if is_so] == ([] if meaning == "a name" else [meaning]), word


def test_nothing_visible_is_not_known() -> None:
    assert is_not_known("") and is_not_known("\u200b \ufeff")
    assert visible("\ufeff P\u200b1 ") == "P1"
    assert visible("\u06cc\u200c\u06a9") == "\u06cc\u200c\u06a9"  # a joiner of Persian, which is spelling


@pytest.mark.parametrize(
    ("names", "same"),
    [
        (("001", "1", "1.0", "1,0", " 1 "), True),
        (("P-007", "p_7", "P7", "p 007", "P.7"), True),
        (("Jos\u00e9", "Jose\u0301", "JOS\u00c9", "jos\u00e9\u200b"), True),
        (("sub-01", "sub01", "SUB_1"), True),
        (("1", "10"), False),
        (("1.0", "1.5"), False),
        (("P11", "P1-1"), False),
        (("HER2+", "HER2-", "HER2"), False),
        (("a1b", "a1c"), False),
        (("\u0915\u093f", "\u0915\u093e"), False),  # vowel signs of Devanagari
        (("1.nii.gz", "01.nii.gz"), False),  # files are what they are
    ],
)  # fmt: skip
def test_spellings_of_a_name(names: tuple[str, ...], same: bool) -> None:
    assert len({spelling(name) for name in names}) == (1 if same else len(names))


def test_the_classes_of_a_model_that_are_findings() -> None:
    assert findings_of(("normal", "lesion")) == findings_of(("lesion",)) == ("lesion",)
    assert findings_of(("a", "background", "b")) == ("a", "b")
    assert findings_of(("normal",)) == ("normal",)


@pytest.mark.parametrize(
    ("name", "stem"),
    [("head.nii.gz", "head"), ("a/HEAD.NII", "a/HEAD"), ("x.nii.mha", "x.nii"), ("head.gz", "head.gz"), ("nii", "nii")],
)
def test_an_image_files_name_loses_its_whole_ending(name: str, stem: str) -> None:
    assert (without_ending(name), is_image_file(name)) == (stem, name != stem)
