"""Reading ahead: by events rather than by time."""

from __future__ import annotations

import threading

import pytest

from tonno_core.cohort.ahead import read_ahead


def test_the_next_is_read_while_this_one_is_in_use_and_no_more() -> None:
    begun, free = [], [threading.Event() for _ in range(4)]

    def read(item: int) -> int:
        begun.append((item, threading.current_thread() is threading.main_thread()))
        free[item].set()
        return 10 * item

    for item, get in read_ahead([0, 1, 2], read):
        assert get() == 10 * item
        if item < 2:
            assert free[item + 1].wait(10.0)  # without being asked for
        assert not free[min(item + 2, 3)].is_set()
    assert begun == [(0, False), (1, False), (2, False)]


def test_an_error_is_raised_where_its_item_is_asked_for_and_the_next_is_read() -> None:
    def read(item: int) -> int:
        if item == 1:
            raise OSError("damaged")
        return item

    found: list[int | str] = []
    for _, get in read_ahead([0, 1, 2], read):
        try:
            found.append(get())
        except OSError as error:
            found.append(str(error))
    assert found == [0, "damaged", 2]


def test_what_is_not_asked_for_holds_nothing_up() -> None:
    assert [item for item, _ in read_ahead([0, 1, 2], lambda item: item)] == [0, 1, 2]


def test_what_was_read_is_let_go_with_its_user() -> None:
    import weakref

    class Large:
        pass

    (_, get), *_ = list(read_ahead([0], lambda _: Large()))
    with pytest.raises(KeyError):  # the loop is over
        get()
    for _, get in read_ahead([0, 1], lambda _: Large()):
        large = get()
        gone = weakref.ref(large)
        del large
        assert gone() is None


def test_where_no_thread_can_be_had_each_is_read_in_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a limit on memory or on processes."""

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert [get() for _, get in read_ahead([0, 1, 2], lambda item: 10 * item)] == [0, 10, 20]
