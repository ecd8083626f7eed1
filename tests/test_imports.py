"""Imports without a search for garbage."""

from __future__ import annotations

import gc
import io
import sys
from contextlib import redirect_stdout

import pytest

from tonno_core.imports import uncollected


def test_garbage_is_looked_for_again_also_after_an_import_that_failed() -> None:
    assert gc.isenabled()
    with pytest.raises(ImportError), uncollected():
        assert not gc.isenabled()
        import tonno_core.no_such_module  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()  # whoever has turned it off wants it so
    finally:
        gc.enable()


def test_what_was_imported_is_set_aside_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    set_aside: list[None] = []
    monkeypatch.setattr(gc, "freeze", lambda: set_aside.append(None))
    with redirect_stdout(io.StringIO()):
        for _ in range(3):  # only the first imports
            with uncollected():
                import this  # noqa: F401
    assert len(set_aside) == 1
