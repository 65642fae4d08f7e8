# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The settings from which ``opentelemetry-instrument`` sets up OpenTelemetry, and the faults in them."""

import os
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Final

from ..option_types import shown
from .distributions import SDK, entry_point, version_of
from .environment import is_true, variable
from .exporters import SIGNALS, exporter_names, otlp_protocol
from .finding import Finding, problem

_OTEL_EXTRA: Final = "pip install 'opentelemetry-instrumentation-modelforge[otel]'"

_OTLP: Final = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
"""The exporters that ``otlp`` selects, by protocol."""


def missing_sdk() -> Finding | None:
    """Return a problem if the SDK or the distribution is not installed."""
    if version_of("opentelemetry-sdk") is None:
        return problem("the OpenTelemetry SDK is not installed", _OTEL_EXTRA)
    if not entry_points(group="opentelemetry_configurator"):
        return problem("no distribution of OpenTelemetry is installed, so nothing sets the SDK up", _OTEL_EXTRA)
    return None


def setup_fault() -> Finding | None:
    """Return the first problem that keeps the launcher from setting up OpenTelemetry, or None."""
    if is_true("OTEL_SDK_DISABLED"):
        return problem("OTEL_SDK_DISABLED=true switches recording off", "unset OTEL_SDK_DISABLED")
    file = variable("OTEL_CONFIG_FILE")
    return missing_sdk() or _unknown_component() or (_configuration_fault(file) if file else _unknown_exporter())


def _unknown_component() -> Finding | None:
    for name, group in (
        ("OTEL_PYTHON_DISTRO", "opentelemetry_distro"),
        ("OTEL_PYTHON_CONFIGURATOR", "opentelemetry_configurator"),
        ("OTEL_PYTHON_ID_GENERATOR", "opentelemetry_id_generator"),
    ):
        value = variable(name)
        if value and entry_point(group, value) is None:
            return problem(
                f"{name}={shown(value)} names nothing that is installed (there is {_known(group)})", f"unset {name}"
            )
    return None


def _configuration_fault(file: str) -> Finding | None:
    if find_spec("opentelemetry.configuration") is None and find_spec("opentelemetry.sdk._configuration.file") is None:
        return problem(
            "OTEL_CONFIG_FILE is set, but the package that reads it is not installed",
            "pip install opentelemetry-configuration",
        )
    if not os.path.isfile(file):
        return problem(f"OTEL_CONFIG_FILE names {file}, which is not a file", "Correct OTEL_CONFIG_FILE.")
    with open(file, encoding="utf-8", errors="replace") as opened:
        if "tracer_provider" not in opened.read():
            return problem(
                f"{file}, which OTEL_CONFIG_FILE names, has no tracer_provider",
                f"Add a tracer_provider to {file}, or unset OTEL_CONFIG_FILE.",
            )
    return None


def _unknown_exporter() -> Finding | None:
    for signal in SIGNALS:
        variable_name, group = f"OTEL_{signal.upper()}_EXPORTER", f"opentelemetry_{signal}_exporter"
        protocol = otlp_protocol(signal)
        for exporter in exporter_names(signal):
            if exporter == "otlp" and protocol not in _OTLP:
                return problem(
                    f"the OTLP exporter has no protocol {shown(protocol)}",
                    "export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
                )
            component = _OTLP[protocol] if exporter == "otlp" else exporter
            if entry_point(group, component) is None:
                return problem(
                    f"the exporter {shown(component)} of {variable_name} is not installed (there is {_known(group)})",
                    f"pip install {SDK[-1]}" if component.startswith("otlp") else f"export {variable_name}=console",
                )
    return None


def _known(group: str) -> str:
    return ", ".join(sorted(entry_points(group=group).names)) or "none"
