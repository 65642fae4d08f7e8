# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Applying and undoing one patch, and the hook that waits for a module to be imported."""

from __future__ import annotations

import functools
import importlib
import inspect
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wrapt

from opentelemetry_instrumentation_modelforge.patching import REGISTRY_IMPORT, ImportHook, Patch, with_wrapt

Python = Callable[..., "subprocess.CompletedProcess[str]"]


def passing_on(wrapped: Callable[..., Any], instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return f"ours({wrapped(*args, **kwargs)})"


def plain(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return f"ours({original(*args, **kwargs)})"

    return wrapper


def by_wrapt(wrapped: Callable[..., Any], instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return f"theirs({wrapped(*args, **kwargs)})"


WRAPS = {"wrapt": with_wrapt(passing_on), "plain": plain}


@pytest.fixture
def owner() -> type:
    class Registry:
        def get_llm(self, name: str = "fast") -> str:
            """Return a model."""
            return f"{type(self).__name__} {name}"

    return Registry


@pytest.fixture(params=WRAPS.values(), ids=WRAPS)
def wrap(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_a_patched_method_is_bound_and_undone(owner: type, wrap: Any) -> None:
    original = vars(owner)["get_llm"]
    patch = Patch(owner, "get_llm", wrap)
    assert owner().get_llm("slow") == "ours(Registry slow)"
    patch.undo()
    assert vars(owner)["get_llm"] is original
    assert owner().get_llm() == "Registry fast"


def test_a_function_of_a_module_is_patched_too(wrap: Any) -> None:
    module = types.ModuleType("integration")
    original = module.convert = lambda value: value  # type: ignore[attr-defined]
    patch = Patch(module, "convert", wrap)
    assert module.convert("x") == "ours(x)"
    patch.undo()
    assert module.convert is original


def test_a_wrapped_function_is_introspected_like_the_original(owner: type, wrap: Any) -> None:
    signature = inspect.signature(owner.get_llm)  # type: ignore[attr-defined]
    Patch(owner, "get_llm", wrap)
    assert inspect.signature(owner.get_llm) == signature  # type: ignore[attr-defined]
    assert owner.get_llm.__doc__ == "Return a model."  # type: ignore[attr-defined]
    assert owner.get_llm.__name__ == "get_llm"  # type: ignore[attr-defined]


def test_a_function_missing_from_the_owner_is_an_error_and_nothing_is_patched(owner: type, wrap: Any) -> None:
    class Derived(owner):  # type: ignore[misc, valid-type]
        pass

    with pytest.raises(KeyError):
        Patch(Derived, "get_llm", wrap)
    assert "get_llm" not in vars(Derived)


def test_undoing_twice_changes_nothing(owner: type, wrap: Any) -> None:
    original = vars(owner)["get_llm"]
    patch = Patch(owner, "get_llm", wrap)
    patch.undo()
    patch.undo()
    assert vars(owner)["get_llm"] is original


def test_a_patch_is_placed_below_the_wrapt_proxies_of_others(owner: type, wrap: Any) -> None:
    original = vars(owner)["get_llm"]
    for _ in range(2):
        wrapt.wrap_function_wrapper(owner, "get_llm", by_wrapt)
    outermost = vars(owner)["get_llm"]
    patch = Patch(owner, "get_llm", wrap)
    assert vars(owner)["get_llm"] is outermost
    assert owner().get_llm() == "theirs(theirs(ours(Registry fast)))"
    patch.undo()
    assert owner().get_llm() == "theirs(theirs(Registry fast))"
    assert outermost.__wrapped__.__wrapped__ is original


def test_others_that_remove_the_outermost_wrapper_remove_their_own(owner: type, wrap: Any) -> None:
    wrapt.wrap_function_wrapper(owner, "get_llm", by_wrapt)
    patch = Patch(owner, "get_llm", wrap)
    # opentelemetry.instrumentation.utils.unwrap does the same.
    owner.get_llm = vars(owner)["get_llm"].__wrapped__  # type: ignore[attr-defined]
    assert owner().get_llm() == "ours(Registry fast)"
    patch.undo()
    assert owner().get_llm() == "Registry fast"


def test_a_patch_is_undone_below_a_wrapt_proxy_that_came_later(owner: type, wrap: Any) -> None:
    original = vars(owner)["get_llm"]
    patch = Patch(owner, "get_llm", wrap)
    wrapt.wrap_function_wrapper(owner, "get_llm", by_wrapt)
    theirs = vars(owner)["get_llm"]
    assert owner().get_llm() == "theirs(ours(Registry fast))"
    patch.undo()
    assert vars(owner)["get_llm"] is theirs
    assert theirs.__wrapped__ is original
    assert owner().get_llm() == "theirs(Registry fast)"


def test_a_plain_wrapper_that_came_later_stays(owner: type, wrap: Any) -> None:
    patch = Patch(owner, "get_llm", wrap)
    theirs = plain(vars(owner)["get_llm"])
    owner.get_llm = theirs  # type: ignore[attr-defined]
    patch.undo()
    assert vars(owner)["get_llm"] is theirs


def test_a_function_that_was_replaced_later_is_not_changed(owner: type, wrap: Any) -> None:
    patch = Patch(owner, "get_llm", wrap)

    def replacement(self: object) -> str:
        return "theirs"

    owner.get_llm = replacement  # type: ignore[attr-defined]
    patch.undo()
    assert vars(owner)["get_llm"] is replacement
    del owner.get_llm  # type: ignore[attr-defined]
    patch.undo()
    assert "get_llm" not in vars(owner)


# --- Imports ---


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that can be imported and has not been imported yet."""
    name = f"module_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def imported() -> list[types.ModuleType]:
    return []


def test_a_module_that_is_imported_later_is_passed_on_at_its_import(importable: str, imported: list[Any]) -> None:
    hook = ImportHook(importable)
    assert not hook.is_awaited()
    hook.set(imported.append)
    assert hook.is_awaited()
    assert importable not in sys.modules
    assert imported == []
    module = importlib.import_module(importable)
    assert imported == [module]
    assert not hook.is_awaited()


def test_a_module_that_is_already_imported_is_passed_on_immediately(importable: str, imported: list[Any]) -> None:
    module = importlib.import_module(importable)
    hook = ImportHook(importable)
    hook.set(imported.append)
    hook.set(imported.append)
    assert imported == [module, module]
    assert not hook.is_awaited()


def test_no_function_is_called_for_an_import_after_the_hook_is_cleared(importable: str, imported: list[Any]) -> None:
    hook = ImportHook(importable)
    hook.set(imported.append)
    hook.clear()
    assert not hook.is_awaited()
    importlib.import_module(importable)
    assert imported == []


def test_only_the_last_of_several_functions_is_called_for_the_import(importable: str, imported: list[Any]) -> None:
    hook, others = ImportHook(importable), []
    for _ in range(3):
        hook.set(others.append)
        hook.clear()
    hook.set(imported.append)
    module = importlib.import_module(importable)
    assert (imported, others) == ([module], [])


def test_a_second_import_of_the_module_is_passed_on_too(importable: str, imported: list[Any]) -> None:
    hook = ImportHook(importable)
    hook.set(imported.append)
    first = importlib.import_module(importable)
    del sys.modules[importable]
    hook.set(imported.append)
    second = importlib.import_module(importable)
    assert imported == [first, second]


def test_a_module_that_is_being_imported_is_passed_on_when_it_is_complete(
    importable: str, tmp_path: Path, imported: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hook, complete = ImportHook(importable), []

    def hand_over(module: Any) -> None:
        complete.append(hasattr(module, "value"))
        imported.append(module)

    hook.set(hand_over)
    helper = types.ModuleType("helper_of_the_import")
    helper.instrument = lambda: hook.set(hand_over)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, helper.__name__, helper)
    (tmp_path / f"{importable}.py").write_text(
        "import helper_of_the_import as helper\nhelper.instrument()\nvalue = 1\n"
    )
    module = importlib.import_module(importable)
    assert imported == [module]
    assert complete == [True]


def test_a_module_that_another_thread_is_importing_is_passed_on_when_it_is_complete(
    importable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, complete = threading.Event(), threading.Event(), []
    helper = types.ModuleType("helper_of_the_import")
    helper.begun, helper.go_on = begun, go_on  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, helper.__name__, helper)
    (tmp_path / f"{importable}.py").write_text(
        "import helper_of_the_import as helper\nhelper.begun.set()\nhelper.go_on.wait(60)\nvalue = 1\n"
    )
    hook = ImportHook(importable)
    importer = threading.Thread(target=importlib.import_module, args=(importable,))
    importer.start()
    assert begun.wait(60)
    waiter = threading.Thread(target=hook.set, args=(lambda module: complete.append(hasattr(module, "value")),))
    waiter.start()
    go_on.set()
    for thread in (importer, waiter):
        thread.join(60)
        assert not thread.is_alive()
    assert complete == [True]


def test_the_hook_waits_for_the_registrys_module() -> None:
    assert REGISTRY_IMPORT.name == "modelforge.registry"


TOGGLE_DURING_AN_IMPORT = """
import sys, threading
from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor

begun = threading.Event()

class Notice:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            begun.set()

sys.meta_path.insert(0, Notice())
instrumentor = ModelForgeInstrumentor()
instrumentor.instrument(skip_dep_check=True)
importer = threading.Thread(target=lambda: __import__("modelforge.registry"), daemon=True)
importer.start()
begun.wait(60)
instrumentor.uninstrument()
instrumentor.instrument(skip_dep_check=True)
importer.join(60)
registry = sys.modules["modelforge.registry"].ModelForgeRegistry
print(importer.is_alive(), instrumentor.is_instrumented_by_opentelemetry, hasattr(registry.get_llm, "__wrapped__"))
instrumentor.uninstrument()
print(hasattr(registry.get_llm, "__wrapped__"))
"""


@pytest.mark.parametrize(
    "module", ["modelforge", "pydantic", "langchain_core", "modelforge.config", "modelforge.modelsdev"]
)
def test_instrumenting_again_during_the_first_import_in_another_thread_does_not_deadlock(
    module: str, python: Python
) -> None:
    # The fixture gives up after two minutes.
    done = python("-c", TOGGLE_DURING_AN_IMPORT.format(module=module))
    assert (done.stdout, done.returncode) == ("False True True\nFalse\n", 0), done.stderr
    assert "Telemetry fault" not in done.stderr
