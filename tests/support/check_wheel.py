# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0
"""Check the distributions in a folder: their contents, the README's links, the wheel alone, and the sdist's programs.

Run by ``tox run -e package`` as ``python tests/support/check_wheel.py DIST``.
"""

from __future__ import annotations

import email
import html
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from readme_renderer.markdown import render

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())

# This runs in an environment without ModelForge and without an SDK.
PROGRAM = """
import sys
from importlib.metadata import distribution, entry_points

import opentelemetry_instrumentation_modelforge as package
from opentelemetry_instrumentation_modelforge.version import __version__

name = "opentelemetry-instrumentation-modelforge"
assert distribution(name).version == __version__, (distribution(name).version, __version__)
[entry_point] = entry_points(group="opentelemetry_instrumentor", name="modelforge")
instrumentor = entry_point.load()()
instrumentor.instrument(skip_dep_check=True)
instrumentor.uninstrument()
imported = {"modelforge", "langchain_core", "opentelemetry.sdk"} & sys.modules.keys()
assert not imported, imported
print(name, __version__, "works on", sys.version.split()[0])
"""


def main(dist: Path) -> None:
    [wheel] = dist.glob("*.whl")
    [sdist] = dist.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        [project] = Path(folder).iterdir()
        check_contents(wheel, project)
        check_links(wheel, project)
        python = new_environment(Path(folder, "environment"))
        check_wheel(wheel, python)
        check_sdist(wheel, project, python)


def check_contents(wheel: Path, project: Path) -> None:
    """Check that the wheel has only the package, and the sdist each file of the repository except those it excludes."""
    names = zipfile.ZipFile(wheel).namelist()
    for end in ("/py.typed", "/licenses/LICENSE", "/entry_points.txt"):
        assert any(name.endswith(end) for name in names), f"{wheel.name} lacks {end}: {names}"
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2, f"{wheel.name} has more than the package and its metadata: {tops}"

    if (ROOT / ".git").exists() and shutil.which("git"):
        excluded = tuple(path.removeprefix("/") for path in _hatch()["build"]["targets"]["sdist"]["exclude"])
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
        tracked = {path for path in listed.stdout.split("\0") if path and (ROOT / path).exists()}
        lacking = sorted(path for path in tracked if not path.startswith(excluded) and not (project / path).is_file())
        assert not lacking, f"the sdist lacks {lacking}"


def check_links(wheel: Path, project: Path) -> None:
    """Check that each link and picture of the README, as a package index renders it, points to a file of the sdist."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    repository = _hatch()["metadata"]["hooks"]["custom"]["repository"]
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL", []))
    assert urls["Repository"] == repository, urls

    rendered = render(metadata.get_payload())
    assert rendered is not None, "the README can't be rendered"
    own = 0
    for link in (*_links(rendered), *urls.values()):
        if link.startswith("#"):
            heading = link[1:].removeprefix("user-content-")
            assert f'id="user-content-{heading}"' in rendered, f"the README has no heading {link}"
            continue
        assert link.startswith("https://"), f"the package index can't resolve {link}"
        if match := re.fullmatch(rf"{re.escape(repository)}/(?:blob|tree|raw)/v([^/]+)/([^#]+)(?:#.*)?", link):
            own += 1
            assert match[1] == metadata["Version"], link
            assert (project / match[2]).exists(), f"the sdist lacks the target of {link}"
    assert own > len(urls), "the README has no link to this repository"


def check_wheel(wheel: Path, python: Path) -> None:
    """Check that the wheel works with nothing but its dependencies."""
    _install(python, str(wheel))
    # Python is isolated and runs outside src/, so that it imports the wheel.
    subprocess.run([python, "-I", "-c", PROGRAM], check=True, cwd=python.parent)


def check_sdist(wheel: Path, project: Path, python: Path) -> None:
    """Check that the programs of the sdist find all their files: tests, benchmarks, ``run``."""
    _install(python, f"{wheel}[cost,instruments,otel]", "--group", f"{project / 'pyproject.toml'}:test")
    pytest = [python, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "-r", "fE", "--disable-warnings"]
    subprocess.run([*pytest, "--collect-only", "-qq"], check=True, cwd=project)
    subprocess.run([*pytest, *project.rglob("test_docs.py")], check=True, cwd=project)
    for program in sorted((project / "benchmarks").glob("*.py")):
        if "argparse.ArgumentParser" in program.read_text(encoding="utf-8"):
            subprocess.run([python, program, "--help"], check=True, cwd=project, stdout=subprocess.DEVNULL)
    if os.name == "posix":
        usage = subprocess.run(["./run"], cwd=project, check=False, capture_output=True, text=True).stderr
        assert "demo" in usage, usage


def new_environment(folder: Path) -> Path:
    """Make a virtual environment and return its Python."""
    # On Debian, venv needs a package that may be missing.
    subprocess.run([sys.executable, "-m", "virtualenv", "--quiet", folder], check=True)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _install(python: Path, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *arguments], check=True)


def _hatch() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]


def _links(rendered: str) -> Iterator[str]:
    for link in re.findall(r'\b(?:href|src)="([^"]*)"', rendered):
        yield html.unescape(link)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
