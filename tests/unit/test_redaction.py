# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The recognition and redaction of credentials in a text."""

from __future__ import annotations

import json
from time import process_time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import SecretStr

from opentelemetry_instrumentation_modelforge.redaction import (
    looks_like_credential,
    secret_values,
    without_credentials,
)
from support.models import COPILOT_TOKEN, GOOGLE_KEY, OPENAI_KEY, OPENROUTER_KEY

CREDENTIALS = {
    # Vendors' keys.
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
    "bearer  abc123": "bearer  [REDACTED]",
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
    r"https:\/\/user:secret@host\/v1": r"https:\/\/[REDACTED]@host\/v1",
    "https://user:pa/ss@host/v1": "https://[REDACTED]@host/v1",
    "https://user:pa?s#s@host/v1": "https://[REDACTED]@host/v1",
    "https://a:b@c,https://d:e@f": "https://[REDACTED]@c,https://[REDACTED]@f",
    "https://host/v1?alt=sse&amp;key=abc&amp;x=1": "https://host/v1?alt=sse&amp;key=[REDACTED]&amp;x=1",
    r"https://host/v1?alt=sse\u0026key=abc\u0026x=1": r"https://host/v1?alt=sse\u0026key=[REDACTED]\u0026x=1",
    "u=https%3A%2F%2Fhost%3Falt%3Dsse%26key%3Dabc": "u=https%3A%2F%2Fhost%3Falt%3Dsse%26key%3D[REDACTED]",
    "https://host/f?X-Amz-Signature=abc&sig=def": "https://host/f?X-Amz-Signature=[REDACTED]&sig=[REDACTED]",
    "https://host/v1?alt=sse&#38;key=abc&auth=abc": "https://host/v1?alt=sse&#38;key=[REDACTED]&auth=[REDACTED]",
    "u=https%253A%252F%252Fhost%253Falt%253Dsse%2526key%253Dabc": (
        "u=https%253A%252F%252Fhost%253Falt%253Dsse%2526key%253D[REDACTED]"
    ),
    "u=https%3A%2F%2Fme%3Ahunter2%40host%2Fv1": "u=https%3A%2F%2F[REDACTED]%40host%2Fv1",
    # Assignments.
    "OPENAI_API_KEY=hunter2": "OPENAI_API_KEY=[REDACTED]",
    "OPENAI_KEY=hunter2": "OPENAI_KEY=[REDACTED]",
    "export HF_TOKEN='hunter 2'": "export HF_TOKEN='[REDACTED]'",
    "os.environ['OPENAI_API_KEY'] = 'hunter2'": "os.environ['OPENAI_API_KEY'] = '[REDACTED]'",
    "os.getenv('OPENAI_API_KEY', 'hunter2')": "os.getenv('OPENAI_API_KEY', '[REDACTED]')",
    "secret=abc": "secret=[REDACTED]",
    "password: hunter2": "password: [REDACTED]",
    "Server=db;Uid=me;Pwd=hunter2;Port=1": "Server=db;Uid=me;Pwd=[REDACTED];Port=1",
    "AccountKey=abc==;EndpointSuffix=x": "AccountKey=[REDACTED];EndpointSuffix=x",
    "api_key=SecretStr('abc'), n=1": "api_key=SecretStr('[REDACTED]'), n=1",
    "DB_PASS=hunter2": "DB_PASS=[REDACTED]",
    "api_key=r'abc', n=1": "api_key=r'[REDACTED]', n=1",
    'password = """hunter2"""': 'password = """[REDACTED]"""',
    "tool --api-key hunter2 --token 'hunter 2'": "tool --api-key [REDACTED] --token '[REDACTED] 2'",
    "<password>hunter2</password><n>1</n>": "<password>[REDACTED]</password><n>1</n>",
    # JSON and repr.
    '{"api_key": ["abc"], "n": 1}': '{"api_key": ["[REDACTED]"], "n": 1}',
    '{"name": "x-api-key", "value": "a1b2c3d4e5f6g7h8"}': '{"name": "x-api-key", "value": "[REDACTED]"}',
    '{"bearer": "a1b2c3d4", "jwt": "a1b2c3d4"}': '{"bearer": "[REDACTED]", "jwt": "[REDACTED]"}',
    r"\x22password\x22:\x22abc\x22": r"\x22password\x22:\x22[REDACTED]\x22",
    "&#x22;password&#x22;:&#x22;abc&#x22;": "&#x22;password&#x22;:&#x22;[REDACTED]&#x22;",
    '{"password": "my pass phrase", "n": 1}': '{"password": "[REDACTED]", "n": 1}',
    r'{"client_secret":"a\"b c","n":1}': '{"client_secret":"[REDACTED]","n":1}',
    r"{\"api_key\": \"abc\", \"n\": 1}": r"{\"api_key\": \"[REDACTED]\", \"n\": 1}",
    "&quot;password&quot;:&quot;abc&quot;": "&quot;password&quot;:&quot;[REDACTED]&quot;",
    "{'refresh_token': 'abc'}": "{'refresh_token': '[REDACTED]'}",
    '{"token": "a1b2c3d4"}': '{"token": "[REDACTED]"}',
    '{"key": "f3a9b2c4d5e6f708"}': '{"key": "[REDACTED]"}',
    "{'cookie': 'abc'}": "{'cookie': '[REDACTED]'}",
    # Other spellings of punctuation.
    'api_key := "abc", api_key == "abc"': 'api_key := "[REDACTED]", api_key == "[REDACTED]"',
    'api_key: str = "abc"': 'api_key: str = "[REDACTED]"',
    "api_key: |\n  abc\nmodel: m": "api_key: |\n  [REDACTED]\nmodel: m",
    "api_key: !!str abc": "api_key: !!str [REDACTED]",
    r"api_key\u003dabc, api_key\x3dabc": r"api_key\u003d[REDACTED], api_key\x3d[REDACTED]",
    "api_key&#61;abc, api_key&colon; abc": "api_key&#61;[REDACTED], api_key&colon; [REDACTED]",
    "%257B%2522api_key%2522%253A%2522abc%2522%257D": "%257B%2522api_key%2522%253A%2522[REDACTED]%2522%257D",
    "&apos;password&apos;: &apos;abc&apos;": "&apos;password&apos;: &apos;[REDACTED]&apos;",
    # Headers by name.
    "Authorization: abc": "Authorization: [REDACTED]",
    "Authorization: Custom abc rejected": "Authorization: [REDACTED] rejected",
    'Authorization: Digest username="u", response="abc"\nHost: h': "Authorization: Digest [REDACTED]\nHost: h",
    'Authorization: token="abc"': 'Authorization: token="[REDACTED]"',
    "Authorization: Token abc": "Authorization: Token [REDACTED]",
    "Proxy-Authorization: Basic abc": "Proxy-Authorization: Basic [REDACTED]",
    "Cookie: sid=abc; lang=en\nHost: h": "Cookie: [REDACTED]\nHost: h",
    "Set-Cookie: sid=abc; Path=/": "Set-Cookie: [REDACTED]",
    "Ocp-Apim-Subscription-Key: abc": "Ocp-Apim-Subscription-Key: [REDACTED]",
    "('x-api-key', 'abc')": "('x-api-key', '[REDACTED]')",
    "[(b'authorization', b'Bearer abc'), (b'host', b'h')]": (
        "[(b'authorization', b'Bearer [REDACTED]'), (b'host', b'h')]"
    ),
    '["api-key", "abc"]': '["api-key", "[REDACTED]"]',
    "Bearer%20abc123": "Bearer%20[REDACTED]",
    # Shapes.
    "a eyJhbGciOiJI.eyJzdWIiOiIx.abc-_ b": "a [REDACTED] b",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE+/\nab=\n-----END RSA PRIVATE KEY-----!": "[REDACTED]!",
    r"'-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n'": r"'[REDACTED]\n'",
    "-----BEGIN PRIVATE KEY-----\nMIIE0123456789abcdef\nMIIE0123456789abcd": "[REDACTED]",
    "id AKIAIOSFODNN7EXAMPLE.": "id [REDACTED].",
    "xoxb-123456-abcdef": "[REDACTED]",
    "glpat-abcdef123456": "[REDACTED]",
    "ya29.a0AfH6SMBx": "[REDACTED]",
    "lsv2_pt_abcdef123456": "[REDACTED]",
    "got tid=abc;exp=1700000000;8kp=1:0a back": "got [REDACTED] back",
    "SG.abcdef123456.abcdef and GOCSPX-abcdef123456": "[REDACTED] and [REDACTED]",
    "whsec_abcdef123456, glsa_abcdef123456, xapp-1-abcdef123456": "[REDACTED], [REDACTED], [REDACTED]",
    "refreshed by 1//0abcdef-123456.": "refreshed by [REDACTED]",
    "eyJhbGciOiJI%2EeyJzdWIiOiIx%2Eabc": "[REDACTED]",
    "> -----BEGIN PRIVATE KEY-----\n> MIIE\n> -----END PRIVATE KEY-----": "> [REDACTED]",
    "-----BEGIN%20PRIVATE%20KEY-----%0AMIIE%0A-----END%20PRIVATE%20KEY-----": "[REDACTED]",
    r"\nsk-abcdef123456\n": r"\n[REDACTED]\n",
    r"\u0022sk-abcdef123456\u0022": r"\u0022[REDACTED]\u0022",
    "%22sk-abcdef123456%22": "%22[REDACTED]%22",
}

