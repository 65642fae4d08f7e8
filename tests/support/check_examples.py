# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Run the command of each example's README in a fresh copy of this project, and check that it shows the same.

Run by ``tox run -e examples`` as ``python tests/support/check_examples.py [NAME...]``.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT = 600
"""Seconds for one command, the first of which sets up the virtual environment."""
LEFT_OUT = re.compile(r"^…\n", re.MULTILINE)
"""A line of a README that represents any number of lines."""


def main(names: list[str]) -> int:
    """Check the examples with these names, or all examples."""
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="examples-") as folder:
        project, home = Path(folder, "project"), Path(folder, "home")
        copy_project(project)
        home.mkdir()
        for readme in sorted(project.glob("examples/*/README.md")):
            if names and readme.parent.name not in names:
                continue
            started = time.monotonic()
            problem = check(readme, project, home)
            wrong += problem is not None
            print(f"{readme.parent.name}: {problem or 'as its README says'} ({time.monotonic() - started:.0f} s)")
            sys.stdout.flush()
    return wrong


def copy_project(project: Path) -> None:
    """Copy the project without files left by tools."""
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(".*", "__pycache__", "site"))


def check(readme: Path, project: Path, home: Path) -> str | None:
    """Return the problem of an example, or None."""
    command = re.search(r"```console\n\$ (\./run \S+)\n```", readme.read_text(encoding="utf-8"))
    if command is None:
        return "its README has no command"
    result = subprocess.run(
        command[1].split(),
        cwd=project,
        env=environment(home),
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=TIMEOUT,
    )
    if result.returncode != 0:
        return f"{command[1]} failed with exit code {result.returncode}\n{result.stdout}{result.stderr}"
    return difference(readme, result.stdout)


def difference(readme: Path, output: str) -> str | None:
    """Return how an output differs from the one in a README, or None if it contains that."""
    block = re.search(r"```text\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    if block is None:
        return "its README has no output"
    shown, output = normalized(block[1]), normalized(output)
    position = 0
    for piece in LEFT_OUT.split(shown):
        found = output.find(piece, position)
        if found < 0:
            lines = difflib.unified_diff(shown.splitlines(), output.splitlines(), "README", "output", lineterm="")
            return "\n".join(["it shows something else", *lines])
        position = found + len(piece)
    return None


def environment(home: Path) -> dict[str, str]:
    """Return this process's environment without the variables of Python and of this tox environment."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTHON", "TOX_", "XDG_"))
    }
    kept.pop("VIRTUAL_ENV", None)
    scripts = str(Path(sys.executable).parent)
    path = [entry for entry in os.environ["PATH"].split(os.pathsep) if entry != scripts]
    # Wide enough that each span fits on one line.
    return kept | {"HOME": str(home), "PATH": os.pathsep.join(path), "COLUMNS": "200"}


def normalized(output: str) -> str:
    """Return the output without the parts that differ between runs: times, ports, amounts, and column widths."""
    for pattern, replacement in (
        (r"http://127\.0\.0\.1:\d+", "…"),
        # A line's time, which a README may omit.
        (r" {2,}[\d.]+ m?s$", ""),
        (r"\b[\d.]+ m?s\b", "N ms"),
        (r"\$[\d.]+", "$N"),
        (r"[\d,]+ → [\d,]+ tokens", "N → N tokens"),
        # Spans are numbered by start, and the order of concurrent ones varies.
        (r"\[\d+\]", "[N]"),
        (r"(?<=[^\s│])  +", "  "),
        (r" +$", ""),
    ):
        output = re.sub(pattern, replacement, output, flags=re.MULTILINE)
    return output


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
