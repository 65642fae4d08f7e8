"""Check the distributions in a folder: what they hold, and the wheel in an environment of its own.

Run by ``tox run -e package`` as ``python tests/support/check_wheel.py DIST``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

# Runs in the new environment, where there is neither ModelForge nor an SDK.
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

    held = zipfile.ZipFile(wheel).namelist()
    for end in ("/py.typed", "/licenses/LICENSE", "/entry_points.txt"):
        assert any(name.endswith(end) for name in held), f"{wheel.name} lacks {end}: {held}"
    tops = {name.split("/")[0] for name in held}
    assert len(tops) == 2, f"{wheel.name} holds more than the package and its metadata: {tops}"

    with tarfile.open(sdist) as archive:
        held = [name.partition("/")[2] for name in archive.getnames()]
    for path in ("CHANGELOG.md", "LICENSE", "README.md", "docs/index.md", "tests/constraints-oldest.txt", "tox.ini"):
        assert path in held, f"{sdist.name} lacks {path}"

    with tempfile.TemporaryDirectory() as folder:
        # Not venv, which on Debian needs a package that may be missing.
        subprocess.run([sys.executable, "-m", "virtualenv", "--quiet", folder], check=True)
        python = Path(folder) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        subprocess.run([python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", wheel], check=True)
        # Isolated, and away from src/, so that it can only be the wheel that is imported.
        subprocess.run([python, "-I", "-c", PROGRAM], check=True, cwd=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
