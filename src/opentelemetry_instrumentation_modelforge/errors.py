# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""What telemetry may record about an exception: facts that are known to be safe, and its text only if requested.

An exception's text can quote the prompt, the answer or a credential in more ways than a search can find. So the text is
built here instead: from types, status codes, short identifiers, the operating system's own messages and the stack
without values. Exceptions are distinguished by the names of their classes, so that no provider's library is imported.
"""

import linecache
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from errno import errorcode
from functools import partial
from http import HTTPStatus
from traceback import StackSummary, walk_tb
from types import FrameType, TracebackType
from typing import Final

from opentelemetry.semconv.attributes import exception_attributes

from .interrupts import safely
from .message_redaction import without_random_words, without_secrets
from .redaction import looks_like_credential, without_credentials
from .values import encodable, items, mapping, text

_LONGEST_TEXT: Final = 4096
"""Bytes of an exception's own text, including its causes' texts."""
_LONGEST_OWN_MESSAGE: Final = 512
_LONGEST_LINE: Final = 200
_MOST_EXCEPTIONS: Final = 16
_MOST_FRAMES: Final = 100

_CAUSE: Final = "The above exception was the direct cause of the following exception:"
_CONTEXT: Final = "During handling of the above exception, another exception occurred:"

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}")
_CODE: Final = re.compile(rf"{_IDENTIFIER.pattern}|[0-9]{{1,6}}")
_PARAMETER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-\[\]]{0,63}")
_REASON: Final = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
_REQUEST_ID: Final = re.compile(r"(?=[^0-9]*[0-9])[A-Za-z0-9_.:\-]{1,128}")
_CLASS_NAME: Final = re.compile(r"[\w.<>\[\]]{1,200}")
_FUNCTION_NAME: Final = re.compile(r"[\w.<>]{1,200}")
_FILE_NAME: Final = re.compile(
    r"<(?:frozen |attrs generated \w{1,64} |doctest )?[\w.\-\[\]]{1,200}>|[^\r\n\0]{1,1024}\.(?:py[cdiwx]?|so)"
)

_TIMEOUTS: Final = {
    "ConnectTimeout": "connect timeout",
    "ConnectTimeoutError": "connect timeout",
    "ConnectionTimeoutError": "connect timeout",
    "ReadTimeout": "read timeout",
    "ReadTimeoutError": "read timeout",
    "SocketTimeoutError": "read timeout",
    "WriteTimeout": "write timeout",
    "PoolTimeout": "pool timeout",
}
"""The kind of timeout, by the class names of httpx, httpcore, requests, urllib3 and aiohttp."""
_HTTP_CLIENTS: Final = frozenset({"httpx", "httpcore", "httpx2", "httpcore2", "requests", "urllib3", "aiohttp"})


@dataclass(frozen=True, slots=True)
class ErrorDescription:
    """The description of one exception that telemetry records."""

    type: str
    """The fully qualified name of the class: ``error.type``."""
    message: str
    """The type and the facts in one line: ``openai.RateLimitError: 429 rate_limit_exceeded``."""
    stacktrace: str
    """The exception with its causes, each with its frames."""

    def event_attributes(self) -> dict[str, str]:
        """Return the attributes of the semantic conventions' exception event."""
        return {
            exception_attributes.EXCEPTION_TYPE: self.type,
            exception_attributes.EXCEPTION_MESSAGE: self.message,
            exception_attributes.EXCEPTION_STACKTRACE: self.stacktrace,
        }


def error_type(error: BaseException) -> str:
    """Return the exception's fully qualified class name, as the conventions require for ``error.type``.

    A class can be named after data. If its name is not made of identifiers, or looks like a credential, the name of the
    nearest base class without this fault is returned. A module that was never imported is left out.
    """
    for kind in type.mro(type(error)):
        module, name = _names_of(kind)
        if _CLASS_NAME.fullmatch(name) and without_secrets(name) == name:
            return f"{module}.{name}" if module != "builtins" and module in sys.modules else name
    return "BaseException"


def describe_error(
    error: BaseException, *, secrets: Sequence[str] = (), full: bool = False, handled: BaseException | None = None
) -> ErrorDescription:
    """Return the description of ``error``. Only an interrupt can be raised from this function.

    Unless ``full``, nothing whose size depends on the exception's text is read, and ``str(error)`` is not called.

    :param secrets: credentials to remove, in addition to everything that looks like one.
    :param full: whether to add the texts of the exception and its causes, without credentials, at most 4 KiB of them.
    :param handled: the exception that the application was handling when the call began. If it appears among the
        causes and contexts, it and those behind it are left out.
    """
    return _describe(error, _Writer(tuple(secrets), full, handled))


