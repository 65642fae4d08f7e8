# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The servers that the agent uses: an OpenAI-compatible one with canned answers, and a weather service."""

import json
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WEATHER = "Lisbon: showers, 17 °C"
PACKING = "A raincoat and dry shoes."
ANSWER = "It will be wet in Lisbon: take a raincoat and dry shoes."


class Backend(ThreadingHTTPServer):
    """Both servers, on a free port of the loopback interface."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.base_url = f"{self.url}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(WEATHER.encode(), "text/plain; charset=utf-8")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(json.dumps(_completion(body)).encode(), "application/json")

    def _answer(self, body: bytes, content_type: str) -> None:
        # This server uses HTTP/1.0, so the end of the connection is the end of the answer.
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def _message(body: dict[str, Any]) -> dict[str, Any]:
    """Return the smaller model's answer, or the agent's: a call of each tool in turn, and then its answer."""
    if "tools" not in body:
        return {"role": "assistant", "content": PACKING}
    results = [message["content"] for message in body["messages"] if message["role"] == "tool"]
    if len(results) == len(body["tools"]):
        return {"role": "assistant", "content": ANSWER}
    arguments = {"weather": results[-1]} if results else {"city": "Lisbon"}
    name = body["tools"][len(results)]["function"]["name"]
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": f"call_{name}", "type": "function", "function": function}],
    }


def _completion(body: dict[str, Any]) -> dict[str, Any]:
    message = _message(body)
    # About four characters per token, as in English.
    prompt, completion = (max(1, len(json.dumps(content)) // 4) for content in (body, message))
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [
            {"index": 0, "message": message, "finish_reason": "tool_calls" if "tool_calls" in message else "stop"}
        ],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
    }
