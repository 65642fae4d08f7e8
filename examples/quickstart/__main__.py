"""Runs the example application under OpenTelemetry and prints the trace and the metrics it sent."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from collector import Collector
from local import environment, serving, write_config
from server import ChatServer
from tree import WIDTH, format_metrics, format_trees

HERE = Path(__file__).parent
API_KEYS = ("MODELFORGE_OPENAI_API_KEY", "OPENAI_API_KEY")
EXPECTED_SPANS = ("modelforge.get_llm", "langchain.llm.invoke")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and return the application's exit code, or 1 where its telemetry is missing."""
    options = _parse(arguments)
    chat, collector = ChatServer(), Collector()
    with serving(chat), serving(collector), tempfile.TemporaryDirectory(prefix="quickstart-") as home:
        base_url = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1") if options.real else chat.base_url
        write_config(Path(home), base_url, options.model)
        command, shown = _command(options.programmatic)
        print(f"$ {shown}", flush=True)
        # In a directory without a .model-forge/config.json, which ModelForge would prefer.
        status = subprocess.run(
            command, check=False, cwd=home, env=environment(home, collector.endpoint, options.key, "quickstart")
        ).returncode

    width = shutil.get_terminal_size((WIDTH, 0)).columns
    print("", *format_trees(collector.spans, width, _red if _in_colour() else str), sep="\n")
    if collector.metrics:
        print("", *format_metrics(collector.metrics), sep="\n")
    if status != 0:
        print(f"\nerror: {shown} failed with exit code {status}", file=sys.stderr)
        return status if status > 0 else 1
    missing = [name for name in EXPECTED_SPANS if name not in {span.name for span in collector.spans}]
    if missing:
        print(
            f"\nerror: {len(collector.spans)} spans arrived at {collector.endpoint}, but none named"
            f" {' or '.join(missing)}.\nIs this package installed for {sys.executable}? `./run demo` sees to it.",
            file=sys.stderr,
        )
        return 1
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run demo", description=__doc__)
    parser.add_argument("--programmatic", action="store_true", help="set OpenTelemetry up in code: programmatic.py")
    parser.add_argument("--real", action="store_true", help="talk to OpenAI, with the key in OPENAI_API_KEY")
    parser.add_argument("--model", default="gpt-4o-mini", help="the model to ask for (default: %(default)s)")
    options = parser.parse_args(arguments)
    options.key = next(filter(None, map(os.environ.get, API_KEYS)), None) if options.real else "no-key-needed"
    if options.key is None:
        parser.error(
            "--real needs an API key: set OPENAI_API_KEY (or MODELFORGE_OPENAI_API_KEY) to yours and run it again."
            " Without --real no key is needed."
        )
    return options


def _command(programmatic: bool) -> tuple[list[str], str]:
    """Return the command to run, and what a user would type."""
    if programmatic:
        return [sys.executable, str(HERE / "programmatic.py")], "python programmatic.py"
    script = shutil.which("opentelemetry-instrument", path=Path(sys.executable).parent)
    if script is None:
        raise SystemExit(
            f"error: there is no opentelemetry-instrument beside {sys.executable}."
            " It comes with this package's `otel` extra; `./run demo` installs that."
        )
    return [script, sys.executable, str(HERE / "app.py")], "opentelemetry-instrument python app.py"


def _in_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _red(line: str) -> str:
    return f"\x1b[31m{line}\x1b[0m"


if __name__ == "__main__":
    sys.exit(main())
