# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The settings by which ``opentelemetry-instrument`` sets OpenTelemetry up, and what is wrong with them."""

import os
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Final, NamedTuple

from ..option_types import shown
from .distributions import SDK, entry_point, version_of
from .environment import is_true, variable
from .exporters import SIGNALS, otlp_protocol

_OTEL_EXTRA: Final = "pip install 'opentelemetry-instrumentation-modelforge[otel]'"

_OTLP: Final = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
"""The exporters that ``otlp`` stands for, by protocol."""


class Fault(NamedTuple):
    """Why OpenTelemetry is not set up, and what to do."""

    detail: str
    remedy: str


def missing_sdk() -> Fault | None:
    """Return what of the SDK and the distribution is not installed."""
    if version_of("opentelemetry-sdk") is None:
        return Fault("the OpenTelemetry SDK is not installed", _OTEL_EXTRA)
    if not entry_points(group="opentelemetry_configurator"):
        return Fault("no distribution of OpenTelemetry is installed, so nothing sets the SDK up", _OTEL_EXTRA)
    return None


def setup_fault() -> Fault | None:
    """Return the first reason for which the launcher sets nothing up, or None if the settings are sound."""
    return _switched_off() or missing_sdk() or _unknown_component() or _configuration_file() or _unknown_exporter()


def _switched_off() -> Fault | None:
    if is_true("OTEL_SDK_DISABLED"):
        return Fault("OTEL_SDK_DISABLED=true switches recording off", "unset OTEL_SDK_DISABLED")
    return None


def _unknown_component() -> Fault | None:
    for name, group in (
        ("OTEL_PYTHON_DISTRO", "opentelemetry_distro"),
        ("OTEL_PYTHON_CONFIGURATOR", "opentelemetry_configurator"),
        ("OTEL_PYTHON_ID_GENERATOR", "opentelemetry_id_generator"),
    ):
        value = variable(name)
        if value and entry_point(group, value) is None:
            known = ", ".join(sorted(entry_points(group=group).names)) or "none"
            detail = f"{name}={shown(value)} names nothing that is installed (there is {known})"
            return Fault(detail, f"unset {name}")
    return None


def _configuration_file() -> Fault | None:
    file = variable("OTEL_CONFIG_FILE")
    if not file:
        return None
    if find_spec("opentelemetry.configuration") is None and find_spec("opentelemetry.sdk._configuration.file") is None:
        return Fault(
            "OTEL_CONFIG_FILE is set, but what reads it is not installed", "pip install opentelemetry-configuration"
        )
    if not os.path.isfile(file):
        return Fault(f"OTEL_CONFIG_FILE names {file}, which is not a file", "Correct OTEL_CONFIG_FILE.")
    with open(file, encoding="utf-8", errors="replace") as opened:
        if "tracer_provider" not in opened.read():
            return Fault(
                f"{file}, which OTEL_CONFIG_FILE names, has no tracer_provider",
                f"Add a tracer_provider to {file}, or unset OTEL_CONFIG_FILE.",
            )
    return None


def _unknown_exporter() -> Fault | None:
    if variable("OTEL_CONFIG_FILE"):
        return None
    for signal in SIGNALS:
        name = f"OTEL_{signal.upper()}_EXPORTER"
        value = variable(name) or "otlp"
        if value.lower() == "none":
            continue
        group = f"opentelemetry_{signal}_exporter"
        for exporter in (part.strip() for part in value.split(",")):
            protocol = otlp_protocol(signal)
            if exporter == "otlp" and protocol not in _OTLP:
                return Fault(
                    f"the OTLP exporter has no protocol {shown(protocol)}",
                    "export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
                )
            component = _OTLP[protocol] if exporter == "otlp" else exporter
            if entry_point(group, component) is None:
                known = ", ".join(sorted(entry_points(group=group).names)) or "none"
                remedy = f"export {name}=console"
                if component.startswith("otlp"):
                    remedy = f"pip install {SDK[-1]}"
                detail = f"the exporter {shown(component)} of {name} is not installed (there is {known})"
                return Fault(detail, remedy)
    return None
