import os

import pyarrow.fs as pafs
import pytest

from feature_pipelines.errors import TableError
from jobs.tables.files import child_uri, filesystem_of, is_local, list_files, normal_uri


@pytest.mark.parametrize(
    "spelling", ["/data/my table", "file:/data/my%20table", "file:///data/my%20table/", "/data/./my table/"]
)
def test_normal_uri_gives_one_spelling_to_a_local_place(spelling):
    assert normal_uri(spelling) == "/data/my table"
    assert is_local(spelling)


def test_normal_uri_makes_relative_and_home_paths_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")

    assert normal_uri("tables/x") == os.path.join(os.getcwd(), "tables/x")
    assert normal_uri("~/x") == "/home/someone/x"
    assert normal_uri("a:b") == os.path.join(os.getcwd(), "a:b")


@pytest.mark.parametrize(
    "spelling", ["s3://bucket/a%20b/", "s3a://bucket/a%20b", "s3n://bucket/a%20b", "S3://bucket/a%20b"]
)
def test_normal_uri_gives_one_spelling_to_a_bucket(spelling):
    assert normal_uri(spelling) == "s3://bucket/a%20b"
    assert not is_local(spelling)


def test_child_uri_leads_to_the_same_file_as_the_file_system(tmp_path):
    name = "day=1%202/a b%.parquet"
    (tmp_path / "day=1%202").mkdir()
    (tmp_path / name).write_bytes(b"x")

    filesystem, path = filesystem_of(child_uri(str(tmp_path), name))

    assert filesystem.get_file_info(path).size == 1
    assert filesystem_of(child_uri("mock:///t", name))[1] == f"t/{name}"


def test_filesystem_of_bucket_keeps_the_decoded_key(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    filesystem, path = filesystem_of("s3a://onescore-test/t/day%3D1/a%20b.parquet")

    assert isinstance(filesystem, pafs.S3FileSystem)
    assert path == "onescore-test/t/day=1/a b.parquet"
    assert filesystem_of("s3://onescore-test/other")[0] is filesystem


def test_filesystem_of_unknown_scheme_names_the_known_ones():
    with pytest.raises(
        TableError, match="no file system for scheme 'dbfs': use a path, or file, s3, gs, abfss or hdfs"
    ):
        filesystem_of("dbfs:/tables/x")


def test_list_files_is_recursive_sorted_and_empty_for_a_missing_directory(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("c", "b/z", "a"):
        (tmp_path / name).write_bytes(b"")

    assert [info.path for info in list_files(str(tmp_path))] == [str(tmp_path / n) for n in ("a", "b/z", "c")]
    assert list_files(str(tmp_path / "missing")) == []