HARMLESS = [
    "",
    "model 'gpt-4o-mini' not found",
    "a task-force of risk-takers asks",
    "https://host:8080/v1?model=gpt-4o&stream=true",
    "mail me@example.com about https://example.com",
    "https://host:8080/@vite/client and https://host/npm/@scope/package",
    "The api_key client option must be set",
    "monkey=abc",
    "monkey=abc123def456ghi789",
    "AI for all",
    "Maximum context length is 8192 tokens",
    "token usage: 12",
    "max_tokens=5, 'prompt_tokens': 8",
    "key: value pairs in prose",
    '{"key": "a", "value": "b"}',
    "{'key': 'customer_segment_2024', 'primary_key': 'user_id'}",
    "sorted(words, key=len)",
    "Unexpected token: } and Unexpected token: <EOF>",
    '{"token": "Hello", "logprob": -0.1}',
    "{'eos_token': '<|endoftext|>', 'next_page_token': 'abc'}",
    '{"error": "invalid_token", "error_description": "expired"}',
    "{'token_type': 'bearer'}",
    "the secret: never give up",
    "the secret is out, and the password is not",
    "passwords: all of them, api_keys: none",
    "basic usage of the bearer of bad news",
    "a cookie: chocolate chip",
    "PWD=/home/me",
    "hf_transfer and sk-learn",
    "Aizawa-sensei",
    "api_key=None, token=True, 'password': null",
    "signature: John",
    "a private key is not public; authorization is a header",
    "-----BEGIN of the story",
    "tid=1",
    "eyJ and eyJ.x",
    "login --token-type jwt --max-tokens 5 <user> <password> now",
    "u=https%3A%2F%2Fhost%2Fx%3Fmail%3Dme%40host",
    "a password > 8 characters, the bearer: a friend, pass: yes, auth: none",
]


