"""Which class is meant where nobody named one."""

from __future__ import annotations

import pytest

from tonno_core.bundle.classes import class_of, first_choice
from tonno_core.errors import TonnoError


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("finding",), "finding"),
        (("normal",), "normal"),  # there is no other
        (("normal", "lesion"), "lesion"),
        (("lesion", "Normal"), "lesion"),
        (("Negative", "positive"), "positive"),
        (("No Finding", "nodule"), "nodule"),
        (("no-tumour", "tumour"), "tumour"),
        (("background", "none", "lesion"), "lesion"),
        (("abnormal", "normal"), "abnormal"),
        (("nodule", "non_nodule"), "nodule"),
    ],
)
def test_the_only_finding_is_meant(classes: tuple[str, ...], expected: str) -> None:
    assert class_of(None, classes) == expected
    assert first_choice(classes) == expected


@pytest.mark.parametrize("classes", [("haemorrhage", "fracture"), ("normal", "a", "b"), ("normal", "healthy")])
def test_a_model_of_several_findings_asks(classes: tuple[str, ...]) -> None:
    with pytest.raises(TonnoError, match=rf"{len(classes)} classes \({', '.join(classes)}\); give `class_name`"):
        class_of(None, classes)
    assert class_of(classes[-1], classes) == classes[-1]
    with pytest.raises(TonnoError, match="unknown to this model"):
        class_of("c", classes)
