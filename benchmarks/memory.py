# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The memory that telemetry holds: for a call and a stream while they are open, and for a million that have ended."""

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model import InstantModel
from modes import CLOCKS, MODES
from rounds import table
from worker import VARIANTS, Providers

COMPARED = ("uninstrumented", "floor", "sampled")
OPEN = 1000
STREAM = 100_000


class WaitingModel(InstantModel):
    """A model that never answers."""

    async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.Event().wait()


def open_calls(model: Any) -> float:
    """Return the bytes that one call holds while it waits for its answer."""

    async def run() -> float:
        for count in (10, OPEN):
            tracemalloc.start()
            before = _traced()
            tasks = [asyncio.create_task(waiting.ainvoke("Hi")) for _ in range(count)]
            # Long enough for every call to be waiting.
            await asyncio.sleep(1)
            held = (_traced() - before) / count
            tracemalloc.stop()
            for task in tasks:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks)
        return held

    waiting = WaitingModel(callbacks=model.callbacks)
    return asyncio.run(run())


def open_streams(model: Any) -> float:
    """Return the bytes that one stream holds after its first chunk."""
    held = 0.0
    for count in (10, OPEN):
        tracemalloc.start()
        before = _traced()
        streams = [model.stream("Hi") for _ in range(count)]
        for stream in streams:
            next(stream)
        held = (_traced() - before) / count
        tracemalloc.stop()
        for stream in streams:
            stream.close()
    return held


def long_stream(model: Any) -> float:
    """Return the bytes that a stream gathers from its 100th to its 100,000th chunk; LangChain keeps all chunks."""
    long = InstantModel(callbacks=model.callbacks, chunks=STREAM + 2)
    stream = long.stream("Hi")
    for _ in range(100):
        next(stream)
    tracemalloc.start()
    before = _traced()
    for _ in range(STREAM - 100):
        next(stream)
    held = _traced() - before
    tracemalloc.stop()
    stream.close()
    return held


def allocations(model: Any) -> float | str:
    """Return how often one call requests memory from Python's allocator."""
    try:
        import memray
    except ImportError:
        return "needs memray"
    MODES["invoke"](model, 200, CLOCKS["cpu"])
    counts: list[int] = []
    with TemporaryDirectory() as directory:
        for calls in (100, 600):
            file = Path(directory, str(calls))
            with memray.Tracker(file, trace_python_allocators=True):
                MODES["invoke"](model, calls, CLOCKS["cpu"])
            counts.append(memray.FileReader(file).metadata.total_allocations)
    return (counts[1] - counts[0]) / 500


def growth(model: Any, calls: int, flush: Callable[[], object]) -> tuple[float, float]:
    """Return the growth over ``calls`` in KiB of resident memory and in blocks."""

    def run(count: int) -> None:
        for _ in range(0, count, 1000):
            MODES["invoke"](model, 1000, CLOCKS["cpu"])
            flush()

    # After ten thousand calls, pools, caches and the metrics' series have reached their full size.
    run(10_000)
    gc.collect()
    resident, blocks = _resident(), sys.getallocatedblocks()
    run(calls)
    gc.collect()
    return (_resident() - resident) / 1024, sys.getallocatedblocks() - blocks


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def _measure(variant: str, calls: int) -> dict[str, Any]:
    providers = Providers()
    model = VARIANTS[variant](providers)

    def flush() -> None:
        providers.batches.force_flush()

    resident, blocks = growth(model, calls, flush)
    return {
        "bytes of an open call": open_calls(model),
        "bytes of an open stream": open_streams(model),
        f"KiB that an open stream gathers over {STREAM:,} chunks": long_stream(model) / 1024,
        "allocations of an invoke": allocations(model),
        f"growth over {calls:,} calls: KiB resident": resident,
        f"growth over {calls:,} calls: blocks": blocks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000, help="calls to look for growth in, of each variant")
    parser.add_argument("--variant", choices=COMPARED, help="measure one, in this process, as JSON")
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(_measure(arguments.variant, arguments.calls)))
        return
    command = [sys.executable, __file__, "--calls", str(arguments.calls), "--variant"]
    processes = [
        subprocess.Popen([*command, variant], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for variant in COMPARED
    ]
    measured = [json.loads(process.communicate()[0]) for process in processes]
    rows: list[list[str]] = []
    for what in measured[0]:
        plain, floor, ours = (values[what] for values in measured)
        if isinstance(ours, str):
            rows.append([what, ours, "", "", ""])
        else:
            rows.append([what, f"{plain:,.0f}", f"{floor:,.0f}", f"{ours:,.0f}", f"{ours - plain:+,.0f}"])
    print(table(["", *COMPARED, "ours over uninstrumented"], rows))


if __name__ == "__main__":
    main()
