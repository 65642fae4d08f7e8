# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The options. Precedence: keyword of ``instrument()``, environment, ModelForge's own settings, default.

The fields of :class:`Configuration` are the only list of options. Keywords, environment variables, the
``opentelemetry`` section of ModelForge's ``config.json``, OpenTelemetry's declarative configuration, the documentation
and the diagnosis command are all derived from them.

``instrument()`` calls :func:`check_keywords`, which imports nothing. :func:`resolve` reads the other sources after
ModelForge has been imported.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from logging import getLogger
from typing import TYPE_CHECKING, Any, Final, Literal, NewType, TypeAlias, cast

from opentelemetry.util.types import AttributeValue

from .option_types import ATTRIBUTES, BOOLEAN, COST, KEYS, LENGTH, OptionType, choice, function, shown, shown_pair

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult
    from opentelemetry.trace import Span

    from .response import Usage

_logger = getLogger(__name__)

RequestHook: TypeAlias = "Callable[[Span, list[BaseMessage], dict[str, object]], object]"
ResponseHook: TypeAlias = "Callable[[Span, LLMResult], object]"
CostFunction: TypeAlias = "Callable[[str, str, Usage], float | None]"
Redact: TypeAlias = Callable[[str], str]

Keywords = NewType("Keywords", dict[str, object])
"""Options that :func:`check_keywords` has accepted."""

_PREFIX: Final = "OTEL_PYTHON_MODELFORGE_"
_SECTION: Final = '{"settings": {"opentelemetry": {...}}}'

# Variables of other packages, by the option name that users try instead.
_SHARED_VARIABLES: Final[Mapping[str, str]] = dict.fromkeys(
    ("capture_content", "capture_message_content", "capture_messages", "trace_content", "content"),
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
)


