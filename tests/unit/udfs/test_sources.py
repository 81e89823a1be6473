from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import feature_pipelines
import udfs
from udfs.sources import package_files


def test_files_of_a_package_are_its_sources_by_path() -> None:
    files = package_files(feature_pipelines)
    assert {"feature_pipelines/__init__.py", "feature_pipelines/features/flights.py"} <= files.keys()
    assert not [name for name in files if "__pycache__" in name or name.endswith((".pyc", ".nbi", ".nbc"))]
    assert list(files) == sorted(files)
    assert (
        files["feature_pipelines/errors.py"]
        == (Path(feature_pipelines.__path__[0]) / "errors.py").read_bytes()
    )


def test_files_of_a_package_in_a_zip_are_the_same(tmp_path: Path) -> None:
    files = package_files(udfs)
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import udfs; from udfs.sources import package_files\n"
        "assert 'code.zip' in udfs.__file__, udfs.__file__\n"
        "import hashlib; print({n: hashlib.sha256(c).hexdigest() for n, c in package_files(udfs).items()})"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "code.zip")]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    import hashlib

    assert answer.stdout.strip() == str(
        {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    )
