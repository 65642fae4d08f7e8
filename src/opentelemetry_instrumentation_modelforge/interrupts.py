# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Exceptions that interrupt the telemetry code and are meant for the application."""

from collections import deque
from collections.abc import Callable, Iterator
from signal import getsignal, valid_signals
from types import CodeType, TracebackType
from typing import TypeVar

_T = TypeVar("_T")


def safely(produce: Callable[[], _T], default: _T) -> _T:
    """Return what ``produce`` returns, or ``default`` if it raises an exception that is not an interrupt."""
    try:
        return produce()
    except Exception as error:
        if is_from_signal_handler(error.__traceback__):
            raise
        return default


def is_from_signal_handler(traceback: TracebackType | None) -> bool:
    """Return whether a :mod:`signal` handler raised the exception with this traceback, as Celery's time limits do."""
    frames: set[CodeType] = set()
    while traceback is not None:
        frames.add(traceback.tb_frame.f_code)
        traceback = traceback.tb_next
    return any(not frames.isdisjoint(_codes_of(getsignal(number))) for number in valid_signals())


def _codes_of(handler: object) -> Iterator[CodeType]:
    """Yield the code of a signal handler: a function, a method, a partial, a wrapper or an object with ``__call__``."""
    pending = deque[object]([handler])
    for _ in range(16):
        if not pending:
            return
        candidate = pending.popleft()
        if candidate is None or isinstance(candidate, int):
            continue
        if isinstance(code := _member(candidate, "__code__"), CodeType):
            yield code
        else:
            pending.extend(_member(candidate, name) for name in ("func", "__func__", "__wrapped__", "_self_wrapper"))
            pending.append(_member(type(candidate), "__call__"))


def _member(value: object, name: str) -> object:
    try:
        return getattr(value, name, None)
    except Exception:  # noqa: BLE001 - a signal handler can be of any class.
        return None
