# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Where options can be set, which source takes precedence, and how malformed options are handled."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import logging
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelforge import config as modelforge_config

from opentelemetry_instrumentation_modelforge import config
from opentelemetry_instrumentation_modelforge.config import (
    Configuration,
    DeclaredOptions,
    check_keywords,
    resolve,
    sources,
)
from support import ROOT
from support.models import COPILOT_TOKEN, GOOGLE_KEY, OPENAI_KEY
from support.sampling import pairs

PREFIX = "OTEL_PYTHON_MODELFORGE_"

# Two values of each option that can be set outside the code, with the text of its environment variable.
EXAMPLES: dict[str, list[tuple[Any, str]]] = {
    "enabled": [(True, "true"), (False, "false")],
    "attributes": [({"team": "ml"}, "team=ml"), ({"team": "web", "tier": "2"}, "team=web,tier=2")],
    "metric_attributes": [({"team": "ml"}, "team=ml"), ({"region": "eu,west"}, "region=eu%2Cwest")],
    "span_names": [("default", "default"), ("semconv", "semconv")],
    "chunk_events": [("all", "all"), ("off", "off")],
    "chunk_metrics": [(True, "true"), (False, "false")],
    "stream_usage": [(True, "true"), (False, "false")],
    "baggage_keys": [(("user.id",), "user.id"), (("user.id", "tenant"), "user.id,tenant")],
    "metric_baggage_keys": [(("tenant",), "tenant"), (("tenant", "tier"), "tenant,tier")],
    "metadata_keys": [(("user_id",), "user_id"), (("user_id", "tags", "run_name"), "user_id,tags,run_name")],
    "metric_metadata_keys": [(("tenant_id",), "tenant_id"), (("tenant_id", "tier"), "tenant_id,tier")],
    "estimate_tokens": [(True, "true"), (False, "false")],
    "cost": [(True, "true"), (False, "false")],
    "error_messages": [("safe", "safe"), ("full", "full")],
    "max_content_length": [(10, "10"), (0, "0")],
}
BOOLEANS = {"enabled", "chunk_metrics", "stream_usage", "estimate_tokens", "cost"}
FUNCTIONS = {"request_hook", "response_hook", "redact"}
SOURCES = ("keyword", "environment", "settings")


class Files:
    """ModelForge's two configuration files."""

    def __init__(self, directory: Path) -> None:
        self.local = directory / "local.json"
        self.global_ = directory / "global.json"

    def write(self, options: object) -> None:
        self.global_.write_text(json.dumps({"providers": {}, "settings": {"opentelemetry": options}}))

    @contextlib.contextmanager
    def read_by_modelforge(self) -> Iterator[None]:
        with (
            mock.patch.object(modelforge_config, "LOCAL_CONFIG_FILE", self.local),
            mock.patch.object(modelforge_config, "GLOBAL_CONFIG_FILE", self.global_),
        ):
            yield


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    files = Files(tmp_path)
    with files.read_by_modelforge():
        yield files


@contextlib.contextmanager
def logged() -> Iterator[list[str]]:
    """Collect the module's log messages, which must all be warnings."""
    messages: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert record.levelno == logging.WARNING
            messages.append(record.getMessage())

    logger, handler = logging.getLogger(config.__name__), Handler()
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def resolved(**keywords: object) -> Configuration:
    return resolve(check_keywords(keywords))


def warning(expected: Configuration | None = None, **keywords: object) -> str:
    """Return the only warning of `resolve`, which falls back to the defaults or to an expected configuration."""
    with logged() as messages:
        assert resolved(**keywords) == (expected or Configuration(**keywords))  # type: ignore[arg-type]
    assert len(messages) == 1, messages
    return messages[0]


# --- Precedence ---


def test_the_examples_name_every_option() -> None:
    assert {option.name for option in fields(Configuration)} == set(EXAMPLES) | FUNCTIONS