@pytest.mark.parametrize("text", CREDENTIALS)
def test_a_credential_is_replaced_and_the_text_around_it_is_kept(text: str) -> None:
    assert without_credentials(text) == CREDENTIALS[text]


@pytest.mark.parametrize("text", HARMLESS)
def test_a_text_without_credentials_is_kept(text: str) -> None:
    assert without_credentials(text) == text
    assert not looks_like_credential(text)


def test_every_credential_of_a_text_is_replaced() -> None:
    text = "\n".join(CREDENTIALS)
    assert without_credentials(text) == "\n".join(CREDENTIALS.values())


@pytest.mark.parametrize("text", CREDENTIALS)
def test_a_redacted_text_is_not_changed_again(text: str) -> None:
    redacted = without_credentials(text)
    assert without_credentials(redacted) == redacted


@given(st.lists(st.sampled_from(HARMLESS[1:]), min_size=1), st.sampled_from(["\n", " ... ", " | "]))
def test_joined_harmless_texts_are_kept(texts: list[str], separator: str) -> None:
    assert without_credentials(separator.join(texts)) == separator.join(texts)


NAMES = st.sampled_from([
    "api_key", "X-API-Key", "apiKey", "openai_api_key", "OPENAI_API_KEY", "password", "client_secret", "access_token",
    "accessToken", "Authorization", "cookie", "private_key", "db_password", "auth-token", "token", "key", "secret",
])  # fmt: skip
RANDOM = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=8, max_size=40).map(
    lambda text: f"{text[:4]}7{text[4:6]}3{text[6:]}9x1y2z3"
)


