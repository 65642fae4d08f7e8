# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Signals that arrive during garbage collection, and dropped streams, each in a separate process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest

from support.environment import at_least

pytestmark = pytest.mark.skipif(
    not at_least("model-forge-llm", "2.1"), reason="ModelForge 2.0 builds its models within get_llm"
)

Python = Callable[..., "CompletedProcess[str]"]

PRELUDE = """
import gc, json, os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore")
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor
from support.environment import isolate
isolate()
from support.instant import InstantRegistry
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
if sys.argv[1] == "instrumented":
    ModelForgeInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
llm = InstantRegistry(chunk_count=50).get_llm("openai", "fast", enhanced=False)
llm.invoke("Hi")
list(llm.stream("Hi"))
exporter.clear()

def report(**values):
    print("REPORT" + json.dumps(values), flush=True)

def wait_for(condition, seconds):
    deadline = time.perf_counter() + seconds
    while not condition() and time.perf_counter() < deadline:
        time.sleep(0.001)
    return condition()
"""

GARBAGE = (
    PRELUDE
    + """
class Node:
    pass

class TimeLimit(Exception):
    pass

def handler(number, frame):
    raise TimeLimit

def garbage():
    for _ in range(50_000):
        one, other = Node(), Node()
        one.other, other.other = other, one

def collect():
    started = time.perf_counter()
    gc.collect()
    return time.perf_counter() - started

gc.disable()
garbage()
seconds = collect()
if sys.argv[2] == "SIGALRM":
    signal.signal(signal.SIGALRM, handler)
seen = 0
for _ in range(10):
    garbage()
    try:
        if sys.argv[2] == "SIGALRM":
            signal.setitimer(signal.ITIMER_REAL, seconds / 4)
        else:
            # Another process sends it: no thread here has a say in when it arrives.
            if (child := os.fork()) == 0:
                time.sleep(seconds / 4)
                os.kill(os.getppid(), signal.SIGINT)
                os._exit(0)
        gc.collect()
        # Not in C, which a signal would not interrupt.
        wait_for(lambda: False, 1)
    except (TimeLimit, KeyboardInterrupt):
        seen += 1
report(seen=seen)
"""
)

DROPPED = (
    PRELUDE
    + """
def reference_count():
    stream = llm.stream("Hi")
    next(stream)

def cycle():
    stream = llm.stream("Hi")
    next(stream)
    holder = [stream]
    holder.append(holder)
    del stream, holder
    gc.collect()

def thread():
    stream = [llm.stream("Hi")]
    next(stream[0])
    other = threading.Thread(target=stream.clear)
    other.start()
    other.join()

def fork():
    reference_count()
    read, write = os.pipe()
    assert wait_for(lambda: len(exporter.get_finished_spans()) == 1, 5)
    exporter.clear()
    if (child := os.fork()) == 0:
        reference_count()
        done = wait_for(lambda: len(exporter.get_finished_spans()) == 1, 5)
        os._exit(0 if done else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    reference_count()

before = time.time_ns()
globals()[sys.argv[2]]()
dropped = time.time_ns()
ended = wait_for(lambda: len(exporter.get_finished_spans()) == 1, 10)
waited = (time.time_ns() - dropped) / 1e9
(span,) = exporter.get_finished_spans()
report(
    waited=waited,
    in_time=before <= span.end_time <= dropped + 1_000_000,
    outcome=span.attributes["modelforge.outcome"],
    status=span.status.status_code.name,
    threads=[thread.name for thread in threading.enumerate() if thread.name.startswith("modelforge")],
)
"""
)

OF_THE_PARENT = (
    PRELUDE
    + """
def names():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("modelforge")]

stream = llm.stream("Hi")
next(stream)
before = names()
if (child := os.fork()) == 0:
    # The parent's stream: the parent ends its call, and this process has no thread to do it.
    del stream
    gc.collect()
    os._exit(1 if names() or exporter.get_finished_spans() else 0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
del stream
report(before=before, ended=wait_for(lambda: len(exporter.get_finished_spans()) == 1, 5))
"""
)

AT_EXIT = (
    """
import atexit
atexit.register(lambda: report(outcomes=[
    span.attributes["modelforge.outcome"] for span in exporter.get_finished_spans()
]))
"""
    + PRELUDE
    + """
open_stream = llm.stream("Hi")
next(open_stream)
"""
)


def reported(process: CompletedProcess[str]) -> dict[str, Any]:
    lines = [line for line in process.stdout.splitlines() if line.startswith("REPORT")]
    assert lines, process.stderr[-4000:]
    return json.loads(lines[-1].removeprefix("REPORT"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("number", ["SIGALRM", "SIGINT"])
@pytest.mark.parametrize("mode", ["uninstrumented", "instrumented"])
def test_a_signal_during_a_garbage_collection_reaches_the_application(python: Python, mode: str, number: str) -> None:
    assert reported(python("-c", GARBAGE, mode, number)) == {"seen": 10}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("how", ["reference_count", "cycle", "thread", "fork"])
def test_a_dropped_stream_ends_within_a_second_at_the_time_it_was_dropped(python: Python, how: str) -> None:
    result = reported(python("-c", DROPPED, "instrumented", how))
    assert result.pop("waited") < 1
    assert result == {
        "in_time": True,
        "outcome": "closed",
        "status": "UNSET",
        "threads": ["modelforge-dropped-streams"],
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_stream_starts_the_thread_and_a_destructor_does_not(python: Python) -> None:
    result = reported(python("-c", OF_THE_PARENT, "instrumented"))
    assert result == {"before": ["modelforge-dropped-streams"], "ended": True}


def test_a_stream_open_at_exit_is_abandoned(python: Python) -> None:
    process = python("-c", AT_EXIT, "instrumented")
    assert reported(process) == {"outcomes": ["abandoned"]}
    assert process.stderr == ""
