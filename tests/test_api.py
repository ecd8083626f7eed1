"""What `import tonno_core` offers, and that it stays light."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tonno_core as tonno
from tests.networks import write_random_bundle

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "timm", "SimpleITK", "scipy", "matplotlib", "numpy", "safetensors", "tqdm", "click"}


def modules_after(code: str) -> set[str]:
    """Packages that a fresh interpreter has loaded after some code."""
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert modules_after("import tonno_core") & HEAVY == set()


def test_help_loads_nothing_heavy_but_its_parser() -> None:
    code = "from tonno_core.cli import main\n"
    code += "for command in ([], ['reconstruct'], ['check'], ['train'], ['evaluate'], ['bundle'], ['demo']):"
    code += "\n    try: main([*command, '--help'])\n    except SystemExit as done: assert done.code == 0"
    assert modules_after(code) & HEAVY == {"click"}


@pytest.mark.parametrize(
    "module",
    ["volume.volume", "volume.io", "volume.intensity", "volume.foreground", "segmentation.binarize",
     "segmentation.metrics", "pictures.overview", "evaluation.record", "evaluation.summary", "evaluation.report",
     "pictures.tile", "evaluation.sheet", "settings", "output", "cli", "cohort.check", "cohort.split"],
)  # fmt: skip
def test_parts_that_need_no_torch_do_not_load_it(module: str) -> None:
    assert "torch" not in modules_after(f"import tonno_core.{module}")


def test_every_name_resolves() -> None:
    for name in tonno.__all__:
        assert getattr(tonno, name).__module__.startswith("tonno_core.")
    assert sorted(tonno.__all__) == list(tonno.__all__)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        _ = tonno.magic


def test_names_are_not_shadowed_by_modules_of_the_same_name() -> None:
    # Importing a submodule sets an attribute of the package: `reconstruct` must stay the function.
    code = """
import pkgutil, importlib, tonno_core
for module in pkgutil.walk_packages(tonno_core.__path__, "tonno_core."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert callable(tonno_core.reconstruct) and callable(tonno_core.binarize)
for name in tonno_core.__all__:
    assert type(getattr(tonno_core, name)).__name__ in ("function", "type"), name
"""
    modules_after(code)


def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    z, y, x = np.mgrid[-8:8, -8:8, -8:8]
    scan = tonno.Volume(np.exp(-(x**2 + y**2 + z**2) / 30).astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    tonno.write_volume(scan, tmp_path / "scan.nii.gz")
    write_random_bundle(tmp_path / "my-model", thresholds={"matched-cam": {"threshold": 0.01}})
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example, names)
    written = tonno.read_volume("heatmap.nii.gz")
    assert np.array_equal(written.array, names["heatmap"].array)
    assert written.array.shape == scan.array.shape
    assert np.array_equal(tonno.read_volume("mask.nii.gz").array, written.array >= 0.01)
