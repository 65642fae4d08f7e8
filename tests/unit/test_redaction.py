"""What in a text counts as a credential, and what of it is left."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from opentelemetry_instrumentation_modelforge.redaction import secret_values, without_credentials
from support.models import COPILOT_TOKEN, GOOGLE_KEY, OPENAI_KEY, OPENROUTER_KEY

CREDENTIALS = {
    # The vendors' keys.
    f"Incorrect API key provided: {OPENAI_KEY}.": "Incorrect API key provided: [REDACTED]",
    "sk-proj-abcDEF_123-456": "[REDACTED]",
    "sk-ant-api03-abcDEF_123-456": "[REDACTED]",
    "provided: sk-test-*********mnop": "provided: [REDACTED]",
    f"key={OPENROUTER_KEY}": "key=[REDACTED]",
    f"API key not valid: {GOOGLE_KEY}": "API key not valid: [REDACTED]",
    f"bad token {COPILOT_TOKEN}, sorry": "bad token [REDACTED], sorry",
    "ghu_abcdefghijkl": "[REDACTED]",
    "ghp_abcdefghijkl and github_pat_11ABCDE_xyz": "[REDACTED] and [REDACTED]",
    "(gsk_abcdefghijkl)": "([REDACTED])",
    # Headers.
    "Authorization: Bearer abc.def-123": "Authorization: Bearer [REDACTED]",
    "{'authorization': 'Bearer abc/d+e='}": "{'authorization': 'Bearer [REDACTED]'}",
    "bearer  abc": "bearer  [REDACTED]",
    "Authorization: Basic dXNlcjpwYXNz": "Authorization: Basic [REDACTED]",
    "Bearer tid=abc;exp=1700000000;8kp=1:0123abcd": "Bearer [REDACTED]",
    "x-api-key: abc": "x-api-key: [REDACTED]",
    "{'x-goog-api-key': 'abc'}": "{'x-goog-api-key': '[REDACTED]'}",
    # Fields.
    '{"api_key": "abc"}': '{"api_key": "[REDACTED]"}',
    "api_key='abc', model='m'": "api_key='[REDACTED]', model='m'",
    "apiKey=abc)": "apiKey=[REDACTED])",
    # URLs.
    "https://user:secret@host/v1": "https://[REDACTED]@host/v1",
    "https://user:se,cr;et@host/v1": "https://[REDACTED]@host/v1",
    "https://user:se@cret@host/v1": "https://[REDACTED]@host/v1",
    "https://:secret@host": "https://[REDACTED]@host",
    "https://host/v1?key=abc&alt=sse": "https://host/v1?key=[REDACTED]&alt=sse",
    "https://host/v1?alt=sse&api-key=abc": "https://host/v1?alt=sse&api-key=[REDACTED]",
    "https://host/v1?access_token=abc": "https://host/v1?access_token=[REDACTED]",
}

HARMLESS = [
    "",
    "model 'gpt-4o-mini' not found",
    "a task-force of risk-takers asks",
    "https://host:8080/v1?model=gpt-4o&stream=true",
    "mail me@example.com about https://example.com",
    "The api_key client option must be set",
    "monkey=abc",
    "AI for all",
    "Maximum context length is 8192 tokens",
]


@pytest.mark.parametrize("text", CREDENTIALS)
def test_a_credential_is_replaced_and_what_is_around_it_kept(text: str) -> None:
    assert without_credentials(text) == CREDENTIALS[text]


@pytest.mark.parametrize("text", HARMLESS)
def test_a_text_without_credentials_is_kept(text: str) -> None:
    assert without_credentials(text) == text


def test_every_credential_of_a_text_is_replaced() -> None:
    text = "\n".join(CREDENTIALS)
    assert without_credentials(text) == "\n".join(CREDENTIALS.values())


@pytest.mark.parametrize("text", CREDENTIALS)
def test_a_text_that_has_been_redacted_is_left_alone(text: str) -> None:
    redacted = without_credentials(text)
    assert without_credentials(redacted) == redacted


def test_the_models_own_secrets_are_replaced_whatever_they_look_like() -> None:
    assert without_credentials("my pass phrase, my pass phrase", ["my pass phrase"]) == "[REDACTED], [REDACTED]"


def test_the_models_own_secret_after_the_scheme_of_a_header_is_replaced_once() -> None:
    assert without_credentials("Bearer own-secret rejected", ["own-secret"]) == "Bearer [REDACTED] rejected"


@given(
    st.sampled_from(["sk-", "sk-proj-", "sk-or-v1-", "ghu_", "gho_", "ghp_", "github_pat_", "AIza", "Bearer ", "xai-"]),
    st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=20, max_size=60),
    st.text(" .,:;'\"()[]{}\n", max_size=3),
    st.text(" .,:;'\"()[]{}\n", max_size=3),
)
def test_no_surroundings_hide_a_credential(prefix: str, key: str, before: str, after: str) -> None:
    assert key not in without_credentials(f"{before}{prefix}{key}{after}")


@given(st.text(), st.lists(st.text(min_size=4), max_size=3))
def test_any_text_can_be_redacted(text: str, secrets: list[str]) -> None:
    assert isinstance(without_credentials(text, secrets), str)


def test_secret_values_are_those_of_pydantic_secrets_longest_first() -> None:
    values = [SecretStr("abcd"), "plain", SecretStr("abcdefgh"), None, SecretStr("abcd"), 3]
    assert secret_values(values) == ("abcdefgh", "abcd")


@pytest.mark.parametrize("placeholder", ["", "x", "key"])
def test_a_placeholder_is_no_secret(placeholder: str) -> None:
    assert secret_values([SecretStr(placeholder)]) == ()


def test_what_cannot_be_encoded_is_replaced() -> None:
    assert without_credentials(f"caf\ud800 {OPENAI_KEY}", [OPENAI_KEY]) == "caf\ufffd [REDACTED]"