def fault_text(error: BaseException) -> str:
    """Return the stack, the types and the facts of ``error`` for a log line, without its own text and without values.

    Contexts are left out: if a hook fails after a failed call, the context is the application's exception.
    """
    return _describe(error, _Writer((), full=False, contexts=False)).stacktrace


def _describe(error: BaseException, writer: "_Writer") -> ErrorDescription:
    chain = writer.chain(error)
    # The texts share a limit, and the error's own text comes first.
    summaries = [writer.summary(member) for member, _ in chain]
    kind, facts = error_type(error), summaries[0]
    message = facts.line(kind)
    if not facts:
        # An APIConnectionError explains nothing; the ConnectionRefusedError or at least the ReadError behind it does.
        caused = 1 if len(chain) > 1 and chain[1][1] == _CAUSE else None
        origin = next((index for index, summary in enumerate(summaries) if summary), caused)
        if origin is not None:
            message = f"{kind} ({summaries[origin].line(error_type(chain[origin][0]))})"
    stacktrace = without_credentials("\n".join(writer.stack_lines(chain, summaries)), writer.secrets)
    return ErrorDescription(kind, message, stacktrace)


# --- Facts ---


@dataclass(frozen=True, slots=True)
class _Facts:
    """The facts about one exception, other than its type and its stack."""

    brief: str = ""
    details: str = ""
    """For the stack trace only: with a request id, no two calls would have the same status."""
    text: str = ""
    """The exception's own text, if it is requested."""

    def __bool__(self) -> bool:
        return bool(self.brief or self.text)

    def line(self, kind: str, *, detailed: bool = False) -> str:
        brief = f"{self.brief} ({self.details})".lstrip() if detailed and self.details else self.brief
        return ": ".join(filter(None, (kind, brief, self.text)))


_NO_FACTS: Final = _Facts()


class _Writer:
    """The writer of one description, with the secrets to remove and the remainder of each limit."""

    __slots__ = ("_contexts", "_exceptions_left", "_full", "_left", "_seen", "secrets")

    def __init__(
        self, secrets: tuple[str, ...], full: bool, handled: BaseException | None = None, *, contexts: bool = True
    ) -> None:
        self.secrets = secrets
        self._full = full
        self._contexts = contexts
        self._left = _LONGEST_TEXT
        self._seen: set[int] = set() if handled is None else {id(handled)}
        self._exceptions_left = _MOST_EXCEPTIONS

    def chain(self, error: BaseException) -> list[tuple[BaseException, str]]:
        """Return ``error`` and its origins, each with the words that link it to the one before in the stack trace."""
        chain: list[tuple[BaseException, str]] = []
        link: tuple[BaseException, str] | None = (error, "")
        while link is not None and self._exceptions_left > 0:
            chain.append(link)
            self._exceptions_left -= 1
            if id(link[0]) in self._seen:
                break
            self._seen.add(id(link[0]))
            link = safely(partial(_origin, link[0], contexts=self._contexts), None)
            if link is not None and id(link[0]) in self._seen:
                break
        return chain

    def summary(self, error: BaseException) -> _Facts:
        facts = safely(partial(_facts, error, self.secrets), _NO_FACTS)
        if not self._full or self._left <= 0:
            return facts
        own_text = safely(partial(str, error), "<exception str() failed>")
        own_text = without_secrets(own_text, self.secrets, self._left)
        own_text = own_text.encode()[: self._left].decode(errors="ignore")
        self._left -= len(own_text.encode())
        return _Facts("" if facts.brief in own_text else facts.brief, facts.details, own_text)

    def stack_lines(self, chain: Sequence[tuple[BaseException, str]], summaries: Sequence[_Facts]) -> Iterator[str]:
        """Yield the lines of a stack trace in Python's format, starting with the first cause."""
        for (error, link), facts in zip(reversed(chain), reversed(summaries), strict=True):
            yield from _frame_lines(safely(lambda error=error: error.__traceback__, None))
            yield facts.line(error_type(error), detailed=True)
            yield from self._group_lines(error)
            if link:
                yield from ("", link, "")

    def _group_lines(self, error: BaseException) -> Iterator[str]:
        grouped = issubclass(type(error), BaseExceptionGroup)
        members = safely(lambda: items(getattr(error, "exceptions", ())), ()) if grouped else ()
        for index, member in enumerate(members):
            if not issubclass(type(member), BaseException) or id(member) in self._seen:
                continue
            if self._exceptions_left <= 0:
                yield f"  ({len(members) - index} more exceptions)"
                return
            chain = self.chain(member)  # pyright: ignore[reportArgumentType]
            yield f"  +-- {index + 1} of {len(members)}:"
            for line in self.stack_lines(chain, [self.summary(link[0]) for link in chain]):
                yield f"  | {line}"


