"""The real process: all classes of a model in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.networks import write_random_bundle
from tests.worker.talk import EngineClient, answer, fields, heatmap, relative_error
from tonno_core.protocol import ProtocolError
from tonno_core.volume.volume import Volume
from tonno_core.worker.requests import ReconstructRequest

METHODS = ["tonno", "matched-cam"]
SMALL = {"slices": 14, "directions": 12, "methods": METHODS}
THRESHOLDS = {
    "matched-cam": {"threshold": 0.25, "settings": {"filter": "hann"}},
    "matched-cam/oedema": {"threshold": 0.75, "settings": {"stage": 2}},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of names that no file can have."""
    folder = tmp_path_factory.mktemp("models") / "two"
    return write_random_bundle(folder, classes=("core: I/II", "oedema"), thresholds=THRESHOLDS)


def test_all_classes_come_from_one_run(client: EngineClient, volume: Volume, model: Path) -> None:
    asked = fields(client, volume, model, options=SMALL, classes="all", preview=True)
    found = answer(client, client.submit("reconstruct", **asked))
    assert found["type"] == "result", found
    assert list(found["classes"]) == ["core: I/II", "oedema"]
    paths = [made["array"] for each in found["classes"].values() for made in each["heatmaps"].values()]
    assert len(set(paths)) == 4
    assert all(Path(path).parent == Path(asked["folder"]) for path in paths)
    for name, each in found["classes"].items():
        options = {**SMALL, "class_name": name}
        alone = answer(client, client.submit("reconstruct", **fields(client, volume, model, options=options)))
        assert "classes" not in alone
        for method in METHODS:
            # float32: where the other class's stage is finer, the graph begins earlier and adds in another order.
            assert relative_error(heatmap(each, method), heatmap(alone, method)) < 1e-4, (name, method)
            made, expected = each["heatmaps"][method], alone["heatmaps"][method]
            assert (made["variant"], made["threshold"]) == (expected["variant"], expected["threshold"])
            assert made["otsu"] == pytest.approx(expected["otsu"], rel=1e-3)
            assert (made["directions"], made["planned"]) == (12, 12)
        assert each["score"] == pytest.approx(alone["score"], rel=1e-5)
        assert each["explained"] == pytest.approx(alone["explained"], rel=1e-4)
        logits = [[profile["logits"] for profile in some["profiles"]] for some in (each, alone)]
        np.testing.assert_allclose(*logits, atol=1e-4)
        assert found["slices"] == alone["slices"]
    assert found["classes"]["oedema"]["heatmaps"]["matched-cam"]["threshold"]["threshold"] == 0.75


def test_the_first_class_has_the_fields_of_a_single_one(client: EngineClient, volume: Volume, model: Path) -> None:
    names = ["oedema", "core: I/II"]
    asked = fields(client, volume, model, options=SMALL, classes=names, preview=True)
    found = answer(client, client.submit("reconstruct", **asked))
    assert list(found["classes"]) == names
    assert (found["class_name"], found["settings"]["class_name"]) == ("oedema", "oedema")
    for name, value in found["classes"]["oedema"].items():
        assert found[name] == value, name
    # Refinements are of all classes of the run too.
    changes = {"methods": ["matched-cam"], "sigma_scale": 2.5}
    refined = answer(client, client.submit("refine", options=changes, folder=str(client.newFolder())))
    assert list(refined["classes"]) == names
    for name, each in refined["classes"].items():
        options = {**SMALL, **changes, "class_name": name}
        alone = answer(client, client.submit("reconstruct", **fields(client, volume, model, options=options)))
        # Sums in another order, as in test_reconstruct.py.
        assert relative_error(heatmap(each, "matched-cam"), heatmap(alone, "matched-cam")) < 3e-4, name
    arrays = [heatmap(each, "matched-cam") for each in refined["classes"].values()]
    assert relative_error(*arrays) > 0.1
    np.testing.assert_array_equal(arrays[0], heatmap(refined, "matched-cam"))


def test_a_stopped_run_of_all_classes_goes_on_for_all(client: EngineClient, volume: Volume, model: Path) -> None:
    options = {**SMALL, "directions": 200}  # more than one batch
    whole = answer(
        client, client.submit("reconstruct", **fields(client, volume, model, options=options, classes="all"))
    )
    identifier = client.submit("reconstruct", **fields(client, volume, model, options=options, classes="all"))
    client.stop(identifier)
    assert answer(client, identifier)["stopped"]
    resumed = answer(client, client.submit("resume", folder=str(client.newFolder())))
    assert (resumed["stopped"], resumed["directions"]) == (False, 200)
    for name, each in resumed["classes"].items():
        for method in METHODS:  # the same batches: to the last bit
            np.testing.assert_array_equal(heatmap(each, method), heatmap(whole["classes"][name], method))


def test_classes_that_cannot_be_are_refused(client: EngineClient, volume: Volume, model: Path) -> None:
    error = answer(
        client, client.submit("reconstruct", **fields(client, volume, model, options=SMALL, classes=["tumour"]))
    )
    assert (error["kind"], "'tumour' is unknown to this model" in error["message"]) == ("user", True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"classes": []}, "neither a list of names nor 'all'"),
        ({"classes": "oedema"}, "neither a list of names nor 'all'"),
        ({"classes": ["oedema", 1]}, "neither a list of names nor 'all'"),
        ({"classes": ["oedema"], "options": {"class_name": "oedema"}}, "both name classes"),
    ],
)
def test_what_names_no_classes_is_refused(tmp_path: Path, content: dict[str, Any], words: str) -> None:
    volume = {"array": "volume.npy", "ijk_to_ras": np.eye(4).tolist()}
    with pytest.raises(ProtocolError, match=words):
        ReconstructRequest.of({"volume": volume, "model": "pixel-sum", "folder": str(tmp_path), **content})


def test_too_many_classes_are_refused(tmp_path: Path, client: EngineClient, volume: Volume) -> None:
    many = write_random_bundle(tmp_path / "many", classes=tuple(f"class {number}" for number in range(33)))
    error = answer(client, client.submit("reconstruct", **fields(client, volume, many, options=SMALL, classes="all")))
    assert (error["kind"], "33 classes in one run, expected at most 32" in error["message"]) == ("user", True)
