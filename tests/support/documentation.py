# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The Python code in the documentation, and a way for tests to run it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from pytest_examples import CodeExample, EvalExample, find_examples

from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor
from support import DOCS
from support.models import get_llm


def python_examples(*pages: Path) -> list[CodeExample]:
    """Return the blocks of Python code on these pages."""
    return [example for example in find_examples(*map(str, pages)) if example.prefix in ("py", "python")]


def run_example(example: CodeExample, eval_example: EvalExample, registry: Any) -> None:
    """Run a block with the names that the documentation assumes. Undo its instrumentation and its logging."""
    llm = get_llm(registry, "openai", "gpt-4o-mini")
    handlers = logging.getLogger().handlers[:]
    given = {"ModelForgeInstrumentor": ModelForgeInstrumentor, "registry": registry, "llm": llm}
    try:
        eval_example.run(example, module_globals=given)
    finally:
        for instrumentor in (ModelForgeInstrumentor(), HTTPXClientInstrumentor()):
            if instrumentor.is_instrumented_by_opentelemetry:
                instrumentor.uninstrument()
        logging.getLogger().handlers[:] = handlers


def backends_hook(name: str) -> Any:
    """Return the response hook with a given name from the page on backends."""
    (code,) = (example.source for example in python_examples(DOCS / "backends.md") if f"def {name}(" in example.source)
    hooks: list[Any] = []

    class Instrumentor:
        def instrument(self, *, response_hook: Any) -> None:
            hooks.append(response_hook)

    exec(code, {"ModelForgeInstrumentor": Instrumentor})
    return hooks[0]
