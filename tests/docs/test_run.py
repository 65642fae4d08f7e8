# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""`./run`, in a copy of the project whose virtual environment is this one."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import EXAMPLES, ROOT

if os.name != "posix":
    pytest.skip("`run` is a POSIX shell script", allow_module_level=True)

TIMEOUT = 120
"""Seconds to wait for something that happens soon, unless the test is about to fail."""
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/__main__.py"))

ENDLESS = {
    "__main__.py": '''"""Runs an application that never ends."""

import os
import sys
from pathlib import Path

from _shared.local import run

sys.exit(run(["python", "app.py"], Path(__file__).parent, os.environ))
''',
    "app.py": """
import itertools, time
for number in itertools.count():
    print(number)
    time.sleep(0.01)
""",
}

Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    shutil.copytree(EXAMPLES, project / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run", "pyproject.toml"):
        shutil.copy2(ROOT / name, project)
    (project / "examples" / "endless").mkdir()
    for name, text in ENDLESS.items():
        (project / "examples" / "endless" / name).write_text(text)
    python(project, f'exec "{sys.executable}" "$@"')
    (project / ".venv" / "set-up").touch()
    return project


def python(project: Path, script: str) -> None:
    """Make a script the Python of the project's virtual environment, which has pip."""
    path = project / ".venv" / "bin" / "python"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n[ "$1" != -c ] || exit 0\n{script}\n')
    path.chmod(0o755)


@pytest.fixture
def start(project: Path) -> Iterator[Run]:
    """Start `./run` with arguments and environment variables."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["sh", "run", *arguments],
            cwd=project,
            env={**os.environ, "HOME": str(project.parent), "PYTHON": "", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A process group that can be interrupted as by a terminal.
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def run(start: Run) -> Callable[..., Any]:
    """Run `./run` to completion, and return its exit code, output and errors."""

    def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
        process = start(*arguments, **environment)
        output, errors = process.communicate(timeout=TIMEOUT)
        return process.returncode, output, errors

    return run


def shows(name: str) -> str:
    docstring = ast.get_docstring(ast.parse((EXAMPLES / name / "__main__.py").read_text()))
    assert docstring
    return docstring


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_describes_what_each_example_shows(option: str, run: Callable[..., Any]) -> None:
    status, output, errors = run(option)
    assert (status, errors) == (0, "")
    lines = {name: line for name, _, line in (line.strip().partition(" ") for line in output.splitlines())}
    assert {name: lines["demo" if name == "quickstart" else name].strip() for name in NAMES} == {
        name: shows(name) for name in NAMES
    }


@pytest.mark.parametrize("arguments", [(), ("",), (".",), ("nonsense",), ("--nonsense",)])
def test_an_unknown_name_is_answered_with_the_help(arguments: tuple[str, ...], run: Callable[..., Any]) -> None:
    assert run(*arguments) == (2, "", run("--help")[1])


def test_arguments_are_passed_to_the_example(run: Callable[..., Any]) -> None:
    status, output, _ = run("demo", "--help", COLUMNS="200")
    assert status == 0
    assert output.startswith("usage: ./run demo ")
    assert shows("quickstart") in output


def test_an_interrupt_of_an_example_ends_quietly(start: Run) -> None:
    process = start("endless")
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, errors) == (130, "")


def test_an_interrupt_of_the_setup_ends_quietly(start: Run, project: Path) -> None:
    os.mkfifo(installing := project / "installing")
    python(project, f"echo begun > '{installing}'; exec sleep {TIMEOUT}")
    (project / ".venv" / "set-up").unlink()
    process = start("endless")
    assert installing.read_text() == "begun\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=TIMEOUT / 2) == ("", "Updating .venv\n")
    assert process.returncode == 130


def test_a_closed_pipe_causes_no_traceback(start: Run) -> None:
    process = start("endless")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.wait(TIMEOUT) == 141
    assert process.stderr.read() == ""


def test_a_missing_network_is_reported_in_one_line(run: Callable[..., Any], project: Path) -> None:
    pytest.importorskip("pip")
    (project / ".venv" / "set-up").unlink()
    status, output, errors = run(
        "endless",
        # Nothing listens at the discard port.
        PIP_CONFIG_FILE=os.devnull,
        PIP_FIND_LINKS="",
        PIP_INDEX_URL="http://127.0.0.1:9/",
        PIP_NO_CACHE_DIR="1",
        PIP_RETRIES="1",
    )
    assert (status, output) == (1, "")
    assert errors == "Updating .venv\nrun: no network: pip does not reach the package index (.venv.log)\n"


def test_an_outdated_virtual_environment_is_recreated(run: Callable[..., Any], project: Path) -> None:
    old = project / ".venv" / "bin" / "python"
    # A Python that is too old, or whose packages are of another version, exits like this.
    old.write_text("#!/bin/sh\nexit 1\n")
    status, _, errors = run("endless", PIP_CONFIG_FILE=os.devnull, PIP_FIND_LINKS="", PIP_NO_INDEX="1")
    assert status == 1
    assert errors.startswith("Setting up .venv (a minute, the first time)\nrun: pip failed: ERROR: ")
    version = subprocess.run([old, "-V"], capture_output=True, text=True, check=True).stdout
    assert tuple(map(int, version.split()[1].split(".")[:2])) >= (3, 11)