@pytest.mark.sampled(by=lambda name, winner, sources: (*pairs(name, winner, sources[:1]), (winner, sources)))
@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("winner", [0, 1], ids=["first value wins", "second value wins"])
@pytest.mark.parametrize(
    "sources",
    [subset for size in range(4) for subset in itertools.combinations(SOURCES, size)],
    ids=lambda subset: "+".join(subset) or "default",
)
def test_keyword_over_environment_over_settings_over_default(
    name: str, winner: int, sources: tuple[str, ...], files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    (wins, winning_text), (loses, losing_text) = EXAMPLES[name][winner], EXAMPLES[name][1 - winner]
    keywords = {}
    if "settings" in sources:
        files.write({name: wins if sources[0] == "settings" else loses})
    if "environment" in sources:
        monkeypatch.setenv(PREFIX + name.upper(), winning_text if sources[0] == "environment" else losing_text)
    if "keyword" in sources:
        keywords[name] = wins

    with logged() as messages:
        configuration = resolved(**keywords)

    assert getattr(configuration, name) == (wins if sources else getattr(Configuration(), name))
    assert messages == []


def test_each_source_is_named_with_the_options_it_sets(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write({"cost": False})
    monkeypatch.setenv(PREFIX + "CHUNK_EVENTS", "all")
    assert sources(check_keywords({"span_names": "semconv"})) == [
        (str(files.global_), {"cost": False}),
        ("environment", {"chunk_events": "all"}),
        ("instrument()", {"span_names": "semconv"}),
    ]


def test_sources_are_merged_option_by_option(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write({"cost": False, "attributes": {"a": 1}})
    monkeypatch.setenv(PREFIX + "ATTRIBUTES", "b=2")
    # An option is replaced as a whole, so attributes from two sources are not merged.
    assert resolved(chunk_events="off") == Configuration(cost=False, attributes={"b": "2"}, chunk_events="off")


def test_local_settings_replace_global_ones_as_in_modelforge(files: Files) -> None:
    files.write({"cost": False})
    files.local.write_text('{"settings": {"opentelemetry": {"chunk_events": "all"}}}')
    assert resolved() == Configuration(chunk_events="all")


def test_the_telemetry_section_is_read_like_the_settings(files: Files) -> None:
    files.global_.write_text(
        '{"telemetry": {"enabled": true, "opentelemetry": {"cost": false, "chunk_events": "all"}}}'
    )
    with logged() as messages:
        assert resolved() == Configuration(cost=False, chunk_events="all")
    assert messages == []


def test_the_settings_take_precedence_over_the_telemetry_section(files: Files) -> None:
    sections = {
        "settings": {"opentelemetry": {"chunk_events": "off"}},
        "telemetry": {"opentelemetry": {"chunk_events": "all", "cost": False}},
    }
    for order in (sections, dict(reversed(sections.items()))):
        files.global_.write_text(json.dumps(order))
        assert resolved() == Configuration(cost=False, chunk_events="off")


@pytest.mark.parametrize("telemetry", [True, "on", None, [], {"enabled": False}])
def test_a_telemetry_section_for_modelforge_itself_is_not_an_error(telemetry: object, files: Files) -> None:
    files.global_.write_text(json.dumps({"telemetry": telemetry}))
    with logged() as messages:
        assert resolved() == Configuration()
    assert messages == []


@pytest.mark.parametrize("content", ["{}", '{"settings": {}}', '{"settings": {"opentelemetry": {}}}', None])
def test_settings_may_be_absent(content: str | None, files: Files) -> None:
    if content is not None:
        files.global_.write_text(content)
    with logged() as messages:
        assert resolved() == Configuration()
    assert messages == []


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions_can_only_be_keywords(name: str, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    assert getattr(resolved(**{name: print}), name) is print
    assert getattr(resolved(**{name: None}), name) is None
    with pytest.raises(TypeError, match=f"{name}='print'.*expected function of"):
        check_keywords({name: "print"})

    with monkeypatch.context() as environment:
        environment.setenv(PREFIX + name.upper(), "print")
        assert "only be a keyword" in warning()
    files.write({name: "print"})
    assert "only be a keyword" in warning()


# --- Values ---


@pytest.mark.parametrize("value", ["ml", "", True, 7, -(2**63), 0.5, ["a", "b"], (1, 2), [True], [0.5], []])
def test_attributes_are_scalars_and_lists_of_one_kind(value: object) -> None:
    expected = tuple(value) if isinstance(value, list) else value
    assert resolved(attributes={"key": value}).attributes == {"key": expected}


@pytest.mark.parametrize("value", [None, {}, b"x", object(), [None], [[1]], [1, True], [1, 0.5], ["a", 1]])
def test_other_attributes_are_type_errors(value: object) -> None:
    with pytest.raises(TypeError, match=r"attributes=.*expected map from string"):
        check_keywords({"attributes": {"key": value}})


@pytest.mark.parametrize(
    "attributes",
    [{"": 1}, {"key": 2**63}, {"key": [2**63]}, {"key": 10**5000}, {"key": "\ud800"}, {"\ud800": 1}],
    ids=["empty name", "65 bits", "65 bits in a list", "too long to print", "no Unicode", "no Unicode in a name"],
)
def test_attributes_that_cannot_be_exported_are_value_errors(attributes: object) -> None:
    with pytest.raises(ValueError, match="attributes="):
        check_keywords({"attributes": attributes})


@pytest.mark.parametrize("text", ["true", "TRUE", " True "])
def test_environment_booleans_in_any_case(text: str, monkeypatch: pytest.MonkeyPatch, files: Files) -> None:
    files.write({"cost": False})
    monkeypatch.setenv(PREFIX + "COST", text)
    assert resolved().cost is True


@pytest.mark.parametrize("name", sorted(BOOLEANS))
@pytest.mark.parametrize("text", ["0", "no", "off", "1", "yes", "on", "disabled", "falsch"])
def test_any_other_environment_boolean_is_false(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch, files: Files
) -> None:
    files.write({name: True})
    variable = PREFIX + name.upper()
    monkeypatch.setenv(variable, text)
    message = warning(Configuration(**{name: False}))
    assert message.startswith(f"environment: {variable}={text!r} counts as false: expected `true`")


@pytest.mark.parametrize("parent", ["settings", "telemetry"])
@pytest.mark.parametrize("name", sorted(BOOLEANS))
@pytest.mark.parametrize("value", ["true", "on", 1, 0, [], {}], ids=repr)
def test_any_other_boolean_in_the_settings_is_false(name: str, value: object, parent: str, files: Files) -> None:
    files.global_.write_text(json.dumps({parent: {"opentelemetry": {name: value}}}))
    message = warning(Configuration(**{name: False}))
    assert message.startswith(
        f"{files.global_}, {parent}.opentelemetry: {name}={value!r} counts as false: expected `true`"
    )


@pytest.mark.parametrize("name", sorted(BOOLEANS))
def test_a_null_in_the_settings_is_ignored(name: str, files: Files) -> None:
    files.write({name: None})
    assert f"settings.opentelemetry: {name}=None is ignored: expected `true`" in warning()


def test_environment_choices_in_any_case(monkeypatch: pytest.MonkeyPatch, files: Files) -> None:
    monkeypatch.setenv(PREFIX + "SPAN_NAMES", "SemConv")
    assert resolved().span_names == "semconv"


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_variable_counts_as_unset(text: str, monkeypatch: pytest.MonkeyPatch, files: Files) -> None:
    files.write({"cost": False})
    for name in ("COST", "CHUNK_EVENTS", "ATTRIBUTES", "NO_SUCH_OPTION"):
        monkeypatch.setenv(PREFIX + name, text)
    with logged() as messages:
        assert resolved() == Configuration(cost=False)
    assert messages == []


def test_environment_attributes_as_in_otel_resource_attributes(monkeypatch: pytest.MonkeyPatch, files: Files) -> None:
    monkeypatch.setenv(PREFIX + "ATTRIBUTES", " team = ml , note=a%3Db%2C%20caf%C3%A9=, empty=,")
    assert resolved().attributes == {"team": "ml", "note": "a=b, café=", "empty": ""}


def test_environment_lists_are_stripped_and_deduplicated(monkeypatch: pytest.MonkeyPatch, files: Files) -> None:
    monkeypatch.setenv(PREFIX + "BAGGAGE_KEYS", " user.id, ,tenant,user.id")
    assert resolved().baggage_keys == ("user.id", "tenant")


def test_a_keyword_none_lifts_the_limit_that_the_environment_sets(
    monkeypatch: pytest.MonkeyPatch, files: Files
) -> None:
    monkeypatch.setenv(PREFIX + "MAX_CONTENT_LENGTH", "10")
    assert resolved(max_content_length=None).max_content_length is None


def test_a_null_in_the_settings_means_no_limit(files: Files) -> None:
    files.write({"max_content_length": None})
    with logged() as messages:
        assert resolved().max_content_length is None
    assert messages == []


def test_the_application_cannot_change_a_configuration_later(files: Files) -> None:
    attributes, keys = {"key": ["a"]}, ["user.id"]
    configuration = resolved(attributes=attributes, baggage_keys=keys)
    attributes["key"].append("b")
    attributes["other"] = []
    keys.append("tenant")
    assert (configuration.attributes, configuration.baggage_keys) == ({"key": ("a",)}, ("user.id",))
    assert Configuration().attributes is not Configuration().attributes


def test_a_configuration_is_copied_and_pickled_with_its_model(files: Files) -> None:
    configuration = resolved(attributes={"key": "value"}, redact=str)
    assert pickle.loads(pickle.dumps(configuration)) == copy.deepcopy(configuration) == configuration


# --- Malformed keywords ---


@pytest.mark.parametrize(
    ("keyword", "error", "message"),
    [
        ({"enabled": "true"}, TypeError, r"instrument\(enabled='true'\): expected `true` or `false`"),
        ({"enabled": 1}, TypeError, r"instrument\(enabled=1\)"),
        ({"enabled": None}, TypeError, r"instrument\(enabled=None\)"),
        ({"attributes": [("a", 1)]}, TypeError, "expected map from string"),
        ({"attributes": {1: "a"}}, TypeError, "1 is not a string"),
        ({"metric_attributes": {"a": None}}, TypeError, "None is none of these"),
        ({"span_names": True}, TypeError, "expected `default` or `semconv`"),
        ({"span_names": "otel"}, ValueError, r"span_names='otel'\): expected `default` or `semconv`"),
        ({"chunk_events": "First"}, ValueError, "expected `first`, `all` or `off`"),
        ({"baggage_keys": "user.id"}, TypeError, r"baggage_keys='user.id'\): expected list of strings"),
        ({"baggage_keys": ["user.id", 1]}, TypeError, "1 is not a string"),
        ({"metric_baggage_keys": [""]}, ValueError, "a name is empty"),
        ({"metadata_keys": "user_id"}, TypeError, r"metadata_keys='user_id'\): expected list of strings"),
        ({"metric_metadata_keys": ["user_id", None]}, TypeError, "None is not a string"),
        ({"chunk_metrics": "false"}, TypeError, r"instrument\(chunk_metrics='false'\): expected `true` or `false`"),
        ({"stream_usage": None}, TypeError, r"instrument\(stream_usage=None\): expected `true` or `false`"),
        ({"error_messages": True}, TypeError, "expected `safe` or `full`"),
        ({"error_messages": "none"}, ValueError, r"error_messages='none'\): expected `safe` or `full`"),
        ({"cost": 1.5}, TypeError, "function of provider, model and `Usage`"),
        ({"max_content_length": True}, TypeError, "expected whole number, 0 or more"),
        ({"max_content_length": 1.0}, TypeError, "expected whole number, 0 or more"),
        ({"max_content_length": -1}, ValueError, "expected whole number, 0 or more"),
    ],
)
def test_a_malformed_keyword_raises(keyword: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_keywords(keyword)


def test_an_unknown_keyword_is_a_type_error_that_suggests_one() -> None:
    with pytest.raises(TypeError, match=r"no option 'span_name'; did you mean span_names\?"):
        check_keywords({"span_name": "semconv"})
    with pytest.raises(TypeError, match=r"did you mean tracer_provider\?"):
        check_keywords({"trace_provider": None}, others=["tracer_provider"])
    with pytest.raises(TypeError, match=r"there are enabled, attributes, .*, redact, tracer_provider"):
        check_keywords({"zzz": None}, others=["tracer_provider"])


def test_an_error_is_short_whatever_the_value() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError

    for value in (Hostile(), "x" * 10**6, [["x" * 1000] * 1000] * 1000):
        with pytest.raises(TypeError) as raised:
            check_keywords({"enabled": value})
        assert len(str(raised.value)) < 400


# --- Malformed environment and files ---


def test_a_warning_names_source_key_value_and_accepted_values(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as environment:
        environment.setenv(PREFIX + "CHUNK_EVENTS", "sometimes")
        assert warning() == (
            "environment: OTEL_PYTHON_MODELFORGE_CHUNK_EVENTS='sometimes' is ignored: expected `first`, `all` or `off`"
        )
    files.write({"chunk_events": "sometimes"})
    assert warning() == (
        f"{files.global_}, settings.opentelemetry: chunk_events='sometimes' is ignored: "
        "expected `first`, `all` or `off`"
    )


def test_a_malformed_value_counts_as_unset(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write({"chunk_events": "all"})
    monkeypatch.setenv(PREFIX + "CHUNK_EVENTS", "sometimes")
    with logged() as messages:
        assert resolved() == Configuration(chunk_events="all")
    assert len(messages) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("team=ml,tier", "'tier' is not key=value"),
        ("team=ml,=2", "a name is empty"),
        ("team=ml,tier=%ff", "can't decode byte 0xff"),
        ("team=ml,%ff=2", "can't decode byte 0xff"),
    ],
)
def test_one_bad_entry_discards_the_whole_map(
    text: str, says: str, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PREFIX + "ATTRIBUTES", text)
    assert says in warning()


def test_a_malformed_value_is_reported_even_if_a_keyword_takes_precedence(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PREFIX + "COST", "maybe")
    assert "COST='maybe'" in warning(cost=True)


def test_an_unknown_name_is_reported_with_a_suggestion(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as environment:
        environment.setenv(PREFIX + "SPAN_NAME", "semconv")
        assert f"did you mean {PREFIX}SPAN_NAMES?" in warning()
    files.write({"Span-Names": "semconv"})
    assert "'Span-Names'='semconv' is ignored: there is no such option here; did you mean span_names?" in warning()


HINT = "content is captured with OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


@pytest.mark.parametrize(
    "name", ["CAPTURE_CONTENT", "CAPTURE_MESSAGE_CONTENT", "CAPTURE_MESSAGES", "TRACE_CONTENT", "CONTENT"]
)
def test_a_hint_names_the_variable_that_captures_content(
    name: str, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as environment:
        environment.setenv(PREFIX + name, "true")
        assert warning() == (f"environment: '{PREFIX}{name}'='true' is ignored: there is no such option here; {HINT}")
    files.write({name.lower(): True})
    assert HINT in warning()
    with pytest.raises(TypeError, match=f"no option '{name.lower()}'; {HINT}"):
        check_keywords({name.lower(): True})


CREDENTIALS = [OPENAI_KEY, GOOGLE_KEY, COPILOT_TOKEN, f"Bearer {OPENAI_KEY}", f"https://user:{OPENAI_KEY}@host"]


@pytest.mark.parametrize("credential", CREDENTIALS, ids=range(len(CREDENTIALS)))
@pytest.mark.parametrize("name", ["chunk_events", "enabled", "max_content_length", "api_key"])
def test_a_warning_does_not_repeat_a_credential(
    name: str, credential: str, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Configuration(enabled=False) if name == "enabled" else None
    key = credential.split()[-1].removeprefix("https://user:").removesuffix("@host")
    with monkeypatch.context() as environment:
        environment.setenv(PREFIX + name.upper(), credential)
        message = warning(expected)
    files.write({name: credential})
    for text in (message, warning(expected)):
        assert key[4:] not in text
        assert name in text.lower()
    files.write({"attributes": {"key": [None, credential]}})
    assert key[4:] not in warning()


def test_an_error_does_not_repeat_a_credential() -> None:
    with pytest.raises(ValueError, match="chunk_events=") as raised:
        check_keywords({"chunk_events": OPENAI_KEY})
    assert OPENAI_KEY[4:] not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"settings": {"opentelemetry": "on"}}', "found 'on', expected"),
        (b'{"settings": {"opentelemetry": null}}', "found None, expected"),
        (b'{"settings": "sk-secret"}', "found a str, expected"),
        (b'["sk-secret"]', "found a list, expected"),
        (b'{"telemetry": {"opentelemetry": "on"}}', "telemetry.opentelemetry is ignored: found 'on', expected"),
        (b'{"telemetry": {"opentelemetry": null}}', "telemetry.opentelemetry is ignored: found None, expected"),
        (b'{\n  "sk-secret": ,\n}', "line 2 column 16"),
        (b'{"sk-secret": "\xff"}', "can't decode byte 0xff"),
        (b"[" * 100_000, "recursion"),
    ],
    ids=["string", "null", "settings", "list", "telemetry", "telemetry null", "no JSON", "no UTF-8", "too deep"],
)
def test_a_broken_file_is_reported_without_its_other_content(content: bytes, says: str, files: Files) -> None:
    files.global_.write_bytes(content)
    message = warning()
    assert str(files.global_) in message
    assert says in message
    assert "sk-secret" not in message


def test_an_unreadable_file_is_reported(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.global_.mkdir()
    assert str(files.global_) in warning()

    monkeypatch.setattr(modelforge_config, "get_config_path", mock.Mock(side_effect=PermissionError("no access")))
    assert "ModelForge's configuration is ignored: no access" in warning()


@dataclass
class Malformed:
    """A configuration with one fault, and the text that the warning about it must contain."""

    names: str
    environment: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    effect: Mapping[str, bool] = field(default_factory=dict)


JSON_SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(JSON_SCALAR, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)
# Bytes that are not UTF-8 arrive in os.environ as lone surrogates.
NO_UTF8 = st.just("\udcff")

NO_BOOLEAN = JSON.filter(lambda value: not isinstance(value, bool))
NO_MAP = JSON.filter(lambda value: not isinstance(value, dict))
NO_ATTRIBUTE = (
    st.none()
    | st.dictionaries(st.text(), JSON_SCALAR)
    | st.lists(JSON, min_size=1).map(lambda items: [*items, None])
    | st.tuples(st.text(), st.integers()).map(list)
    | st.integers(min_value=2**63)
)
NO_ATTRIBUTES = (
    NO_MAP | st.dictionaries(st.text(), NO_ATTRIBUTE, min_size=1) | st.dictionaries(st.just(""), st.text(), min_size=1)
)
NO_KEYS = JSON.filter(lambda value: not isinstance(value, list)) | st.lists(st.just("") | st.integers(), min_size=1)


def no_choice(*words: str) -> st.SearchStrategy[object]:
    return JSON.filter(lambda value: value not in words)


MALFORMED_JSON: dict[str, st.SearchStrategy[object]] = {
    "enabled": NO_BOOLEAN,
    "attributes": NO_ATTRIBUTES,
    "metric_attributes": NO_ATTRIBUTES,
    "span_names": no_choice("default", "semconv"),
    "chunk_events": no_choice("first", "all", "off"),
    "chunk_metrics": NO_BOOLEAN,
    "stream_usage": NO_BOOLEAN,
    "baggage_keys": NO_KEYS,
    "metric_baggage_keys": NO_KEYS,
    "metadata_keys": NO_KEYS,
    "metric_metadata_keys": NO_KEYS,
    "estimate_tokens": NO_BOOLEAN,
    "cost": NO_BOOLEAN,
    "error_messages": no_choice("safe", "full"),
    "max_content_length": JSON.filter(lambda value: value is not None and type(value) is not int)
    | st.integers(max_value=-1),
}


def no_word(*words: str) -> st.SearchStrategy[str]:
    return TEXT.filter(lambda text: text.strip().lower() not in words) | NO_UTF8


NO_PAIRS = (
    TEXT.filter(lambda text: "=" not in text and text.replace(",", " ").strip()).map(lambda text: f"team=ml,{text}")
    | TEXT.map(lambda text: f"=ml,{text}=")
    | st.just("team=%ff")
    | NO_UTF8.map(lambda text: f"team={text}")
)
MALFORMED_TEXT: dict[str, st.SearchStrategy[str]] = {
    "enabled": no_word("true", "false"),
    "attributes": NO_PAIRS,
    "metric_attributes": NO_PAIRS,
    "span_names": no_word("default", "semconv"),
    "chunk_events": no_word("first", "all", "off"),
    "chunk_metrics": no_word("true", "false"),
    "stream_usage": no_word("true", "false"),
    "baggage_keys": NO_UTF8,
    "metric_baggage_keys": NO_UTF8,
    "metadata_keys": NO_UTF8,
    "metric_metadata_keys": NO_UTF8,
    "estimate_tokens": no_word("true", "false"),
    "cost": no_word("true", "false"),
    "error_messages": no_word("safe", "full"),
    "max_content_length": TEXT.filter(lambda text: not re.fullmatch("[0-9]+", text.strip()))
    | st.integers(max_value=-1).map(str)
    | st.just("9" * 5000),
}


def in_settings(options: object) -> bytes:
    return json.dumps({"settings": {"opentelemetry": options}}).encode()


def is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def effect(name: str, value: object) -> dict[str, bool]:
    """Return the effect of a malformed value: a boolean fails safe, unless it is null."""
    return {name: False} if name in BOOLEANS and value is not None else {}


def malformed() -> st.SearchStrategy[Malformed]:
    names = st.sampled_from(sorted(EXAMPLES))
    in_file = names.flatmap(
        lambda name: MALFORMED_JSON[name].map(
            lambda value: Malformed(name, content=in_settings({name: value}), effect=effect(name, value))
        )
    )
    in_environment = names.flatmap(
        lambda name: MALFORMED_TEXT[name].map(
            lambda text: Malformed(name.upper(), {PREFIX + name.upper(): text}, effect=effect(name, text))
        )
    )
    unknown_key = st.tuples(st.text().filter(lambda key: key not in EXAMPLES), JSON).map(
        lambda entry: Malformed("no such option", content=in_settings(dict([entry])))
    )
    unknown_variable = st.tuples(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0=")).filter(
            lambda name: name.lower() not in EXAMPLES
        ),
        TEXT,
    ).map(lambda entry: Malformed(PREFIX, {PREFIX + entry[0]: entry[1]}))
    shape = st.one_of(
        NO_MAP,
        NO_MAP.map(lambda value: {"settings": value}),
        NO_MAP.map(lambda value: {"settings": {"opentelemetry": value}}),
    ).map(lambda value: Malformed("global.json", content=json.dumps(value).encode()))
    broken = st.binary().filter(lambda content: not is_json(content)).map(lambda b: Malformed("global.json", content=b))
    return st.one_of(in_file, in_environment, unknown_key, unknown_variable, shape, broken)


@pytest.fixture(scope="module")
def shared_files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("generated"))


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(malformed=malformed())
def test_a_malformed_configuration_causes_one_warning_and_fails_safe(malformed: Malformed, shared_files: Files) -> None:
    shared_files.global_.unlink(missing_ok=True)
    if malformed.content is not None:
        shared_files.global_.write_bytes(malformed.content)
    with shared_files.read_by_modelforge(), mock.patch.dict(os.environ, malformed.environment):
        message = warning(Configuration(**malformed.effect))
    assert malformed.names in message
    assert "expected" in message or "no such option" in message
    assert len(message) < 1000


# --- OpenTelemetry's declarative configuration ---

INSTRUMENTOR = """
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry_instrumentation_modelforge.config import DeclaredOptions, check_keywords

class Instrumentor(BaseInstrumentor):
    configuration = DeclaredOptions

    def instrumentation_dependencies(self):
        return ()

    def _instrument(self, **options):
        print("instrumented", check_keywords(options))

    def _uninstrument(self, **options):
        pass
"""

Declared = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def declared(tmp_path: Path) -> Declared:
    """Run Python under `opentelemetry-instrument` with the node in a configuration file, and return the result."""
    pytest.importorskip("opentelemetry.configuration")
    information = tmp_path / "opentelemetry_instrumentation_modelforge-9.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: opentelemetry-instrumentation-modelforge\nVersion: 9\n")
    (information / "entry_points.txt").write_text("[opentelemetry_instrumentor]\nmodelforge = stand_in:Instrumentor\n")
    (tmp_path / "stand_in.py").write_text(INSTRUMENTOR)
    file = tmp_path / "otel.yaml"

    def run(node: str, **environment: str) -> subprocess.CompletedProcess[str]:
        file.write_text(f'file_format: "1.0"\ninstrumentation/development: {{python: {{modelforge: {node}}}}}\n')
        return subprocess.run(
            [
                sys.executable,
                "-c",
                "from opentelemetry.instrumentation.auto_instrumentation import initialize; initialize()",
            ],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")]),
                "OTEL_CONFIG_FILE": str(file),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=180,
            check=True,
        )

    return run


def test_declarative_configuration_reaches_instrument(declared: Declared) -> None:
    done = declared("{chunk_events: all, attributes: {team: ml, tier: 2}, baggage_keys: [user.id], cost: null}")
    assert done.stdout == (
        "instrumented {'attributes': {'team': 'ml', 'tier': 2}, 'chunk_events': 'all', 'baggage_keys': ('user.id',)}\n"
    )
    assert "is ignored" not in done.stderr


def test_each_malformed_option_of_a_declaration_causes_one_warning_and_the_rest_is_applied(declared: Declared) -> None:
    done = declared("{chunk_events: sometimes, span_name: semconv, redact: str, cost: false}")
    assert done.stdout == "instrumented {'cost': False}\n"
    source = "OpenTelemetry configuration, instrumentation/development.python.modelforge"
    assert [line for line in done.stderr.splitlines() if "is ignored" in line] == [
        f"{source}: chunk_events='sometimes' is ignored: expected `first`, `all` or `off`",
        f"{source}: 'span_name'='semconv' is ignored: there is no such option here; did you mean span_names?",
        f"{source}: 'redact'='str' is ignored: there is no such option here; "
        "redact can only be a keyword of instrument()",
    ]


def test_switched_off_in_declarative_configuration(declared: Declared) -> None:
    done = declared("{enabled: false}", OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="modelforge")
    assert done.stdout == ""


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(data=st.data(), name=st.sampled_from(sorted(EXAMPLES)))
def test_a_malformed_declaration_never_raises(data: st.DataObject, name: str) -> None:
    value = data.draw(MALFORMED_JSON[name].filter(lambda value: value is not None))
    with logged() as messages:
        options = DeclaredOptions(**{name: value})
    declared = {option.name: getattr(options, option.name) for option in fields(options)}
    assert declared == dict.fromkeys(EXAMPLES) | effect(name, value)
    assert len(messages) == 1


def test_a_declared_switch_fails_safe_and_a_null_counts_as_unset() -> None:
    source = "OpenTelemetry configuration, instrumentation/development.python.modelforge"
    with logged() as messages:
        options = DeclaredOptions(enabled="off", stream_usage=True, cost=None)
    assert (options.enabled, options.stream_usage, options.cost) == (False, True, None)
    assert messages == [f"{source}: enabled='off' counts as false: expected `true` or `false`"]


# --- The module and its documentation ---


def test_the_module_imports_no_library_that_it_instruments() -> None:
    names = "langchain_core", "modelforge", "pydantic", "opentelemetry.sdk"
    code = f"import sys, {config.__name__}; sys.exit(str({{*{names}}} & {{*sys.modules}} or ''))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
