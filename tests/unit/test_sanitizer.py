# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The cleaning of content: the length limit, credentials, the user's ``redact`` and the nesting limit."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from opentelemetry.util.genai.types import TextPart

from opentelemetry_instrumentation_modelforge import sanitizer
from support.captured import (
    INPUT,
    KEY,
    TOOLS,
    WEATHER,
    answer_parts,
    blob,
    call,
    captured,
    everywhere,
    input_message,
    input_parts,
    result,
    streamed,
    text,
    uri,
)


class TestLimit:
    def test_text_ends_with_a_mark_within_the_limit(self) -> None:
        texts = {limit: input_parts(HumanMessage("Hello"), max_content_length=limit) for limit in (6, 5, 4, 1, 0)}
        assert texts == {6: [text("Hello")], 5: [text("Hello")], 4: [text("Hel…")], 1: [text("…")], 0: [text("")]}

    def test_each_part_has_the_whole_limit(self) -> None:
        assert input_parts(HumanMessage(["abcdef", "abc"]), max_content_length=4) == [text("abc…"), text("abc")]

    def test_texts_of_arguments_share_the_limit(self) -> None:
        arguments = {"query": "abcdefgh", "page": 1, "more": ["x"]}
        message = AIMessage("", tool_calls=[{"name": "search", "args": arguments, "id": "call_1"}])
        assert answer_parts(message, max_content_length=100) == [call("search", arguments)]
        assert answer_parts(message, max_content_length=15) == [call("search", {"query": "abcdefgh", "p…": 1})]
        assert answer_parts(message, max_content_length=8) == [call("search", {"query": "ab…"})]
        assert answer_parts(message, max_content_length=0) == [call("", {})]

    def test_an_integer_that_is_written_as_text_is_cut_as_one(self) -> None:
        message = ToolMessage([{"n": 2**64}], tool_call_id="call_1")
        assert input_parts(message, max_content_length=5) == [result([{"n": "184…"}])]
        assert input_parts(message, max_content_length=21) == [result([{"n": "18446744073709551616"}])]

    def test_long_list_is_truncated(self) -> None:
        message = ToolMessage([{"numbers": list(range(1_000_000))}], tool_call_id="call_1")
        (part,) = input_parts(message, max_content_length=10)
        assert part == result([{"numbers": [0, 1, 2]}])

    def test_part_of_an_image_is_no_image(self) -> None:
        long = [
            {"type": "image_url", "image_url": f"data:image/png;base64,{'A' * 400}"},
            {"type": "media", "data": bytes(300), "mime_type": "image/png"},
        ]
        assert input_parts(HumanMessage(long), max_content_length=399) == [blob(""), blob("")]
        assert input_parts(HumanMessage(long), max_content_length=400) == [blob("A" * 400), blob("A" * 400)]

    def test_tool_definitions(self) -> None:
        tool = {"type": "function", "function": {"name": "weather", "description": "Get it", "parameters": WEATHER}}
        (definition,) = captured(params={"tools": [tool]}, max_content_length=5).event_attributes()[TOOLS]
        assert definition == {"type": "function", "name": "weat…", "description": "Get …", "parameters": {"type": "…"}}


