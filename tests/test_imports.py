"""Imports without a search for garbage."""

from __future__ import annotations

import gc

import pytest

from tonno_core.imports import uncollected


def test_garbage_is_looked_for_again_also_after_an_import_that_failed() -> None:
    assert gc.isenabled()
    with pytest.raises(ImportError), uncollected():
        assert not gc.isenabled()
        import tonno_core.no_such_module  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()  # whoever has turned it off wants it so
    finally:
        gc.unfreeze()
        gc.enable()