def _origin(error: BaseException, *, contexts: bool) -> tuple[BaseException, str] | None:
    if issubclass(type(cause := error.__cause__), BaseException):
        return cause, _CAUSE  # pyright: ignore[reportReturnType]
    context = error.__context__
    if not contexts or error.__suppress_context__ or not issubclass(type(context), BaseException):
        return None
    return context, _CONTEXT  # pyright: ignore[reportReturnType]


def _facts(error: BaseException, secrets: tuple[str, ...]) -> _Facts:
    kind = type(error)
    modules, names = set[str](), set[str]()
    for base in type.mro(kind):
        module, name = _names_of(base)
        modules.add(module.partition(".")[0])
        names.add(name)
    # By identity, because any class can set that module as its own.
    if getattr(sys.modules.get("modelforge.exceptions"), _names_of(kind)[1], None) is kind:
        return _Facts(_own_message(error, secrets))
    # By the class itself, because urllib3 derives NewConnectionError from ConnectTimeoutError.
    if modules & _HTTP_CLIENTS and (timeout := _TIMEOUTS.get(_names_of(kind)[1])):
        return _Facts(timeout)
    return _api_facts(error, modules, names, secrets) or (
        _Facts(_system_error(error)) if issubclass(kind, OSError) else _NO_FACTS
    )


def _own_message(error: BaseException, secrets: tuple[str, ...]) -> str:
    """Return the message of one of ModelForge's errors, without any text that it may quote from another error."""
    message = error.args[0] if error.args else None
    if not isinstance(message, str):
        return ""
    message = without_secrets(message, secrets, _LONGEST_OWN_MESSAGE)
    return message if error.__cause__ is error.__context__ is None else message.partition(":")[0]