class TestCredentials:
    @pytest.mark.parametrize("secret", [KEY, "sk-0123456789abcdef", "AIzaSy0123456789abcdefghij"])
    def test_never_leave(self, secret: str) -> None:
        content = everywhere(secret, secrets=[KEY])
        assert "[REDACTED]" in str(content.event_attributes())
        for name, value in content.span_attributes().items():
            assert secret not in value, name

    def test_of_a_url(self) -> None:
        urls = ["https://ann:pass@example.com/cat.png", "https://example.com/cat.png?size=1&key=abcdef"]
        assert input_parts(HumanMessage([{"type": "image_url", "image_url": url} for url in urls])) == [
            uri("https://[REDACTED]@example.com/cat.png"),
            uri("https://example.com/cat.png?size=1&key=[REDACTED]"),
        ]

    def test_of_a_field_that_says_so(self) -> None:
        arguments = {
            "api_key": "swordfish",
            "headers": {"x-api-key": "tuna", "Authorization": "Bearer cod"},
            "n": "cod",
        }
        message = AIMessage("", tool_calls=[{"name": "fetch", "args": arguments, "id": "call_1"}])
        assert answer_parts(message) == [
            call(
                "fetch",
                {
                    "api_key": "[REDACTED]",
                    "headers": {"x-api-key": "[REDACTED]", "Authorization": "[REDACTED]"},
                    "n": "cod",
                },
            )
        ]

    @pytest.mark.parametrize(
        "name",
        [
            "Authorization",
            "proxy-authorization",
            "Set-Cookie",
            "cookie",
            "key",
            "apiKey",
            "API-Key",
            "OPENAI_API_KEY",
            "private_key",
            "auth",
            "token",
            "accessToken",
            "X-Amz-Security-Token",
            "client_secret",
            "DB_PASSWORD",
            "db_pwd",
            "credentials",
            "secret_1",
        ],
    )
    @pytest.mark.parametrize("value", ["tuna", b"tuna", 31337, 3.5, ["tuna"], {"scheme": "x", "value": "tuna"}])
    def test_of_a_member_with_a_credential_s_name(self, name: str, value: object) -> None:
        assert structure({name: value, "page": "tuna"}) == {name: "[REDACTED]", "page": "tuna"}

    @pytest.mark.parametrize(
        "name",
        ["max_tokens", "tokens", "keys", "key_id", "monkey", "author", "cookie_policy", "tokenizer", "secretary"],
    )
    def test_names_that_only_resemble_them_keep_their_value(self, name: str) -> None:
        assert structure({name: "tuna"}) == {name: "tuna"}
        assert structure([name, "tuna"]) == [name, "tuna"]

    @pytest.mark.parametrize("value", [None, True, False])
    def test_that_are_absent_are_not_hidden(self, value: object) -> None:
        assert structure({"password": value}) == {"password": value}

    def test_of_header_pairs(self) -> None:
        headers = [("Authorization", "Bearer tuna"), ["X-Api-Key", "tuna"], ("Accept", "tuna"), ("a", "token", "b")]
        assert structure({"headers": headers}) == {
            "headers": [
                ["Authorization", "[REDACTED]"],
                ["X-Api-Key", "[REDACTED]"],
                ["Accept", "tuna"],
                ["a", "token", "b"],
            ]
        }

    def test_of_objects_with_a_name_and_a_value(self) -> None:
        variables = [
            {"name": "OPENAI_API_KEY", "value": "tuna"},
            {"key": "Cookie", "value": "tuna"},
            {"key": "theme", "value": "dark"},
            {"name": "token"},
        ]
        assert structure(variables) == [
            {"name": "OPENAI_API_KEY", "value": "[REDACTED]"},
            {"key": "Cookie", "value": "[REDACTED]"},
            {"key": "theme", "value": "dark"},
            {"name": "token"},
        ]

    def test_schema_of_a_parameter_keeps_its_description(self) -> None:
        parameters = {
            "type": "object",
            "properties": {
                "api_key": {"type": "string", "description": "Yours.", "default": "tuna", "enum": ["tuna"]},
                "value": {"type": "string"},
                "name": {"const": "token"},
            },
            "required": ["api_key", "value"],
        }
        tool = {"type": "function", "function": {"name": "fetch", "parameters": parameters}}
        (definition,) = captured(params={"tools": [tool]}).event_attributes()[TOOLS]
        assert definition["parameters"] == {
            "type": "object",
            "properties": {
                "api_key": {"type": "string", "description": "Yours."},
                "value": {"type": "string"},
                "name": {"const": "token"},
            },
            "required": ["api_key", "value"],
        }

    def test_in_two_chunks(self) -> None:
        chunks = [AIMessageChunk(content=[{"type": "text", "text": half}]) for half in (KEY[:9], KEY[9:])]
        content = captured(generations=[streamed(*chunks)], secrets=[KEY])
        assert content.output_messages[0].parts == [TextPart("[REDACTED]")]

    def test_at_the_limit(self) -> None:
        assert input_parts(HumanMessage(f"My key: {KEY}"), secrets=[KEY], max_content_length=14) == [
            text("My key: [REDA…")
        ]

    def test_in_identifiers(self) -> None:
        message = ToolMessage("Sunny", tool_call_id=f"call-{KEY}")
        assert input_parts(message, secrets=[KEY]) == [result("Sunny", "call-[REDACTED]")]


