"""Figures as they are saved, for tests of pictures."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# A black pixel.
_PNG = b"\x89PNG\r\n\x1a\n" + b"".join((
    _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)), _chunk(b"IDAT", zlib.compress(b"\0\0")),
    _chunk(b"IEND", b""),
))  # fmt: skip


@pytest.fixture
def rendered() -> None:
    """Asks for whole pictures where there is `unrendered`."""


@pytest.fixture
def unrendered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put figures together but save a black pixel: to render one takes as long as to reconstruct a toy volume."""

    def save(figure: Figure, target: Any, **options: Any) -> None:
        content = b"<svg/>" if options.get("format") == "svg" else _PNG
        if hasattr(target, "write"):
            target.write(content)
        else:
            Path(target).write_bytes(content)

    if "rendered" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", save)


@pytest.fixture
def drawn(unrendered: None, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures
