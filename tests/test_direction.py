"""Imports run one way: the rooms of tonno_core from the ground up, each of which knows those below it alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tonno_core

PACKAGE = Path(tonno_core.__file__).parent
ROOMS = (
    "errors", "signals", "imports", "protocol", "output", "progress", "words", "kernels", "settings", "records",
    "volume", "reporting", "slicing", "encoding", "distributed", "tomography", "segmenter", "bundle", "segmentation",
    "pictures", "reconstruction", "cohort", "datasets", "demo", "evaluation", "training", "distillation", "benchmark",
    "reproduction", "worker", "commands", "cli", "__main__",
)  # fmt: skip


def imported(file: Path) -> Iterator[str]:
    """The rooms that a file imports from, also inside of functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            deep = node.module != "tonno_core"
            names = [str(node.module)] if deep else [f"tonno_core.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("tonno_core."))


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_down(file: Path) -> None:
    room = file.relative_to(PACKAGE).with_suffix("").parts[0]
    if room == "__init__":  # the package's face: it loads names from any room, when they are asked for
        return
    above = [other for other in imported(file) if other in ROOMS and ROOMS.index(other) > ROOMS.index(room)]
    assert not above, f"{room} imports from {above}, which stand above it"
