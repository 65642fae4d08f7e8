"""What a call costs with the other instrumentations of LangChain: each in its own environment, all in the same run."""

import argparse
from pathlib import Path

from environments import BASE, HERE, NAME, REQUIREMENTS, environment, version
from modes import CLOCKS, MODES
from rounds import measure, overhead, table
from worker import ALTERNATIVES


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
    # Each next to the same model uninstrumented in the same environment, whose libraries may be other releases.
    variants = {f"{package}, uninstrumented": ("uninstrumented", python) for package, python in pythons.items()} | {
        package: ("sampled" if package == NAME else package, python) for package, python in pythons.items()
    }
    seconds = measure(variants, rounds=arguments.rounds, processes=arguments.processes, clock=arguments.clock)
    costs = {
        package: {mode: overhead(seconds, mode, package, f"{package}, uninstrumented") for mode in MODES}
        for package in pythons
    }
    print("µs of a call over the uninstrumented model\n")
    rows = [
        [f"{package} {version(pythons[package], package)}", *(f"{cost[mode]:.0f}" for mode in MODES)]
        for package, cost in costs.items()
    ]
    print(table(["", *MODES], rows))
    print("\nours ÷ theirs\n")
    ours = costs.pop(NAME)
    rows = [[package, *(f"{ours[mode] / cost[mode]:.2f}" for mode in MODES)] for package, cost in costs.items()]
    print(table(["", *MODES], rows))


if __name__ == "__main__":
    main()
