# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The life of a call: it ends exactly once, however it ends."""

from __future__ import annotations

import threading
from asyncio import CancelledError
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.context import Context, attach, detach

from opentelemetry_instrumentation_modelforge.call import (
    CALL_KEY,
    Call,
    abandon_open_calls,
    context_without_call,
    current_call,
    open_calls,
)
from opentelemetry_instrumentation_modelforge.config import Configuration
from opentelemetry_instrumentation_modelforge.dropped import end_soon
from opentelemetry_instrumentation_modelforge.ending import Ending
from opentelemetry_instrumentation_modelforge.model import Model, ModelIdentity
from opentelemetry_instrumentation_modelforge.telemetry import Telemetry
from support.request_values import RUN_ID, request_with


class Recorded(Call):
    """Records how it ended, and raises `interrupt` while it ends."""

    def __init__(self, interrupt: BaseException | None = None) -> None:
        super().__init__(Model(Telemetry(Configuration()), ModelIdentity("acme", "fast")), request_with())
        self.endings: list[Ending] = []
        self.aborted = 0
        self.interrupt = interrupt

    def start(self) -> None:
        open_calls[id(self)] = self

    def chunk(self, chunk: object) -> None:
        pass

    def _finish(self, ending: Ending) -> None:
        self.endings.append(ending)
        if self.interrupt is not None:
            raise self.interrupt

    def _abort(self) -> None:
        self.aborted += 1


@pytest.fixture(autouse=True)
def _nothing_open() -> Iterator[None]:
    yield
    assert dict(open_calls) == {}


@pytest.fixture
def call() -> Recorded:
    call = Recorded()
    call.start()
    return call


def wait_for_dropped_calls() -> None:
    ended = threading.Event()
    end_soon(ended.set)
    assert ended.wait(10)


ERROR = ValueError("x")
WAYS: dict[str, tuple[Any, Ending]] = {
    "answered": (lambda call: call.end(["a"], {"m": 1}), Ending("completed", ["a"], {"m": 1})),
    "closed": (lambda call: call.close(["a"]), Ending("closed", ["a"])),
    "failed": (lambda call: call.fail(ERROR, ["a"]), Ending("failed", ["a"], error=ERROR)),
    "left at exit": (lambda call: call.abandon(), Ending("abandoned")),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_call_ends_once_and_is_no_longer_open(way: str, call: Recorded) -> None:
    end, ending = WAYS[way]
    end(call)
    assert call.endings == [ending]
    assert id(call) not in open_calls
    for again, _ in WAYS.values():
        again(call)
    assert call.endings == [ending]
    assert call.aborted == 0


def test_a_cancelled_call_is_not_a_failed_one(call: Recorded) -> None:
    error = CancelledError()
    call.fail(error)
    assert call.endings == [Ending("cancelled", error=error)]


@pytest.mark.parametrize("drop", [Call.drop, lambda call, brought: call.fail(GeneratorExit(), brought)])
def test_a_dropped_call_is_closed_in_another_thread_with_its_answer_so_far(drop: Any, call: Recorded) -> None:
    drop(call, ["a"])
    wait_for_dropped_calls()
    assert call.endings == [Ending("closed", ["a"])]


def test_a_call_that_is_dropped_twice_ends_as_after_the_first_drop(call: Recorded) -> None:
    call.drop(["a"])
    call.drop(["b"])
    wait_for_dropped_calls()
    assert call.endings == [Ending("closed", ["a"])]


@pytest.mark.parametrize("error", [GeneratorExit(), CancelledError()])
def test_the_part_of_a_dropped_stream_may_be_reported_after_the_drop(call: Recorded, error: BaseException) -> None:
    call.drop(grace=0.05)
    call.fail(error, ["a"])
    wait_for_dropped_calls()
    assert call.endings == [Ending("closed", ["a"])]


def test_ending_a_call_that_never_began_has_no_effect() -> None:
    call = Recorded()
    call.end([], None)
    assert call.endings == []


def test_threads_that_end_one_call_end_it_once(call: Recorded) -> None:
    barrier = threading.Barrier(8)

    def end() -> None:
        barrier.wait(10)
        call.end([], None)

    threads = [threading.Thread(target=end) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(call.endings) == 1


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit()], ids=repr)
def test_an_interrupt_while_a_call_ends_releases_the_call_and_propagates(interrupt: BaseException) -> None:
    call = Recorded(interrupt)
    call.start()
    with pytest.raises(type(interrupt)) as raised:
        call.end([], None)
    assert raised.value is interrupt
    assert call.aborted == 1
    call.interrupt = None
    call.end([], None)
    assert len(call.endings) == 1


def test_every_open_call_is_abandoned_at_exit(call: Recorded) -> None:
    other = Recorded()
    other.start()
    abandon_open_calls()
    assert (call.endings, other.endings) == ([Ending("abandoned")], [Ending("abandoned")])


def test_the_call_is_current_in_its_context_and_can_be_removed_from_it(call: Recorded) -> None:
    context = call.context_over(Context({"user": "ada"}))
    assert (context["user"], context[CALL_KEY]) == ("ada", call)
    call.context = own = Context({"own": True})
    assert call.context_over(Context({"user": "ada"})) is own
    token = attach(context)
    try:
        assert current_call() is call
    finally:
        detach(token)
    inner = context_without_call(context)
    assert (inner["user"], inner[CALL_KEY]) == ("ada", None)
    assert context_without_call(inner) is inner
    call.close()


def test_a_call_has_the_id_of_its_run(call: Recorded) -> None:
    assert call.run_id == RUN_ID
    call.close()
