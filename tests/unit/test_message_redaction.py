# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Redaction of the messages of exceptions and warnings, in which every possible credential is replaced."""

from __future__ import annotations

import base64
import random
import string
from time import process_time
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from opentelemetry_instrumentation_modelforge.message_redaction import without_random_words, without_secrets
from support import SUPPORT

SPELLINGS = [
    spelling.replace("␍", "\r").replace("␊", "\n").replace("␉", "\t")
    for spelling in (SUPPORT / "credential_spellings.txt").read_text("utf-8").splitlines()
]
"""Texts in which ¤ stands for a credential."""

HARMLESS = [
    # Messages of models and their clients.
    "The token limit is 4096, and the key is missing",
    "This model's maximum context length is 4097 tokens. However, you requested 5360 tokens (1360 in the messages).",
    "Rate limit reached for gpt-4o in organization org-example on tokens per min (TPM): Limit 30000, Used 29876. "
    "Please try again in 776ms.",
    "openai.RateLimitError: Error code: 429",
    "You didn't provide an API key. You need to provide your API key in an Authorization header.",
    "Missing credentials. Please pass an `api_key`, `workload_identity` or set the `OPENAI_API_KEY` variable.",
    "google.api_core.exceptions.ResourceExhausted: 429 RESOURCE_EXHAUSTED",
    "finish_reason=length, max_tokens=5, 'prompt_tokens': 8, token usage: 12",
    "TypeError: got an unexpected keyword argument 'max_completion_tokens'",
    "Unexpected token '<' in JSON at position 0",
    "JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
    "temperature\n  Input should be less than or equal to 2 [type=less_than_equal, input_value=3, input_type=int]",
    "ConnectionRefusedError: [Errno 111] Connection refused",
    "HTTPSConnectionPool(host='api.openai.com', port=443): Read timed out. (read timeout=600.0)",
    "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1006)",
    "token_type: bearer, expires_in: 3599",
    "The access token expired at 2024-08-06T12:34:56Z, the key must be base64-encoded and signed with RS256",
    "The password must have at least 12 characters, 1 digit and 1 capital letter.",
    "authorization is required to use this model, basic auth is not supported here",
    "session 3 of 5 failed; pass 2 of 3 passed",
    # Models.
    "claude-3-5-sonnet-20241022 and gpt-4o-2024-08-06",
    "meta-llama/Llama-3.3-70B-Instruct-Turbo is overloaded",
    "anthropic.claude-3-7-sonnet-20250219-v1:0 in us-east-1",
    "mistralai/Mixtral-8x22B-Instruct-v0.1, deepseek-r1-0528-qwen3-8b, Qwen/Qwen3-235B-A22B-Instruct-2507-FP8",
    "models/gemini-2.5-flash-preview-05-20 is not found for API version v1beta",
    "text-embedding-3-large, gpt-4o-mini-realtime-preview-2024-12-17",
    "MiniMaxAI/MiniMax-M1-80k, Sao10K/L3-8B-Stheno-v3.2, XiaomiMiMo/MiMo-V2.5, qwen/qwen3.5-35b-a3b",
    # Files, URLs, dates, classes, versions.
    "/usr/lib/python3.11/site-packages/langchain_openai/chat_models/base.py",
    r"C:\Users\me\AppData\Local\Programs\Python\Python311\Lib\ssl.py",
    "https://platform.openai.com/docs/guides/error-codes/api-errors",
    "https://api.example.com:8443/v1/chat/completions?model=gpt-4o&stream=true",
    "https://host:8080/@vite/client and https://host/npm/@scope/package",
    "mail me@example.com or see http://example.com/a@b",
    "2024-08-06T12:34:56.789Z: request failed at 2024-08-06 12:34:56+00:00",
    "langchain_core.exceptions.OutputParserException, ChatGoogleGenerativeAIError, AutoModelForCausalLM",
    "<openai.resources.chat.completions.Completions object at 0x7f3a9c2d1e40>",
    "pod ollama-7d9f8b6c5d-x2k4p of the deployment in eu-west-1a-2b3c",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_PYTHON_MODELFORGE_METRIC_BAGGAGE_KEYS",
    "python 3.11.9 (main, Apr  2 2024, 08:25:04) [GCC 13.2.0] on linux, docker.io/library/python:3.11-slim",
    "opentelemetry-instrumentation-modelforge 0.3.0, langchain-core 0.3.29",
    'Traceback (most recent call last):\n  File "/app/main.py", line 12, in <module>\n'
    '    llm = get_llm("openai", "gpt-4o-mini")\nKeyError: \'choices\'',
    # Other languages.
    "Le jeton n'est pas valide : la clé est absente. Veuillez réessayer dans 20 secondes.",
    "le mot de passe est incorrect",
    "Das Passwort ist falsch, und der Schlüssel fehlt. Bitte versuchen Sie es später erneut.",
    "Schlüssel 'choices' nicht gefunden; Sitzung abgelaufen",
    "",
]


def _credentials() -> dict[str, str]:
    chance = random.Random(7)

    def chosen(characters: str, length: int) -> str:
        return "".join(chance.choice(characters) for _ in range(length))

    alphanumeric = string.ascii_letters + string.digits
    return {
        "OpenAI": f"sk-{chosen(alphanumeric, 48)}",
        "OpenAI project": f"sk-proj-{chosen(alphanumeric + '_-', 40)}T3BlbkFJ{chosen(alphanumeric + '_-', 40)}",
        "hexadecimal": chosen("0123456789abcdef", 32),
        "base64": chosen(alphanumeric + "+/", 40),
        "padded base64": base64.b64encode(chance.randbytes(32)).decode(),
        "AWS's example": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "UUID": str(UUID(int=chance.getrandbits(128))),
        "24 letters and digits": chosen(alphanumeric, 24),
        "16 letters and digits": chosen(alphanumeric, 16),
        "password": "hunter2",
        "long password": "Tr0ub4dor-3x",
    }


