# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Calls of dropped streams, which a thread ends soon, and never a destructor."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from weakref import ref

import pytest

from opentelemetry_instrumentation_modelforge import dropped
from opentelemetry_instrumentation_modelforge.dropped import end_soon, start_thread

Python = Callable[..., "subprocess.CompletedProcess[str]"]

SOON = 10
"""Seconds to wait for something that happens immediately, unless the test is about to fail."""


@pytest.fixture(autouse=True)
def _started() -> Iterator[None]:
    start_thread()
    yield
    drain()


def drain() -> None:
    """Wait until the thread has ended all calls dropped before."""
    ended = threading.Event()
    end_soon(ended.set)
    assert ended.wait(SOON)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "modelforge-dropped-streams"]


def test_a_dropped_call_is_ended_in_another_thread() -> None:
    ended_in: list[threading.Thread] = []
    end_soon(lambda: ended_in.append(threading.current_thread()))
    drain()
    assert ended_in == threads()
    assert ended_in[0] is not threading.current_thread()


def test_one_thread_ends_all_calls_and_does_not_keep_the_process_alive() -> None:
    for _ in range(3):
        start_thread()
    assert [thread.daemon for thread in threads()] == [True]


def test_calls_are_ended_in_the_order_they_were_dropped() -> None:
    ended: list[int] = []
    for number in range(100):
        end_soon(lambda number=number: ended.append(number))
    drain()
    assert ended == list(range(100))


def test_a_call_with_a_grace_ends_after_it_and_before_those_dropped_later() -> None:
    ended: list[str] = []
    begun = time.monotonic()
    end_soon(lambda: ended.append(f"after the grace: {time.monotonic() - begun >= 0.05}"), grace=0.05)
    end_soon(lambda: ended.append("next"))
    drain()
    assert ended == ["after the grace: True", "next"]


def test_a_destructor_that_runs_in_a_collection_can_drop_a_call() -> None:
    ended = threading.Event()

    class Dropped:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            end_soon(ended.set)

    Dropped()
    assert not ended.is_set()
    gc.collect()
    assert ended.wait(SOON)


def test_a_call_can_be_dropped_while_another_is_being_dropped() -> None:
    """A collection can begin at any allocation, even inside `put`, which must not wait for itself."""
    ended: list[str] = []

    class Queue:
        def __init__(self, queue: Any) -> None:
            self.queue, self.entered = queue, False

        def put(self, end: Callable[[], None]) -> None:
            if not self.entered:
                self.entered = True
                end_soon(lambda: ended.append("inner"))
            self.queue.put(end)

    queue = dropped._ends
    dropped._ends = Queue(queue)  # type: ignore[assignment]
    try:
        end_soon(lambda: ended.append("outer"))
    finally:
        dropped._ends = queue
    drain()
    assert ended == ["inner", "outer"]


def test_a_fault_does_not_stop_the_thread_and_is_logged_without_its_message(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dropped._END_GUARD, "_reported", False)

    def fail() -> None:
        prompt = "the purple heron"
        raise KeyError(prompt)

    ended: list[int] = []
    end_soon(fail)
    end_soon(lambda: ended.append(1))
    drain()
    assert ended == [1]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    text = logging.Formatter().format(record)
    assert "Telemetry fault while ending a dropped stream" in text
    assert text.endswith("KeyError")
    caplog.clear()


def test_an_ended_call_is_released_before_the_next_one() -> None:
    class Call:
        def end(self) -> None:
            pass

    call = Call()
    alive = ref(call)
    end_soon(call.end)
    del call
    drain()
    drain()
    gc.collect()
    assert alive() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_ends_its_own_calls_and_not_those_of_its_parent() -> None:
    release, ended = threading.Event(), []
    # The parent's thread is busy, so the next call stays in its queue.
    end_soon(lambda: release.wait(SOON) and None)
    end_soon(lambda: ended.append("parent"))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        start_thread()
        own = threading.Event()
        end_soon(own.set)
        own.wait(SOON)
        os.write(write, f"{own.is_set()} {ended}".encode())
        os._exit(0)
    os.close(write)
    release.set()
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(read, 100) == b"True []"
    os.close(read)
    drain()
    assert ended == ["parent"]


def test_a_process_that_cannot_start_a_thread_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(dropped, "_running", False)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        start_thread()
    assert dropped._running is False


def test_a_process_ends_immediately_while_the_thread_waits(python: Python) -> None:
    done = python(
        "-c",
        "from opentelemetry_instrumentation_modelforge import dropped\n"
        "dropped.start_thread(); dropped.end_soon(lambda: print('ended', flush=True))\n"
        "import threading; event = threading.Event(); dropped.end_soon(event.set); print(event.wait(10))",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\nTrue\n", "")


def test_the_thread_waits_on_the_queue_that_gevent_has_patched_in_after_the_import(python: Python) -> None:
    program = """
import queue, threading
from opentelemetry_instrumentation_modelforge import dropped

class Patched(queue.SimpleQueue):
    pass

ended = [threading.Event(), threading.Event()]
dropped.end_soon(ended[0].set)
queue.SimpleQueue = Patched
dropped.start_thread()
dropped.end_soon(ended[1].set)
assert all(event.wait(10) for event in ended)
assert type(dropped._ends) is Patched
"""
    done = python("-c", program)
    assert done.returncode == 0, done.stderr
