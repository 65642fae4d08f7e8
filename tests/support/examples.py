# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The requirements of the examples, and the output of the quickstart."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Mapping

from modelforge import ModelForgeRegistry

from support import EXAMPLES
from support.check_examples import difference
from support.environment import lacking

Outputs = Mapping[tuple[str, ...], str]
TIMEOUT = 1200
"""Seconds to wait for an example to end, unless the test is about to fail."""

TREE = """\
answer question
├─ modelforge.get_llm [N]: openai · gpt-4o-mini · openai_compatible
├─ langchain.llm.invoke → [N]: gpt-4o-mini · N → N tokens · $N
│  └─ POST: N · http://N:N/v1/chat/completions
├─ langchain.llm.invoke → [N]: gpt-4o-mini · N → N tokens · $N · tool_calls
│  └─ POST: N · http://N:N/v1/chat/completions
└─ langchain.llm.invoke → [N]: gpt-4o-mini · N → N tokens · $N · first chunk N ms
   └─ POST: N · http://N:N/v1/chat/completions
"""


def without_numbers(tree: str) -> str:
    """Return the tree without its durations, and with N for every other number."""
    lines = (re.sub(r"\b\d[\d.,]*\b", "N", line) for line in tree.splitlines())
    return "".join(re.sub(r"(?<=[^\s│])  +", ": ", re.sub(r" +N m?s$", "", line)) + "\n" for line in lines)


def missing() -> str | None:
    """Return what this environment lacks to run the example."""
    if "enhanced" not in inspect.signature(ModelForgeRegistry.get_llm).parameters:
        return "the example is written for ModelForge 2.1 and later"
    return lacking(instrumentors=("modelforge", "httpx"))


def outputs_of(*commands: tuple[str, ...]) -> Outputs:
    """Run examples concurrently, each with its arguments, and return their output."""
    runs = {
        (name, *arguments): subprocess.Popen(
            [sys.executable, EXAMPLES, name, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            # Wide enough that each span fits on one line.
            env={**os.environ, "COLUMNS": "200"},
        )
        for name, *arguments in commands
    }
    outputs: dict[tuple[str, ...], str] = {}
    try:
        for command, run in runs.items():
            outputs[command], errors = run.communicate(timeout=TIMEOUT)
            assert run.returncode == 0, f"{command}: {errors}"
    finally:
        for run in runs.values():
            run.kill()
    return outputs


def assert_as_in_readme(name: str, output: str) -> None:
    problem = difference(EXAMPLES / name / "README.md", output)
    assert problem is None, problem
