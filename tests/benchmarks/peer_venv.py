"""Virtual environments for peers that the project does not depend on: made once each, kept in the user's cache."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from measure import Failed

_RAY = ("ray[data]==2.60.0", "aiohttp")
_FEAST = ("feast==0.67.0",)


def ray_python() -> str:
    """Return the interpreter of Ray's environment, with the same scikit-learn, numpy and pyarrow as this one.

    Raises:
        Failed: it cannot be made; the message has the end of what pip said.
    """
    as_here = ("scikit-learn", "numpy", "pyarrow", "joblib", "scipy")
    return _python("ray", [*_RAY, *(f"{name}=={version(name)}" for name in as_here)])


def feast_python() -> str:
    """Return the interpreter of Feast's environment, with its own pins.

    Raises:
        Failed: as `ray_python`.
    """
    return _python("feast", list(_FEAST))


def _python(name: str, wanted: list[str]) -> str:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onescore"
    directory = cache / f"bench-{name}"
    python, marker = directory / "bin" / "python", directory / "installed.txt"
    if marker.exists() and marker.read_text().split("\n") == wanted:
        return str(python)
    log = cache / f"bench-{name}.log"
    cache.mkdir(parents=True, exist_ok=True)
    quietly = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    pip = [str(python), "-m", "pip", "install", *quietly]
    with log.open("wb") as file:
        for command in ([sys.executable, "-m", "venv", str(directory)], [*pip, *wanted]):
            if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode:
                said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
                raise Failed(f"{command[-1]} cannot be installed: {said[-1][:250]}")
    marker.write_text("\n".join(wanted))
    return str(python)
