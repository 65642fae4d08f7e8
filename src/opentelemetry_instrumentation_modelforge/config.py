"""Every option once: keyword of ``instrument()`` over environment over ModelForge's own settings over default.

The fields of :class:`Configuration` are the only list of options. Keywords, environment variables, the
``opentelemetry`` section of ModelForge's ``config.json``, OpenTelemetry's declarative configuration and the table in
``docs/configuration.md`` are all read off them.

``instrument()`` calls :func:`check_keywords`, which imports nothing. :func:`resolve` reads the other sources, once
ModelForge has been imported.
"""

import os
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from logging import getLogger
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, NewType, TypeAlias, TypeVar, cast
from urllib.parse import unquote

from opentelemetry.util.types import AttributeValue

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult
    from opentelemetry.trace import Span

    from .response import Usage

_logger = getLogger(__name__)

T = TypeVar("T")

RequestHook: TypeAlias = "Callable[[Span, list[BaseMessage], dict[str, object]], object]"
ResponseHook: TypeAlias = "Callable[[Span, LLMResult], object]"
CostFunction: TypeAlias = "Callable[[str, str, Usage], float | None]"
Redact: TypeAlias = Callable[[str], str]

Keywords = NewType("Keywords", dict[str, object])
"""Options that :func:`check_keywords` has accepted."""

_PREFIX: Final = "OTEL_PYTHON_MODELFORGE_"
_SECTION: Final = '{"settings": {"opentelemetry": {...}}}'


class _Kind(NamedTuple, Generic[T]):
    """What an option accepts.

    ``check`` raises TypeError for a wrong type and ValueError for a bad value of the right one. ``parse`` turns
    the text of an environment variable into a value for ``check`` to judge, and hands on what it can't read.
    """

    accepts: str
    check: Callable[[object], T]
    parse: Callable[[str], object] = str
    keyword_only: bool = False


def _check_boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _parse_boolean(text: str) -> object:
    return {"true": True, "false": False}.get(text.lower(), text)