def _system_error(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    reason = getattr(error, "reason", None)
    if any(_names_of(base) == ("ssl", "SSLError") for base in type.mro(type(error))):
        # Its number is the TLS library's own.
        return _matching(_REASON, reason, ()) or ""
    if type(number) is not int:
        return ""
    if number in errorcode:
        return f"[Errno {number}] {os.strerror(number)}"
    is_resolution = type(error).__name__ == "gaierror" and abs(number) < 100_000
    return f"[Errno {number}] name resolution failed" if is_resolution else ""


def _api_facts(error: BaseException, modules: set[str], names: set[str], secrets: tuple[str, ...]) -> _Facts:
    """Return the numbers and identifiers in the provider's answer."""
    code = getattr(error, "code", None)
    label = reason = None
    if "GoogleAPICallError" in names and "google" in modules:
        status = _http_status(code)
        label = getattr(getattr(error, "grpc_status_code", None), "name", None)
        reason = getattr(error, "reason", None)
        fields: Mapping[str, object] = {}
    elif "RpcError" in names and "grpc" in modules:
        status = None
        fields = {"code": getattr(code() if callable(code) else None, "name", None)}
    elif type(error) is ValueError:
        # Integrations raise ValueError(response["error"]).
        fields = _provider_fields(error.args[0] if error.args else None)
        status = None
    else:
        status = next(filter(None, map(_http_status, _statuses(error, names, modules))), None)
        if status is None and not names & {"APIError", "OpenAIError"}:
            return _NO_FACTS
        body = _provider_fields(getattr(error, "body", None))
        own = {name: getattr(error, name, None) for name in ("code", "type", "param", "status")}
        fields = {name: own[name] or body.get(name) for name in own}
    status = status or _http_status(fields.get("code"))
    labels = [_label(value, secrets) for value in (label, *map(fields.get, ("code", "status", "type")))]
    known = list(dict.fromkeys(found for found in labels if found is not None and found != str(status)))
    param = _matching(_PARAMETER, fields.get("param"), secrets)
    parts = (
        None if status is None else str(status),
        known[0] if known else None,
        _matching(_REASON, reason, secrets),
        param and f"param={param}",
    )
    request_id = _matching(_REQUEST_ID, getattr(error, "request_id", None), secrets, random=True)
    details = [f"type={name}" for name in known[1:]] + ([f"request_id={request_id}"] if request_id else [])
    return _Facts(" ".join(filter(None, parts)), ", ".join(details))


def _statuses(error: BaseException, names: set[str], modules: set[str]) -> Iterator[object]:
    yield getattr(error, "status_code", None)
    if names & {"HTTPStatusError", "HTTPError"} and modules & _HTTP_CLIENTS:
        yield getattr(getattr(error, "response", None), "status_code", None)
    if names & {"ClientResponseError"} and "aiohttp" in modules:
        yield getattr(error, "status", None)
    if names & {"APIError"} or (names & {"HTTPError"} and "urllib" in modules):
        yield getattr(error, "code", None)


def _provider_fields(body: object) -> Mapping[str, object]:
    """Return the error in a provider's answer: on its own, in ``{"error": …}``, or in a list, like Google's."""
    if elements := items(body):
        body = elements[0]
    fields = mapping(body)
    return mapping(fields.get("error")) or fields


def _http_status(value: object) -> int | None:
    if type(value) is int or isinstance(value, HTTPStatus):
        return int(value) if 100 <= value <= 599 else None
    return None


def _label(value: object, secrets: tuple[str, ...]) -> str | None:
    if type(value) is int:
        return str(value) if 0 <= value <= 999_999 else None
    return _matching(_CODE, value, secrets)


def _matching(pattern: re.Pattern[str], value: object, secrets: tuple[str, ...], *, random: bool = False) -> str | None:
    """Return ``value`` if it is a short identifier and neither a credential nor a part of one, else None.

    :param random: whether it may be a long random word, like the ids of requests.
    """
    if not isinstance(value, str) or not pattern.fullmatch(value):
        return None
    value = str.__str__(value)
    if without_credentials(value) != value if random else looks_like_credential(value):
        return None
    folded = value.casefold()
    if any(folded in (hidden := secret.casefold()) or hidden in folded for secret in secrets if secret):
        return None
    return value


def _names_of(kind: type) -> tuple[str, str]:
    """Return a class's module and qualified name; a metaclass can set them to anything."""
    return safely(lambda: text(kind.__module__), None) or "", safely(lambda: text(kind.__qualname__), None) or ""


# --- The stack ---


def _frame_lines(traceback: object) -> Iterator[str]:
    """Yield the frames of ``traceback`` in Python's format, without the middle ones if there are many."""
    if type(traceback) is not TracebackType:
        return
    frames = [(frame, line or 0) for frame, line in walk_tb(traceback)]
    yield "Traceback (most recent call last):"
    if (left_out := len(frames) - _MOST_FRAMES) > 0:
        yield from _written(frames[: _MOST_FRAMES // 2])
        yield f"  ({left_out} more frames)"
        frames = frames[-_MOST_FRAMES // 2 :]
    yield from _written(frames)


def _written(frames: Sequence[tuple[FrameType, int]]) -> Iterator[str]:
    def extract(*, lines: bool) -> StackSummary:
        return StackSummary.extract(iter(frames), limit=_MOST_FRAMES, lookup_lines=lines)

    # A module's loader may raise when it is asked for the source.
    summary = safely(partial(extract, lines=True), None) or extract(lines=False)
    for entry in summary:
        known = _FILE_NAME.fullmatch(entry.filename)
        function = entry.name if _FUNCTION_NAME.fullmatch(entry.name) else "<function>"
        line = (safely(lambda entry=entry: entry.line, None) or "").strip()
        yield f'  File "{encodable(entry.filename) if known else "<generated>"}", line {entry.lineno}, in {function}'
        if line and known and _is_read_from_disk(entry.filename):
            yield f"    {without_random_words(encodable(line))}" if len(line) <= _LONGEST_LINE else "    ..."


def _is_read_from_disk(file_name: str) -> bool:
    # Other sources come from a loader or from the code that compiled them, such as a tool that runs a model's answer.
    entry = linecache.cache.get(file_name, ())
    return len(entry) == 4 and entry[1] is not None
