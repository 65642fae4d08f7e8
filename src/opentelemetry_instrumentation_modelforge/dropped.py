# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A thread that ends the calls of dropped streams, since a destructor must not.

A destructor may run inside a garbage collection, and so inside code that holds a lock needed to end a span.
``queue.SimpleQueue.put`` is reentrant and documented for use in destructors.
"""

import os
import queue
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Final, TypeAlias

from .otel_utils import Guard

_END_GUARD: Final = Guard("ending a dropped stream")

_End: TypeAlias = tuple[float, Callable[[], None]]
"""When to end a call, on the monotonic clock, and how."""

_ends = queue.SimpleQueue[_End]()
_running = False


def end_soon(end: Callable[[], None], grace: float = 0.0) -> None:
    """Schedule ``end`` to be called soon in another thread, in the order of these calls.

    :param grace: seconds to wait first.
    """
    _ends.put((time.monotonic() + grace, end))


def start_thread() -> None:
    """Start the thread unless it runs. Each call does so when it is created, since a destructor cannot start one."""
    global _ends, _running  # noqa: PLW0603
    if not _running:
        # gevent may have patched the module since: waiting on the original queue would block every greenlet.
        if not isinstance(_ends, queue.SimpleQueue):  # pyright: ignore[reportUnnecessaryIsInstance]
            waiting, _ends = _ends, queue.SimpleQueue[_End]()
            while not waiting.empty():
                _ends.put(waiting.get())
        # Without a thread, as during interpreter shutdown, the calls are ended at exit.
        with suppress(RuntimeError):
            Thread(target=_end_each, name="modelforge-dropped-streams", daemon=True).start()
            _running = True


def _end_each() -> None:
    while True:
        due, end = _ends.get()
        # Through the module, because gevent may have patched the function.
        time.sleep(max(0.0, due - time.monotonic()))
        with _END_GUARD:
            end()
        # Otherwise the last call would be kept alive until the next one.
        del end


def _forget() -> None:
    global _ends, _running  # noqa: PLW0603
    _ends = queue.SimpleQueue[_End]()
    _running = False


if hasattr(os, "register_at_fork"):
    # The parent process ends its own calls, and its thread is not in the child.
    os.register_at_fork(after_in_child=_forget)