def _check_length(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    if value < 0:
        raise ValueError
    return value


def _parse_length(text: str) -> object:
    return int(text) if text.isascii() and text.isdigit() else text


def _check_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{_shown(value)} is not a string")
    # One lone surrogate, as from an environment that is not UTF-8, fails the export of a whole batch.
    value.encode()
    return value


def _check_key(value: object) -> str:
    key = _check_text(value)
    if not key:
        raise ValueError("a name is empty")
    return key


def _check_keys(value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise TypeError
    # A key named twice is copied once.
    return tuple(dict.fromkeys(_check_key(key) for key in cast("list[object]", value)))


def _parse_keys(text: str) -> object:
    return [key.strip() for key in text.split(",") if key.strip()]


def _check_scalar(value: object) -> str | bool | int | float:
    if isinstance(value, str):
        return _check_text(value)
    if not isinstance(value, (bool, int, float)):
        raise TypeError(f"{_shown(value)} is none of these")
    # OTLP's integers have 64 bits: a longer one fails the export of a whole batch.
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("an integer has more than 64 bits")
    return value


def _check_attribute(value: object) -> AttributeValue:
    if not isinstance(value, (list, tuple)):
        return _check_scalar(value)
    items = tuple(_check_scalar(item) for item in cast("list[object]", value))
    if len({type(item) for item in items}) > 1:
        raise TypeError(f"{_shown(items)} is not of one kind")
    return items


def _check_attributes(value: object) -> Mapping[str, AttributeValue]:
    if not isinstance(value, Mapping):
        raise TypeError
    # A copy: what the application does to its dict later changes nothing here. Not a MappingProxyType, which
    # can't be pickled or deep-copied with the model that carries this.
    return {_check_key(key): _check_attribute(item) for key, item in cast("Mapping[object, object]", value).items()}


def _parse_attributes(text: str) -> object:
    """Read the format of ``OTEL_RESOURCE_ATTRIBUTES``: percent-encoded, and one error discards all of it."""
    attributes: dict[str, str] = {}
    for pair in text.split(","):
        key, equals, value = pair.partition("=")
        if equals:
            attributes[unquote(key.strip(), errors="strict")] = unquote(value.strip(), errors="strict")
        elif pair.strip():
            raise ValueError(f"{_shown(pair)} is not key=value")
    return attributes


def _check_cost(value: object) -> "bool | CostFunction":
    return cast("CostFunction", value) if callable(value) else _check_boolean(value)


def _choice(*values: str) -> _Kind[str]:
    def check(value: object) -> str:
        if not isinstance(value, str):
            raise TypeError
        if value not in values:
            raise ValueError
        return value

    *others, last = (f"`{value}`" for value in values)
    return _Kind(f"{', '.join(others)} or {last}", check, str.lower)


def _function(of: str) -> _Kind[object]:
    def check(value: object) -> object:
        if value is not None and not callable(value):
            raise TypeError
        return value

    return _Kind(f"function of {of}", check, keyword_only=True)


_BOOLEAN: Final = _Kind("`true` or `false`", _check_boolean, _parse_boolean)
_LENGTH: Final = _Kind("whole number, 0 or more", _check_length, _parse_length)
_KEYS: Final = _Kind("list of strings", _check_keys, _parse_keys)
_ATTRIBUTES: Final = _Kind(
    "map from string to string, boolean, integer, float or a list of one of these", _check_attributes, _parse_attributes
)
_COST: Final = _Kind(
    "`true`, `false` or, as a keyword, function of provider, model and `Usage`", _check_cost, _parse_boolean
)


def _option(kind: _Kind[Any], doc: str) -> dict[str, Any]:
    return {"kind": kind, "doc": doc}


@dataclass(frozen=True, slots=True)
class Configuration:
    """The options in force, each checked."""

    enabled: bool = field(default=True, metadata=_option(_BOOLEAN, "`false` leaves ModelForge as it is."))
    attributes: Mapping[str, AttributeValue] = field(
        default_factory=dict[str, AttributeValue], metadata=_option(_ATTRIBUTES, "Attributes added to both spans.")
    )
    metric_attributes: Mapping[str, AttributeValue] = field(
        default_factory=dict[str, AttributeValue],
        metadata=_option(_ATTRIBUTES, "Attributes added to every metric. Each new value is a new time series."),
    )
    span_names: Literal["default", "semconv"] = field(
        default="default",
        metadata=_option(
            _choice("default", "semconv"),
            "The model span's name: `langchain.llm.invoke`, or the semantic conventions' (`chat gpt-4o-mini`).",
        ),
    )
    chunk_events: Literal["first", "all", "off"] = field(
        default="first",
        metadata=_option(_choice("first", "all", "off"), "Which chunks of a stream become events on the model span."),
    )
    baggage_keys: tuple[str, ...] = field(
        default=(), metadata=_option(_KEYS, "Baggage entries copied onto both spans.")
    )
    metric_baggage_keys: tuple[str, ...] = field(
        default=(), metadata=_option(_KEYS, "Baggage entries copied onto metrics. Each new value is a new time series.")
    )
    estimate_tokens: bool = field(
        default=True,
        metadata=_option(_BOOLEAN, "Estimate, on the span only, the tokens that a provider did not report."),
    )
    cost: "bool | CostFunction" = field(
        default=True,
        metadata=_option(
            _COST,
            "Record what a call cost. A function's result, in USD, replaces the computed price; `None` records none.",
        ),
    )
    max_content_length: int | None = field(
        default=None,
        metadata=_option(_LENGTH, "Characters kept of one part of captured content. `null` keeps all of them."),
    )
    request_hook: "RequestHook | None" = field(
        default=None,
        metadata=_option(_function("span, messages and parameters"), "Called with the model span before the model is."),
    )
    response_hook: "ResponseHook | None" = field(
        default=None,
        metadata=_option(
            _function("span and result"), "Called with the model span and LangChain's `LLMResult` before the span ends."
        ),
    )
    redact: Redact | None = field(
        default=None,
        metadata=_option(
            _function("text, returning text"),
            "Rewrites every captured text before it is recorded. If it raises, the text is dropped.",
        ),
    )


_KINDS: Final[dict[str, _Kind[object]]] = {option.name: option.metadata["kind"] for option in fields(Configuration)}
_SETTABLE: Final = {name: name for name, kind in _KINDS.items() if not kind.keyword_only}
_VARIABLES: Final = {_PREFIX + name.upper(): name for name in _SETTABLE}


def check_keywords(options: Mapping[str, object], others: Iterable[str] = ()) -> Keywords:
    """Check the options given to ``instrument()``.

    An unknown one or a wrong type is a TypeError, a bad value of the right type a ValueError. ``others`` are the
    keywords that ``instrument()`` takes beside options, for the error to suggest.
    """
    checked: dict[str, object] = {}
    for name, value in options.items():
        kind = _KINDS.get(name)
        if kind is None:
            raise TypeError(f"instrument() has no option {name!r}; {_instead(name, (*_KINDS, *others))}")
        try:
            checked[name] = kind.check(value)
        except (TypeError, ValueError) as error:
            wrong = TypeError if isinstance(error, TypeError) else ValueError
            raise wrong(f"instrument({name}={_shown(value)}): {_expected(kind, error)}") from error
    return Keywords(checked)


def resolve(keywords: Keywords) -> Configuration:
    """Put the sources over each other. Reads ModelForge's settings: for when ModelForge has been imported.

    What is malformed outside the code counts as not set, as OpenTelemetry's specification of environment variables has
    it, and is logged in one WARNING each.
    """
    values = {**_from_settings(), **_from_environment(), **keywords}
    return Configuration(**cast("dict[str, Any]", values))


def _from_environment() -> dict[str, object]:
    # "The SDK MUST interpret an empty value of an environment variable the same way as when the variable is unset."
    texts = {
        name: text for name in os.environ if name.startswith(_PREFIX) and (text := os.environ.get(name, "").strip())
    }
    return _accepted("environment", texts, _VARIABLES, parse=True)


def _from_settings() -> dict[str, object]:
    """Read the section in the one ``config.json`` that ModelForge reads, local over global."""
    source = "ModelForge's configuration"
    try:
        from modelforge import config

        path = config.get_config_path()
        source = str(path)
        content: object = config.get_config_from_path(path)[0]
    except Exception as error:  # noqa: BLE001 - whatever is wrong with that file is not the application's problem.
        # What the parser said tells the line and column; ModelForge's own error does not. Neither quotes the file.
        _logger.warning("%s is ignored: %s; expected %s", source, error.__cause__ or error, _SECTION)
        return {}
    settings = _member(content, "settings")
    section = _member(settings, "opentelemetry")
    if not isinstance(section, dict):
        # Outside the section a value is ModelForge's, and may be a credential.
        found = _shown(section) if isinstance(settings, dict) else f"a {type(section).__name__}"
        _logger.warning("%s, settings.opentelemetry is ignored: found %s, expected %s", source, found, _SECTION)
        return {}
    return _accepted(f"{source}, settings.opentelemetry", cast("dict[str, object]", section), _SETTABLE)


def _member(value: object, key: str) -> object:
    return cast("dict[str, object]", value).get(key, {}) if isinstance(value, dict) else value


def _accepted(
    source: str, entries: Mapping[str, object], names: Mapping[str, str], *, parse: bool = False
) -> dict[str, object]:
    """Keep the entries that are accepted, by option. ``names`` has the option's name by the source's key."""
    values: dict[str, object] = {}
    for key, value in entries.items():
        if name := names.get(key):
            kind = _KINDS[name]
            try:
                values[name] = kind.check(kind.parse(str(value)) if parse else value)
            except (TypeError, ValueError) as error:
                problem = _expected(kind, error)
            else:
                continue
        else:
            problem = f"there is no such option here; {_instead(key, names)}"
            key = _shown(key)  # noqa: PLW2901 - may be anything.
        _logger.warning("%s: %s=%s is ignored: %s", source, key, _shown(value), problem)
    return values


def _initialize_declared(self: object, /, **options: object) -> None:
    # A null in that file is an option not set.
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
        "__doc__": """The options in OpenTelemetry's declarative configuration; None is not set.

        For the ``configuration`` attribute of the instrumentor's class: ``opentelemetry-configuration`` builds one from
        the node ``instrumentation/development: python: modelforge:`` and gives what is not None to ``instrument()``.
        What is malformed is logged and not set, so that the rest of the node still counts.
        """,
        "__init__": _initialize_declared,
    },
)


def _expected(kind: _Kind[object], error: Exception) -> str:
    return f"expected {kind.accepts}" + (f", but {error}" if str(error) else "")


def _instead(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    if (option := name.removeprefix(_PREFIX).lower()) in _KINDS and option not in _SETTABLE:
        return f"{option} can only be a keyword of instrument()"
    spelled = {word.lower(): word for word in known}
    if close := get_close_matches(name.lower(), spelled, n=1):
        return f"did you mean {spelled[close[0]]}?"
    return f"there are {', '.join(spelled.values())}"


_repr = reprlib.Repr()
_repr.maxlevel = 2
_repr.maxstring = _repr.maxother = 80


def _shown(value: object) -> str:
    """Write a value for a message: one line, of a sane length, whatever it is."""
    try:
        text = _repr.repr(value)
    except Exception:  # noqa: BLE001 - an int of more than 4,300 digits has no text.
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 200 else f"{text[:197]}..."
