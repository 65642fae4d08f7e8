# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A small OpenAI-compatible server: as much of the chat completions API as the example needs, with canned answers."""

import json
import re
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TITLE = "Dressing for Lisbon"
ANSWER = "Light clothes, sunglasses and a thin jacket for the evening: Lisbon is sunny today, with 24 °C."
CITY = "Lisbon"

# How long the model takes to begin, and for each word that it streams.
FIRST_WORD_SECONDS = 0.03
WORD_SECONDS = 0.005


class ChatServer(ThreadingHTTPServer):
    """The model server, on a free port of the loopback interface."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.base_url = f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        time.sleep(FIRST_WORD_SECONDS)
        if body.get("stream"):
            self._start("text/event-stream")
            for event in _events(body):
                self.wfile.write(f"data: {event}\n\n".encode())
                time.sleep(WORD_SECONDS)
        else:
            self._start("application/json")
            self.wfile.write(json.dumps(_completion(body)).encode())

    def _start(self, content_type: str) -> None:
        # This server uses HTTP/1.0, so the end of the connection is the end of the answer.
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def _message(body: dict[str, Any]) -> dict[str, Any]:
    """Return the model's answer: a call of the tool that it is offered, and then an answer from the tool's result."""
    if body["messages"][-1]["role"] == "tool":
        return {"role": "assistant", "content": ANSWER}
    if tools := body.get("tools"):
        function = {"name": tools[0]["function"]["name"], "arguments": json.dumps({"city": CITY})}
        call = {"id": "call_1", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"role": "assistant", "content": TITLE}


def _finish_reason(message: dict[str, Any]) -> str:
    return "tool_calls" if "tool_calls" in message else "stop"


def _envelope(body: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": int(time.time()), "model": body["model"]}


def _completion(body: dict[str, Any]) -> dict[str, Any]:
    message = _message(body)
    choice = {"index": 0, "message": message, "finish_reason": _finish_reason(message)}
    return {**_envelope(body, "chat.completion"), "choices": [choice], "usage": _usage(body, message)}


def _events(body: dict[str, Any]) -> Iterator[str]:
    envelope = _envelope(body, "chat.completion.chunk")
    message = _message(body)
    calls = [{"index": index, **call} for index, call in enumerate(message.get("tool_calls", ()))]
    deltas = (
        [{"tool_calls": calls}] if calls else [{"content": word} for word in re.findall(r"\s*\S+", message["content"])]
    )
    for delta in deltas:
        choice = {"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": None}
        yield json.dumps({**envelope, "choices": [choice]})
    yield json.dumps({**envelope, "choices": [{"index": 0, "delta": {}, "finish_reason": _finish_reason(message)}]})
    if body.get("stream_options", {}).get("include_usage"):
        yield json.dumps({**envelope, "choices": [], "usage": _usage(body, message)})
    yield "[DONE]"


def _usage(body: dict[str, Any], message: dict[str, Any]) -> dict[str, int]:
    prompt = _tokens([body["messages"], body.get("tools", [])])
    completion = _tokens(message.get("tool_calls") or message["content"])
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _tokens(content: object) -> int:
    # About four characters per token, as in English.
    return max(1, len(json.dumps(content, ensure_ascii=False)) // 4)
