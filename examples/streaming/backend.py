# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""An OpenAI-compatible server that streams a canned answer, and stops or fails midway if the question asks for that."""

import json
import re
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWER = "Lisbon lies on seven hills above the Tejo, and its trams climb most of them."
BEGINNING = 3
"""The number of words before it stops or fails."""
FIRST_WORD_SECONDS = 0.03
WORD_SECONDS = 0.005


class Backend(ThreadingHTTPServer):
    """The server, on a free port of the loopback interface."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.base_url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing about a client that disconnected."""


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        # This server uses HTTP/1.0, so the end of the connection is the end of the answer.
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        time.sleep(FIRST_WORD_SECONDS)
        for number, event in enumerate(_events(body["model"])):
            if number == BEGINNING and "stop" in question:
                # Nothing is sent until the client disconnects.
                self.rfile.read(1)
                return
            if number == BEGINNING and "fail" in question:
                self._send({"error": {"message": "The model is overloaded.", "type": "server_error"}})
                return
            self._send(event)
            time.sleep(WORD_SECONDS)
        self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, event: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def _events(model: str) -> Iterator[dict[str, Any]]:
    envelope = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": model}
    words = re.findall(r"\s*\S+", ANSWER)
    for word in words:
        delta = {"role": "assistant", "content": word}
        yield {**envelope, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield {**envelope, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {"prompt_tokens": 11, "completion_tokens": len(words), "total_tokens": 11 + len(words)}
    yield {**envelope, "choices": [], "usage": usage}
