"""MONAI stands in one file, is imported by nothing that does without it, and answers as it should."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tonno_core
from tonno_core.errors import TonnoError
from tonno_core.segmenter import with_monai
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.segmenter.with_monai import build_network, slide

PACKAGE = Path(tonno_core.__file__).parent
NETWORK = SegmenterNetwork((1.0, 1.0, 1.0), (16, 16, 8), filters=8, blocks=(1, 1))


def test_one_file_imports_monai() -> None:
    importing = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] == "monai" for name in names):
                importing.add(file.relative_to(PACKAGE).as_posix())
    assert importing == {"segmenter/with_monai.py", "volume/exchange.py"}  # the latter takes and gives its images


@pytest.mark.parametrize(
    "statement",
    [
        "import tonno_core; tonno_core.ReconstructionSettings()",
        "import tonno_core.cli",
        "import tonno_core.segmenter.network, tonno_core.segmenter.working, tonno_core.segmenter.with_monai",
        "import tonno_core.bundle.file, tonno_core.reconstruction, tonno_core.evaluation.case",
        "import tonno_core.worker.engine, tonno_core.worker.requests, tonno_core.__main__",
    ],
)
def test_what_does_without_monai_does_not_import_it(statement: str) -> None:
    code = f"import sys; {statement}; assert 'monai' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_help_does_not_import_monai() -> None:
    code = (
        "import contextlib, sys; from tonno_core.cli import main; sys.argv = ['tonno', 'reconstruct', '--help']\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "assert 'monai' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, stdout=subprocess.DEVNULL)


def test_without_monai_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(with_monai, "find_spec", lambda name: None)
    with pytest.raises(TonnoError, match=r"pip install 'monai>=1\.4'"):
        build_network(NETWORK, 1)


def test_a_network_has_a_logit_for_each_class_at_each_voxel() -> None:
    model = build_network(NETWORK, classes=3, channels=2).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        answer = model(torch.zeros(2, 2, *NETWORK.window_zyx))
    assert answer.shape == (2, 3, *NETWORK.window_zyx)
    assert answer.dtype == torch.float32  # not in the steps of bfloat16
    names = set(model.state_dict())
    assert {"conv_final.0.weight", "conv_final.2.conv.weight"} <= names  # MONAI's own


@pytest.mark.parametrize("shape", [(8, 16, 16), (5, 7, 9), (23, 40, 17)])
def test_windows_of_a_local_answer_are_the_whole_image(shape: tuple[int, int, int]) -> None:
    """What depends on the voxel alone is the same in every window, so their weighted mean is it."""
    image = torch.as_tensor(np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32))
    sizes = []

    def predict(windows: torch.Tensor) -> torch.Tensor:
        sizes.append((len(windows), *windows.shape[2:]))
        return windows * 3.0 - 1.0

    answer = slide(image, predict, NETWORK.window_zyx, fill=-5.0, at_once=3)
    # A weighted sum divided by the sum of weights: some roundings of float32 of numbers up to 15.
    torch.testing.assert_close(answer, image * 3.0 - 1.0, rtol=0, atol=1e-5)
    assert all(size[1:] == NETWORK.window_zyx and size[0] <= 3 for size in sizes)


def test_windows_of_neighbourhoods_are_the_whole_image_away_from_their_edges() -> None:
    """A window's answer is wrong where its neighbourhoods end with it; there the other windows outweigh it."""
    kernel = torch.ones(1, 1, 3, 3, 3) / 27
    image = torch.as_tensor(np.random.default_rng(1).normal(size=(1, 24, 48, 48)).astype(np.float32))

    def predict(windows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv3d(windows, kernel, padding=1)

    whole = predict(image[None])[0]
    apart = (slide(image, predict, (16, 16, 16), fill=0.0) - whole).abs()
    # A window's face weighs exp(-(7.5 / 2)^2 / 2) = 0.0009 of the middle of the window beside it, and lacks a third of
    # a neighbourhood (a mean of 27 normal numbers: 0.2, 1 at most).
    assert apart.max() < 0.001