@given(
    NAMES,
    RANDOM,
    st.sampled_from([
        '{{"{}": "{}"}}', "{{'{}': '{}'}}", "{}='{}'", "('{}', '{}')", "[(b'{}', b'{}')]", r'{{\"{}\": \"{}\"}}',
        "https://host/?x=1&{}={}", "https://host/?x=1&amp;{}={}", r"https://host/?x=1\u0026{}={}",
    ]),
    st.text(" .,:\n", max_size=3),
)  # fmt: skip
def test_a_value_named_as_a_credential_is_replaced(name: str, value: str, form: str, around: str) -> None:
    assert value not in without_credentials(around + form.format(name, value) + around)


@given(st.text("abcdefghijklmnopqrstuvwxyz .,!?-'()", max_size=200))
def test_prose_is_kept(text: str) -> None:
    assume(
        not any(word in text for word in ("sk-", "pk-", "rk-", "hf-", "fw-", "xai-", "gsk-", "npm-", "tgp-", "csk-"))
    )
    assert without_credentials(text) == text


# --- The model's own secrets ---


SECRET = 'my/own+pass phrase="1"'


@pytest.mark.parametrize(
    "spelled",
    [
        SECRET,
        quote(SECRET, safe=""),
        quote(SECRET),
        quote_plus(SECRET),
        quote(SECRET, safe="").replace("%2F", "%2f").replace("%2B", "%2b").replace("%3D", "%3d"),
        json.dumps(SECRET),
        SECRET.upper(),
        SECRET.lower(),
    ],
)
def test_the_models_own_secret_is_replaced_however_it_is_spelled(spelled: str) -> None:
    assert without_credentials(f"<{spelled}>", [SECRET]).strip('"<>') == "[REDACTED]"


def test_secrets_are_replaced_in_one_pass_the_longest_first() -> None:
    assert without_credentials("abcd abcdefgh", ["abcd", "abcdefgh"]) == "[REDACTED] [REDACTED]"
    assert without_credentials("abcd", ["abcd", "REDACTED", "DACT"]) == "[REDACTED]"
    assert without_credentials("text", ["", "xt"]) == "te[REDACTED]"


def test_the_models_own_secrets_are_replaced_whatever_their_format() -> None:
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


def test_secret_values_are_those_of_headers_that_contain_credentials() -> None:
    headers = {
        "Authorization": "Bearer hunter2hunter2",
        b"x-api-key": b"swordfish",
        "x-goog-api-key": SecretStr("secret-fish"),
        "X-Custom": OPENAI_KEY,
        "User-Agent": "agent/1.0",
        "max_tokens": 4096,
        "cookie": None,
        5: "five",
    }
    found = ("Bearer hunter2hunter2", "hunter2hunter2", "swordfish", "secret-fish", OPENAI_KEY)
    assert secret_values([headers, {}, {"params": {}}]) == tuple(sorted(found, key=len, reverse=True))


def test_secret_values_are_those_of_urls() -> None:
    values = ["https://user:pa/ss12@host/v1", "https://hunter22@host", "https://host/v1", "a@b"]
    assert secret_values(values) == ("user:pa/ss12", "hunter22", "pa/ss12")


