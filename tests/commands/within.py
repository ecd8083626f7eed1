"""The command `tonno` within this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tonno_core import cli


class Command:
    """Runs `tonno`."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Status, stdout and stderr."""
        self._capfd.readouterr()
        with pytest.raises(SystemExit) as done:
            cli.main([str(argument) for argument in arguments])
        out, err = self._capfd.readouterr()
        assert isinstance(done.value.code, int)
        return done.value.code, out, err

    def refused(self, *arguments: object) -> str:
        """The only line, and nothing new in the folder."""
        before = names(Path.cwd())
        status, out, err = self(*arguments)
        assert (status, out) == (2, ""), err
        assert err.startswith("tonno: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        assert "Traceback" not in err
        assert names(Path.cwd()) == before
        return err.removeprefix("tonno: ").rstrip("\n")


def fail(error: BaseException) -> Callable[..., Any]:
    """A function that fails, whatever it is given."""

    def failing(*arguments: object, **options: object) -> None:
        raise error

    return failing


def names(folder: Path) -> set[str]:
    """All files below a folder, hidden ones included."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
