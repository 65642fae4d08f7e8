# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Virtual environments for packages that can't share one, created on first use."""

import subprocess
import sys
import venv
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent / ".environments"

BASE = ("model-forge-llm", "opentelemetry-sdk", "opentelemetry-distro")
NAME = "opentelemetry-instrumentation-modelforge"
REQUIREMENTS = {
    NAME: f"{PROJECT}[cost]",
    # Otherwise pip keeps the newest OpenTelemetry and takes an openlit release too old to bound it and to run with it.
    "openlit": "openlit >= 1.45",
}
"""The requirement to install for a package, if that is more than its name."""


def environment(name: str, *requirements: str, directory: Path = HERE) -> Path:
    """Return the Python of an environment with the newest release of each requirement."""
    home = directory / name
    python = home / "bin" / "python"
    stamp = home / "installed.txt"
    wanted = "\n".join(requirements)
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Setting up {home}", file=sys.stderr)
        venv.create(home, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        stamp.write_text(wanted)
    return python


def version(python: Path, package: str) -> str:
    """Return the release of ``package`` in an environment."""
    program = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout.strip()