@pytest.mark.parametrize("placeholder", ["", "x", "key", "EMPTY", "lm-studio", "ollama", "none"])
def test_a_placeholder_is_not_a_secret(placeholder: str) -> None:
    assert secret_values([SecretStr(placeholder)]) == ()


def test_a_secret_that_is_a_word_is_not_removed_from_longer_words() -> None:
    text = "swordfish, Swordfishes and a swordfish's SWORDFISH_1 (swordfishing)"
    expected = "[REDACTED], Swordfishes and a [REDACTED]'s [REDACTED]_1 (swordfishing)"
    assert without_credentials(text, ["swordfish"]) == expected


def test_characters_that_cannot_be_encoded_are_replaced() -> None:
    assert without_credentials(f"caf\ud800 {OPENAI_KEY}", [OPENAI_KEY]) == "caf\ufffd [REDACTED]"


@pytest.mark.parametrize(
    ("text", "credential"),
    [
        (OPENAI_KEY, True),
        (f"span,{OPENAI_KEY}", True),
        ("Authorization: abc", True),
        ("0123456789abcdef0123456789abcdef", True),
        ("Ab0+Ab0/Ab0+Ab0/Ab0+Ab0/Ab0+Ab0/==", True),
        ("SPAN_AND_EVENT", False),
        ("gen_ai_latest_experimental", False),
        ("123456789012345678901234567890", False),
        ("https://host:4318/v1/traces", False),
        ("9f1c2a34-5b6d-4e7f-8a9b-0c1d2e3f4a5b", False),
        ("\ud800", False),
        ("", False),
    ],
)
def test_a_value_that_looks_like_a_credential_is_recognized(text: str, credential: bool) -> None:
    assert looks_like_credential(text) is credential


# --- Limits ---


def test_a_limited_text_has_at_most_that_many_characters() -> None:
    assert without_credentials("x" * 10, limit=20) == "x" * 10
    assert without_credentials("x" * 10, limit=10) == "x" * 10
    assert without_credentials("x" * 10, limit=9) == "x" * 9
    assert without_credentials("x " * 100_000, limit=9) == "x x x x x"


@given(st.integers(0, 9000), st.sampled_from([OPENAI_KEY, "pass phrase of mine", "https://user:word1@host"]))
def test_a_limit_does_not_split_a_credential(length: int, credential: str) -> None:
    text = ("x " * 5000)[:length] + " " + credential + " x" * 5000
    redacted = without_credentials(text, ["pass phrase of mine"], limit=4096)
    assert len(redacted) <= 4096
    assert set(redacted) <= set("x [REDACTED]https://@host")
    assert "word1" not in redacted


ADVERSARIAL = [
    "=", '"\'', "eyJ", "eyJ-", "eyJ.", "-----BEGIN", "-----BEGIN RSA-----", "a", "A", " ", "\n", "\\", "key=", "key: ",
    "key ", "'key': ", 'key="', "token: a", "token=a-1-", "password=", "password='\\", "secret: ", "authorization: ",
    "Bearer ", "cookie: ", "://", "://a:b", "://a:b@", "@/", "tid=a;", "tid=a;b=", "sk-", "gho_", "('", "('a",
    "['key', '", "api_", "&key=", "-_", "key=abcdefghijklmnop-", "%20", "&quot;", "xoxb-", "ya29.", "AKIA", "1",
]  # fmt: skip


@pytest.mark.parametrize("repeated", ADVERSARIAL)
def test_the_time_is_linear_in_the_length(repeated: str) -> None:
    def seconds(length: int) -> float:
        text = (repeated * (length // len(repeated) + 1))[:length]
        times: list[float] = []
        for _ in range(2):
            before = process_time()
            without_credentials(text, ["a" * 30 + "b", OPENAI_KEY])
            times.append(process_time() - before)
        return min(times)

    # With quadratic time, ten times the length would take a hundred times as long.
    assert seconds(300_000) < 40 * max(seconds(30_000), 0.001)
