"""Read what comes next in a thread of its own, while what was read before is in use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")


def read_ahead(items: Sequence[Item], read: Callable[[Item], Read]) -> Iterator[tuple[Item, Callable[[], Read]]]:
    """Read items one after the other, each while the one before is in use: one at most lies in wait.

    Args:
        items: What is read.
        read: Called with an item, in another thread, which does not keep the process from ending.

    Yields:
        Each item, and a function that returns what was read of it, or raises what that raised; to be called once.
    """
    begun: dict[int, Future[Read]] = {}

    def begin(index: int) -> None:
        if index < len(items) and index not in begun:
            begun[index] = _in_a_thread(read, items[index])

    for index, item in enumerate(items):
        begin(index)

        def get(index: int = index) -> Read:
            try:
                return begun[index].result()
            finally:
                begin(index + 1)
                begun[index] = Future()  # what was read belongs to the caller

        yield item, get
        del begun[index]


def _in_a_thread(read: Callable[[Item], Read], item: Item) -> Future[Read]:
    found: Future[Read] = Future()

    def work() -> None:
        try:
            found.set_result(read(item))
        except BaseException as error:  # raised where the item is asked for
            found.set_exception(error)

    try:
        threading.Thread(target=work, daemon=True).start()
    except RuntimeError:  # no memory for a thread, or too many of them: nothing is read ahead then
        work()
    return found
