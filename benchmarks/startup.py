# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The cost to a process before its first call: to start, and to get its first model."""

import argparse
import random
import subprocess
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

from environments import BASE, HERE, NAME, REQUIREMENTS, environment
from rounds import table
from worker import ALTERNATIVES

# No exporter, so that neither its import nor a missing collector is measured.
ENVIRONMENT = {
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
}

FIRST_MODEL = """
from time import process_time
started = process_time()
from model import InstantRegistry
imported = process_time()
InstantRegistry().get_llm("openai", "fast", enhanced=False)
print(imported - started, process_time() - imported)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--environments", type=Path, default=HERE, help="where the virtual environments are kept")
    parser.add_argument("--alternatives", action="store_true", help="the other instrumentations of LangChain, too")
    arguments = parser.parse_args()
    environments = {"without": environment("without", *BASE, directory=arguments.environments)}
    for package in (NAME, *(ALTERNATIVES if arguments.alternatives else ())):
        environments[package] = environment(
            package, *BASE, REQUIREMENTS.get(package, package), directory=arguments.environments
        )
    start: dict[str, list[float]] = {name: [] for name in environments}
    imports: dict[str, list[float]] = {name: [] for name in environments}
    first: dict[str, list[float]] = {name: [] for name in environments}
    for _ in range(arguments.rounds):
        for name in random.sample(list(environments), len(environments)):
            instrument = environments[name].with_name("opentelemetry-instrument")
            started = _children()
            _run([instrument, "python", "-c", "pass"])
            start[name].append(_children() - started)
            # From the application's first import on, because the line before has measured the start.
            import_seconds, get_llm_seconds = map(float, _run([instrument, "python", "-c", FIRST_MODEL]).split())
            imports[name].append(import_seconds)
            first[name].append(get_llm_seconds)
    print(f"Milliseconds of CPU time, medians of {arguments.rounds} rounds\n")
    head = ["", "`opentelemetry-instrument python -c pass`", "÷ without", "import of ModelForge", "first get_llm"]
    rows = [
        [
            name,
            f"{median(start[name]) * 1e3:.0f}",
            f"{median(start[name]) / median(start['without']):.2f}",
            f"{median(imports[name]) * 1e3:.0f}",
            f"{median(first[name]) * 1e3:.1f}",
        ]
        for name in environments
    ]
    print(table(head, rows))


def _children() -> float:
    """Return the CPU seconds of all ended child processes, which other programs disturb less than wall time."""
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(command: list[str | Path]) -> str:
    path = str(Path(command[0]).parent)
    environment = {**ENVIRONMENT, "PATH": f"{path}:/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


if __name__ == "__main__":
    main()
