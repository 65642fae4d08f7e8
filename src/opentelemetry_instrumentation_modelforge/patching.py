# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Patches that can be undone, and the hook that waits for a module to be imported."""

import sys
from collections.abc import Callable
from importlib import import_module
from threading import get_ident
from types import ModuleType
from typing import Any, Final

from wrapt import FunctionWrapper, register_post_import_hook

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]
"""A function that takes the original and returns the wrapper."""


def with_wrapt(wrapper: Callable[..., Any]) -> Wrap:
    """Return a :data:`Wrap` that creates a wrapt proxy, which keeps the original's signature and identity.

    :param wrapper: wrapt's wrapper, a function of ``wrapped, instance, args, kwargs``.
    """
    return lambda original: FunctionWrapper(original, wrapper)


class Patch:
    """One replaced function of a class or a module."""

    __slots__ = ("_name", "_original", "_owner", "_wrapper")

    def __init__(self, owner: type | ModuleType, name: str, wrap: Wrap) -> None:
        self._owner = owner
        self._name = name
        # Below the wrapt proxies of other instrumentations: each of them removes the outermost wrapper when it is
        # undone, and only a proxy binds its wrapped function to the instance.
        outer: Any = None
        original: Any = vars(owner)[name]
        while isinstance(original, FunctionWrapper):
            outer, original = original, original.__wrapped__  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        self._original = original
        self._wrapper = wrap(original)
        if outer is None:
            setattr(owner, name, self._wrapper)
        else:
            outer.__wrapped__ = self._wrapper

    def undo(self) -> None:
        """Restore the original, even below wrappers that others have added since."""
        outer = vars(self._owner).get(self._name)
        if outer is self._wrapper:
            setattr(self._owner, self._name, self._original)
            return
        while (inner := getattr(outer, "__wrapped__", None)) is not None:
            if inner is self._wrapper:
                # A wrapt proxy calls this attribute. Any other wrapper keeps calling ours, now a pass-through.
                outer.__wrapped__ = self._original  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
                return
            outer = inner


class ImportHook:
    """A hook that calls a function with a module as soon as the module is imported, or immediately if it already is.

    It holds no lock while it runs or waits: an importing thread holds the import system's lock for that module, and may
    wait for any other lock.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._function: Callable[[ModuleType], None] | None = None
        self._registered = False
        self._registering: int | None = None

    def set(self, function: Callable[[ModuleType], None]) -> None:
        """Call ``function`` now if the module is imported, else when it is."""
        self._function = function
        if self.name in sys.modules:
            # If another thread is still importing the module, this waits for that thread. A thread that is itself
            # in the middle of the import gets the unfinished module, and the registered hook, if any, does the rest.
            module = import_module(self.name)
            if not getattr(module.__spec__, "_initializing", False):
                function(module)
        elif not self._registered:
            # wrapt cannot remove a hook, so one serves every call.
            self._registered = True
            self._registering = get_ident()
            register_post_import_hook(self._on_import, self.name)
            self._registering = None

    def clear(self) -> None:
        """Call nothing when the module is imported."""
        self._function = None

    def is_awaited(self) -> bool:
        """Return whether a function is to be called when the module is imported."""
        return self._function is not None and self.name not in sys.modules

    def _on_import(self, module: ModuleType) -> None:
        self._registered = False
        # wrapt calls the hook immediately if another thread has begun the import since the check above.
        if self._registering == get_ident():
            module = import_module(self.name)
        if self._function is not None:
            self._function(module)


REGISTRY_IMPORT: Final = ImportHook("modelforge.registry")
"""The import of the module that defines ``ModelForgeRegistry``."""
