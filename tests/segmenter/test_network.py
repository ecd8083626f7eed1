"""The description of a segmenter's network: what it says, and what it refuses before anything is made."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tonno_core.errors import TonnoError
from tonno_core.segmenter.network import SegmenterNetwork

GOOD = SegmenterNetwork((1.0, 1.0, 3.0), (64, 96, 32), filters=8, blocks=(1, 2, 2))


def test_it_survives_json() -> None:
    record = json.loads(json.dumps(GOOD.record()))
    assert SegmenterNetwork.of_record(record) == GOOD
    assert GOOD.window_zyx == (32, 96, 64)
    assert GOOD.step == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "unet"}, "'name' is 'unet', expected one of segresnet"),
        ({"filters": 12}, "'filters' is 12, expected a multiple of 8 up to 64"),
        ({"filters": 10**9}, "'filters' is 1000000000"),
        ({"filters": True}, "'filters' is True"),
        ({"filters": 64, "blocks": [1] * 5}, "at most 512 on the coarsest level"),
        ({"blocks": [1]}, "'blocks' is .1., expected 2 to 6 whole numbers"),
        ({"blocks": "1234"}, "'blocks' is '1234'"),
        ({"blocks": [1, 2, 900]}, "'blocks' is .1, 2, 900."),
        ({"spacing_mm": [1, 1]}, "'spacing_mm' is .1, 1., expected three numbers from 0.05 to 50"),
        ({"spacing_mm": [1, 1, float("nan")]}, "'spacing_mm'"),
        ({"spacing_mm": [1, 1, 0.0001]}, "'spacing_mm'"),
        ({"patch": [64, 96, 30]}, "'patch' is .64, 96, 30., expected three multiples of 4 up to 512"),
        ({"patch": [512, 512, 512]}, "at most 16,777,216 voxels"),
        ({"patch": [64, 96, 32.0]}, "'patch'"),
        ({"strides": 2}, "'strides' is unknown; it needs a newer version of tonno"),
    ],
)
def test_what_it_refuses(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TonnoError, match=said):
        SegmenterNetwork.of_record({**GOOD.record(), **changes})


@pytest.mark.parametrize("name", ["spacing_mm", "patch"])
def test_what_it_needs(name: str) -> None:
    record = GOOD.record()
    del record[name]
    with pytest.raises(TonnoError, match=f"'network': '{name}' is missing"):
        SegmenterNetwork.of_record(record)
    with pytest.raises(TonnoError, match="'network' is expected to be an object"):
        SegmenterNetwork.of_record([])
