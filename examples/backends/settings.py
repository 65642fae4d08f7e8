# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""OpenTelemetry's settings for each backend."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Template
from urllib.parse import quote

TRACES_ONLY = {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}


class MissingCredentialError(LookupError):
    """A variable that a backend needs is not set."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """The settings of a backend, which may refer to the user's variables as in a shell."""

    settings: Mapping[str, str]
    needs: Mapping[str, str] = field(default_factory=dict[str, str])
    """Required variables, with a description of each."""
    defaults: Mapping[str, str] = field(default_factory=dict[str, str])
    """Optional variables with their defaults."""
    basic: tuple[str, str] | None = None
    """The variables that hold the user and the password for `$BASIC`."""

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the settings with the values of `given` filled in."""
        values = {**self.defaults, **{name: value for name, value in given.items() if value}}
        for name, meaning in self.needs.items():
            if name not in values:
                raise MissingCredentialError(f"{name}, {meaning}")
        if self.basic:
            user, password = (values[name] for name in self.basic)
            values["BASIC"] = base64.b64encode(f"{user}:{password}".encode()).decode()
        # The values of headers are percent-encoded.
        encoded = {name: quote(value, safe="") for name, value in values.items()}
        return {
            name: Template(setting).substitute(encoded if name.endswith("_HEADERS") else values)
            for name, setting in self.settings.items()
        }


def _over_http(endpoint: str, **others: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        **{f"OTEL_{name}": value for name, value in others.items()},
    }


def _traces_over_http(endpoint: str, headers: str = "") -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint,
        **({"OTEL_EXPORTER_OTLP_TRACES_HEADERS": headers} if headers else {}),
        **TRACES_ONLY,
    }


BACKENDS = {
    "jaeger": Backend(
        settings=_over_http("$JAEGER_URL") | TRACES_ONLY, defaults={"JAEGER_URL": "http://localhost:4318"}
    ),
    "datadog-agent": Backend(
        settings=_over_http("http://$DD_AGENT_HOST:4318", EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta"),
        defaults={"DD_AGENT_HOST": "localhost"},
    ),
    "datadog": Backend(
        settings=_traces_over_http("https://otlp.$DD_SITE/v1/traces", "dd-api-key=$DD_API_KEY,dd-otlp-source=llmobs"),
        needs={"DD_API_KEY": "an API key of your organization"},
        defaults={"DD_SITE": "datadoghq.com"},
    ),
    "newrelic": Backend(
        settings=_over_http(
            "$NEW_RELIC_OTLP_ENDPOINT",
            EXPORTER_OTLP_HEADERS="api-key=$NEW_RELIC_LICENSE_KEY",
            EXPORTER_OTLP_COMPRESSION="gzip",
            EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
            EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION="base2_exponential_bucket_histogram",
            ATTRIBUTE_VALUE_LENGTH_LIMIT="4095",
            BSP_MAX_EXPORT_BATCH_SIZE="16",
        ),
        needs={"NEW_RELIC_LICENSE_KEY": "the license key of your account"},
        defaults={"NEW_RELIC_OTLP_ENDPOINT": "https://otlp.nr-data.net"},
    ),
    "phoenix": Backend(
        settings=_traces_over_http("$PHOENIX_URL/v1/traces"), defaults={"PHOENIX_URL": "http://localhost:6006"}
    ),
    "phoenix-cloud": Backend(
        settings=_traces_over_http("$PHOENIX_URL/v1/traces", "Authorization=Bearer%20$PHOENIX_API_KEY"),
        needs={
            "PHOENIX_URL": "the host name in your space's settings",
            "PHOENIX_API_KEY": "an API key of your space",
        },
    ),
    "langfuse": Backend(
        settings=_traces_over_http(
            "$LANGFUSE_BASE_URL/api/public/otel/v1/traces",
            "Authorization=Basic%20$BASIC,x-langfuse-ingestion-version=4",
        ),
        needs={
            "LANGFUSE_PUBLIC_KEY": "the public key of your project",
            "LANGFUSE_SECRET_KEY": "the secret key of your project",
        },
        defaults={"LANGFUSE_BASE_URL": "https://cloud.langfuse.com"},
        basic=("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY"),
    ),
    "grafana": Backend(settings=_over_http("$ALLOY_URL"), defaults={"ALLOY_URL": "http://localhost:4318"}),
    "grafana-cloud": Backend(
        settings=_over_http("$GRAFANA_OTLP_ENDPOINT", EXPORTER_OTLP_HEADERS="Authorization=Basic%20$BASIC"),
        needs={
            "GRAFANA_OTLP_ENDPOINT": "the OTLP endpoint of your stack",
            "GRAFANA_INSTANCE_ID": "the instance ID of your stack",
            "GRAFANA_TOKEN": "a token of an access policy that may write",
        },
        basic=("GRAFANA_INSTANCE_ID", "GRAFANA_TOKEN"),
    ),
    "mlflow": Backend(
        settings=_traces_over_http("$MLFLOW_TRACKING_URI/v1/traces", "x-mlflow-experiment-id=$MLFLOW_EXPERIMENT_ID"),
        defaults={"MLFLOW_TRACKING_URI": "http://localhost:5000", "MLFLOW_EXPERIMENT_ID": "0"},
    ),
}
