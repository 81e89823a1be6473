"""A virtual environment for Ray Data, which the project does not depend on: made once, kept in the user's cache."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from measure import Failed

RAY = "ray[data]==2.60.0"
_AS_HERE = ("scikit-learn", "numpy", "pyarrow", "joblib", "scipy")


def ray_python() -> str:
    """Return the interpreter of the environment, with the same scikit-learn, numpy and pyarrow as this one.

    Raises:
        Failed: it cannot be made; the message has the end of what pip said.
    """
    wanted = [RAY, "aiohttp", *(f"{name}=={version(name)}" for name in _AS_HERE)]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = cache / "onescore" / "bench-ray"
    python, marker = directory / "bin" / "python", directory / "installed.txt"
    if marker.exists() and marker.read_text().split("\n") == wanted:
        return str(python)
    log = cache / "onescore" / "bench-ray.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    pip = [
        str(python),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-input",
        "--progress-bar",
        "off",
    ]
    with log.open("wb") as file:
        for command in ([sys.executable, "-m", "venv", str(directory)], [*pip, *wanted]):
            if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode:
                said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
                raise Failed(f"{command[-1]} cannot be installed: {said[-1][:250]}")
    marker.write_text("\n".join(wanted))
    return str(python)
