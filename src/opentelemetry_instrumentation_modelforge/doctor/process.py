# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The process that the doctor examines. Each property is computed once."""

import logging
import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, cast

from opentelemetry._logs import get_logger_provider
from opentelemetry.metrics import get_meter_provider
from opentelemetry.trace import get_tracer_provider

from ..config import Configuration, Keywords, check_keywords, combined, sources
from ..instrumentor import ModelForgeInstrumentor
from ..redaction import secret_values
from ..values import mapping, text
from .endpoint import Endpoint, Probe
from .environment import variable
from .exporters import SIGNALS, Exporter, exporters_of

_OURS: Final = __name__.partition(".")[0]
_AUTO_INSTRUMENTATION: Final = "opentelemetry.instrumentation.auto_instrumentation"

_VENDOR_LAUNCHERS: Final = {"ddtrace": "ddtrace-run", "newrelic": "newrelic-admin"}
"""Launchers by package. Like OpenTelemetry's, each uses a ``sitecustomize``, in the package's ``bootstrap``."""

DISABLED_INSTRUMENTATIONS: Final = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"


class Process:
    """The process that runs the doctor."""

    def __init__(self) -> None:
        installation = cast("Any", ModelForgeInstrumentor()._installation)  # pyright: ignore[reportPrivateUsage]
        self.instrumented: bool = installation is not None and not installation.failed
        """Whether ``instrument()`` has been called."""
        self.keywords: Keywords = installation._keywords if installation is not None else check_keywords({})
        """The options given to it."""
        self.destinations: Mapping[str, object] = installation._destinations if installation is not None else {}
        """The providers given to it."""

    # --- How it was started ---

    @cached_property
    def sitecustomize(self) -> str:
        """The file of the start-up module, which launchers replace; empty if there is none."""
        return getattr(sys.modules.get("sitecustomize"), "__file__", None) or ""

    @cached_property
    def launched(self) -> bool:
        """Whether ``opentelemetry-instrument``, or ``initialize()``, has set this process up."""
        return _AUTO_INSTRUMENTATION in sys.modules

    @cached_property
    def launcher_asked_for(self) -> bool:
        """Whether the command was started by ``opentelemetry-instrument``, even without effect."""
        directory = os.path.join(*_AUTO_INSTRUMENTATION.split("."))
        return any(entry.endswith(directory) for entry in variable("PYTHONPATH").split(os.pathsep))

    @cached_property
    def vendor_launcher(self) -> str | None:
        """The vendor's launcher that started this process and loads no OpenTelemetry instrumentations."""
        # Logfire's launcher runs the application in its own process.
        if [os.path.basename(argument) for argument in sys.orig_argv[1:3]] == ["logfire", "run"]:
            return "logfire run"
        directory = os.path.dirname(self.sitecustomize)
        if os.path.basename(directory) == "bootstrap":
            return _VENDOR_LAUNCHERS.get(os.path.basename(os.path.dirname(directory)))
        return None

    @cached_property
    def disabled_instrumentations(self) -> list[str]:
        """The names in ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS``."""
        return [name.strip() for name in variable(DISABLED_INSTRUMENTATIONS).split(",") if name.strip()]

    def is_disabled(self, instrumentation: str) -> bool:
        """Return whether the launcher leaves out the instrumentation with this entry point."""
        return not {"*", instrumentation}.isdisjoint(self.disabled_instrumentations)

    # --- The destinations of its telemetry ---

    @cached_property
    def providers(self) -> dict[str, object]:
        """The providers that spans, metrics and events go to, by signal."""
        return {
            "traces": self.destinations.get("tracer_provider") or get_tracer_provider(),
            "metrics": self.destinations.get("meter_provider") or get_meter_provider(),
            "logs": self.destinations.get("logger_provider") or get_logger_provider(),
        }

    @cached_property
    def exporters(self) -> list[Exporter]:
        """The exporters of all signals."""
        return [exporter for signal in SIGNALS for exporter in exporters_of(signal, self.providers[signal])]

    @cached_property
    def probes(self) -> dict[Endpoint, Probe]:
        """The probes of all endpoints, which run concurrently."""
        endpoints = dict.fromkeys(exporter.endpoint for exporter in self.exporters)
        return {endpoint: Probe(endpoint) for endpoint in endpoints if endpoint is not None}

    # --- ModelForge ---

    @cached_property
    def modelforge_found(self) -> bool:
        """Whether there is a module named ``modelforge``."""
        return "modelforge" in sys.modules or find_spec("modelforge") is not None

    @cached_property
    def _modelforge_import(self) -> tuple[Exception | None, list[str]]:
        error = None
        with _warnings() as logged:
            try:
                import_module("modelforge.registry")
            except Exception as raised:  # noqa: BLE001 - an import can raise anything.
                error = raised
        return error, [message for name, message in logged if name != f"{_OURS}.config"]

    @property
    def modelforge_error(self) -> Exception | None:
        """The exception that importing ModelForge raises."""
        return self._modelforge_import[0]

    @property
    def patch_warnings(self) -> list[str]:
        """The warnings of this package from patching ModelForge."""
        return self._modelforge_import[1]

    @cached_property
    def configured_providers(self) -> dict[str, Mapping[str, object]]:
        """The providers in ModelForge's ``config.json``, by name; empty if ModelForge cannot read the file."""
        if self.modelforge_error is not None:
            return {}
        try:
            from modelforge import config

            content: object = config.get_config()[0]
        except Exception:  # noqa: BLE001 - the check of the options reports what is wrong with the file.
            return {}
        return {name: mapping(data) for name, data in mapping(mapping(content).get("providers")).items()}

    def providers_of_type(self, llm_type: str) -> list[str]:
        """Return the names of the configured providers that have this ``llm_type``."""
        return [name for name, data in self.configured_providers.items() if text(data.get("llm_type")) == llm_type]

    # --- Options ---

    @cached_property
    def options(self) -> tuple[list[tuple[str, Mapping[str, object]]], list[str]]:
        """The options by source, a later source over the earlier ones, and the warnings about invalid options."""
        # Only ModelForge can read its settings.
        if self.modelforge_error is not None:
            return [("instrument()", self.keywords)], []
        with _warnings() as logged:
            found = sources(self.keywords)
        return found, [message for _, message in logged]

    @cached_property
    def configuration(self) -> Configuration:
        """The options in force."""
        return combined(self.options[0])

    @cached_property
    def secrets(self) -> tuple[str, ...]:
        """The credentials in ModelForge's configuration."""
        return secret_values(
            member for data in self.configured_providers.values() for member in (data.get("auth_data"), *data.values())
        )


@contextmanager
def _warnings() -> Generator[list[tuple[str, str]]]:
    """Collect the warnings of this package instead of printing them, as pairs of logger and message."""
    logged: list[tuple[str, str]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append((record.name, record.getMessage()))

    logger, handler = logging.getLogger(_OURS), Handler(logging.WARNING)
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield logged
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
