"""In whose words the library's messages are: Python's arguments in it, options in the command line."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

import tonno_core
from tonno_core.cli import cli, main
from tonno_core.cohort.cases import CasesFolder, run_cases
from tonno_core.commands.options import as_options
from tonno_core.errors import TonnoError, plain, rename
from tonno_core.reconstruction import reconstruct
from tonno_core.settings import ReconstructionSettings, Variant
from tonno_core.training.settings import TrainingSettings

PACKAGE = Path(tonno_core.__file__).parent
COMMANDS = dict(cli.commands)


def library_texts() -> Iterator[tuple[str, str]]:
    """Where each text of the library is, and the text, with `{}` for what is put into it; but for docstrings."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name in ("cli.py", "__main__.py"):
            continue
        for node in ast.walk(_without_docstrings(ast.parse(path.read_text(encoding="utf-8")))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values]
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node.value


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return tree


def known_arguments() -> set[str]:
    fields = {f.name for kind in (ReconstructionSettings, Variant, TrainingSettings) for f in dataclasses.fields(kind)}
    options = {str(parameter.name) for command in COMMANDS.values() for parameter in command.params}
    return fields | options | set(inspect.signature(reconstruct).parameters)


def test_no_text_of_the_library_names_an_option() -> None:
    assert [(place, text) for place, text in library_texts() if re.search(r"(?<![\w-])--[a-z]", text)] == []


def test_what_a_message_names_in_backquotes_is_an_argument() -> None:
    texts = list(library_texts())
    named = {(place, name) for place, text in texts for name in re.findall(r"`(\w+)`", text)}
    assert {(place, name) for place, name in named if name not in known_arguments()} == set()
    assert len(named) > 60  # those that raise, some of them several


def test_arguments_are_renamed_and_nothing_else() -> None:
    message = "a`b.nii: `slices` is 1, too few for `zoom`; see `tonno calibrate`, `Zoom` or `batch_size`"
    names = {"slices": "--slices", "zoom": "Finer", "tonno": "x", "b": "y"}
    assert rename(message, names) == (
        "a`b.nii: --slices is 1, too few for Finer; see `tonno calibrate`, `Zoom` or `batch_size`"
    )
    assert rename(message, {}) == message
    assert plain(TonnoError("`slices` is 1; see `tonno calibrate`")) == "slices is 1; see `tonno calibrate`"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_line_says_each_argument_as_its_option(name: str) -> None:
    with click.Context(cli) as root, click.Context(COMMANDS[name], parent=root):
        for option in COMMANDS[name].params:
            if isinstance(option, click.Option):
                assert as_options(f"give `{option.name}` 3") == f"give {option.opts[-1]} 3"
        # Of a command that has no such option, too: a model's training, a threshold of a run to come.
        assert as_options("`region`, `class_name`, `methods`, `file_format`, `compiled`, `freeze`") == (
            "--roi, --class, --method, --format, --compile, --freeze"
        )
        assert as_options("`warmup`") == "`warmup`"  # has none
    assert as_options("give `slice_size` 3") == "give `slice_size` 3"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "a.nii: 1 of 8 voxels are NaN; clean the file, or use `replace_nonfinite` to give them the lowest",
            {"reconstruct": "; clean the file, or use --replace-nonfinite to", "train evaluate": "NaN; clean the file"},
        ),
        (
            "the logits are not finite numbers; try `precision` float32, else look at its weights",
            {"reconstruct train": "; try --precision float32, else look", "bundle": "numbers; look at its weights"},
        ),
        (
            "no memory; close other programs, or choose a smaller `slice_size`, or choose `device` cpu",
            {
                "train bench": "; close other programs, or choose a smaller --slice-size, or choose --device cpu",
                "evaluate": "; close other programs, or choose --device cpu",
                "demo": "no memory; close other programs",
            },
        ),
        (
            "`intensity` zscore: no contrast; expected different values: use `intensity` none or window:LO:HI",
            {"train": "values: use --intensity none or window:LO:HI", "reconstruct": "; expected different values"},
        ),
        (
            "x: no finding. Look at the heatmap; give `threshold` a number, or let `tonno calibrate` find one",
            {"evaluate": "heatmap; let `tonno calibrate` find one", "reconstruct": "give --threshold a number, or let"},
        ),
        (
            "which is the finding? Name it by `class_name`, or write 0 for the other",
            {"train": "? Name it by --class, or write 0", "calibrate": "is the finding? Write 0 for the other"},
        ),
        ("no maps; choose another, or `method` tonno", {"train": "; choose another", "bench": ", or --method tonno"}),
        ("`stage` 4: empty; choose a `stage` from 1 to 3", {"calibrate": "--stage 4: empty; choose a --stage from 1"}),
        ("`slice_size` is 7, or 8; expected more", {"evaluate": "--slice-size is 7, or 8; expected more"}),
    ],
)  # fmt: skip
def test_advice_that_the_running_command_does_not_have_is_left_out(message: str, said: dict[str, str]) -> None:
    for commands, words in said.items():
        for name in commands.split():
            with click.Context(cli) as root, click.Context(COMMANDS[name], parent=root):
                text = as_options(message)
            assert words in text
            own = {option for parameter in COMMANDS[name].params for option in parameter.opts}
            advised = set(re.findall(r"--[a-z-]+", re.split(r"[;?.] ", text)[-1]))
            assert advised <= own, name


class _Folder(CasesFolder):
    kind, summary_names = "cohort", ()

    def has(self, name: str) -> bool:
        return False

    def content_of_case(self, name: str) -> str | None:
        return None

    def clear(self, keep: set[str]) -> None:
        pass


@pytest.mark.parametrize(("command", "words"), [(None, "`replace_nonfinite`"), ("reconstruct", "--replace-nonfinite")])
def test_why_a_case_failed_is_kept_in_the_words_of_who_started(command: str | None, words: str, tmp_path: Path) -> None:
    folder = _Folder(tmp_path)
    folder.take_up({}, ["a.nii"], [(1, Path("a.nii"))], overwrite=False)
    folder.open(["a"], ["a"])

    def work(task: Any, advanced: Any, get: Any) -> None:
        raise TonnoError("scan.nii: 1 of 8 voxels are NaN or infinite; use `replace_nonfinite`")

    def run() -> None:
        run_cases([SimpleNamespace(name="a")], folder, work, read=str, label="", progress=False, reworded=as_options)

    if command is None:
        run()
    else:
        with click.Context(COMMANDS[command]):
            run()
    kept = json.loads((tmp_path / "cases" / "a.failed").read_text(encoding="utf-8"))
    assert kept["failed"].endswith(f"infinite; use {words}")


def test_a_name_with_two_spaces_in_a_row_stays_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _Folder(tmp_path)
    folder.take_up({}, ["a.nii"], [(1, Path("a.nii"))], overwrite=False)
    folder.open(["a"], ["a"])

    def work(task: Any, advanced: Any, get: Any) -> None:
        raise TonnoError("GK  primaer/a.nii: damaged;\n copy it again")

    run_cases([SimpleNamespace(name="a")], folder, work, read=str, label="", progress=False)
    assert folder.reason("a") == "GK  primaer/a.nii: damaged; copy it again"
    missing = tmp_path / "GK  primaer" / "list.csv"
    with pytest.raises(SystemExit):
        main(["check", str(missing)])
    assert capsys.readouterr().err.startswith(f"tonno: {missing}: no such manifest")
