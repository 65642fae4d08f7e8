# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The cost of a call over the uninstrumented model, compared with the least that the same telemetry can cost."""

import argparse
import json
import subprocess
import sys
from difflib import unified_diff
from statistics import median
from typing import Any

from modes import CLOCKS, MODES
from rounds import HERE, TITLES, Seconds, measure, overhead, spread, table
from worker import OPTIONS, VARIANTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each variant in each set of processes")
    parser.add_argument("--processes", type=int, default=3, help="sets of processes")
    parser.add_argument("--clock", choices=CLOCKS, default="cpu", help="CPU time of the process, or wall time")
    parser.add_argument("--options", action="store_true", help="what each option costs, instead")
    arguments = parser.parse_args()
    if arguments.options:
        names = ["uninstrumented", "sampled", *OPTIONS]
    else:
        names = list(VARIANTS)
        _check_floor()
    variants = {name: (name, sys.executable) for name in names}
    measured = measure(variants, rounds=arguments.rounds, processes=arguments.processes, clock=arguments.clock)
    print(f"{arguments.processes} times {arguments.rounds} rounds")
    for title, seconds in zip(TITLES, measured, strict=True):
        print(f"\n{title}: µs over the uninstrumented model\n")
        print(_overheads(seconds, names))
        if arguments.options:
            print("\nµs over the default options\n")
            print(
                table(
                    ["", *MODES],
                    [
                        [name, *(f"{overhead(seconds, mode, name, 'sampled'):+.1f}" for mode in MODES)]
                        for name in OPTIONS
                    ],
                )
            )
        else:
            ratios = (overhead(seconds, mode, "sampled") / overhead(seconds, mode, "floor") for mode in MODES)
            print("\n" + table(["", *MODES], [["sampled ÷ floor", *(f"{ratio:.2f}" for ratio in ratios)]]))


def _overheads(seconds: Seconds, names: list[str]) -> str:
    plain = {mode: median(seconds[mode]["uninstrumented"]) * 1e6 for mode in MODES}
    rows = [["uninstrumented: a call takes", *(f"{plain[mode]:.1f}" for mode in MODES)]]
    rows.append(["spread of its rounds", *(f"± {spread(seconds, mode, 'uninstrumented') / 2:.1f}" for mode in MODES)])
    for name in names[1:]:
        rows.append([name, *(f"{overhead(seconds, mode, name):+.1f}" for mode in MODES)])
    return table(["", *MODES], rows)


def _check_floor() -> None:
    """Exit unless the floor emits exactly the telemetry that the instrumentation emits."""
    floor, ours = (_described(variant) for variant in ("floor", "sampled"))
    if floor != ours:
        lines = (json.dumps(described, indent=1).splitlines() for described in (floor, ours))
        sys.exit(
            "floor.py is out of date:\n" + "\n".join(unified_diff(*lines, "floor", "instrumentation", lineterm=""))
        )


def _described(variant: str) -> Any:
    command = [sys.executable, HERE / "worker.py", variant, "describe"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
