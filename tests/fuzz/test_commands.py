"""Whole command lines: whatever is typed, a command ends with status 0, 1 or 2 and says why in one line."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.strategies import cases
from tests.networks import random_network, spec_of
from tests.training.toy import write_toy_set
from tonno_core import cli
from tonno_core.bundle.file import save_bundle
from tonno_core.commands import reproduce
from tonno_core.errors import TonnoError
from tonno_core.settings import ALL_METHODS, PRESETS

# What takes minutes, all of it after the checks that these tests are of.
LONG = (
    "commands.train.train", "commands.distill.distill", "commands.calibrate.calibrate_bundle",
    "commands.calibrate._with_other_planes", "commands.reconstruct.execute", "evaluation.case.execute",
    "commands.features.reconstruct_features", "commands.demo.make_phantom", "demo.phantom.make_phantom",
    "commands.bench.measure", "commands.bench.compare_with_plain", "commands.bench.compare_with_pyepri",
)  # fmt: skip
# What lies in the folder in which the commands run, and what does not.
PLACES = (
    "scan.nii.gz", "set/0.nii.gz", "set", "set/manifest.csv", "model", "plain.txt", "damaged.nii", "damaged.csv",
    "empty", "broken", "gone.nii", "gone/deeper", ".", "", "x" * 300, "scan.nii.gz/x", "*.nii.gz",
)  # fmt: skip
NEW = ("new", "new/deeper", "new.json")
WORDS = (
    "", "a", "none", "auto", "cpu", "cuda", "mps", "float32", "float16", "otsu", "0.5", "-1", "nan", "inf", "1e400",
    "1", "3+4", "1,1,3", "0,0,0:9,9,9", "0,0,0:0,0,0", "zscore", "window:0:80", "window:80:0", "window:0:80/zscore",
    "timm", "finding=x", "=x", "RAS", "label", "finding", "test_resnet", "resnet0", "local-dir:model", "pixel-sum",
    "NAME=model", "\udcff", "ä\u200b病", "x" * 500, "--quiet", "%d", "9" * 400, *ALL_METHODS, *PRESETS,
)  # fmt: skip
NUMBERS = ("0", "1", "2", "8", "-1", "2147483648", "1000000000000000000000", "0.5", "1e-300", "1e308", "nan", "inf", "")


RIGHT = {
    "volume": "scan.nii.gz", "manifest": "set/manifest.csv", "volumes": "set/manifest.csv", "source": "set",
    "table": "set/manifest.csv", "output": "new", "run": "new/deeper", "model": "model", "teacher": "model",
    "encoder": "test_resnet", "class_name": "finding", "split": "val", "device": "cpu", "precision": "float32",
}  # fmt: skip


ODD_TEXTS = st.sampled_from((*WORDS, *NUMBERS)) | st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), max_size=4
)


def mostly(usual: st.SearchStrategy[str], odd: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """What is usual, but of every sixth."""
    return st.integers(0, 5).flatmap(lambda n: usual if n else odd)


def values(parameter: click.Parameter) -> st.SearchStrategy[str]:
    """Texts that look like values of a parameter."""
    kind = parameter.type
    if isinstance(kind, click.Choice):
        return mostly(st.sampled_from([str(choice) for choice in kind.choices]), ODD_TEXTS)
    if isinstance(kind, click.Path):
        places = st.sampled_from((*PLACES, *NEW))
        return mostly(st.just(RIGHT[parameter.name]), places) if parameter.name in RIGHT else places
    if isinstance(kind, (click.types.IntParamType, click.types.FloatParamType)):
        return mostly(st.sampled_from(("1", "2", "8", "16")), st.sampled_from(NUMBERS))
    odd = ODD_TEXTS | st.sampled_from(PLACES)
    return mostly(st.just(RIGHT[parameter.name]), odd) if parameter.name in RIGHT else odd


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command with most of what it must have, and some of what it may have."""
    name = draw(st.sampled_from(sorted(cli.cli.commands)))
    line, must, may = [], [], []
    for parameter in cli.cli.commands[name].params:
        if parameter.name != "compiled":  # takes torch a minute
            (must if parameter.required else may).append(parameter)
    chosen = [each for each in must if draw(st.integers(0, 19))]
    chosen += draw(st.lists(st.sampled_from(may), max_size=4)) if may else []
    for parameter in chosen:
        if isinstance(parameter, click.Argument):
            line.append([draw(values(parameter))])
        elif parameter.is_flag:  # type: ignore[attr-defined]
            line.append([parameter.opts[0]])
        else:
            line.append([parameter.opts[0], draw(values(parameter))])
    parts = draw(st.permutations(line)) if draw(st.booleans()) else line
    return [name, *(word for part in parts for word in part)]


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan, a labelled list, a tiny classifier of two classes, and files that are none of these."""
    folder = tmp_path_factory.mktemp("toys")
    write_toy_set(folder / "set")
    shutil.copy(folder / "set" / "0.nii.gz", folder / "scan.nii.gz")
    (folder / "model").mkdir()
    network = random_network("test_resnet", classes=2)
    save_bundle(
        folder / "model", spec_of("test_resnet", classes=("healthy", "finding")), network.state_dict(), overwrite=True
    )
    (folder / "plain.txt").write_text("words\n")
    (folder / "damaged.nii").write_bytes((folder / "scan.nii.gz").read_bytes()[:200])
    (folder / "damaged.csv").write_bytes(b'volume,label\n"a.nii,1\n\xff')
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "model.json").write_text('{"schema": 1}')
    (folder / "broken" / "settings.json").write_text('{"cases": 3}')
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, kept_signals: None) -> None:
    """Long work is refused as soon as it begins."""

    def begins(*arguments: object, **options: object) -> None:
        raise TonnoError("long work begins")

    for name in LONG:
        monkeypatch.setattr(f"tonno_core.{name}", begins)
    for name in reproduce.FIGURES:
        monkeypatch.setitem(reproduce.FIGURES, name, begins)
    # A process runs one command: to keep what that one has read for good, it need not care.
    monkeypatch.setattr(gc, "freeze", lambda: None)


@contextlib.contextmanager
def copied(toys: Path, home: Path) -> Iterator[None]:
    """A copy of the toys to run in, as commands may write or replace."""
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(toys, home)
    before = Path.cwd()
    os.chdir(home)
    try:
        yield
    finally:
        os.chdir(before)


@cases(100)
@given(command_lines())
@example(["train", "set/manifest.csv", "--output", "."])
def test_any_command_line_ends_in_a_result_or_one_line(toys: Path, folder: Path, line: list[str]) -> None:
    out, err = io.StringIO(), io.StringIO()
    with copied(toys, folder / "home"), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with pytest.raises(SystemExit) as done:
            cli.main(line)
        left = [path for path in Path.cwd().rglob("*") if path.name.startswith(".tonno")]
    said = [text for text in err.getvalue().splitlines() if text.startswith("tonno: ")]
    assert done.value.code in (0, 1, 2)
    assert len(said) == (done.value.code == 2)
    assert "Traceback" not in err.getvalue()
    assert not left
