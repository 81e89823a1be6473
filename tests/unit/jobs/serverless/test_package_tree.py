"""Equal trees are equal zips, whatever the clock and the order in which files were made."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from feature_pipelines.errors import VerificationError
from jobs.serverless.package_tree import compile_tree, tree_bytes, write_zip


def tree(directory: Path, names: list[str]) -> Path:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "FLAGS = {'a', 'b', 'c'}\n\ndef f(x):\n    return x in {'p', 'q', 'r'}\n"
            if name.endswith(".py")
            else name
        )
    return directory


def test_bytes_depend_on_the_content_alone(tmp_path: Path) -> None:
    names = ["pkg/a.py", "pkg/b.py", "model/x.json", "lib/y.cpython-311.so"]
    digests = []
    for name, order in (("one", names), ("two", names[::-1])):
        made = tree(tmp_path / name / "deeper" / name, order)
        compile_tree(made)
        for path in made.rglob("*"):
            os.utime(path, (len(name) * 1_000_000, 7))
        digests.append(write_zip(made, tmp_path / f"{name}.zip"))
    assert digests[0] == digests[1]
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_zip_holds_sources_and_compiled_code_that_is_believed_without_times(tmp_path: Path) -> None:
    made = tree(tmp_path / "tree", ["pkg/__init__.py", "lib/y.cpython-311.so"])
    compile_tree(made)
    write_zip(made, tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as file:
        facts = {one.filename: one for one in file.infolist()}
        names = list(facts)
        compiled = file.read(next(name for name in names if name.endswith(".pyc")))
    assert names == sorted(names)
    assert {one.date_time for one in facts.values()} == {(1980, 1, 1, 0, 0, 0)}
    assert compiled[4:8] == b"\x01\x00\x00\x00"  # by hash, not checked
    assert str(tmp_path).encode() not in compiled
    assert facts["lib/y.cpython-311.so"].external_attr >> 16 == 0o100755
    assert tree_bytes(made) == sum(one.file_size for one in facts.values())


def test_source_that_does_not_compile_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def f(:\n")
    with pytest.raises(VerificationError, match="does not compile"):
        compile_tree(tmp_path)
