"""Messages over a pipe: whole or not at all, of any size, and the end of the other side is noticed."""

from __future__ import annotations

import os
import threading
import time

import pytest

from jobs.submissions.frames import Ended, Late, read_frame, write_frame


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    opened = [reading, writing]
    yield opened
    for descriptor in opened:
        if descriptor >= 0:
            os.close(descriptor)


def test_messages_larger_than_a_pipe_arrive_whole_and_in_order(pipe):
    body = os.urandom(3_000_000)
    os.set_blocking(pipe[1], False)

    def write():
        for n in range(2):
            write_frame(pipe[1], {"n": n}, body)

    thread = threading.Thread(target=write)
    thread.start()
    assert [read_frame(pipe[0]) for _ in range(2)] == [({"n": 0}, body), ({"n": 1}, body)]
    thread.join()


def test_the_end_of_the_writer_is_noticed_also_within_a_message(pipe):
    os.write(pipe[1], b"\x00\x00\x00\x05")
    os.close(pipe[1])
    pipe[1] = -1
    with pytest.raises(Ended):
        read_frame(pipe[0])


def test_the_end_of_the_reader_is_noticed(pipe):
    os.close(pipe[0])
    pipe[0] = -1
    with pytest.raises(Ended):
        write_frame(pipe[1], {})


def test_who_is_silent_or_does_not_read_is_not_waited_for_beyond_the_deadline(pipe):
    os.set_blocking(pipe[1], False)
    with pytest.raises(Late):
        read_frame(pipe[0], time.monotonic() + 0.05)
    with pytest.raises(Late):
        write_frame(pipe[1], {}, bytes(10_000_000), time.monotonic() + 0.05)
