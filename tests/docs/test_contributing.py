# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""CONTRIBUTING.md: its commands select tests that pass, and the files and environments it names exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from configparser import ConfigParser

import pytest

from support import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line.removeprefix("$ "), comments=True)
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
PYTEST = [".venv/bin/python", "-m", "pytest"]


INTERPRETERS = {f"py3{minor}-{age}" for minor in range(11, 15) for age in ("oldest", "latest")}


def tox_environments() -> set[str]:
    tox = ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    return {section.removeprefix("testenv:") for section in tox.sections() if section.startswith("testenv:")}


def test_there_are_commands_of_each_kind() -> None:
    assert [command for command in COMMANDS if command[:3] == PYTEST]
    assert [command for command in COMMANDS if command[:2] == ["./run", "test"] and "--" in command]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_run(command: list[str]) -> None:
    if command[:3] == PYTEST:
        arguments = command[3:]
    else:
        assert command[:2] == ["./run", "test"]
        options, _, arguments = " ".join(command[2:]).partition(" -- ")
        if options:
            (environments,) = re.findall(r"^-e (\S+)$", options)
            assert set(environments.split(",")) <= tox_environments() | INTERPRETERS
        arguments = arguments.split()
    if arguments:
        result = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=ROOT,
            # Without pytest's variables from the run that includes this test.
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert re.search(r"\b\d+ passed\b", result.stdout)


def test_the_tables_name_every_environment_and_every_folder() -> None:
    named = {
        name for row in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE) for name in re.findall(r"`([\w-]+)`", row)
    }
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert named - INTERPRETERS == tox_environments() | folders
    assert named & INTERPRETERS == {"py311-oldest", "py314-latest"}
