"""What is said to the engine's process; see `talk.play`."""

from __future__ import annotations

from typing import Any

SMALL = {"slices": 16, "directions": 24}
SMALLER = {"ras_to_box": [[0.05, 0, 0, -0.1], [0, 0.05, 0, 0.1], [0, 0, 0.06, 0], [0, 0, 0, 1]]}
BESIDE = {"ras_to_box": [[1, 0, 0, -900], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}
VOLUME = {"array": "$ARRAY", "ijk_to_ras": "$MATRIX"}


def _reconstruct(name: str, model: str, *, during: str | None = None, less: str = "", **more: Any) -> dict[str, Any]:
    """less: a field to leave out."""
    fields = {
        "volume": VOLUME, "model": model, "folder": "$FOLDER", "options": SMALL, "device": "cpu",
        "precision": "float32", "preview": True, **more,
    }  # fmt: skip
    fields.pop(less, None)
    return {"name": name, "type": "reconstruct", "fields": fields, "during": during}


def _refine(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "type": "refine", "fields": {"folder": "$FOLDER", **changes}}


FOUR = ["tonno", "averaged-cam", "tomographic-cam", "matched-cam"]
LONG = {"slices": 24, "directions": 6000, "methods": ["tonno"]}
STEPS = [
    {"name": "describe", "type": "describe", "fields": {}},
    _refine("refine of nothing"),
    _reconstruct("pixel-sum", "pixel-sum"),
    _refine("pixel-sum, hann", options={"filter": "hann"}),
    _refine("pixel-sum, smoother", options={"smooth_mm": 6.0}),
    _refine("pixel-sum, other slices", options={"slices": 20}),
    _refine("pixel-sum, region", roi=SMALLER),
    _reconstruct("four methods", "$SHIPPED", options={**SMALL, "methods": FOUR}),
    _refine("other filter", options={"filter": "gaussian"}),
    _refine("other sigma, one method", options={"methods": ["matched-cam"], "sigma_scale": 2.0}),
    _refine("other stage", options={"stage": 3}),
    _refine("other class", options={"class_name": "other"}),
    _refine("same settings", options={**SMALL, "methods": FOUR}),
    _reconstruct("region", "$SHIPPED", options={**SMALL, "methods": ["matched-cam"]}, roi=SMALLER),
    _refine("of the region", options={"sigma_scale": 0.5}, roi=SMALLER),
    _reconstruct("zoom", "pixel-sum", roi=SMALLER, zoom=True),
    _refine("zoom no more", zoom=False),
    _reconstruct("preset", "pixel-sum", preset="fast", options={"methods": ["tonno"], "slice_size": 16}),
    _reconstruct("stopped", "pixel-sum", during="stop", options=LONG),
    _refine("refine of a stopped run", options={"filter": "hann"}),
    _reconstruct("cancelled", "pixel-sum", during="cancel", options=LONG),
    _refine("refine of a cancelled run"),
    {"name": "no JSON", "line": "hello"},
    {"name": "another version", "line": '{"v": 2, "id": 1, "type": "describe"}'},
    {"name": "no type", "line": '{"v": 1, "id": 1}'},
    {"name": "unknown type", "line": '{"v": 1, "id": 1, "type": "sing"}'},
    {"name": "id of another type", "line": '{"v": 1, "id": "x", "type": "describe"}'},
    _reconstruct("no volume", "pixel-sum", less="volume"),
    _reconstruct("no model field", "pixel-sum", less="model"),
    _reconstruct("unknown option", "pixel-sum", options={"colour": "red"}),
    _reconstruct("bad option", "pixel-sum", options={"slices": 1}),
    _reconstruct("unknown method", "pixel-sum", options={"methods": ["magic"]}),
    _reconstruct("unknown preset", "pixel-sum", preset="slow"),
    _reconstruct("unknown device", "pixel-sum", device="abacus"),
    _reconstruct("no such model", "nowhere"),
    _reconstruct("no such class", "$SHIPPED", options={**SMALL, "class_name": "other"}),
    _reconstruct("zoom without a region", "pixel-sum", zoom=True),
    _reconstruct("region beside the patient", "pixel-sum", roi=BESIDE),
    _reconstruct("volume that is not there", "pixel-sum", volume={**VOLUME, "array": "nowhere.npy"}),
    _reconstruct("not finite", "pixel-sum", volume={**VOLUME, "array": "$DAMAGED"}),
]  # fmt: skip
