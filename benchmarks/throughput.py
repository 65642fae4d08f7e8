# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The calls per second of one process, one at a time and concurrently: a lock would show as a falling ratio."""

import argparse
import sys
from statistics import median

from modes import AT_ONCE, CONCURRENT
from rounds import measure, table

COMPARED = ("uninstrumented", "floor", "sampled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each variant in each set of processes")
    parser.add_argument("--processes", type=int, default=3, help="sets of processes")
    arguments = parser.parse_args()
    variants = {name: (name, sys.executable) for name in COMPARED}
    # In wall time, because a thread that waits for a lock uses no CPU.
    seconds = measure(
        variants, rounds=arguments.rounds, processes=arguments.processes, clock="wall", modes=list(CONCURRENT)
    ).call
    rows: list[list[str]] = []
    for mode in sorted(CONCURRENT, key=lambda mode: list(CONCURRENT).index(mode) % (len(CONCURRENT) // len(AT_ONCE))):
        plain, floor, ours = (median(seconds[mode][name]) for name in COMPARED)
        rows.append([mode, *(f"{1 / each:,.0f}" for each in (plain, floor, ours)), f"{plain / ours:.2f}"])
    print("Calls a second\n")
    print(table(["", *COMPARED, "sampled ÷ uninstrumented"], rows))


if __name__ == "__main__":
    main()