KEYS = _credentials()


def told(credential: str, text: str) -> bool:
    """Return whether ``text`` contains the credential, or seven consecutive characters of a long one."""
    if len(credential) < 16:
        return credential in text
    return any(credential[start : start + 7] in text for start in range(len(credential) - 6))


@pytest.mark.parametrize("kind", KEYS)
def test_a_credential_is_replaced_in_every_spelling(kind: str) -> None:
    texts = [spelling.replace("¤", KEYS[kind]) for spelling in SPELLINGS]
    around = [*texts, *(f"before {text} after" for text in texts)]
    assert [text for text in around if told(KEYS[kind], without_secrets(text))] == []


@pytest.mark.parametrize("kind", [kind for kind in KEYS if "password" not in kind])
@pytest.mark.parametrize(
    "spelling", ["{}", "got {}", "({})", "'{}' is no key", "KeyError: '{}'", "/v1/{}/x", r"\n{}\n", "{}: invalid"]
)
def test_a_long_random_word_is_replaced_in_every_position(kind: str, spelling: str) -> None:
    assert not told(KEYS[kind], without_secrets(spelling.format(KEYS[kind])))


@pytest.mark.parametrize("text", HARMLESS)
def test_a_message_without_credentials_is_kept(text: str) -> None:
    assert without_secrets(text) == text


@given(st.lists(st.sampled_from(HARMLESS), min_size=1), st.sampled_from(["\n", ". ", "; "]))
@example(["got an unexpected keyword argument 'max_tokens'", "meta-llama/Llama-3.3-70B is overloaded"], "\n")
def test_joined_harmless_messages_are_kept(texts: list[str], separator: str) -> None:
    assert without_secrets(separator.join(texts)) == separator.join(texts)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("bad key gpt8xyz1, sorry", "bad key [REDACTED], sorry"),
        ("Authorization: Digest username=\"u\",\n  response=\"x\"\nHost: h", "Authorization: [REDACTED]\nHost: h"),
        ("//u:hunter2@host/v1", "//[REDACTED]@host/v1"),
        ("curl -u me:hunter2 https://host", "curl -u me:[REDACTED] https://host"),
        ("provided: abcd****wxyz", "provided: abcd****wxyz"),
        ("provided: abcd************wxyz.", "provided: [REDACTED]."),
        ("/cache/9f1c2a345b6d4e7f8a9b0c1d2e3f4a5b/x.py", "/cache/[REDACTED]/x.py"),
        ("password is 'correct-horse'", "password is '[REDACTED]'"),
    ],
)  # fmt: skip
def test_the_text_around_a_credential_is_kept(text: str, left: str) -> None:
    assert without_secrets(text) == left


@pytest.mark.parametrize("text", ["Authorization: Bearer abc", "key is hunter2", "api_key: ['a1b2c3d4']", *SPELLINGS])
def test_a_redacted_message_is_not_changed_again(text: str) -> None:
    redacted = without_secrets(text.replace("¤", KEYS["base64"]))
    assert without_secrets(redacted) == redacted


def test_known_secrets_and_the_limit_are_applied_as_for_any_text() -> None:
    assert without_secrets("my pass phrase, my pass phrase", ["my pass phrase"]) == "[REDACTED], [REDACTED]"
    assert without_secrets("x " * 100_000, limit=9) == "x x x x x"
    assert without_secrets(f"{'x ' * 5}{KEYS['hexadecimal']}", limit=20) == "x x x x x [REDACTED]"


@given(st.text(), st.sampled_from(SPELLINGS))
def test_any_message_can_be_redacted(text: str, spelling: str) -> None:
    assert isinstance(without_secrets(text + spelling + text), str)


def test_only_random_words_can_be_replaced() -> None:
    assert without_random_words(f'connect("{KEYS["UUID"]}", key="hunter2")') == 'connect("[REDACTED]", key="hunter2")'


ADVERSARIAL = [
    "key ", "key-", "key-1-", "key=a-1-", "key: a", "key '", "key %25", "key &amp;", "token is ", "a:", "a:b@", "//",
    "//a", "1", "f", "1-", "a/", "a.", "Ab1", "*", "authorization: ", "authorization: a=\"", "authorization:\\n ",
    "-u ", "-u a", "login a ", "login ", "export A", "auth ('a', ", "auth (", "key\n a", "input_value=", "password ",
    "password=\"", "key [a\", \"", "<key a=\"b\"", "-p ", "2525", "%25", "api_", "00000000-", "a1+/", "密", "\\",
]  # fmt: skip


@pytest.mark.parametrize("repeated", ADVERSARIAL)
def test_the_time_is_linear_in_the_length(repeated: str) -> None:
    def seconds(length: int) -> float:
        text = "input_value=@" + (repeated * (length // len(repeated) + 1))[:length]
        times: list[float] = []
        for _ in range(2):
            before = process_time()
            without_secrets(text)
            times.append(process_time() - before)
        return min(times)

    # With quadratic time, ten times the length would take a hundred times as long.
    assert seconds(200_000) < 40 * max(seconds(20_000), 0.001)
