"""What the documents show really runs, on toy data: ``make docs-check``, some minutes.

Commands are those of the pages, in their order, with options behind them that make them cheap (the last one counts).
One whose inputs are not there (another data set, a file of weights) is left out, and the summary says so.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_model
from torch import nn

import tonno_core as tonno
from tests.commands.test_dicom import write_series
from tests.datasets.test_prepare import write_bids
from tests.datasets.trees import write_autopet
from tests.documents import ROOT, Line, command_lines, python_blocks, spans
from tests.networks import write_random_bundle
from tonno_core.cli import cli, main
from tonno_core.errors import TonnoWarning

pytestmark = pytest.mark.skipif(not os.environ.get("TONNO_DOCS"), reason="takes minutes: `make docs-check`")

PAGES = ("README.md", "docs/reconstruct.md", "docs/evaluation.md", "docs/training.md", "docs/segmenter.md",
         "docs/regression.md", "docs/features.md", "docs/clusters.md", "docs/interchange.md", "docs/datasets.md",
         "docs/demo-model.md", "docs/tables.md", "docs/paper.md", "docs/python.md")  # fmt: skip
_PLANES = ("--slices", "12", "--directions", "8")
_CHEAP: dict[str, tuple[str, ...]] = {
    "reconstruct": _PLANES,
    "features": _PLANES,
    "evaluate": (*_PLANES, "--stage", "3"),
    "calibrate": _PLANES,
    "train": (
        *_PLANES, "--steps", "4", "--epochs", "2", "--slice-size", "32", "--volumes-per-batch", "4",
        "--slices-per-volume", "2", "--weights", "none", "--no-calibrate",
    ),
    "distill": (*_PLANES, "--steps", "2", "--epochs", "1", "--patch", "16,16,16", "--trust", "0", "--unit", "peak"),
    "check": (),
    "bundle": (),
    "prepare": (),
    "phantoms": ("--count", "8", "--spacing-mm", "8"),
    "reproduce": ("--slices", "12", "--directions", "16"),
}  # fmt: skip
# What stands for a user's own.
_PLACES = {"MANIFEST": "manifest.csv", "BUNDLE": "my-model", "EVALUATION": "evaluation", "SERIES-FOLDER": "series"}
_INPUT = (".csv", ".nii.gz", ".safetensors", ".pth", ".pt2", ".json")


SHAPE = 24  # voxels of a toy scan along each axis, of 6 mm


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what the pages' commands take: scans of a ball, every second one with a bright blob, and lists."""
    folder = tmp_path_factory.mktemp("toys")
    before = Path.cwd()
    os.chdir(folder)
    rng, lines = np.random.default_rng(0), ["volume,label,patient,split,mask,volume_ml"]
    Path("scans").mkdir()
    Path("masks").mkdir()
    z, y, x = np.mgrid[:SHAPE, :SHAPE, :SHAPE] - (SHAPE - 1) / 2
    for number in range(16):
        place = rng.uniform(-4, 4, 3)
        radius = rng.uniform(2, 3.5) if number % 2 else 0.0
        blob = np.sqrt((x - place[0]) ** 2 + (y - place[1]) ** 2 + (z - place[2]) ** 2) <= radius
        ball = np.sqrt(x**2 + y**2 + z**2) < 10
        array = (ball * 100 + blob * 80 + 5 * rng.standard_normal(ball.shape)).astype(np.float32)
        affine = np.diag([6.0, 6.0, 6.0, 1.0])
        affine[:3, 3] = -6.0 * (SHAPE - 1) / 2  # about the origin, so that points of the pages lie within
        scan = tonno.Volume(array, affine)
        tonno.write_volume(scan, f"scans/{number}.nii.gz")
        tonno.write_volume(scan.with_array(blob), f"masks/{number}.nii.gz", dtype="uint8")
        volume, split = f"scans/{number}.nii.gz", ("train", "train", "val", "test")[number // 2 % 4]
        lines.append(f"{volume},{number % 2},p{number},{split},masks/{number}.nii.gz,{blob.sum() * 0.216:.1f}")
    Path("manifest.csv").write_text("\n".join(lines))
    Path("scans.csv").write_text("\n".join(["volume", *(f"scans/{number}.nii.gz" for number in range(3))]))
    shutil.copy("scans/1.nii.gz", "scan.nii.gz")
    shutil.copy("masks/1.nii.gz", "region.nii.gz")
    write_series(folder / "series")
    study = next(write_autopet(folder).glob("PETCT_*/*"))
    for name in ("SUV.nii.gz", "CTres.nii.gz"):
        shutil.copy(study / name, name)
    write_bids(folder / "study")
    write_random_bundle(folder / "my-model", thresholds={"matched-cam": {"threshold": 0.01}})
    yield folder
    os.chdir(before)


def run(line: Line) -> str:
    """Run a command of a page; returns why it was not run, or ''."""
    arguments = line.tonno()
    if arguments is None or line.words[0] == "srun":
        return "another program's"
    name, *rest = (_PLACES.get(word, word) for word in arguments)
    if name not in _CHEAP or line.is_abridged or "--complete" in rest:
        return "takes long, and has tests of its own"
    if not Path("my-model-run/split.csv").exists():  # of a training that is not run here
        rest = ["manifest.csv" if word == "my-model-run/split.csv" else word for word in rest]
    if name == "distill":  # a teacher that was trained for four steps shows nothing to learn
        rest = ["my-model" if word == "my-teacher" else word for word in rest]
    if name == "bundle" and "weights.safetensors" in rest:
        classes = rest[rest.index("--classes") + 1].count(",") + 1 if "--classes" in rest else 1
        save_model(timm.create_model("resnet50_gn", num_classes=classes), "weights.safetensors")
    lacking = [
        word for word in rest if word.endswith(_INPUT) and not word.startswith("'") and not list(Path().glob(word))
    ]
    if "evaluation" in rest[:2] and not Path("evaluation").exists():
        lacking.append("evaluation")
    if lacking:
        return f"without {', '.join(lacking)}"
    if name == "reproduce":  # the cheap planes would be further ones
        many = ("--slices", "--directions")
        rest = [word for before, word in zip(["", *rest], rest, strict=False) if not {before, word} & {*many}]
    cheap = () if "my-segmenter" in rest else _CHEAP[name]  # which looks at no planes
    if "weights.safetensors" in rest:
        cheap = ("--slice-size", "32", "--output", "bundled")
    elif "table1" in rest:
        cheap = (*cheap, "--row", "lite-random", "--steps", "4", "--slice-size", "32")
    elif name == "reproduce" and "evaluation" in rest:  # which computes nothing anew
        cheap = ()
    elif name == "reproduce" and "manifest.csv" not in rest:
        cheap = (*cheap, "--heads", "1")
    if {"scans.csv", "scans/*.nii.gz"} & set(rest):
        cheap = (*cheap, "--threshold", "0.01")  # the toy model has none of its own for these planes
    known = {option for parameter in cli.commands[name].params for option in parameter.opts}
    anew = ["--overwrite"] if "--overwrite" in known and "--resume" not in rest else []
    if line.words[0] == "torchrun":
        started = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "tonno_core"]
        subprocess.run([*started, name, *rest, *cheap, *anew], check=True)
        return ""
    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        warnings.simplefilter("ignore", TonnoWarning)
        main([name, *rest, *cheap, *anew])
    assert ended.value.code in (0, None), " ".join(line.words)
    return ""


