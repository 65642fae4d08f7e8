# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Side-by-side measurement of variants: many short rounds, in which one process after another takes its turn."""

import json
import random
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles
from types import TracebackType
from typing import NamedTuple, Self

from modes import CALLS, CONCURRENT_CALLS, MODES

HERE = Path(__file__).resolve().parent

Seconds = dict[str, dict[str, list[float]]]
"""The seconds of one call in each round, by mode and by variant."""


class Measured(NamedTuple):
    """Two figures of the same rounds."""

    call: Seconds
    """The time of a call."""
    all_in: Seconds
    """The process's whole time for a call, including its share of the export of spans and the collection of metrics."""


TITLES = ("A call", "A call with the export of its spans and the collection of its metrics")
"""The titles of the two figures of :class:`Measured`."""


class Worker:
    """A process of ``worker.py``, which sleeps except in its own rounds."""

    def __init__(self, variant: str, python: str | Path = sys.executable) -> None:
        self._process = subprocess.Popen(
            [python, HERE / "worker.py", variant],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._variant = variant

    def wait_until_ready(self) -> None:
        while (line := self._line()) != "ready":
            print(f"{self._variant}: {line}", file=sys.stderr)

    def round(self, mode: str, clock: str) -> tuple[float, float]:
        """Return the seconds of one call, and the same with its share of the export and the collection."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([mode, CALLS.get(mode, CONCURRENT_CALLS), clock]) + "\n")
        self._process.stdin.flush()
        call, all_in = json.loads(self._line())
        return call, all_in

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._variant}: the worker has ended; run `worker.py {self._variant!r}` to see why")
        return line.strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # It ends when there is no more to read, and removes its home directory.
        self._process.communicate()


def measure(
    variants: Mapping[str, tuple[str, str | Path]],
    *,
    rounds: int,
    processes: int,
    clock: str,
    modes: Iterable[str] = MODES,
) -> Measured:
    """Measure variants, each a name in ``worker.py`` and the Python that runs it.

    :param clock: ``cpu``, which other programs on the machine disturb less, or ``wall``.
    :param processes: how many processes of each to measure, one set after the other: two processes of one program
        differ by a few percent for as long as they live.
    """
    modes = list(modes)
    measured = Measured(*({mode: {name: [] for name in variants} for mode in modes} for _ in range(2)))
    for _ in range(processes):
        with ExitStack() as stack:
            workers = {name: stack.enter_context(Worker(*variant)) for name, variant in variants.items()}
            for worker in workers.values():
                worker.wait_until_ready()
            for mode in modes:
                for _ in range(rounds):
                    for name in random.sample(list(workers), len(workers)):
                        call, all_in = workers[name].round(mode, clock)
                        measured.call[mode][name].append(call)
                        measured.all_in[mode][name].append(all_in)
    return measured


def overhead(seconds: Seconds, mode: str, variant: str, baseline: str = "uninstrumented") -> float:
    """Return by how many µs a call of ``variant`` exceeds one of ``baseline``: the median of all rounds."""
    pairs = zip(seconds[mode][variant], seconds[mode][baseline], strict=True)
    return median(one - other for one, other in pairs) * 1e6


def spread(seconds: Seconds, mode: str, variant: str) -> float:
    """Return the spread of the middle half of the rounds in µs: a difference smaller than this is noise."""
    low, _, high = quantiles(seconds[mode][variant], n=4)
    return (high - low) * 1e6


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    text.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(text)