class TestRedact:
    def test_rewrites_every_text(self) -> None:
        content = everywhere("my diary", redact=lambda text: text.replace("diary", "***"))
        for name, value in content.span_attributes().items():
            assert "my ***" in value, name
            assert "diary" not in value, name

    def test_receives_text_without_credentials_and_before_it_is_truncated(self) -> None:
        seen: list[str] = []

        def redact(text: str) -> str:
            seen.append(text)
            return text.upper()

        parts = input_parts(HumanMessage(f"a secret {KEY}"), redact=redact, secrets=[KEY], max_content_length=5)
        assert parts == [text("A SE…")]
        assert seen == ["a secret [REDACTED]"]

    def test_keeps_the_identifiers_that_the_protocol_matches_by(self) -> None:
        call_ = AIMessage("", tool_calls=[{"name": "weather", "args": {}, "id": "call_1"}])
        answer = ToolMessage("Sunny", tool_call_id="call_1")
        content = captured(call_, answer, redact=lambda _: "x").event_attributes()
        assert content == {
            INPUT: [input_message("assistant", call("x", {})), input_message("tool", result("x"))],
        }

    @pytest.mark.parametrize("bad", [lambda text: 1 / 0, lambda text: None, lambda text: text.encode(), lambda: ""])
    def test_drops_the_text_if_it_fails(self, bad: Callable[[str], Any]) -> None:
        content = everywhere("my diary", redact=bad)
        assert content.input_messages[0].parts == [TextPart("")]
        for name, value in content.span_attributes().items():
            assert "diary" not in value, name

    @pytest.mark.parametrize(
        "make_error",
        [
            lambda text: ValueError(f"can't redact {text}"),
            lambda text: KeyError(text),
            lambda text: with_note(ValueError(), text),
            lambda text: ExceptionGroup(text, [ValueError(text)]),
            lambda text: UnicodeEncodeError("ascii", text, 0, 1, text),
        ],
        ids=["message", "key", "note", "group", "encoding"],
    )
    def test_failure_is_logged_without_the_text(
        self,
        make_error: Callable[[str], Exception],
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(sanitizer._REDACT, "_reported", False)

        def redact(text: str) -> str:
            raise make_error(text) from RuntimeError(text)

        kind = type(make_error("x")).__name__
        with caplog.at_level(logging.DEBUG):
            # With more than one text, the first failure is a warning, and later ones are logged at DEBUG.
            captured(
                HumanMessage(["my " + "diary", {"type": "image_url", "image_url": "https://my " + "diary"}]),
                redact=redact,
            )
        assert f"\n{kind}\n" in caplog.text
        assert "in redact" in caplog.text
        assert "my diary" not in caplog.text
        assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG"]

    @pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
    def test_does_not_prevent_the_application_from_ending(self, interrupt: type[BaseException]) -> None:
        def redact(text: str) -> str:
            raise interrupt

        with pytest.raises(interrupt):
            captured(HumanMessage("Hi"), redact=redact)


class TestStructure:
    def test_is_truncated_where_it_is_nested_too_deeply(self) -> None:
        assert structure(nested_lists(24)) == nested_lists(24)
        assert structure(nested_lists(25)) == structure(nested_lists(10_000)) == nested_lists(24, innermost=["…"])
        assert structure(nested_dicts(24)) == nested_dicts(24)
        assert structure(nested_dicts(25)) == structure(nested_dicts(10_000)) == nested_dicts(24, innermost="…")

    def test_keeps_the_siblings_of_a_truncated_branch(self) -> None:
        value = structure({"deep": nested_lists(10_000), "flat": "x"})
        assert value == {"deep": nested_lists(23, innermost=["…"]), "flat": "x"}

    def test_is_kept_whole_however_wide_it_is(self) -> None:
        assert structure({"numbers": list(range(100_000))}) == {"numbers": list(range(100_000))}

    def test_that_contains_itself_ends_there(self) -> None:
        circle: list[Any] = ["x"]
        circle.append(circle)
        circle.append({"circle": circle, "y": 1})
        assert structure(circle) == ["x", {"y": 1}]

    def test_that_occurs_twice_is_written_twice(self) -> None:
        shared = {"x": 1}
        assert structure([shared, shared, {"again": shared}]) == [{"x": 1}, {"x": 1}, {"again": {"x": 1}}]

    def test_names_are_those_of_json(self) -> None:
        value = {
            1: "a",
            1.5: "b",
            None: "c",
            Level.HIGH: "d",
            (1, 2): "e",
            b"x": "f",
            10**5000: "g",
            "": "h",
            False: "i",
        }
        assert structure(value) == {"1": "d", "1.5": "b", "null": "c", "false": "i"}

    def test_of_an_object_is_cleaned_like_any_other(self) -> None:
        request = Request("https://ann:pass@example.com", {"x-api-key": "tuna"}, nested_lists(10_000))
        assert structure(request) == {
            "url": "https://[REDACTED]@example.com",
            "headers": {"x-api-key": "[REDACTED]"},
            "body": nested_lists(23, innermost=["…"]),
        }


class Level(enum.IntEnum):
    HIGH = 1


@dataclass
class Request:
    url: str
    headers: dict[str, str]
    body: Any


def with_note(error: Exception, note: str) -> Exception:
    error.add_note(note)
    return error


def structure(value: object) -> Any:
    return sanitizer.Sanitizer(None, None, ()).structure(value)


def nested_lists(levels: int, innermost: Any = ()) -> list[Any]:
    value: list[Any] = list(innermost)
    for _ in range(levels - 1):
        value = [value]
    return value


def nested_dicts(levels: int, innermost: Any = "x") -> Any:
    value = innermost
    for _ in range(levels):
        value = {"k": value}
    return value
