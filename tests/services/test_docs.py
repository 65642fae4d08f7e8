# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The Python code in the documentation of services."""

from typing import Any

import pytest
from pytest_examples import CodeExample, EvalExample

from support import DOCS, SUPPORT
from support.documentation import python_examples, run_example

NEEDED = {
    "celery.md": ("celery",),
    "fastapi.md": ("fastapi",),
    "metrics.md": ("opentelemetry.exporter.prometheus",),
    "web.md": ("aiohttp", "django", "flask", "opentelemetry.instrumentation.wsgi"),
}
# gunicorn's configuration, which patches the whole process, is run by test_gevent.py.
EXAMPLES = [
    example for example in python_examples(*(DOCS / page for page in NEEDED)) if "patch_all()" not in example.source
]


@pytest.mark.filterwarnings("ignore:Starting in model-forge v2.3.0")
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_python_runs(
    example: CodeExample, eval_example: EvalExample, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in NEEDED[example.path.name]:
        pytest.importorskip(module)
    monkeypatch.syspath_prepend(SUPPORT / "web")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "django_settings")
    run_example(example, eval_example, registry)