def _option(option_type: OptionType[Any], doc: str, default: object = None) -> Any:
    """Declare an option; ``doc`` is its description, in Markdown."""
    metadata = {"type": option_type, "doc": doc}
    if isinstance(default, dict):
        return field(default_factory=dict[str, AttributeValue], metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Configuration:
    """The options in effect, all checked."""

    enabled: bool = _option(BOOLEAN, "`false` leaves ModelForge uninstrumented.", True)
    attributes: Mapping[str, AttributeValue] = _option(ATTRIBUTES, "Attributes added to both spans.", {})
    metric_attributes: Mapping[str, AttributeValue] = _option(
        ATTRIBUTES, "Attributes added to every metric. Each new value is a new time series.", {}
    )
    span_names: Literal["default", "semconv"] = _option(
        choice("default", "semconv"),
        "Name of the model span: `langchain.llm.invoke`, or the semantic conventions' (`chat gpt-4o-mini`).",
        "default",
    )
    chunk_events: Literal["first", "all", "off"] = _option(
        choice("first", "all", "off"), "Which chunks of a stream become events on the model span.", "first"
    )
    chunk_metrics: bool = _option(
        BOOLEAN,
        "Record the time between two chunks of a stream, one measurement a chunk. `false` saves most of the cost of a "
        "stream's metrics.",
        True,
    )
    stream_usage: bool = _option(
        BOOLEAN,
        "Ask OpenAI-compatible providers for the usage of streams, which then have tokens and a cost. The provider "
        "must accept `stream_options`.",
        False,
    )
    baggage_keys: tuple[str, ...] = _option(KEYS, "Baggage entries copied onto both spans.", ())
    metric_baggage_keys: tuple[str, ...] = _option(
        KEYS, "Baggage entries copied onto metrics. Each new value is a new time series.", ()
    )
    metadata_keys: tuple[str, ...] = _option(
        KEYS,
        "Entries of the run's metadata (`RunnableConfig`) copied onto the model span. The keys `tags` and `run_name` "
        "copy the run's tags and name.",
        (),
    )
    metric_metadata_keys: tuple[str, ...] = _option(
        KEYS, "Entries of the run's metadata copied onto metrics. Each new value is a new time series.", ()
    )
    estimate_tokens: bool = _option(
        BOOLEAN, "Estimate, on the span only, the tokens that a provider did not report.", True
    )
    cost: "bool | CostFunction" = _option(
        COST,
        "Record the cost of each call. The result of a function, in USD, replaces the computed cost; `None` records "
        "no cost.",
        True,
    )
    error_messages: Literal["safe", "full"] | None = _option(
        choice("safe", "full"),
        "`safe` records only the type, the codes and the stack of an error. `full` adds its text, without "
        "credentials and at most 4 KiB of it. The default is `safe`, or `full` if spans capture content.",
    )
    max_content_length: int | None = _option(
        LENGTH, "Characters kept of one part of captured content. `null` keeps all of them."
    )
    request_hook: "RequestHook | None" = _option(
        function("span, messages and parameters"),
        "Called with the model span before the request is sent. The parameters include the run's `metadata`, `tags` "
        "and `run_name`.",
    )
    response_hook: "ResponseHook | None" = _option(
        function("span and result"), "Called with the model span and LangChain's `LLMResult` before the span ends."
    )
    redact: Redact | None = _option(
        function("text, returning text"),
        "Rewrites every captured text before it is recorded. If the function raises, the text is dropped.",
    )


OPTION_TYPES: Final[dict[str, OptionType[object]]] = {
    option.name: option.metadata["type"] for option in fields(Configuration)
}
_SETTABLE: Final = {name: name for name, kind in OPTION_TYPES.items() if not kind.keyword_only}
_VARIABLES: Final = {_PREFIX + name.upper(): name for name in _SETTABLE}


def check_keywords(options: Mapping[str, object], others: Iterable[str] = ()) -> Keywords:
    """Check the options given to ``instrument()``.

    :param others: the other keywords of ``instrument()``, which the error can suggest.
    :raises TypeError: for an unknown option or a value of the wrong type.
    :raises ValueError: for a bad value of the right type.
    """
    checked: dict[str, object] = {}
    for name, value in options.items():
        option_type = OPTION_TYPES.get(name)
        if option_type is None:
            raise TypeError(f"instrument() has no option {shown(name)}; {_suggestion(name, (*OPTION_TYPES, *others))}")
        try:
            checked[name] = option_type.check(value)
        except (TypeError, ValueError) as error:
            raised = TypeError if isinstance(error, TypeError) else ValueError
            raise raised(f"instrument({name}={shown(value)}): {_expectation(option_type, error)}") from error
    return Keywords(checked)


def resolve(keywords: Keywords) -> Configuration:
    """Return the configuration merged from all sources.

    Each invalid value from outside the code is logged in one WARNING and counts as not set; an invalid boolean counts
    as false. Both are rules of OpenTelemetry's specification of environment variables. This reads ModelForge's
    settings, so call it after ModelForge has been imported.
    """
    return combined(sources(keywords))


def sources(keywords: Keywords) -> list[tuple[str, Mapping[str, object]]]:
    """Return the name of each source and the options that it sets, in order of increasing precedence."""
    settings, path = _from_settings()
    return [(path, settings), ("environment", _from_environment()), ("instrument()", keywords)]


def combined(found: Iterable[tuple[str, Mapping[str, object]]]) -> Configuration:
    """Return the configuration merged from the result of :func:`sources`."""
    values = {name: value for _, source in found for name, value in source.items()}
    return Configuration(**cast("dict[str, Any]", values))


def _from_environment() -> dict[str, object]:
    # "The SDK MUST interpret an empty value of an environment variable the same way as when the variable is unset."
    texts = {
        name: text for name in os.environ if name.startswith(_PREFIX) and (text := os.environ.get(name, "").strip())
    }
    return _accepted("environment", texts, _VARIABLES, parse=True)


def _from_settings() -> tuple[dict[str, object], str]:
    """Return the options in the ``config.json`` that ModelForge reads (local, else global), and its path."""
    path = "ModelForge's configuration"
    try:
        from modelforge import config

        path = str(config.get_config_path())
        content: object = config.get_config_from_path(config.get_config_path())[0]
    except Exception as error:  # noqa: BLE001 - a fault in that file must not fail the application.
        # The parser's message names the line and column; ModelForge's own does not. Neither quotes the file.
        _logger.warning("%s is ignored: %s; expected %s", path, error.__cause__ or error, _SECTION)
        return {}, path
    values: dict[str, object] = {}
    for parent in ("telemetry", "settings"):
        source = f"{path}, {parent}.opentelemetry"
        container = _member(content, parent)
        section = _member(container, "opentelemetry")
        if isinstance(section, dict):
            values |= _accepted(source, cast("dict[str, object]", section), _SETTABLE)
        elif parent == "settings" or isinstance(container, dict):
            # Outside the section a value belongs to ModelForge and may be a credential.
            found = shown(section) if isinstance(container, dict) else f"a {type(section).__name__}"
            _logger.warning("%s is ignored: found %s, expected %s", source, found, _SECTION)
    return values, path


def _member(value: object, key: str) -> object:
    return cast("dict[str, object]", value).get(key, {}) if isinstance(value, dict) else value


def _accepted(
    source: str, entries: Mapping[str, object], names: Mapping[str, str], *, parse: bool = False
) -> dict[str, object]:
    """Return the valid values by option, and log a warning for each of the others.

    :param names: the options by the source's keys.
    :param parse: whether the values are text to parse.
    """
    values: dict[str, object] = {}
    for key, value in entries.items():
        name = names.get(key)
        if name is None:
            problem = f"is ignored: there is no such option here; {_suggestion(key, names)}"
            _logger.warning("%s: %s %s", source, shown_pair(key, value), problem)
            continue
        option_type = OPTION_TYPES[name]
        try:
            values[name] = option_type.check(option_type.parse(str(value)) if parse else value)
        except (TypeError, ValueError) as error:
            verdict = "is ignored"
            if option_type.malformed_is_false and value is not None:
                verdict, values[name] = "counts as false", False
            _logger.warning("%s: %s=%s %s: %s", source, key, shown(value), verdict, _expectation(option_type, error))
    return values


def _initialize_declared(self: object, /, **options: object) -> None:
    # In declarative configuration, null means that an option is not set.
    given = {name: value for name, value in options.items() if value is not None}
    values = _accepted("OpenTelemetry configuration, instrumentation/development.python.modelforge", given, _SETTABLE)
    for name in _SETTABLE:
        setattr(self, name, values.get(name))


DeclaredOptions: Final = make_dataclass(
    "DeclaredOptions",
    [(name, object, None) for name in _SETTABLE],
    init=False,
    namespace={
        "__module__": __name__,
        "__doc__": """The options in OpenTelemetry's declarative configuration; None means not set.

        For the ``configuration`` attribute of the instrumentor's class: ``opentelemetry-configuration`` builds one from
        the node ``instrumentation/development: python: modelforge:`` and passes each option that is not None to
        ``instrument()``. An invalid value is logged and not set, so that the rest of the node still applies.
        """,
        "__init__": _initialize_declared,
    },
)


def _expectation(option_type: OptionType[object], error: Exception) -> str:
    return f"expected {option_type.accepts}" + (f", but {error}" if str(error) else "")


def _suggestion(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    option = name.removeprefix(_PREFIX).lower()
    if variable := _SHARED_VARIABLES.get(option):
        return f"content is captured with {variable}"
    if option in OPTION_TYPES and option not in _SETTABLE:
        return f"{option} can only be a keyword of instrument()"
    spelled = {word.lower(): word for word in known}
    if close := get_close_matches(name.lower(), spelled, n=1):
        return f"did you mean {spelled[close[0]]}?"
    return f"there are {', '.join(spelled.values())}"
