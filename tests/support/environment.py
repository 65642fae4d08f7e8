# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The environment of the tests: what is installed, and how it is isolated from the user's own."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from packaging.version import Version

from support.providers import certificate

_SETTINGS = (
    "ALL_PROXY",
    "GEMINI_",
    "GITHUB_TOKEN",
    "GOOGLE_",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LANGCHAIN_",
    "LANGSMITH_",
    "MODELFORGE_",
    "NO_PROXY",
    "OLLAMA_",
    "OPENAI_",
    "OTEL_",
)


def _forget_settings() -> None:
    for name in list(os.environ):
        if name.upper().startswith(_SETTINGS):
            del os.environ[name]


def isolate() -> None:
    """Isolate the tests from the user's own configuration."""
    home = Path(tempfile.mkdtemp(prefix="modelforge-tests-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ["HOME"] = os.environ["USERPROFILE"] = str(home)
    for name in ("CONFIG", "CACHE", "DATA", "STATE"):
        os.environ[f"XDG_{name}_HOME"] = str(home / name.lower())
    roots = home / "roots.pem"
    roots.write_bytes(certificate())
    os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] = str(roots)
    _forget_settings()
    # A shell without job control ignores SIGINT in background commands, and the tests' processes would inherit it.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # ModelForge determines the paths of its global and local configurations when it is imported.
    with contextlib.chdir(home):
        importlib.import_module("modelforge.registry")
    # langchain-github-copilot loads the nearest .env file when it is imported.
    _forget_settings()


def at_least(distribution: str, minimum: str) -> bool:
    """Return whether a distribution has a minimum version, because the oldest supported releases lack some features."""
    return Version(version(distribution)) >= Version(minimum)


def lacking(*modules: str, instrumentors: Sequence[str] = ()) -> str | None:
    """Return what this environment lacks: a module, `opentelemetry-instrument`, or one of its instrumentors."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            return f"{module} is not installed"
    if instrumentors and shutil.which("opentelemetry-instrument", path=Path(sys.executable).parent) is None:
        return "opentelemetry-instrument is not installed"
    for name in instrumentors:
        if not entry_points(group="opentelemetry_instrumentor", name=name):
            return f"the instrumentation of {name} is not installed"
    return None


COUNTS_REASONING = pytest.mark.skipif(
    not at_least("langchain-google-genai", "2.1.7"), reason="counts reasoning separately, and a stream's once per chunk"
)
