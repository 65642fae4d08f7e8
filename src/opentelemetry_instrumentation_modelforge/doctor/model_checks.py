# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The checks of the options, and of the telemetry of the models in ModelForge's configuration."""

from collections.abc import Iterator
from dataclasses import fields
from importlib.util import find_spec
from typing import Final

from ..config import Configuration
from ..cost import Rates, ScheduledRates, TokenRates, resolve_rates
from ..option_types import shown
from ..providers import provider_of
from ..values import mapping, text
from .distributions import entry_point
from .environment import variable
from .finding import Finding, listed, ok, warning
from .process import Process

_CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"

_TRANSPORTS: Final = {
    "openai_compatible": (("httpx", "httpx"),),
    "ollama": (("requests", "requests"), ("aiohttp-client", "aiohttp-client")),
    "github_copilot": (("requests", "requests"),),
    "google_genai": (("grpc_client", "grpc"), ("grpc_aio_client", "grpc")),
}
"""Instrumentations of the HTTP and gRPC clients by ``llm_type``: entry point, and end of the distribution's name."""

_NOT_BY_TOKEN: Final = "not paid by the token"
_UNKNOWN: Final = "unknown"
_NO_MODELFORGE: Final = "not checked, because ModelForge cannot be imported"


def options(process: Process) -> Finding:
    """Find the options that are set, each with its source, and the invalid ones."""
    sources, logged = process.options
    rows: dict[str, dict[str, object]] = {
        option.name: {"value": shown(getattr(process.configuration, option.name)), "source": "default"}
        for option in fields(Configuration)
    }
    for source, values in sources:
        for name in values:
            rows[name]["source"] = source
    lines = [f"{name} = {row['value']} ({row['source']})" for name, row in rows.items() if row["source"] != "default"]
    data: dict[str, object] = {"options": rows, "warnings": logged}
    if logged:
        return warning("\n".join([*lines, *logged]), "Correct the options that the messages name.", data=data)
    return ok("\n".join(lines) or "all options have their defaults", data=data)


def transports(process: Process) -> Finding:
    """Check whether the HTTP and gRPC clients of the configured providers are instrumented."""
    missing: dict[str, list[str]] = {}
    disabled: list[str] = []
    for llm_type, names in _TRANSPORTS.items():
        providers = process.providers_of_type(llm_type)
        for name, distribution in names if providers else ():
            if entry_point("opentelemetry_instrumentor", name) is None:
                missing.setdefault(f"opentelemetry-instrumentation-{distribution}", []).extend(providers)
            elif process.is_disabled(name):
                disabled.append(name)
    data: dict[str, object] = {
        "missing": {name: list(dict.fromkeys(users)) for name, users in missing.items()},
        "disabled": disabled,
    }
    lines = [f"{name} is not installed: no spans of the requests to {listed(users)}" for name, users in missing.items()]
    lines += [f"{name} is disabled by OTEL_PYTHON_DISABLED_INSTRUMENTATIONS" for name in disabled]
    if lines:
        return warning("\n".join(lines), f"pip install {' '.join(missing)}" if missing else "", data=data)
    if not process.configured_providers:
        return ok("no provider is configured in ModelForge", data=data)
    return ok("the requests to the configured providers have spans of their own", data=data)


def streams(process: Process) -> Finding:
    """Check whether streams will have the provider's token counts."""
    compatible = process.providers_of_type("openai_compatible")
    never = process.providers_of_type("github_copilot")
    requested = process.configuration.stream_usage
    data: dict[str, object] = {"stream_usage": requested, "estimated": [*([] if requested else compatible), *never]}
    lines = [f"{listed(never)} never reports tokens of streams: they are estimated"] if never else []
    if compatible and not requested:
        lines.insert(0, f"streams of {listed(compatible)} have estimated tokens, unless the application asks for usage")
        return warning("\n".join(lines), "export OTEL_PYTHON_MODELFORGE_STREAM_USAGE=true", data=data)
    return ok("\n".join(lines) or "streams of the configured providers have usage", data=data)


def prices(process: Process) -> Finding:
    """Find which of the configured models have a price."""
    if process.modelforge_error is not None:
        return ok(_NO_MODELFORGE, data={"models": {}})
    cost = process.configuration.cost
    if not cost:
        return ok("cost is switched off", data={"models": {}})
    if callable(cost):
        return ok("a function of the application computes each price", data={"models": {}})
    models = dict(_priced_models(process))
    data: dict[str, object] = {"models": models}
    priced = [f"{name} {price}" for name, price in models.items() if price not in (_UNKNOWN, _NOT_BY_TOKEN)]
    lines = [f"USD per million tokens, input and output: {', '.join(priced)}"] if priced else []
    if free := [name for name, price in models.items() if price == _NOT_BY_TOKEN]:
        lines.append(f"{_NOT_BY_TOKEN}: {listed(free)}")
    if unpriced := [name for name, price in models.items() if price == _UNKNOWN]:
        lines.append(f"no price is known for {listed(unpriced)}")
        remedy = "Set api_model_name of these models in ModelForge, or give instrument() a cost function."
        if find_spec("genai_prices") is None:
            remedy = "pip install 'opentelemetry-instrumentation-modelforge[cost]'"
        return warning("\n".join(lines), remedy, data=data)
    return ok("\n".join(lines) or "no model is configured in ModelForge", data=data)


def content(process: Process) -> Finding:
    """Check whether prompts and answers are captured."""
    if process.modelforge_error is not None:
        return ok(_NO_MODELFORGE)
    # Imported here, because it imports LangChain, which comes with ModelForge.
    from ..capture import ContentCapture

    capture = ContentCapture.from_environment()
    data: dict[str, object] = {
        "on_span": capture.on_span,
        "on_event": capture.on_event,
        "hook": capture.hook is not None,
    }
    value = variable(_CAPTURE)
    if value and not (capture.on_span or capture.on_event or value.upper() == "NO_CONTENT"):
        detail = f"off: {_CAPTURE}={shown(value)} is not one of SPAN_ONLY, EVENT_ONLY and SPAN_AND_EVENT"
        return warning(detail, f"export {_CAPTURE}=SPAN_ONLY", data=data)
    places = [name for name, there in (("spans", capture.on_span), ("events", capture.on_event)) if there]
    if capture.hook is not None:
        places.append("a completion hook")
    return ok(
        f"prompts and answers are captured on {listed(places)}" if places else "prompts and answers are not captured",
        data=data,
    )


def _priced_models(process: Process) -> Iterator[tuple[str, str]]:
    # Imported here, because it imports LangChain, which comes with ModelForge.
    from ..model import ModelIdentity

    for provider, data in process.configured_providers.items():
        kind = provider_of(text(data.get("llm_type")))
        for alias, entry in mapping(data.get("models")).items():
            price = _NOT_BY_TOKEN
            if kind.paid_by_token:
                identity = ModelIdentity.from_config(provider, alias, data, mapping(entry))
                price = _price(resolve_rates(provider, identity.api_model, api_base=identity.base_url))
            yield f"{provider}/{alias}", price


def _price(rates: Rates | None) -> str:
    if rates is None:
        return _UNKNOWN
    current: Rates | None = rates.current() if isinstance(rates, ScheduledRates) else rates
    if not isinstance(current, TokenRates):
        return "known"
    return "/".join(f"{current.tokens[kind] * 1_000_000:.4g}" for kind in ("input_tokens", "output_tokens"))
