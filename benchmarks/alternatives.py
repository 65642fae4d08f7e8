# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The cost of a call with the other instrumentations of LangChain: each in its own environment, all in the same run."""

import argparse
from pathlib import Path

from environments import BASE, HERE, NAME, REQUIREMENTS, environment, version
from modes import CLOCKS, MODES
from rounds import TITLES, measure, overhead, table
from worker import ALTERNATIVES

OURS = {NAME: "sampled", f"{NAME}, chunk_metrics=False": "chunk_metrics=False"}
"""This package's rows, each with its variant in ``worker.py``."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each variant in each set of processes")
    parser.add_argument("--processes", type=int, default=3, help="sets of processes")
    parser.add_argument("--clock", choices=CLOCKS, default="cpu", help="CPU time of the process, or wall time")
    parser.add_argument("--environments", type=Path, default=HERE, help="where the virtual environments are kept")
    arguments = parser.parse_args()
    pythons = {
        package: environment(package, *BASE, REQUIREMENTS.get(package, package), directory=arguments.environments)
        for package in (NAME, *ALTERNATIVES)
    }
    packages = dict.fromkeys(OURS, NAME) | {package: package for package in ALTERNATIVES}
    # Each is paired with the uninstrumented model in the same environment, whose libraries may be other releases.
    variants = {f"{package}, uninstrumented": ("uninstrumented", python) for package, python in pythons.items()} | {
        row: (OURS.get(row, row), pythons[package]) for row, package in packages.items()
    }
    measured = measure(variants, rounds=arguments.rounds, processes=arguments.processes, clock=arguments.clock)
    versions = {package: version(python, package) for package, python in pythons.items()}
    for title, seconds in zip(TITLES, measured, strict=True):
        costs = {
            row: {mode: overhead(seconds, mode, row, f"{package}, uninstrumented") for mode in MODES}
            for row, package in packages.items()
        }
        print(f"\n{title}: µs over the uninstrumented model\n")
        rows = [
            [row.replace(packages[row], f"{packages[row]} {versions[packages[row]]}"), *map(_whole, cost.values())]
            for row, cost in costs.items()
        ]
        print(table(["", *MODES], rows))
        for ours in OURS:
            print(f"\n{ours} ÷ each\n")
            rows = [
                [package, *(f"{costs[ours][mode] / costs[package][mode]:.2f}" for mode in MODES)]
                for package in ALTERNATIVES
            ]
            print(table(["", *MODES], rows))


def _whole(cost: float) -> str:
    return f"{cost:.0f}"


if __name__ == "__main__":
    main()
