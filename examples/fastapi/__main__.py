"""Runs the two example services under OpenTelemetry, sends them requests, and prints the trace that came of it."""

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

HERE = Path(__file__).parent
# The model server, the collector and the tree.
sys.path.append(str(HERE.parent / "quickstart"))

from collector import Collector  # noqa: E402
from local import environment, serving, write_config  # noqa: E402
from server import ChatServer  # noqa: E402
from tree import WIDTH, Span, format_trees  # noqa: E402

HOST = "127.0.0.1"
START_SECONDS = 30
# The caller's span, of which the services know by the header of a request. It is of this program, which has no tracer.
TRACE_ID, CALLER_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"Content-Type": "application/json", "traceparent": f"00-{TRACE_ID}-{CALLER_ID}-01"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them, and return 1 where telemetry is missing."""
    parser = argparse.ArgumentParser(prog="python examples/fastapi", description=__doc__)
    parser.add_argument("--programmatic", action="store_true", help="set OpenTelemetry up in code: programmatic.py")
    options = parser.parse_args(arguments)
    model_server, collector = ChatServer(), Collector()
    with (
        serving(model_server),
        serving(collector),
        tempfile.TemporaryDirectory(prefix="fastapi-") as home,
        ExitStack() as services,
    ):
        write_config(Path(home), model_server.base_url, "gpt-4o-mini")

        def start(name: str, app: str, **variables: str) -> int:
            variables = environment(home, collector.endpoint, "no-key-needed", name) | variables
            return services.enter_context(_service(app, options.programmatic and name == "chat", home, variables))

        chat = start("chat", "programmatic:app" if options.programmatic else "app:app")
        gateway = start("gateway", "gateway:app", CHAT_URL=f"http://{HOST}:{chat}")
        asked = time.time_ns()
        for port, path in (
            (chat, "/chat"),
            (chat, "/chat/stream"),
            (chat, "/sync/chat"),
            (chat, "/sync/chat/stream"),
            (gateway, "/ask/stream"),
        ):
            print(f"POST :{port}{path}", _ask(port, path), sep="\n", flush=True)
        answered = time.time_ns()
    # The services have ended, and have sent what they had.
    width = shutil.get_terminal_size((WIDTH, 0)).columns
    spans = [span for span in collector.spans if not _is_part(span)]
    caller = Span(name="caller", span_id=CALLER_ID, start_ns=asked, end_ns=answered)
    print("", *format_trees([caller, *spans], width), sep="\n")
    if left_out := len(collector.spans) - len(spans):
        print(f"\nLeft out: {left_out} spans of the parts of requests and responses.")
    calls = sum(span.name == "langchain.llm.invoke" for span in spans)
    if calls != 5:
        print(f"\nerror: {calls} model calls in {len(spans)} spans, not 5", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _service(app: str, programmatic: bool, home: str, variables: dict[str, str]) -> Iterator[int]:
    """Run a service, and yield its port."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    scripts = Path(sys.executable).parent
    command = [] if programmatic else [str(scripts / "opentelemetry-instrument")]
    command += [str(scripts / "uvicorn"), app, f"--port={port}", "--log-level=warning"]
    print("$", *(Path(part).name for part in command), flush=True)
    path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    # In a directory without a .model-forge/config.json, which ModelForge would prefer.
    with subprocess.Popen(
        [*command, f"--app-dir={HERE}"], cwd=home, env=variables | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    ) as process:
        try:
            _wait_for(port, process)
            yield port
        finally:
            # As Ctrl-C does: by SIGTERM uvicorn ends without a last export.
            process.send_signal(signal.SIGINT)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"error: {process.args} did not start")


def _ask(port: int, path: str) -> str:
    """Return the answer, of a stream with its events in one line."""
    with closing(http.client.HTTPConnection(HOST, port)) as connection:
        connection.request("POST", path, json.dumps({"text": "What is worn in Lisbon?"}), HEADERS)
        return "  " + " ".join(connection.getresponse().read().decode().split("\n"))


def _is_part(span: Span) -> bool:
    # In zero code the ASGI instrumentation has no switch for them.
    return span.name.endswith((" http send", " http receive"))


if __name__ == "__main__":
    sys.exit(main())
