from __future__ import annotations

import threading

import pytest

from jobs.submissions.briefly import Briefly


def test_it_is_had_once_a_while_and_then_anew() -> None:
    now, got = [0.0], []

    def get() -> int:
        got.append(now[0])
        return len(got)

    briefly = Briefly(get, 1.0, lambda: now[0])
    assert [briefly(), briefly()] == [1, 1]
    now[0] = 0.99
    assert briefly() == 1
    now[0] = 1.0
    assert [briefly(), briefly()] == [2, 2]


def test_what_was_raised_is_kept_as_long_and_no_longer() -> None:
    now, tried = [0.0], []

    def get() -> int:
        tried.append(1)
        if len(tried) == 1:
            raise OSError("the database is away")
        return 7

    briefly = Briefly(get, 1.0, lambda: now[0])
    for _ in range(3):
        with pytest.raises(OSError, match="away"):
            briefly()
    assert len(tried) == 1
    now[0] = 1.0
    assert briefly() == 7


def test_of_many_at_once_one_has_it_for_all() -> None:
    may, got, found = threading.Event(), [], []

    def get() -> int:
        may.wait(30)
        got.append(1)
        return 5

    briefly = Briefly(get, 60.0)
    threads = [threading.Thread(target=lambda: found.append(briefly())) for _ in range(8)]
    for thread in threads:
        thread.start()
    may.set()
    for thread in threads:
        thread.join()
    assert (len(got), found) == (1, [5] * 8)