class Toy(nn.Module):
    """A classifier of two classes with two layers that put out maps, for slices of three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer3, self.layer4 = nn.Conv2d(3, 4, 16, 16), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.layer4(self.layer3(slices).relu()).relu()
        logits: torch.Tensor = self.head(maps.mean((2, 3)))
        return logits


def run_python(page: str) -> None:
    """Run a page's blocks of Python, one after another."""
    names: dict[str, Any] = {"tonno": tonno, "module": Toy().eval()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export, and of MONAI and TorchIO when they are imported
        for block in python_blocks(ROOT / page):
            exec(compile(block.text, f"{page}, line {block.line + 1}", "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_what_the_page_shows_runs(page: str, toys: Path, kept_signals: None) -> None:
    """Its commands, its Python, and then the commands that take what the Python wrote."""
    lines = command_lines(ROOT / page)
    sentences = dict.fromkeys(
        span for span in spans(ROOT / page) if re.match("tonno reproduce (fig|table2|table1 )", span)
    )
    lines += [Line(ROOT / page, 0, tuple(shlex.split(span))) for span in sentences]
    outcomes = {line: run(line) for line in lines}
    run_python(page)
    outcomes |= {line: run(line) for line, why in outcomes.items() if why.startswith("without ")}
    for line, why in outcomes.items():
        print(f"{page}: {f'left out, {why}' if why else 'ran'}: {' '.join(line.words)}")
    assert not all(outcomes.values())
