"""Progress bars: a bar on a terminal, lines in a log, nothing where silence is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from tqdm import tqdm

# Between lines: a log of a night has some hundred.
_LINE_S = 30.0
_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
_SILENT: ContextVar[bool] = ContextVar("silent", default=False)
# What `say_once` has written.
_SAID: set[str] = set()


def say_once(text: str) -> None:
    """Write a line beside the bars on stderr, unless it was written before or bars are silenced.

    Args:
        text: The line.
    """
    if not _SILENT.get() and text not in _SAID:
        _SAID.add(text)
        tqdm.write(text, file=sys.stderr)


@contextmanager
def silenced(silent: bool) -> Iterator[None]:
    """Show no bar while a block runs.

    Args:
        silent: Whether to; False changes nothing.

    Yields:
        Nothing.
    """
    token = _SILENT.set(silent or _SILENT.get())
    try:
        yield
    finally:
        _SILENT.reset(token)


def is_watched() -> bool:
    """Tell whether a person may be looking: in a terminal or a notebook.

    Returns:
        Whether to show a bar.
    """
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def progress_bar(iterable: Iterable[Any] | None = None, *, disable: bool = False, **options: Any) -> tqdm[Any]:
    """Make a progress bar on stderr; without a terminal or notebook, write a line now and then, and one at the end.

    Whoever sets TQDM_MININTERVAL reads the bar itself, as the Slicer module does: it stays one.

    Args:
        iterable: What to count, None to count by `update`.
        disable: Show nothing.
        **options: Of tqdm.

    Returns:
        The bar.
    """
    options.setdefault("bar_format", _FORMAT)
    disable = disable or _SILENT.get()
    if is_watched() or "TQDM_MININTERVAL" in os.environ:
        return tqdm(iterable, disable=disable, **options)
    options["bar_format"] = options["bar_format"].replace("|{bar}|", "")
    lines: Any = _Lines(sys.stderr)
    return tqdm(
        iterable, disable=disable, file=lines, mininterval=_LINE_S, maxinterval=2 * _LINE_S, miniters=0, **options
    )


class _Lines:
    """Writes what a bar draws over itself as lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = stream.encoding

    def write(self, text: str) -> None:
        line = text.strip()
        if line:
            self._stream.write(f"{line}\n")

    def flush(self) -> None:
        self._stream.flush()
