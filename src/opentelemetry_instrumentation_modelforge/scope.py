# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A part of the application's work with a context of its own, which no interrupt leaves current.

An interrupt (``KeyboardInterrupt``, or an exception that a signal handler raises) may come after any function call, and
what the function has returned is lost then.
"""

from contextvars import Token
from types import TracebackType
from typing import Any

from opentelemetry.context import Context, attach, get_current


def restore(token: Token[Any]) -> None:
    """Restore what was current before ``token``.

    A task that is destroyed while it waits is closed by its collector, in another context. There ``detach`` would log a
    failure, although nothing is wrong. A token that has been used has done its work.
    """
    # Runs for every chunk, and contextlib.suppress takes several times as long.
    try:  # noqa: SIM105
        token.var.reset(token)
    except (ValueError, RuntimeError, AttributeError):
        # The context that Datadog puts in place of OpenTelemetry's has tokens without a variable, and restores itself.
        pass


class Scope:
    """Makes a context current, and afterwards restores what was current before.

    Each scope is entered twice (``with scope, scope:``), and the body begins with what is to be undone. No ``__exit__``
    follows an ``__enter__`` that was interrupted, so entering does nothing. When an interrupt comes within the inner
    ``__exit__``, the outer one completes what is left to do.
    """

    __slots__ = ("_before", "_context", "_token")

    def __init__(self) -> None:
        self._before = get_current()
        self._context: Context | None = None
        self._token: Token[Context] | None = None

    def __enter__(self) -> None:
        pass

    def attach(self, context: Context) -> None:
        """Make ``context`` current."""
        self._context = context
        self._token = attach(context)

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._token is not None:
            # A context that was copied may keep a scope, which need not keep another.
            self._context = self._token = restore(self._token)
        elif error is not None and self._context is not self._before and get_current() is self._context:
            # An interrupt came before the token was stored.
            attach(self._before)
