# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""`examples/fastapi`, run as its README describes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support import EXAMPLES
from support.environment import lacking
from support.examples import missing, without_numbers

if reason := missing() or lacking("fastapi", "uvicorn", instrumentors=("fastapi",)):
    pytest.skip(reason, allow_module_level=True)


CHAT = """\
{0}├─ POST {1}: N · http://N:N{1}
{0}│  ├─ modelforge.get_llm [N]: openai · gpt-4o-mini · openai_compatible
{0}│  └─ langchain.llm.invoke → [N]: gpt-4o-mini · N → N tokens · $N{2}
{0}│     └─ POST: N · http://N:N/v1/chat/completions
"""
FIRST = " · first chunk N ms"
TREE = (
    "caller\n"
    + CHAT.format("", "/chat", "")
    + CHAT.format("", "/chat/stream", FIRST)
    + CHAT.format("", "/sync/chat", "")
    + CHAT.format("", "/sync/chat/stream", FIRST)
    + f"""\
└─ POST /ask/stream: N · http://N:N/ask/stream
   └─ POST: N · http://N:N/chat/stream
      └─ POST /chat/stream: N · http://N:N/chat/stream
         ├─ modelforge.get_llm [N]: openai · gpt-4o-mini · openai_compatible
         └─ langchain.llm.invoke → [N]: gpt-4o-mini · N → N tokens · $N{FIRST}
            └─ POST: N · http://N:N/v1/chat/completions
"""
)


@pytest.mark.parametrize("arguments", [(), ("--programmatic",)], ids=["zero-code", "programmatic"])
def test_prints_one_trace_of_both_services(arguments: tuple[str, ...]) -> None:
    result = subprocess.run(
        [sys.executable, EXAMPLES, "fastapi", *arguments],
        capture_output=True,
        check=False,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": "200"},
        timeout=180,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    _, tree, *_ = result.stdout.split("\n\n")
    assert without_numbers(tree) == TREE
