# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The part of a URL that may be recorded as its server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opentelemetry_instrumentation_modelforge.server import host_name, server_of
from support.models import GOOGLE_KEY, OPENAI_KEY

SERVERS: dict[str, tuple[str, int | None] | None] = {
    "https://api.openai.com/v1": ("api.openai.com", 443),
    "http://LOCALHOST:11434": ("localhost", 11434),
    "http://my_ollama": ("my_ollama", 80),
    "http://ollama.:8080/": ("ollama", 8080),
    "http://[::1]:8080/v1": ("::1", 8080),
    "http://127.0.0.1": ("127.0.0.1", 80),
    "https://user:hunter2@host.example:8443/v1": ("host.example", 8443),
    "generativelanguage.googleapis.com:443": ("generativelanguage.googleapis.com", 443),
    "api.example.com/v1": ("api.example.com", None),
    "ollama:11434": ("ollama", 11434),
    "localhost": ("localhost", None),
    "http://sk-gateway1.example.com": ("sk-gateway1.example.com", 80),
    "http://xn--mnchen-3ya.de": ("xn--mnchen-3ya.de", 80),
    # Not a host.
    "": None,
    "https://": None,
    "http://host:port": None,
    "http://host:99999": None,
    "http://[::1": None,
    "http://a b": None,
    "http://a..b": None,
    "http://-a": None,
    "http://999.1.1.1": None,
    "http://1234567890123456": None,
    "http://%73k.example": None,
    "http://" + "a" * 64: None,
    "http://\ud800": None,
    # A key in the wrong place.
    OPENAI_KEY: None,
    f"https://{OPENAI_KEY}": None,
    f"https://{OPENAI_KEY}/v1": None,
    f"https://{OPENAI_KEY.upper()}:443/v1": None,
    f"https://{GOOGLE_KEY.lower()}/v1": None,
    f"https://{OPENAI_KEY}.example.com": None,
    "https://0123456789abcdef0123456789abcdef/v1": None,
    "https://eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJlMDEyMzQ1": None,
    "hunter2hunter2": None,
    "https://own-secret-1": None,
    "https://OWN-SECRET-1/v1": None,
    "https://own-secret": None,
    "https://own-secret-1.example.com": None,
    "https://wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY/v1": None,
    "https://api.wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY": None,
    "https://9f1c2a34-5b6d-4e7f-8a9b-0c1d2e3f4a5b/v1": None,
    "https://3O5qr84yO2r09nGq/v1": None,
    # Random names in a domain, and random parts of a path.
    "https://iqmrh7a0x2jm8pbd.us-east-1.aws.endpoints.huggingface.cloud/v1": (
        "iqmrh7a0x2jm8pbd.us-east-1.aws.endpoints.huggingface.cloud",
        443,
    ),
    "https://gateway.example.com/v1/0123456789abcdef0123456789abcdef/myGateway/openAI": ("gateway.example.com", 443),
    "http://gateway/v1/0123456789abcdef0123456789abcdef/myGateway/openAI": ("gateway", 80),
    "http://ollama-7d9f8b6c5d-x2k4p:11434": ("ollama-7d9f8b6c5d-x2k4p", 11434),
    # A slash in the password.
    f"https://user:{OPENAI_KEY}/x@host/v1": None,
    "https://user:12/34@host/v1": None,
    "https://hunter2hunter2/x@host/v1": None,
}


@pytest.mark.parametrize("url", SERVERS)
def test_the_server_of_a_url_is_a_host_or_nothing(url: str) -> None:
    assert server_of(url, ["own-secret-1"]) == SERVERS[url]


def test_no_url_has_no_server() -> None:
    assert server_of(None) is None


@given(st.text())
def test_the_server_of_any_text_can_be_determined(text: str) -> None:
    for url in (text, f"http://{text}", f"http://host/{text}", f"http://user:{text}@host"):
        found = server_of(url)
        assert found is None or (host_name(found[0]) == found[0] and (found[1] is None or 0 < found[1] < 65536))
